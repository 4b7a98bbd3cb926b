"""Dumps of loaded programs are those of ``bpftool prog dump xlated``, spelling rules aside."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from bpftool import bpftool, needs_bpftool
from random_programs import MAP_SIZE, random_program

import pybpfload
from pybpfload.cli import main
from pybpfload.errors import BpfError
from pybpfload.isa import insn as isa
from pybpfload.kernel import bpf, progload
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime.program import Program
from pybpfload.uapi import MapType, ProgFlag, ProgType

pytestmark = pytest.mark.live

ORDER = "<" if sys.byteorder == "little" else ">"
FIXTURES = Path(__file__).parents[2] / "fixtures" / ("bpfel" if ORDER == "<" else "bpfeb")

EACH = int(os.environ.get("PYBPFLOAD_DUMPS", "1"))
"""How many programs of an object are compared, the longest first: each run of bpftool reads all of
the kernel's symbols."""
RANDOM_PROGRAMS = 8 * EACH
"""How many programs of random instructions are compared, besides those of the fixtures."""

NUMBER = re.compile(r"(?<![\w.])[-+]?(?:0x[0-9a-f]+|\d+)\b")

RULES = [
    # What it refers to is a comment with us. Without BTF that is the kernel's symbol.
    (r"call pc([-+]\d+)#(bpf_prog_[0-9a-f]{16}_F)$", r"call \1 ; \2"),
    (r"call pc([-+]\d+)#bpf_prog_[0-9a-f]{16}_(\w+)", r"call \1 ; \2"),
    (r"call (bpf_tail_call)#(12)", r"call \2 ; \1"),
    (r"call (\w+)#(-?\d+)", r"call \2 ; \1"),
    # References of RFC 9669 have its words.
    (r"map\[id:(\d+)\]\[0\]\+(\d+)", r"map_val(map_by_fd(\1)) +\2"),
    (r"map\[id:(\d+)\]", r"map_by_fd(\1)"),
    (r"subprog\[([-+]\d+)\]", r"code_addr(\1)"),
    # Jumps are relative without "pc".
    (r"(goto|gotol|may_goto) pc([-+]\d+)", r"\1 \2"),
    # Atomic operations are LLVM's.
    (r"atomic64_(x|cmpx)chg\(\(u64 \*\)\(r(\d+) ([-+]\d+)\), ", r"\1chg_64(r\2 \3, "),
    (r"atomic_(x|cmpx)chg\(\(u32 \*\)\(r(\d+) ([-+]\d+)\), ", r"\1chg32_32(r\2 \3, "),
    (r"atomic64_(\w+)\(", r"atomic_\1("),
]
"""bpftool's spelling -> LLVM's, which ours is."""


def ours(line):
    """Our text of an instruction with what it calls; numbers decimal, blanks where they matter."""
    called = f" ; {line.comment}" if line.text.startswith("call") else ""
    return plain(re.sub(r" <\S+>$| ll$|(?<=call) kfunc", "", line.text) + called)


def theirs(text):
    """The same of bpftool's text, spelled as ours."""
    opcode, text = int(text[1:3], 16), text[5:]
    for pattern, spelled in RULES:
        text = re.sub(pattern, spelled, text)
    moves = opcode & 7 in (isa.LDX, isa.STX) and opcode & 0xE0 != isa.MODE_MEMSX
    if moves and opcode & 0x18 != isa.SIZE_DW:
        # What is not an address is the lower half of a register.
        text = re.sub(r"(?<!\()\br(\d+)", r"w\1", text)
    if opcode != isa.LDIMM64:
        text = re.sub(r"\b0x[89a-f][0-9a-f]{7}\b", lambda n: str(int(n[0], 16) - (1 << 32)), text)
    text = re.sub(r"\b0x[89a-f][0-9a-f]{15}\b", lambda n: str(int(n[0], 16) - (1 << 64)), text)
    return plain(text)


def plain(text):
    text = text.replace("- 0x", "-0x").replace("+ 0x", "+0x")
    return " ".join(NUMBER.sub(lambda found: f" {int(found[0], 0)} ", text).split())


