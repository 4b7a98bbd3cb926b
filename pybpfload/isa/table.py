"""The BPF instructions: how each is encoded and written, and which kernel brought it.

One :class:`Form` per instruction. Its text, with the spelling of LLVM's assembler, names the fields
that the instruction uses; a field that is neither named there nor fixed by the encoding must be
zero (RFC 9669 section 3.1; the kernel checks it in ``kernel/bpf/verifier.c``).

Sources: RFC 9669 and the kernel's ``Documentation/bpf/standardization/instruction-set.rst``;
``kernel/bpf/verifier.c`` and ``disasm.c`` for what came after it: ``may_goto`` and
``addr_space_cast`` (6.9), ``load_acquire`` and ``store_release`` (6.15), ``gotox`` (6.19),
arguments on the stack through r11 (7.2).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from pybpfload.isa import insn as isa

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.isa.insn import Insn

__all__ = ["FORMS", "Form", "find", "problems", "target"]

_OPERANDS: Final[dict[str, tuple[str, ...]]] = {
    "rd": ("dst",),  # register, 64 bits
    "wd": ("dst",),  # register, low 32 bits
    "rs": ("src",),
    "ws": ("src",),
    "at_dst": ("dst", "off"),  # memory at dst + off
    "at_src": ("src", "off"),
    "at_skb": ("src", "imm"),  # packet at src + imm
    "imm": ("imm",),
    "imm64": ("imm", "next"),  # next: imm of the second slot
    "next": ("next",),
    "space_to": ("imm",),  # high half of imm
    "space_from": ("imm",),  # low half of imm
    "jump": ("off",),  # distance to the target, in slots, from the next slot
    "long_jump": ("imm",),
    "func": ("imm",),
    "index": ("off",),
}
_REGISTERS: Final = {
    "rd": "dst",
    "wd": "dst",
    "rs": "src",
    "ws": "src",
    "at_dst": "dst",
    "at_src": "src",
    "at_skb": "src",
}
_TARGETS: Final = {"jump": "off", "long_jump": "imm", "func": "imm"}
_FIELDS: Final = ("dst", "src", "off", "imm")
_LAST_REGISTER: Final = 10


class Form(NamedTuple):
    """One instruction of the table.

    Attributes:
        code: Opcode, the whole byte.
        text: How it is written; operands stand in braces.
        since: First kernel whose verifier accepts it, such as ``"6.6"``; ``None`` if none does.
        fixed: Fields whose value is part of the encoding.
        operands: Names of the operands in ``text``.
        reserved: Fields that must be zero; ``"next"`` is ``imm`` of the second slot.
        registers: Fields that must be a register, r0 to r10.
        target: Field with the distance of a jump target or function, in slots from the next slot,
            or ``None``.
    """

    code: int
    text: str
    since: str | None
    fixed: dict[str, int]
    operands: tuple[str, ...]
    reserved: tuple[str, ...]
    registers: tuple[str, ...]
    target: str | None


def find(insn: Insn) -> Form | None:
    """Return the instruction that a slot encodes, or ``None`` if there is none.

    Reserved fields do not matter here: :func:`problems` looks at them.
    """
    for form in FORMS.get(insn.code, ()):
        if all(getattr(insn, field) == value for field, value in form.fixed.items()):
            return form
    return None


def problems(insn: Insn, form: Form, second: Insn | None = None) -> list[str]:
    """Tell which fields of an instruction break the rules of its encoding.

    The verifier refuses all of them, except that it overlooks ``off`` of ``exit`` and the second
    ``imm`` of a function's address (tried on Linux 6.18).

    Args:
        insn: The slot.
        form: What :func:`find` returned for it.
        second: The second slot of a 64-bit constant.
    """
    found = [
        f"{field} is {getattr(insn, field):#x}, must be 0"
        for field in form.reserved
        if field in _FIELDS and getattr(insn, field)
    ]
    found += [
        f"register r{getattr(insn, field)} does not exist"
        for field in form.registers
        if getattr(insn, field) > _LAST_REGISTER
    ]
    if second is not None:
        found += [
            f"{field} of the second slot is {getattr(second, field):#x}, must be 0"
            for field in ("dst", "src", "off")
            if getattr(second, field)
        ]
        if "next" in form.reserved and second.imm:
            found.append(f"imm of the second slot is {second.imm:#x}, must be 0")
    return found


def target(insn: Insn, form: Form, index: int) -> int | None:
    """Return the slot that a jump, call or function reference at slot ``index`` goes to.

    ``None`` if the instruction has no such target.
    """
    if form.target is None:
        return None
    distance: int = getattr(insn, form.target)
    return index + 1 + distance


def _form(code: int, text: str, since: str | None, **fixed: int) -> Form:
    operands = tuple(re.findall(r"\{(\w+)\}", text))
    used = {field for operand in operands for field in _OPERANDS[operand]} | fixed.keys()
    fields = (*_FIELDS, "next") if code == isa.LDIMM64 else _FIELDS
    registers = {_REGISTERS[operand] for operand in operands if operand in _REGISTERS}
    targets = [_TARGETS[operand] for operand in operands if operand in _TARGETS]
    return Form(
        code,
        text,
        since,
        fixed,
        operands,
        reserved=tuple(field for field in fields if field not in used),
        registers=tuple(sorted(registers - fixed.keys())),
        target=targets[0] if targets else None,
    )


_WIDTHS: Final = {isa.SIZE_B: "8", isa.SIZE_H: "16", isa.SIZE_W: "32", isa.SIZE_DW: "64"}

_ALU_SYMBOLS: Final = {
    isa.ALU_ADD: "+=",
    isa.ALU_SUB: "-=",
    isa.ALU_MUL: "*=",
    isa.ALU_DIV: "/=",
    isa.ALU_OR: "|=",
    isa.ALU_AND: "&=",
    isa.ALU_LSH: "<<=",
    isa.ALU_RSH: ">>=",
    isa.ALU_MOD: "%=",
    isa.ALU_XOR: "^=",
    isa.ALU_MOV: "=",
    isa.ALU_ARSH: "s>>=",
}

_JMP_SYMBOLS: Final = {
    isa.JMP_JEQ: "==",
    isa.JMP_JGT: ">",
    isa.JMP_JGE: ">=",
    isa.JMP_JSET: "&",
    isa.JMP_JNE: "!=",
    isa.JMP_JSGT: "s>",
    isa.JMP_JSGE: "s>=",
    isa.JMP_JLT: "<",
    isa.JMP_JLE: "<=",
    isa.JMP_JSLT: "s<",
    isa.JMP_JSLE: "s<=",
}

_LESS: Final = (isa.JMP_JLT, isa.JMP_JLE, isa.JMP_JSLT, isa.JMP_JSLE)


def _arithmetic() -> Iterator[Form]:
    # RFC 9669 section 4.1. What has the same opcode as a plainer instruction comes before it.
    for width, cls in (("r", isa.ALU64), ("w", isa.ALU)):
        dst = f"{{{width}d}}"
        for source, src in ((isa.SRC_K, "{imm}"), (isa.SRC_X, f"{{{width}s}}")):
            for op in (isa.ALU_DIV, isa.ALU_MOD):
                symbol = _ALU_SYMBOLS[op]
                yield _form(cls | op | source, f"{dst} s{symbol} {src}", "6.6", off=1)
            if source == isa.SRC_X:
                mov = cls | isa.ALU_MOV | source
                for bits in (8, 16, 32) if cls == isa.ALU64 else (8, 16):
                    yield _form(mov, f"{dst} = (s{bits}){src}", "6.6", off=bits)
                if cls == isa.ALU64:
                    cast = "{rd} = addr_space_cast({rs}, {space_to}, {space_from})"
                    yield _form(mov, cast, "6.9", off=1)
                    # The verifier's own, seen in programs read back from the kernel.
                    yield _form(mov, "{rd} = &(void __percpu *)({rs})", None, off=-1)
            for op, symbol in _ALU_SYMBOLS.items():
                since = "5.0" if (cls, op) == (isa.ALU, isa.ALU_ARSH) else "3.18"
                yield _form(cls | op | source, f"{dst} {symbol} {src}", since)
        yield _form(cls | isa.ALU_NEG, f"{dst} = -{dst}", "3.18")


def _byte_swaps() -> Iterator[Form]:
    # RFC 9669 section 4.2: the width is in imm.
    for bits in (16, 32, 64):
        swap = isa.ALU | isa.ALU_END
        yield _form(swap | isa.SRC_K, f"{{rd}} = le{bits} {{rd}}", "3.18", imm=bits)
        yield _form(swap | isa.SRC_X, f"{{rd}} = be{bits} {{rd}}", "3.18", imm=bits)
        swap = isa.ALU64 | isa.ALU_END
        yield _form(swap, f"{{rd}} = bswap{bits} {{rd}}", "6.6", imm=bits)


def _jumps() -> Iterator[Form]:
    # RFC 9669 section 4.3.
    yield _form(isa.JMP | isa.JMP_JA, "goto {jump}", "3.18")
    yield _form(isa.JMP32 | isa.JMP_JA, "gotol {long_jump}", "6.6")
    yield _form(isa.JMP | isa.JMP_JA | isa.SRC_X, "gotox {rd}", "6.19")
    yield _form(isa.JMP | isa.JMP_JCOND, "may_goto {jump}", "6.9", src=0)
    for width, cls in (("r", isa.JMP), ("w", isa.JMP32)):
        for source, src in ((isa.SRC_K, "{imm}"), (isa.SRC_X, f"{{{width}s}}")):
            for op, symbol in _JMP_SYMBOLS.items():
                since = "5.1" if cls == isa.JMP32 else "4.14" if op in _LESS else "3.18"
                text = f"if {{{width}d}} {symbol} {src} goto {{jump}}"
                yield _form(cls | op | source, text, since)


def _calls() -> Iterator[Form]:
    # RFC 9669 sections 4.3.1 and 4.3.2. LLVM writes helpers and functions alike.
    yield _form(isa.CALL, "call {imm}", "3.18", src=0)
    yield _form(isa.CALL, "call {func}", "4.16", src=isa.PSEUDO_CALL)
    yield _form(isa.CALL, "call kfunc {imm}", "5.13", src=isa.PSEUDO_KFUNC_CALL, off=0)
    # off: which of the BTF objects in the fd_array of BPF_PROG_LOAD.
    yield _form(isa.CALL, "call kfunc {imm} of fd_array[{index}]", "5.16", src=2)
    # Compilers can write it; no verifier takes it.
    yield _form(isa.CALL | isa.SRC_X, "callx {rd}", None)
    yield _form(isa.EXIT, "exit", "3.18")


def _loads_and_stores() -> Iterator[Form]:
    # RFC 9669 sections 5.1 and 5.2. r11, the area of arguments beyond the fifth, takes words of
    # 8 bytes only.
    ldx, stx, st = (cls | isa.MODE_MEM | isa.SIZE_DW for cls in (isa.LDX, isa.STX, isa.ST))
    yield _form(ldx, "{rd} = *(u64 *)({at_src})", "7.2", src=11)
    yield _form(stx, "*(u64 *)({at_dst}) = {rs}", "7.2", dst=11)
    yield _form(st, "*(u64 *)({at_dst}) = {imm}", "7.2", dst=11)
    for size, bits in _WIDTHS.items():
        width = "r" if size == isa.SIZE_DW else "w"
        load = f"{{{width}d}} = *(u{bits} *)({{at_src}})"
        yield _form(isa.LDX | isa.MODE_MEM | size, load, "3.18")
        if size != isa.SIZE_DW:
            load = f"{{rd}} = *(s{bits} *)({{at_src}})"
            yield _form(isa.LDX | isa.MODE_MEMSX | size, load, "6.6")
        store = f"*(u{bits} *)({{at_dst}})"
        yield _form(isa.STX | isa.MODE_MEM | size, f"{store} = {{{width}s}}", "3.18")
        yield _form(isa.ST | isa.MODE_MEM | size, f"{store} = {{imm}}", "3.18")
    # The verifier's own, seen in programs read back from the kernel.
    yield _form(isa.ST | isa.MODE_ATOMIC, "nospec", None)


def _atomics() -> Iterator[Form]:
    # RFC 9669 section 5.3: the operation is in imm.
    symbols = {
        isa.ATOMIC_ADD: ("+", "add"),
        isa.ATOMIC_OR: ("|", "or"),
        isa.ATOMIC_AND: ("&", "and"),
        isa.ATOMIC_XOR: ("^", "xor"),
    }
    for size, bits in _WIDTHS.items():
        width = "r" if size == isa.SIZE_DW else "w"
        code = isa.STX | isa.MODE_ATOMIC | size
        dst, src = f"{{{width}d}}", f"{{{width}s}}"
        load = f"{dst} = load_acquire((u{bits} *)({{at_src}}))"
        yield _form(code, load, "6.15", imm=isa.ATOMIC_LOAD_ACQ)
        store = f"store_release((u{bits} *)({{at_dst}}), {src})"
        yield _form(code, store, "6.15", imm=isa.ATOMIC_STORE_REL)
        if size not in (isa.SIZE_W, isa.SIZE_DW):
            continue
        for op, (symbol, name) in symbols.items():
            since = "3.18" if op == isa.ATOMIC_ADD else "5.12"
            yield _form(code, f"lock *(u{bits} *)({{at_dst}}) {symbol}= {src}", since, imm=op)
            fetch = f"{src} = atomic_fetch_{name}((u{bits} *)({{at_dst}}), {src})"
            yield _form(code, fetch, "5.12", imm=op | isa.ATOMIC_FETCH)
        suffix = "_64" if width == "r" else "32_32"
        exchange = f"{src} = xchg{suffix}({{at_dst}}, {src})"
        yield _form(code, exchange, "5.12", imm=isa.ATOMIC_XCHG)
        exchange = f"{width}0 = cmpxchg{suffix}({{at_dst}}, {width}0, {src})"
        yield _form(code, exchange, "5.12", imm=isa.ATOMIC_CMPXCHG)


def _constants() -> Iterator[Form]:
    # RFC 9669 section 5.4, from which the words are; LLVM writes only the first of these.
    code = isa.LDIMM64
    yield _form(code, "{rd} = {imm64} ll", "3.18", src=0)
    yield _form(code, "{rd} = map_by_fd({imm})", "3.18", src=isa.PSEUDO_MAP_FD)
    text = "{rd} = map_val(map_by_fd({imm})) + {next}"
    yield _form(code, text, "5.2", src=isa.PSEUDO_MAP_VALUE)
    # The second number is the fd of a module's BTF, 0 for vmlinux.
    yield _form(code, "{rd} = var_addr({imm}, {next})", "5.10", src=isa.PSEUDO_BTF_ID)
    yield _form(code, "{rd} = code_addr({func})", "5.13", src=isa.PSEUDO_FUNC)
    yield _form(code, "{rd} = map_by_idx({imm})", "5.14", src=isa.PSEUDO_MAP_IDX)
    text = "{rd} = map_val(map_by_idx({imm})) + {next}"
    yield _form(code, text, "5.14", src=isa.PSEUDO_MAP_IDX_VALUE)


def _packet_loads() -> Iterator[Form]:
    # RFC 9669 section 5.5, deprecated; r6 is the context, implied.
    for size in (isa.SIZE_B, isa.SIZE_H, isa.SIZE_W):
        load = f"r0 = *(u{_WIDTHS[size]} *)"
        yield _form(isa.LD | isa.MODE_ABS | size, f"{load}skb[{{imm}}]", "3.19")
        yield _form(isa.LD | isa.MODE_IND | size, f"{load}skb[{{rs}}]", "3.19", imm=0)
        yield _form(isa.LD | isa.MODE_IND | size, f"{load}skb[{{at_skb}}]", "3.19")


def _by_code() -> dict[int, tuple[Form, ...]]:
    families = (
        _arithmetic,
        _byte_swaps,
        _jumps,
        _calls,
        _loads_and_stores,
        _atomics,
        _constants,
        _packet_loads,
    )
    forms: dict[int, list[Form]] = {}
    for family in families:
        for form in family():
            forms.setdefault(form.code, []).append(form)
    return {code: tuple(same) for code, same in sorted(forms.items())}


FORMS: Final[dict[int, tuple[Form, ...]]] = _by_code()
"""Opcode -> its instructions, those with more fixed fields first."""
