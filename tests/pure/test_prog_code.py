"""Code of loaded programs: who may see it, what disassembles it; tests/live has real programs."""

import errno
import struct
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pybpfload.cli import main
from pybpfload.cli.live import one_word
from pybpfload.cli.prog_dump import _as_options, _function
from pybpfload.errors import NotPermittedError, NotSupportedError
from pybpfload.isa import insn as isa
from pybpfload.isa.insn import Insn
from pybpfload.kernel import bpf
from pybpfload.kernel.bpf import ProgInfo
from pybpfload.runtime import machine
from pybpfload.runtime.jited import jited
from pybpfload.runtime.xlated import xlated
from pybpfload.testing.fakekernel import FakeKernel, memory, store
from pybpfload.uapi import ProgType

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

ORDER = "<" if sys.byteorder == "little" else ">"
NOP_RETURN = bytes.fromhex("90c3")


def program_info(**fields):
    """Of a program without BTF: two functions, of which the first calls the second."""
    known = dict.fromkeys(ProgInfo.__slots__, 0)
    known |= {"name": "first", "tag": "a" * 16, "type": ProgType.XDP, "map_ids": []}
    known |= {"prog_tags": ["b" * 16, "c" * 16], "jited_line_info": [], "jited_func_lens": [2, 1]}
    known |= {"jited_ksyms": [0xFFFFFFFFC0001000, 0xFFFFFFFFC0002000], "jited_prog_len": 3}
    known |= {"jited_insns": NOP_RETURN + b"\xc3", "func_info": b"", "line_info": b""}
    return ProgInfo(**{**known, **fields})


@pytest.fixture
def kernel():
    symbols = b"ffffffff81000000 T _text\nffffffff82000000 T return_thunk\n"
    with FakeKernel(files={"/proc/kallsyms": symbols}) as fake:
        yield fake


def test_functions_without_btf_have_the_kernels_names(kernel):
    first, second = jited(program_info())
    assert (first.symbol, first.code) == (f"bpf_prog_{'a' * 16}_first", NOP_RETURN)
    assert (second.symbol, second.code) == (f"bpf_prog_{'c' * 16}_F", b"\xc3")
    assert (second.name, second.address, second.sources) == ("", 0xFFFFFFFFC0002000, [])


def test_what_is_called_has_a_name_without_btf():
    """In a program that the kernel interprets, distances are as they were loaded."""
    call = Insn(isa.CALL, src=isa.PSEUDO_CALL, imm=1)
    code = isa.encode([call, Insn(isa.EXIT), Insn(isa.EXIT)], ORDER)
    lines = xlated(program_info(xlated_insns=code, jited_prog_len=0))
    assert [each.function for each in lines] == ["first", "", f"bpf_prog_{'c' * 16}_F"]
    assert lines[0].line.comment == f"bpf_prog_{'c' * 16}_F"


def test_a_program_that_is_not_compiled():
    with pytest.raises(NotSupportedError, match="interprets") as caught:
        jited(program_info(jited_prog_len=0, jited_insns=b""))
    assert "bpf_jit_enable" in caught.value.hint


def test_code_that_is_hidden():
    """The kernel takes away the pointers to what it does not show, and fills in nothing."""

    def hide(call):
        given = bytearray(memory(call.fields["info"], call.fields["info_len"]))
        struct.pack_into("=II", given, 0, ProgType.XDP, 7)
        struct.pack_into("=II", given, 16, len(NOP_RETURN), 8)
        struct.pack_into("=QQ", given, 24, 0, struct.unpack_from("=Q", given, 32)[0])
        store(call.fields["info"], bytes(given))
        return 0

    with FakeKernel() as fake:
        fake.on("OBJ_GET_INFO_BY_FD", hide)
        info = bpf.prog_info(5)
    assert (info.jited_prog_len, info.jited_insns, info.xlated_insns) == (2, b"", bytes(8))
    with pytest.raises(NotPermittedError, match="machine code") as caught:
        jited(info)
    assert caught.value.errno == errno.EPERM
    assert "CAP_SYSLOG" in caught.value.hint


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "capstone", None)


def test_without_a_disassembler(nothing_installed, kernel):
    with pytest.raises(NotSupportedError, match="x86_64") as caught:
        jited(program_info(), text=True)
    assert "binutils" in caught.value.hint