def differences(program):
    """What differs between both dumps of a program: (index, ours, bpftool's)."""
    lines, dumped = (
        program.xlated(),
        bpftool("prog", "dump", "xlated", "id", program.info().id, "linum"),
    )
    found = [(-1, len(lines), len(dumped))] if len(lines) != len(dumped) else []
    # It gives up all lines of C of a program to which the kernel adds a function (exceptions).
    has_lines = any("src" in other for other in dumped)
    source = None
    for each, other in zip(lines, dumped, strict=False):
        pairs = [(ours(each.line), theirs(other["disasm"]))]
        pairs.append((each.prototype.replace(" ", ""), other.get("proto", "").replace(" ", "")))
        if "src" in other:
            source = (other["file"], other["line_num"], other["src"])
        said = each.source and (each.source.file, each.source.number, each.source.text)
        if has_lines:
            pairs.append((said, source))
        found += [(each.line.index, mine, yours) for mine, yours in pairs if mine != yours]
    return len(lines), found


def loaded(path, wanted):
    """An object with some of its programs, not pinned anywhere."""
    spec = pybpfload.open(path)
    for name, program in spec.programs.items():
        program.autoload = name in wanted
    for each in spec.maps.values():
        each.pinning = type(each.pinning)(0)
    return spec.load()


def programs_of_fixtures():
    """Programs of the fixtures that this kernel takes, loaded and nowhere attached."""
    for path in sorted(FIXTURES.glob("*.bpf.o")):
        if path.name.startswith(
            ("verifier_", "sched_ext", "struct_ops", "sections", "nobtf_", "bad_")
        ):
            continue  # made to be refused, or nothing to try on a machine that is in use
        spec = pybpfload.open(path)
        lengths = {name: -len(each.insns) for name, each in spec.programs.items()}
        taken = 0
        for name in sorted(lengths, key=lengths.__getitem__):
            with suppress(BpfError), loaded(path, [name]) as obj:
                yield obj.programs[name]
                taken += 1
            if taken == EACH:
                break


def random_programs():
    """Programs of all instructions that work on numbers and memory; without names and BTF."""
    with FileDescriptor(bpf.map_create(MapType.ARRAY, 4, MAP_SIZE, 1), "map") as scratch:
        for seed in range(RANDOM_PROGRAMS):
            made = random_program(Random(seed), 100)
            insns = list(made.insns)
            for at in made.map_values:
                insns[at] = insns[at]._replace(imm=scratch.fileno())
            code = isa.encode(insns, ORDER)
            fd, _ = progload.load_program(ProgType.SYSCALL, code, prog_flags=ProgFlag.SLEEPABLE)
            with FileDescriptor(fd, "program"), Program.from_id(bpf.prog_info(fd).id) as program:
                yield program


@needs_bpftool
@pytest.mark.parametrize(
    ("programs", "at_least"), [(programs_of_fixtures, 3500), (random_programs, 1800 * EACH)]
)
def test_instructions_are_those_of_bpftool(programs, at_least):
    count, found, instructions = 0, [], 0
    for program in programs():
        many, different = differences(program)
        count, instructions = count + 1, instructions + many
        found += [(program.name, *each) for each in different]
    print(f"{count} programs, {instructions} instructions compared")
    assert found == []
    assert instructions >= at_least


@needs_bpftool
def test_bytes_of_instructions_are_those_of_bpftool(capsys):
    with pybpfload.open(FIXTURES / "execsnoop.bpf.o").load() as obj:
        number = str(obj.programs["on_exit"].info(code=False).id)
        assert main(["--json", "prog", "dump", "xlated", "id", number, "opcodes"]) == 0
        shown = json.loads(capsys.readouterr().out)
        theirs = bpftool("prog", "dump", "xlated", "id", number, "opcodes")
    assert [each["opcodes"] for each in shown] == [each["opcodes"] for each in theirs]
    assert {len(each["opcodes"]["imm"]) for each in shown} == {4, 12}


