"""BPF instructions as text, with the spelling of ``llvm-objdump -d`` (that of LLVM 22).

Where LLVM has no readable spelling, for references to maps, variables and functions, the words of
RFC 9669 section 5.4 are used. Nothing here raises for any content of the slots: what is no
instruction prints as ``<unknown ...>``, and what is wrong with an encoding is listed.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pybpfload.isa import table
from pybpfload.isa.insn import Insn, imm64

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pybpfload.isa.table import Form

__all__ = ["Line", "disassemble"]


@dataclass(frozen=True, slots=True)
class Line:
    """One disassembled instruction.

    Attributes:
        index: Index of its first slot.
        text: The instruction.
        slots: How many slots it takes: 1, or 2 for a 64-bit constant.
        target: Index of the slot that it jumps to, calls, or takes the address of, or ``None``.
            It need not lie within the code. A call whose ``imm`` is -1, which would be one of
            itself, is how compilers write a call that is still to be linked: it has no target.
        comment: What the operands mean, as far as the caller told; may be empty.
        problems: What is wrong with it in any program: no such instruction, reserved fields that
            are not zero, a jump to where no instruction is. Usually empty.
        since: First kernel that has this instruction, such as ``"6.6"``, or ``None``.
    """

    index: int
    text: str
    slots: int = 1
    target: int | None = None
    comment: str = ""
    problems: tuple[str, ...] = ()
    since: str | None = None

    def __str__(self) -> str:
        remarks = [self.comment] if self.comment else []
        remarks += [f"invalid: {problem}" for problem in self.problems]
        tail = f"  ; {'; '.join(remarks)}" if remarks else ""
        return f"{self.index:8d}: {self.text}{tail}"


def disassemble(
    insns: Sequence[Insn],
    *,
    labels: Mapping[int, str] | None = None,
    names: Mapping[int, str] | None = None,
    helpers: Mapping[int, str] | None = None,
) -> list[Line]:
    """Disassemble code.

    Args:
        insns: Slots, as :func:`pybpfload.isa.insn.decode` returns them.
        labels: Names of places: slot index -> name of the function or block that starts there.
            Jumps and calls name their target as ``name+0x18``, the distance in bytes.
        names: What an instruction refers to: slot index -> name of a map, variable, subprogram or
            kernel function. Becomes the comment of that line.
        helpers: Helper number -> name, for calls that ``names`` does not name.

    Returns:
        One :class:`Line` per instruction, in order; their ``slots`` add up to ``len(insns)``.
    """
    places = _Places(labels or {})
    lines: list[Line] = []
    seconds: set[int] = set()
    index = 0
    while index < len(insns):
        line = _line(insns, index, places, names or {}, helpers or {})
        lines.append(line)
        if line.slots == 2:
            seconds.add(index + 1)
        index += line.slots
    return [_with_target_checked(line, insns[line.index], len(insns), seconds) for line in lines]


class _Places:
    """Names of code positions."""

    def __init__(self, labels: Mapping[int, str]) -> None:
        self._labels = labels
        self._starts = sorted(labels)

    def name(self, index: int) -> str:
        """Name of a slot relative to the last label before it, or ``""``."""
        position = bisect_right(self._starts, index)
        if not position:
            return ""
        start = self._starts[position - 1]
        distance = (index - start) * 8
        return f"{self._labels[start]}+{distance:#x}" if distance else self._labels[start]


def _line(
    insns: Sequence[Insn],
    index: int,
    places: _Places,
    names: Mapping[int, str],
    helpers: Mapping[int, str],
) -> Line:
    insn = insns[index]
    second = None
    if insn.is_ldimm64:
        second = insns[index + 1] if index + 1 < len(insns) else None
        if second is None or second.code:
            return Line(index, _unknown(insn), problems=("its second slot is missing",))
    slots = 1 if second is None else 2
    form = table.find(insn)
    if form is None:
        return Line(index, _unknown(insn), slots, problems=("no such instruction",))
    text = _render(insn, second or _NO_SLOT, form)
    target = table.target(insn, form, index)
    name = names.get(index, "")
    if target is not None:
        if insn.is_subprog_call and insn.imm == -1:
            target = None
        elif "func" in form.operands:
            name = name or places.name(target)
        elif place := places.name(target):
            text = f"{text} <{place}>"
    if insn.is_helper_call:
        name = name or helpers.get(insn.imm, "")
    problems = tuple(table.problems(insn, form, second))
    return Line(index, text, slots, target, name, problems, form.since)


def _with_target_checked(line: Line, insn: Insn, length: int, seconds: set[int]) -> Line:
    """Add what is wrong with the target of a jump; functions called may be elsewhere."""
    if line.target is None or not insn.is_jmp or insn.is_call:
        return line
    if not 0 <= line.target < length:
        problem = f"jumps to {line.target}, outside of the code"
    elif line.target in seconds:
        problem = f"jumps to {line.target}, into a 64-bit constant"
    else:
        return line
    return replace(line, problems=(*line.problems, problem))


def _unknown(insn: Insn) -> str:
    return (
        f"<unknown {insn.code:#04x} dst={insn.dst} src={insn.src} off={insn.off} imm={insn.imm:#x}>"
    )


_NO_SLOT = Insn(0)


def _render(insn: Insn, second: Insn, form: Form) -> str:
    values = {operand: _OPERANDS[operand](insn, second) for operand in form.operands}
    return form.text.format_map(values)


def _plus(register: int, distance: int) -> str:
    return f"r{register} {'-' if distance < 0 else '+'} {abs(distance):#x}"


def _signed64(insn: Insn, second: Insn) -> int:
    value = imm64(insn, second)
    return value - (1 << 64) if value >> 63 else value


_OPERANDS: dict[str, Callable[[Insn, Insn], str]] = {
    "rd": lambda insn, _: f"r{insn.dst}",
    "wd": lambda insn, _: f"w{insn.dst}",
    "rs": lambda insn, _: f"r{insn.src}",
    "ws": lambda insn, _: f"w{insn.src}",
    "at_dst": lambda insn, _: _plus(insn.dst, insn.off),
    "at_src": lambda insn, _: _plus(insn.src, insn.off),
    "at_skb": lambda insn, _: _plus(insn.src, insn.imm),
    "imm": lambda insn, _: f"{insn.imm:#x}",
    "imm64": lambda insn, second: f"{_signed64(insn, second):#x}",
    "next": lambda _, second: f"{second.imm & 0xFFFFFFFF:#x}",
    "space_to": lambda insn, _: f"{insn.imm >> 16 & 0xFFFF:#x}",
    "space_from": lambda insn, _: f"{insn.imm & 0xFFFF:#x}",
    "jump": lambda insn, _: f"{insn.off:+#x}",
    "long_jump": lambda insn, _: f"{insn.imm:+#x}",
    "func": lambda insn, _: f"{insn.imm:#x}",
    "index": lambda insn, _: f"{insn.off}",
}