OBJDUMP = """

x.bin:     file format binary


Disassembly of section .data:

ffffffffc0001000 <.data>:
ffffffffc0001000:\t0f 1f 44 00 00       \tnopl   0x0(%rax,%rax,1)
ffffffffc0001005:\te9 f6 ef ff 41       \tjmp    0xffffffff82000000
ffffffffc000100a:\tc3                   \tret
"""


def test_what_objdump_prints(monkeypatch, kernel):
    code = bytes.fromhex("0f1f440000 e9f6efff41 c3")
    asked = []

    def run(words, **options):
        asked.append(words)
        return SimpleNamespace(returncode=0, stdout=OBJDUMP)

    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(machine.subprocess, "run", run)
    info = program_info(jited_insns=code, jited_prog_len=11, jited_func_lens=[11])
    (function,) = jited(info, text=True)
    assert asked[0][:-1] == [
        "/bin/objdump", "-D", "-z", "-w", "-b", "binary", "-m", "i386:x86-64",
        "--adjust-vma=0xffffffffc0001000",
    ]  # fmt: skip
    found = [(each.offset, each.code.hex(), each.text, each.comment) for each in function.insns]
    assert found == [
        (0, "0f1f440000", "nopl 0x0(%rax,%rax,1)", ""),
        (5, "e9f6efff41", "jmp 0xffffffff82000000", "return_thunk"),
        (10, "c3", "ret", ""),
    ]
    first, _, last = _function(function)["insns"]
    assert (first["operation"], first["operands"]) == ("nopl", ["0x0(%rax,%rax,1)"])
    assert (last["pc"], last["operation"], last["operands"]) == ("0xa", "ret", [None])
    assert last["opcodes"] == ["0xc3"]


@pytest.mark.parametrize("trouble", [OSError("no"), subprocess.TimeoutExpired("objdump", 1), 1])
def test_an_objdump_that_fails(trouble, monkeypatch, nothing_installed, kernel):
    def run(words, **options):
        if isinstance(trouble, Exception):
            raise trouble
        return SimpleNamespace(returncode=trouble, stdout="")

    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(machine.subprocess, "run", run)
    with pytest.raises(NotSupportedError):
        machine.disassemble(NOP_RETURN, 0)


def test_capstone_where_there_is_no_objdump(monkeypatch, nothing_installed, kernel):
    class Cs:
        def __init__(self, kind, mode):
            assert (kind, mode) == (3, 8)

        def disasm_lite(self, code, address):
            assert (self.skipdata, self.syntax) == (True, 2)
            return [(address, 1, "nop", ""), (address + 1, 1, "jmp", "0xffffffff82000010")]

    library = SimpleNamespace(CS_ARCH_X86=3, CS_MODE_64=8, CS_OPT_SYNTAX_ATT=2, Cs=Cs)
    monkeypatch.setitem(sys.modules, "capstone", library)
    first, _ = jited(program_info(), text=True)
    assert [each.text for each in first.insns] == ["nop", "jmp 0xffffffff82000010"]
    assert first.insns[1].comment == "return_thunk+0x10"


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["id", "42"], ["42"]),
        (["--json", "tag", "00ff"], ["--json", "tag:00ff"]),
        (["pinned", "/sys/fs/bpf/x", "rest"], ["/sys/fs/bpf/x", "rest"]),
        (["name", "on_exec"], ["on_exec"]),
        (["id"], ["id"]),
        (["id", "--json"], ["id", "--json"]),
        (["on_exec"], ["on_exec"]),
        ([], []),
    ],
)
def test_what_bpftool_says_in_two_words(words, read):
    assert one_word(words) == read


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["xlated", "id", "42"], ["id", "42"]),
        (["jited", "42"], ["42", "--jited"]),
        (["jited"], ["jited"]),  # a program of that name
        (["jited", "tag", "0f", "opcodes"], ["tag", "0f", "--bytes", "--jited"]),
        (["jited", "opcodes"], ["opcodes", "--jited"]),
    ],
)
def test_dump_has_the_words_of_bpftool(words, read):
    assert _as_options(words) == read


@pytest.mark.parametrize("text", ["4294967296", "9" * 5000])
@pytest.mark.parametrize("command", [["prog", "show"], ["map", "dump"], ["test-run"], ["trace"]])
def test_ids_that_are_too_large(command, text, capsys):
    assert main([*command, text]) == 2
    assert "ids have 32 bits" in capsys.readouterr().err