def test_machine_code_is_where_the_kernel_says():
    """Boundaries and names of functions, and what calls go to, against ``/proc/kallsyms``."""
    with pybpfload.open(FIXTURES / "subprogs.bpf.o").load() as obj:
        program = obj.programs["call_forward"]
        functions = program.jited()
        listed = dict(line.split()[0:3:2] for line in symbols_of_programs())
        assert [each.name for each in functions] == ["call_forward", "second", "leaf", "first"]
        for each in functions:
            assert listed[f"{each.address:016x}"] == each.symbol
            assert each.prototype.startswith(f"int {each.name}(")
        info = program.info()
        assert b"".join(each.code for each in functions) == info.jited_insns
        lines = [line for each in functions for _, line in each.sources]
        starts = [each.address + at for each in functions for at, _ in each.sources]
        assert starts == info.jited_line_info
        assert [*dict.fromkeys(lines)] == [*dict.fromkeys(each.source for each in program.xlated())]


def symbols_of_programs():
    text = Path("/proc/kallsyms").read_text()
    return [line for line in text.splitlines() if line.endswith("\t[bpf]")]


@pytest.mark.skipif(not shutil.which("objdump"), reason="objdump is not installed")
def test_machine_code_is_disassembled(capsys):
    with pybpfload.open(FIXTURES / "execsnoop.bpf.o").load() as obj:
        program = obj.programs["on_exit"]
        (function,) = program.jited(text=True)
        assert b"".join(each.code for each in function.insns) == function.code
        assert function.insns[-1].offset + len(function.insns[-1].code) == len(function.code)
        helpers = {each.line.comment for each in program.xlated() if "call" in each.line.text}
        assert helpers <= {each.comment for each in function.insns}
        by_line = {each.source.text: each for each in function.insns}
        assert "bpf_ringbuf_submit(event, 0);" in by_line
        number = program.info().id
        assert main(["prog", "dump", "jited", "id", str(number), "--bytes"]) == 0
        text = capsys.readouterr().out
        assert f"on_exit: {function.symbol} at {function.address:#x}, " in text
        for each in function.insns:
            assert f"{each.offset:6x}: {each.code.hex(' ')}" in text
        assert main(["--json", "prog", "dump", "--jited", str(number)]) == 0
        (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["function"]) == (function.symbol, "on_exit")
    opcodes = [int(byte, 16) for insn in shown["insns"] for byte in insn["opcodes"]]
    assert bytes(opcodes) == function.code == bytes.fromhex(shown["code"])
    for insn, each in zip(shown["insns"], function.insns, strict=True):
        operands = ",".join(filter(None, insn["operands"]))  # None if there are none
        assert each.text.split() == f"{insn['operation']} {operands}".split()


def shown_without_syslog(*words):
    """Run a command in a process that lacks CAP_SYSLOG."""
    bounding_set_drop, syslog = 24, 34
    return subprocess.run(
        [sys.executable, "-m", "pybpfload", *map(str, words)],
        cwd=FIXTURES.parents[1], capture_output=True, text=True, check=False,
        preexec_fn=lambda: ctypes.CDLL(None).prctl(bounding_set_drop, syslog, 0, 0, 0),
    )  # fmt: skip


def test_addresses_that_are_hidden():
    if int(Path("/proc/sys/kernel/perf_event_paranoid").read_text()) <= 1:
        pytest.skip("kernel.perf_event_paranoid shows kernel addresses to everybody")
    with pybpfload.open(FIXTURES / "execsnoop.bpf.o").load() as obj:
        number = obj.programs["on_exit"].info(code=False).id
        done = shown_without_syslog("prog", "dump", "--jited", number)
        assert (done.returncode, done.stdout) == (3, "")
        assert "machine code of program on_exit" in done.stderr
        assert "CAP_SYSLOG" in done.stderr
        done = shown_without_syslog("prog", "dump", number)
        assert (done.returncode, done.stdout.count("call 0x0")) == (0, 5)
        assert "which helpers are called is hidden" in done.stderr
