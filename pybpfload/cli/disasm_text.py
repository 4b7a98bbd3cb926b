"""The text of ``pybpfload disasm``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.charts.gutter import arrows as draw
from pybpfload.cli.failure import visible
from pybpfload.cli.style import BAD, DIM, NAME, TITLE, paint
from pybpfload.uapi import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.object.spec import ProgramSpec
    from pybpfload.relocate.listing import Listing, Row
    from pybpfload.relocate.source import SourceLine

__all__ = ["render", "source_text"]

_CODE_WIDTH = 44


def render(
    listing: Listing,
    *,
    source: bool = True,
    arrows: bool = True,
    code: bool = False,
    unicode: bool = False,
    verbose: bool = False,
) -> Iterator[str]:
    """Yield the lines about a function.

    Args:
        listing: The function.
        source: Show each line of C once, above the first of its instructions.
        arrows: Draw where jumps go.
        code: Show the bytes of instructions.
        unicode: Draw with more than ASCII.
        verbose: Show whole paths of source files.
    """
    yield paint(_heading(listing.function), TITLE)
    texts: list[str] = []
    places: dict[int, int] = {}  # slot -> the line of text that arrows go to
    ends: dict[int, int] = {}  # slot -> the line of text that arrows come from
    before: SourceLine | None = None
    for row in listing.rows:
        places[row.line.index] = len(texts)
        if row.label:
            texts.append(paint(f"{row.label}:", NAME))
        if source and row.source is not None and row.source != before:
            texts.append(paint(f"; {source_text(row.source, verbose=verbose)}", DIM))
            before = row.source
        ends[row.line.index] = len(texts)
        texts.append(_instruction(row, code))
    ways = [
        (ends[row.line.index], places[row.line.target])
        for row in listing.rows
        if row.line.target in places and listing.insns[row.line.index].is_jmp
        and not listing.insns[row.line.index].is_call
    ]  # fmt: skip
    side = draw(len(texts), ways, unicode=unicode) if arrows else [""] * len(texts)
    for left, text in zip(side, texts, strict=True):
        yield f"{left} {text}" if left else text


def _heading(function: ProgramSpec) -> str:
    count = len(function.insns)
    size = f"{count} instruction{'s' * (count != 1)}"
    if function.is_subprogram:
        return f"subprogram {visible(function.name)}, {size}"
    what = name_of(function.prog_type)
    return f'program {visible(function.name)} SEC("{visible(function.section)}"), {what}, {size}'


def source_text(line: SourceLine, *, verbose: bool = False) -> str:
    """A line of C and where it is: in which file, or if ``verbose`` at which path."""
    if not verbose:
        line = line._replace(file=line.file.replace("\\", "/").rpartition("/")[2])
    return visible(str(line))


def _instruction(row: Row, code: bool) -> str:
    line = row.line
    remarks = [line.comment] if line.comment else []
    remarks += [f"invalid: {problem}" for problem in line.problems]
    shown = f"{row.code.hex(' ', 8):34} " if code else ""
    text = f"{line.index:6d}: {shown}{visible(line.text)}"
    if not remarks:
        return text
    look = BAD if line.problems else ""
    return f"{text:{_CODE_WIDTH + len(shown)}}  ; {paint(visible('; '.join(remarks)), look)}"
