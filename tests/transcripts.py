"""Commands and what they print, in the documentation, run as tests.

A transcript is a ```` ```text ```` block that begins with ``$ pybpfload ...``: commands, each with
what it prints to standard output and standard error. A line ``...`` stands for any lines, ``...``
in a line for anything. Objects are those of ``fixtures``; ``sudo`` is for readers.

What needs no kernel is compared as it stands (``tests/pure/test_transcripts.py``), but for Python's
version. What asks a kernel, running or not, is compared up to numbers and the width of columns
(``tests/live/test_live_transcripts.py``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import shlex
import shutil
import sys
from typing import TYPE_CHECKING

from snippets import PAGES, ROOT

from pybpfload.cli import GROUPS, main

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MADE_BY_A_KERNEL = ("vmlinux", "refused.txt", "5.10.btf", "6.12.btf")
"""Files in transcripts whose contents come from a kernel, so that only live tests have them."""

_SAME = {"tracer.bpf.o": "execsnoop.bpf.o"}
"""Objects with other names in fixtures."""

_BLOCK = re.compile(r"^```text\n(\$ .*?)^```$", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass
class Command:
    """One command of a transcript.

    Attributes:
        words: Its arguments, after ``pybpfload``.
        expected: What it prints.
        before: Words before ``pybpfload``, but for ``sudo``.
    """

    words: list[str]
    expected: str
    before: list[str]

    @property
    def line(self) -> str:
        """The words as one line."""
        return " ".join(self.words)


@dataclasses.dataclass
class Transcript:
    """A block of commands and what they print."""

    page: Path
    line: int
    commands: list[Command]

    def __str__(self) -> str:
        return f"{self.page.name}:{self.commands[0].line[:40]}"

    @property
    def asks_a_kernel(self) -> bool:
        """Whether any of its commands needs a kernel, or a file that comes from one."""
        return any(
            command.words[0] in GROUPS["live"]
            or (command.words[0] == "relocate" and "--btf" not in command.words)
            or set(command.words) & set(MADE_BY_A_KERNEL)
            for command in self.commands
        )


def transcripts(*, asking_a_kernel: bool | None = None) -> list[Transcript]:
    """All transcripts, or those that ask a kernel, or those that do not."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in _BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            each = Transcript(page, line, list(_commands(block[1])))
            if asking_a_kernel in (None, each.asks_a_kernel):
                found.append(each)
    return found


def _commands(block: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, _, expected = part.partition("\n")
        words = shlex.split(line)
        at = words.index("pybpfload")
        yield Command(words[at + 1 :], expected, [word for word in words[:at] if word != "sudo"])


def provide_objects(words: list[str], folder: Path, order: str = "bpfel") -> None:
    """Copy the objects that a command names into a folder."""
    for word in words:
        if word.endswith(".bpf.o"):
            shutil.copy(ROOT / "fixtures" / order / _SAME.get(word, word), folder / word)


def printed(words: list[str], typed: list[str] | None = None) -> str:
    """Run a command in this process, and return what it prints, to both outputs.

    Args:
        words: Arguments.
        typed: Lines that somebody types at its prompt; None: there is no terminal.
    """
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n", write_through=True)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        if typed is None:
            main(words)
        else:
            with _typing(typed, output):
                main(words)
    assert isinstance(output.buffer, io.BytesIO)
    return output.buffer.getvalue().decode()


@contextlib.contextmanager
def _typing(lines: list[str], output: io.TextIOWrapper) -> Iterator[None]:
    """Somebody at a terminal, without IPython."""
    import builtins
    from unittest import mock

    rest = iter(lines)

    def answer(prompt: str = "") -> str:
        line = next(rest, None)
        if line is None:
            raise EOFError
        output.write(f"{prompt}{line}\n")
        return line

    terminal = mock.Mock(isatty=lambda: True)
    with (
        mock.patch.object(builtins, "input", answer),
        mock.patch.object(sys, "stdin", terminal),
        mock.patch.dict(sys.modules, {"IPython": None}),
    ):
        yield


def check(expected: str, got: str, *, exact: bool, renamed: Mapping[str, str] = {}) -> None:
    """Compare what a page says with what was printed.

    Args:
        expected: From the page.
        got: What was printed.
        exact: Whether numbers and the width of columns count.
        renamed: What stands in the page for other words in the output.
    """
    for shown, real in renamed.items():
        got = got.replace(real, shown)
    if not exact:
        expected, got = _without_numbers(expected), _without_numbers(got)
    expected, got = (re.sub(r"Python 3\.\d+\.\d+\S*", "Python 3", t) for t in (expected, got))
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else ".*".join(map(re.escape, line.split("..."))) + r"\n"
        for line in expected.splitlines()
    )
    # Blank lines at the end of what is printed do not show in a page.
    assert re.fullmatch(pattern + r"\n*", got), f"the page says\n{expected}\nand printed is\n{got}"


def _without_numbers(text: str) -> str:
    """Ids, addresses, times and versions differ, and so does the width of columns."""
    text = re.sub(r"\b(?:0x)?[0-9a-f]*\d[0-9a-f]*\b", "N", text)
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r"^ | $", "", text, flags=re.MULTILINE)


def expand(words: list[str]) -> list[str]:
    """Words as a shell hands them over: ``$$`` is its own process."""
    return [word.replace("$$", str(os.getpid())) for word in words]
