"""The control flow of code: blocks of instructions, and which may run after which.

A call goes to another function and comes back, so it does not end a block. What the verifier makes
of conditions does not matter here: every jump may go both ways.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.errors import FormatError
from pybpfload.isa import insn as isa
from pybpfload.isa.disasm import disassemble

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pybpfload.isa.disasm import Line
    from pybpfload.isa.insn import Insn

__all__ = ["Block", "ControlFlow", "Edge", "EdgeKind", "control_flow"]

_MOST_EDGES = 1 << 20  # only tables of computed jumps can come near


class EdgeKind:
    """Why control goes from one block to another."""

    FALL = "fall"
    """The block ends where another jump leads to."""

    JUMP = "jump"
    """It ends with a jump."""

    TAKEN = "taken"
    """It ends with a conditional jump (``may_goto`` too) whose condition holds."""

    NOT_TAKEN = "not taken"
    """It ends with a conditional jump whose condition does not hold."""

    TABLE = "table"
    """It ends with a computed jump (``gotox``), and a jump table leads there."""


class Block(NamedTuple):
    """Instructions that only run one after the other.

    Attributes:
        start: Index of its first slot.
        end: Index behind its last slot.
    """

    start: int
    end: int


class Edge(NamedTuple):
    """A way from one block to another.

    Attributes:
        source, target: Numbers of the blocks.
        kind: One of :class:`EdgeKind`.
    """

    source: int
    target: int
    kind: str


@dataclass(frozen=True)
class ControlFlow:
    """Blocks and the ways between them.

    Attributes:
        blocks: In the order of the code, which they cover.
        edges: In the order of their sources; no edge where a jump leads out of the code.
    """

    blocks: tuple[Block, ...]
    edges: tuple[Edge, ...]

    def block_at(self, index: int) -> int:
        """Number of the block that holds a slot.

        Raises:
            IndexError: The code has no such slot.
        """
        if not self.blocks or not 0 <= index < self.blocks[-1].end:
            raise IndexError(f"no slot {index}")
        return bisect_right(self.blocks, index, key=lambda block: block.start) - 1

    def reachable(self, start: int = 0) -> set[int]:
        """Numbers of the blocks that can be reached from a block, itself included."""
        following: dict[int, list[int]] = {}
        for edge in self.edges:
            following.setdefault(edge.source, []).append(edge.target)
        found = {start} if self.blocks else set()
        work = list(found)
        while work:
            for target in following.get(work.pop(), ()):
                if target not in found:
                    found.add(target)
                    work.append(target)
        return found


def control_flow(
    insns: Sequence[Insn],
    *,
    tables: Iterable[int] = (),
    lines: Sequence[Line] | None = None,
) -> ControlFlow:
    """Cut code into blocks.

    Args:
        insns: Slots of a function, or of a program with its subprograms, which nothing but calls
            joins.
        tables: Slots that jump tables lead to; every ``gotox`` may go to each of them.
        lines: What :func:`pybpfload.isa.disasm.disassemble` makes of ``insns``, if it is there.

    Raises:
        FormatError: The ways are too many: over a million.
    """
    if lines is None:
        lines = disassemble(insns)
    starts = {line.index for line in lines}
    listed = sorted(starts.intersection(tables))
    leaders = {0, *listed}
    for line in lines:
        insn = insns[line.index]
        if line.target is not None and line.target in starts:
            leaders.add(line.target)
        if _ends_block(insn, line):
            leaders.add(line.index + line.slots)
    order = sorted(leaders & starts)
    ends = [*order[1:], len(insns)]
    blocks = tuple(Block(start, end) for start, end in zip(order, ends, strict=False))
    number = {block.start: position for position, block in enumerate(blocks)}
    edges: list[Edge] = []
    for line in lines:
        following = line.index + line.slots
        if following not in number and following != len(insns):
            continue  # not the last of its block
        source = bisect_right(order, line.index) - 1
        for target, kind in _ways(insns[line.index], line, listed):
            if target in number:
                edges.append(Edge(source, number[target], kind))
        if len(edges) > _MOST_EDGES:
            raise FormatError(
                f"the code has more than {_MOST_EDGES} ways between its blocks",
                hint="its jump tables are damaged or hostile",
            )
    return ControlFlow(blocks, tuple(edges))


def _ends_block(insn: Insn, line: Line) -> bool:
    is_known = not line.text.startswith("<")  # what is no instruction leads nowhere
    return insn.is_jmp and insn.op != isa.JMP_CALL and is_known


def _ways(insn: Insn, line: Line, tables: list[int]) -> list[tuple[int, str]]:
    following = line.index + line.slots
    if not _ends_block(insn, line):
        return [(following, EdgeKind.FALL)]
    if insn.code == isa.EXIT:
        return []
    if insn.op != isa.JMP_JA:
        taken = [] if line.target is None else [(line.target, EdgeKind.TAKEN)]
        return [*taken, (following, EdgeKind.NOT_TAKEN)]
    if insn.insn_class == isa.JMP and insn.code & isa.SRC_MASK:
        return [(target, EdgeKind.TABLE) for target in tables]
    return [] if line.target is None else [(line.target, EdgeKind.JUMP)]
