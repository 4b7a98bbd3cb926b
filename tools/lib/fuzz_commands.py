"""tools/fuzz: every command that reads a file, on files from strangers.

What a command does with a damaged file is what it does with a wrong one: exit status, one line on
standard error, no traceback. Commands run in this process. Those that load do so into a scripted
kernel: nothing of a damaged file gets near the real one.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys
import tempfile
import zlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import fuzz_seeds
from environment import ROOT

from pybpfload.cli import main
from pybpfload.errors import BpfError
from pybpfload.object import open_object
from pybpfload.testing.fakekernel import FakeKernel

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

__all__ = ["COMMANDS", "LIVE", "Lines", "arguments", "attempt", "called", "judge"]

FIXTURES = ROOT / "fixtures"
_STATUSES = range(5)
_LONGEST_LINE = 20000
LIVE = ("run", "iter run", "test-run")
"""Commands that load into a kernel, or run what it has."""

_TELLS_MORE = ("run", "iter run")  # of each program that cannot be attached or run
_SCRIPT = "print(obj, btf); dir(obj)"


class Lines(NamedTuple):
    """How a command is called with damaged files of one kind.

    Attributes:
        command: Its name, as in the help.
        kind: What the files were before: an ``object``, one with an ``iterator``, ``types`` of a
            kernel, or those with ``places`` for programs, a whole ``kernel``, an executable
            ``binary``, a verifier's ``log``, a ``capture`` of packets.
        cases: How many files a measured run gives it.
        lines: Arguments behind the name; the bytes of a file choose. FILE is the file, OUT a place
            to write to, OBJECT a good object and TYPES those of a kernel, in its byte order, and
            PROGRAM the first function in FILE.
    """

    command: str
    kind: str
    cases: int
    lines: tuple[str, ...]

    @property
    def target(self) -> str:
        """Its name as a target of tools/fuzz."""
        return f"{self.command.replace(' ', '-')}:{self.kind}"


COMMANDS = (
    Lines(
        "inspect",
        "object",
        2000,
        ("FILE", "-v FILE", "--json FILE", "--tree FILE", "--html OUT FILE", "FILE OBJECT"),
    ),
    Lines("relocate", "object", 700, ("--btf TYPES FILE", "--json --btf TYPES FILE")),
    Lines("relocate", "types", 300, ("--btf FILE OBJECT", "-v --btf FILE OBJECT")),
    Lines(
        "disasm",
        "object",
        800,
        (
            "FILE",
            "--json FILE",
            "--bytes -v --btf TYPES FILE",
            "--cfg ascii FILE",
            "--cfg dot FILE",
            "--cfg mermaid FILE PROGRAM",
            "--cfg svg FILE PROGRAM",
        ),
    ),
    Lines("disasm", "types", 200, ("--btf FILE OBJECT",)),
    Lines("btf dump", "types", 600, ("FILE", "--json FILE", "--id 3 FILE")),
    Lines("btf dump", "kernel", 400, ("FILE",)),
    Lines("btf c", "types", 600, ("FILE", "-o OUT FILE", "FILE --type ct_nested")),
    Lines("btf c", "kernel", 400, ("FILE",)),
    Lines("btf layout", "types", 1000, ("FILE ct_nested", "--json FILE ct_bits")),
    Lines("btf find", "types", 1000, ("FILE ct_*", "FILE --member a", "--json FILE --size 4")),
    Lines("btf diff", "types", 700, ("FILE TYPES", "--json TYPES FILE")),
    Lines("btf diff", "object", 300, ("TYPES TYPES --object FILE",)),
    Lines("btf min", "object", 700, ("--btf TYPES -o OUT FILE", "--btf TYPES -o OUT FILE OBJECT")),
    Lines("btf min", "types", 300, ("--btf FILE -o OUT OBJECT",)),
    Lines("core", "object", 700, ("--btf TYPES FILE", "--json --btf TYPES FILE")),
    Lines(
        "core",
        "types",
        300,
        ("--btf FILE OBJECT", "--btf FILE --program on_exec --insn 1 --svg OBJECT"),
    ),
    Lines(
        "check",
        "object",
        700,
        ("FILE --kernel TYPES", "--json FILE --kernel TYPES", "--html OUT FILE --kernel TYPES"),
    ),
    Lines("check", "types", 300, ("OBJECT --kernel FILE", "--junit OUT OBJECT --kernel FILE")),
    Lines("log", "log", 1000, ("FILE", "-v FILE", "--json FILE")),
    Lines("gen", "object", 1000, ("stubs FILE", "stubs -o OUT FILE")),
    Lines("shell", "object", 700, ("FILE",)),
    Lines("shell", "types", 300, ("--btf FILE OBJECT",)),
    Lines("run", "object", 700, ("--duration 0 FILE", "-v --json --duration 0 FILE")),
    Lines("run", "types", 300, ("--duration 0 --btf FILE OBJECT",)),
    Lines("iter run", "iterator", 1000, ("FILE",)),
    Lines("probes", "places", 600, ("--btf FILE *", "-v --btf FILE *", "--json --btf FILE *")),
    Lines("probes", "binary", 400, ("uprobe:FILE:*", "usdt:FILE:*", "--json usdt:FILE:*")),
    Lines("test-run", "capture", 1000, ("--pcap FILE 1", "--json --pcap FILE 1")),
)
"""Every command that reads files, 1,000 of them each."""


def attempt(wanted: Lines) -> Callable[[bytes], None]:
    """What runs a command on the bytes of a file and looks at what it says."""

    def run(data: bytes) -> None:
        words = arguments(wanted, data)
        judge(wanted, words, *called(wanted, words))

    return run


def called(wanted: Lines, words: list[str]) -> tuple[int, str, str]:
    """Run a command here: its status, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    stdin, sys.stdin = sys.stdin, io.StringIO(_SCRIPT)
    try:
        with _kernel(wanted), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(words)
    finally:
        sys.stdin = stdin
    return status, out.getvalue(), err.getvalue()


