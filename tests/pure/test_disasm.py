"""The disassembler agrees with LLVM's, and survives everything else.

``disasm-llvm22.txt`` holds what ``llvm-mc-22 --disassemble`` says of `cases()`, one line for each
that it accepts. ``python tests/pure/test_disasm.py`` prints it anew.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from hypothesis import given
from hypothesis import strategies as st

from pybpfload.isa import insn as isa
from pybpfload.isa import table
from pybpfload.isa.disasm import disassemble
from pybpfload.isa.insn import Insn, decode, encode

HERE = Path(__file__).parent
GOLDEN = HERE / "disasm-llvm22.txt"
FIXTURES = HERE.parent.parent / "fixtures"

registers = st.integers(0, 15)
s16 = st.integers(-(2**15), 2**15 - 1)
s32 = st.integers(-(2**31), 2**31 - 1)
codes = st.sampled_from([0, *table.FORMS]) | st.integers(0, 255)
insns = st.builds(Insn, codes, registers, registers, s16 | st.integers(-2, 8), s32)

ATOMICS = {0, 1, 0x40, 0x41, 0x50, 0x51, 0xA0, 0xA1, 0xE1, 0xF1, 0x100, 0x110}


def cases() -> list[tuple[Insn, ...]]:
    """Every opcode with fields that tell its instructions apart, and some that it must not have."""
    found: dict[tuple[Insn, ...], None] = {}
    for code in range(256):
        for dst, src in ((1, 2), (0, 0), (10, 0), (12, 0), (0, 12)):
            found[_case(Insn(code, dst, src))] = None
        for off in (1, 8, 16, 32, -1, -32768):
            found[_case(Insn(code, 1, 2, off))] = None
        for imm in (*sorted(ATOMICS), 16, 32, 64, -1, -(2**31)):
            found[_case(Insn(code, 1, 0 if code == isa.LDIMM64 else 2, 8, imm))] = None
        found[_case(Insn(code, 1, 0, 1, 7))] = None
        found[_case(Insn(code, 0, 0, 0, 0x12345678))] = None
    return list(found)


def _case(insn: Insn) -> tuple[Insn, ...]:
    if insn.code != isa.LDIMM64:
        return (insn,)
    return insn, Insn(0, imm=-1 if insn.imm < 0 else insn.imm // 2)


def is_ours_alone(insn: Insn) -> bool:
    """Where LLVM does not look at a field that matters, or writes what nobody can read."""
    return (
        (insn.code == isa.LDIMM64 and insn.src != 0)
        or (insn.code == isa.CALL and insn.src > 1)
        or (insn.code in (0x40, 0x48, 0x50) and insn.imm != 0)
        or (insn.code == isa.JMP | isa.JMP_JCOND and insn.src != 0)
        or (insn.code & 0xE7 == isa.STX | isa.MODE_ATOMIC and insn.imm not in ATOMICS)
        or (insn.code == 0xBF and insn.off == -1)  # the verifier's own
        or insn.code == 0xC2  # nospec, the verifier's own
    )


def llvm(order: str) -> list[str | None]:
    """What LLVM says of each case, ``None`` if it does not accept it."""
    lines = [" ".join(f"{byte:#04x}" for byte in encode(case, order)) for case in cases()]
    done = subprocess.run(
        [
            "llvm-mc-22",
            f"--triple={'bpfel' if order == '<' else 'bpfeb'}",
            "--mcpu=v4",
            "--disassemble",
            "--print-imm-hex",
        ],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    refused = {int(line) for line in re.findall(r"<stdin>:(\d+):\d+: warning: inv", done.stderr)}
    texts = iter([line.strip() for line in done.stdout.splitlines() if ".text" not in line])
    return [None if line in refused else next(texts) for line in range(1, len(lines) + 1)]


def golden() -> dict[str, str]:
    pairs = [line.split("  ", 1) for line in GOLDEN.read_text().splitlines()]
    return {code: text for code, text in pairs}  # noqa: C416


def test_every_opcode_as_llvm_writes_it():
    told = golden()
    seen: set[int] = set()
    for case in cases():
        [line] = disassemble(case)
        problems = [text for text in line.problems if not text.startswith("jumps to")]
        text = told.get(encode(case, "<").hex())
        if is_ours_alone(case[0]):
            continue
        if text is None:
            assert problems, case
        else:
            assert line.text == text, case
            seen.add(case[0].code)
    assert seen == table.FORMS.keys() - {0xC2}


@pytest.mark.parametrize("order", ["<", ">"])
def test_golden_text_is_what_llvm_says(order):
    if shutil.which("llvm-mc-22") is None:
        pytest.skip("needs llvm-mc-22 (package llvm-22)")
    said = llvm(order)
    codes = [encode(case, "<").hex() for case in cases()]
    assert golden() == {c: text for c, text in zip(codes, said, strict=True) if text is not None}


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    # All programs of `sections` are the same two instructions.
    sorted(set(FIXTURES.glob("bpfe[lb]/*.bpf.o")) - set(FIXTURES.glob("*/sections.bpf.o"))),
    ids=lambda path: f"{path.parent.name}-{path.name}",
)
def test_fixtures_as_llvm_objdump_writes_them(path):
    if shutil.which("llvm-objdump-22") is None:
        pytest.skip("needs llvm-objdump-22 (package llvm-22)")
    assert ours(path) == objdump(path)


def ours(path: Path) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    with path.open("rb") as file:
        elf = ELFFile(file)
        order = "<" if elf.little_endian else ">"
        [symbols] = [sec for sec in elf.iter_sections() if isinstance(sec, SymbolTableSection)]
        for number, section in enumerate(elf.iter_sections()):
            if not section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR:
                continue
            labels = {
                symbol["st_value"] // 8: symbol.name
                for symbol in symbols.iter_symbols()
                if symbol["st_shndx"] == number and symbol["st_info"]["type"] != "STT_SECTION"
            }
            slots = decode(section.data(), order)
            lines = disassemble(slots, labels=labels)
            assert sum(line.slots for line in lines) == len(slots)
            assert not [line for line in lines if line.problems]
            found += [(line.index, line.text) for line in lines]
    return found


def objdump(path: Path) -> list[tuple[int, str]]:
    done = subprocess.run(
        ["llvm-objdump-22", "-d", "--no-show-raw-insn", path],
        capture_output=True,
        text=True,
        check=True,
    )
    return [
        (int(index), text)
        for index, text in re.findall(r"^ +(\d+):\t(.*)$", done.stdout, re.MULTILINE)
    ]


@given(st.lists(insns, max_size=12), st.dictionaries(st.integers(-5, 20), st.text("ab_")))
def test_nothing_raises_and_every_slot_is_told_once(slots, names):
    lines = disassemble(slots, labels=names, names=names, helpers=names)
    position = 0
    for line in lines:
        assert line.index == position
        position += line.slots
        assert line.text
        assert "{" not in line.text
        assert str(line)
        assert line.text.startswith("<unknown") == (table.find(slots[line.index]) is None) or (
            slots[line.index].is_ldimm64
        )
    assert position == len(slots)


@given(insns)
def test_a_slot_without_problems_uses_no_reserved_field(insn):
    form = table.find(insn)
    if form is None or table.problems(insn, form):
        return
    assert form in table.FORMS[insn.code]
    assert not [field for field in form.reserved if field != "next" and getattr(insn, field)]
    assert all(getattr(insn, field) <= 10 for field in form.registers)


@pytest.mark.parametrize("form", [form for forms in table.FORMS.values() for form in forms])
def test_every_form_is_found_by_its_own_encoding(form):
    fields = {field: 1 for field in ("dst", "src", "off", "imm") if field not in form.reserved}
    insn = Insn(form.code)._replace(**{**fields, "off": 3 if "off" in fields else 0, **form.fixed})
    if insn.code & 0xE7 == isa.LD | isa.MODE_IND and not form.fixed:
        insn = insn._replace(imm=4)
    assert table.find(insn) == form
    assert table.problems(insn, form) == []
    assert form.since is None or re.fullmatch(r"\d\.\d{1,2}", form.since)


@pytest.mark.parametrize(
    ("slots", "text"),
    [
        (isa.ld_imm64(1, 5, isa.PSEUDO_MAP_FD), "r1 = map_by_fd(0x5)"),
        (isa.ld_imm64(1, 8 << 32 | 5, isa.PSEUDO_MAP_VALUE), "r1 = map_val(map_by_fd(0x5)) + 0x8"),
        (isa.ld_imm64(1, 3 << 32 | 9, isa.PSEUDO_BTF_ID), "r1 = var_addr(0x9, 0x3)"),
        (isa.ld_imm64(1, 7, isa.PSEUDO_FUNC), "r1 = code_addr(0x7)"),
        (isa.ld_imm64(1, 7, isa.PSEUDO_MAP_IDX), "r1 = map_by_idx(0x7)"),
        (isa.ld_imm64(1, 1, isa.PSEUDO_MAP_IDX_VALUE), "r1 = map_val(map_by_idx(0x1)) + 0x0"),
        ((isa.call(9, isa.PSEUDO_KFUNC_CALL),), "call kfunc 0x9"),
        ((isa.call(9, isa.PSEUDO_KFUNC_CALL, 2),), "call kfunc 0x9 of fd_array[2]"),
        ((Insn(0x48, src=3, imm=-4),), "r0 = *(u16 *)skb[r3 - 0x4]"),
        ((Insn(0xBF, 1, 1, -1),), "r1 = &(void __percpu *)(r1)"),
        ((Insn(0xC2),), "nospec"),
        ((Insn(0x79, 1, 11, 8),), "r1 = *(u64 *)(r11 + 0x8)"),
    ],
)
def test_what_llvm_has_no_words_for(slots, text):
    [line] = disassemble(slots)
    assert line.text == text
    assert line.problems == ()
    assert line.slots == len(slots)


@pytest.mark.parametrize(
    ("slots", "problem"),
    [
        ((Insn(0x0F, 1, 2, 0, 5),), "imm is 0x5, must be 0"),
        ((Insn(0x07, 1, 0, -2, 5),), "off is -0x2, must be 0"),
        ((Insn(0x07, 12, 0, 0, 5),), "register r12 does not exist"),
        ((Insn(0x61, 1, 11, 8),), "register r11 does not exist"),
        ((Insn(0x8F, 1),), "no such instruction"),
        ((Insn(isa.CALL, 0, 3),), "no such instruction"),
        ((Insn(isa.LDIMM64, 1, 9), Insn(0)), "no such instruction"),
        ((Insn(isa.LDIMM64, 1),), "its second slot is missing"),
        ((Insn(isa.LDIMM64, 1), Insn(0, 3)), "dst of the second slot is 0x3, must be 0"),
        (isa.ld_imm64(1, 1 << 32, isa.PSEUDO_MAP_FD), "imm of the second slot is 0x1, must be 0"),
        ((isa.ja(0),), "jumps to 1, outside of the code"),
        ((isa.ja(-2),), "jumps to -1, outside of the code"),
    ],
)
def test_what_is_wrong_is_told(slots, problem):
    [line] = disassemble(slots)
    assert line.problems == (problem,)
    assert str(line).endswith(f"; invalid: {problem}")


def test_a_constant_cut_short_does_not_swallow_the_next_instruction():
    lines = disassemble([Insn(isa.LDIMM64, 1), isa.exit_()])
    assert [line.text for line in lines] == [
        "<unknown 0x18 dst=1 src=0 off=0 imm=0x0>",
        "exit",
    ]


def test_a_jump_into_a_constant_is_told():
    lines = disassemble([isa.ja(1), *isa.ld_imm64(1, 5), isa.ja(-2), isa.exit_()])
    assert lines[0].problems == ("jumps to 2, into a 64-bit constant",)
    assert lines[2].problems == ("jumps to 2, into a 64-bit constant",)


def test_targets_labels_and_names():
    code = [
        isa.jmp_imm(isa.JMP_JEQ, 1, 0, 3),  # 0
        isa.call(1),  # 1
        isa.call(3, isa.PSEUDO_CALL),  # 2
        isa.call(-1, isa.PSEUDO_CALL),  # 3
        isa.exit_(),  # 4
        Insn(isa.JMP32 | isa.JMP_JA, imm=-2),  # 5
        Insn(isa.LDIMM64, 2, isa.PSEUDO_FUNC, imm=-7),  # 6
        Insn(0),
        *isa.ld_imm64(2, 0, isa.PSEUDO_MAP_FD),  # 8
        isa.exit_(),  # 10
    ]
    lines = disassemble(
        code,
        labels={0: "main", 6: "helper"},
        names={3: "elsewhere", 8: "map events"},
        helpers={1: "bpf_map_lookup_elem"},
    )
    assert [(line.index, line.target) for line in lines if line.target is not None] == [
        (0, 4),
        (2, 6),
        (5, 4),
        (6, 0),
    ]
    assert [str(line).split(": ", 1)[1] for line in lines] == [
        "if r1 == 0x0 goto +0x3 <main+0x20>",
        "call 0x1  ; bpf_map_lookup_elem",
        "call 0x3  ; helper",
        "call -0x1  ; elsewhere",
        "exit",
        "gotol -0x2 <main+0x20>",
        "r2 = code_addr(-0x7)  ; main",
        "r2 = map_by_fd(0x0)  ; map events",
        "exit",
    ]


def test_kernel_versions():
    code = [isa.mov64_imm(0, 0), Insn(0xBF, 0, 1, 8), Insn(0x8D, 1), isa.exit_()]
    assert [line.since for line in disassemble(code)] == ["3.18", "6.6", None, "3.18"]


if __name__ == "__main__":
    for case, text in zip(cases(), llvm("<"), strict=True):
        if text is not None:
            sys.stdout.write(f"{encode(case, '<').hex()}  {text}\n")
