"""A CO-RE relocation as a picture: the object's types and the kernel's side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pybpfload.btf import types as t
from pybpfload.btf.cdecl import declare, printable
from pybpfload.charts.pair import Column, Line, Pair
from pybpfload.isa.disasm import disassemble
from pybpfload.relocate.core.decision import ENUMVAL_KINDS, CoreKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pybpfload.btf import Btf
    from pybpfload.isa.insn import Insn
    from pybpfload.relocate.core.decision import Accessor, CoreDecision, Spec

__all__ = ["picture"]

_AROUND: Final = 3  # members shown before and behind the one that is meant


def picture(decision: CoreDecision) -> Pair:
    """Draw a decision: what the program means on the left, what that is in the target on the right.

    Structs are shown with the members around the one that is accessed, each with its offset in
    bytes; enumerations with their values; of other types there is the size.

    Raises:
        FormatError: The BTF is damaged.
    """
    asked = decision.kind != CoreKind.LOCAL_TYPE_ID
    left = _Side(decision.local, "not readable")
    right = _Side(decision.target, "there is none" if asked else "is not asked")
    notes = [_values(decision)]
    meant = f" {decision.local.type_name}{decision.local.path}" if decision.local else ""
    if decision.before:
        notes.append(f"before  {_code(decision.before)}")
        notes.append(f"after   {_code(decision.after)}")
    if decision.reason:
        notes.append(printable(decision.reason))
    return Pair(
        printable(f"{decision.function}, instruction {decision.insn}: {decision.kind_name}{meant}"),
        Column("in the object", tuple(left.lines)),
        Column(f"in {_name(decision)}", tuple(right.lines)),
        tuple(zip(left.marked, right.marked, strict=False)),
        tuple(notes),
    )


def _name(decision: CoreDecision) -> str:
    if decision.target is not None:
        name = decision.target.btf.name
    else:
        name = decision.candidates[0][0] if decision.candidates else ""
    return printable(name.rpartition("/")[2]) or "the target"


def _values(decision: CoreDecision) -> str:
    there = "nothing" if decision.value is None else decision.value
    return f"{decision.original} in the object, {there} there: {decision.outcome}"


def _code(insns: Sequence[Insn]) -> str:
    return "; ".join(line.text for line in disassemble(insns))


class _Side:
    """The lines of one side, and which of them are marked, in the order of the access."""

    def __init__(self, spec: Spec | None, without: str) -> None:
        self.lines: list[Line] = []
        self.marked: list[int] = []
        if spec is None:
            self.lines.append(Line(without))
            return
        steps = [step for step in spec.accessors if step.name is not None]
        if not steps:
            self._mark(Line(declare(spec.btf, spec.root), _size(spec.btf, spec.root)))
        for step in steps:
            if self.lines:
                self.lines.append(Line(""))
            for line in _enum(spec, step) if spec.kind in ENUMVAL_KINDS else _struct(spec, step):
                self._mark(line) if line.marked else self.lines.append(line)

    def _mark(self, line: Line) -> None:
        self.marked.append(len(self.lines))
        self.lines.append(line._replace(marked=True))


def _size(btf: Btf, type_id: int) -> str:
    stripped = btf.strip(type_id)
    sized = (t.Int, t.Ptr, t.Array, t.Composite, t.Enum, t.Enum64, t.Float)
    return f"{btf.size(stripped)} bytes" if isinstance(btf[stripped], sized) else ""


def _enum(spec: Spec, step: Accessor) -> Iterator[Line]:
    enum = spec.btf[step.type_id]
    assert isinstance(enum, (t.Enum, t.Enum64))
    yield Line(f"{declare(spec.btf, spec.root)} {{")
    for index in _window(len(enum.values), step.index):
        if index is None:
            yield Line("    ...")
            continue
        value = enum.values[index]
        yield Line(f"    {printable(value.name)}", str(value.value), index == step.index)
    yield Line("}")


def _struct(spec: Spec, step: Accessor) -> Iterator[Line]:
    btf = spec.btf
    composite = btf[step.type_id]
    assert isinstance(composite, t.Composite)
    head = f"{type(composite).__name__.lower()} {printable(composite.name)}".rstrip()
    yield Line(f"{head} {{", f"{composite.size} bytes")
    for index in _window(len(composite.members), step.index):
        if index is None:
            yield Line("    ...")
            continue
        member = composite.members[index]
        byte, bit = divmod(member.bit_offset, 8)
        bits = f":{member.bitfield_size}" if member.bitfield_size else ""
        text = declare(btf, member.type, printable(member.name)) + bits
        yield Line(f"    {text};", f"{byte}.{bit}" if bit else str(byte), index == step.index)
    yield Line("}")


def _window(count: int, marked: int) -> Iterator[int | None]:
    """Numbers around the marked one; ``None`` where some are left out."""
    first, last = max(marked - _AROUND, 0), min(marked + _AROUND + 1, count)
    first, last = (0 if first == 1 else first), (count if last == count - 1 else last)
    if first:
        yield None
    yield from range(first, last)
    if last < count:
        yield None