def arguments(wanted: Lines, data: bytes) -> list[str]:
    """Write a file, and give the arguments of the command that reads it."""
    order = _order(data)
    files = {
        "FILE": _scratch() / "damaged",
        "OUT": _scratch() / "out",
        "OBJECT": FIXTURES / order / "execsnoop.bpf.o",
        "TYPES": FIXTURES / order / "core_target.bpf.o",
    }
    files["FILE"].write_bytes(data)
    line = wanted.lines[zlib.crc32(data) % len(wanted.lines)]
    if "PROGRAM" in line:
        line = line.replace("PROGRAM", shlex.quote(_first_function(data)))
    words = [*wanted.command.split(), *shlex.split(line)]
    return [_FILE.sub(lambda found: str(files[found[0]]), word) for word in words]


_FILE = re.compile(r"\b(FILE|OUT|OBJECT|TYPES)\b")


def _first_function(data: bytes) -> str:
    with contextlib.suppress(BpfError):
        return next((function.name for function in open_object(data).functions), "none")
    return "none"


def judge(wanted: Lines, words: list[str], status: int, out: str, err: str) -> None:
    """Look at what a command has said.

    Raises:
        AssertionError: Not as it has to be.
    """
    assert status in _STATUSES, f"status {status}"
    said = err.splitlines()
    verbose = "-v" in words  # shows details below the line, and what is asked of the kernel
    for line in said:
        assert verbose or line.startswith("pybpfload: "), f"on standard error: {line[:200]!r}"
        assert line.isprintable(), f"on standard error: {line[:200]!r}"
        assert len(line) < _LONGEST_LINE, f"a line of {len(line)} characters"
    assert "Traceback" not in err
    assert "\x1b" not in out, "an escape sequence"
    if status and not out and not verbose and wanted.command not in _TELLS_MORE:
        assert len(said) == 1, f"{len(said)} lines on standard error"
    if "--json" in words and not status:  # else it ends where the damage is
        for line in [out] if wanted.command != "run" else out.splitlines():
            json.loads(line)


@cache
def _scratch() -> Path:
    """A folder of this process, removed at its end."""
    folder = tempfile.TemporaryDirectory(prefix="pybpfload-fuzz-")
    _kept.append(folder)
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def _kernel(wanted: Lines) -> AbstractContextManager[object]:
    """The kernel of a command: one that knows all types and places, or the file system's."""
    if wanted.command not in LIVE:
        return contextlib.nullcontext()  # they have no business with a kernel
    folder = "bpfel" if sys.byteorder == "little" else "bpfeb"
    return FakeKernel(files={"/sys/kernel/btf/vmlinux": fuzz_seeds.kernel(folder)})


def _order(data: bytes) -> str:
    """The folder of good files that have the byte order which a file seems to have."""
    return "bpfeb" if data[:1] == b"\xeb" or data[5:6] == b"\x02" else "bpfel"
