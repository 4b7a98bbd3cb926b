"""Verdicts of ``pybpfload check`` as text, as a page and as JUnit's XML."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from pybpfload.check import DEGRADED, FAILS, LOADS
from pybpfload.cli.failure import visible
from pybpfload.cli.page import escaped, page
from pybpfload.cli.style import BAD, DIM, GOOD, WARN, paint
from pybpfload.cli.table import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pybpfload.check import Finding, Verdict

__all__ = ["html", "junit", "text"]

_UNKNOWN = "unknown"
_SIGNS = {LOADS: "✓", DEGRADED: "~", FAILS: "✗", _UNKNOWN: "?"}
_ASCII = {LOADS: "+", DEGRADED: "~", FAILS: "x", _UNKNOWN: "?"}
_LOOKS = {LOADS: GOOD, DEGRADED: WARN, FAILS: BAD, _UNKNOWN: DIM}
_MOST = 3  # reasons of one object that a matrix is followed by; -v shows all


def text(
    verdicts: Sequence[Verdict],
    objects: Sequence[str],
    kernels: Sequence[str],
    *,
    verbose: bool = False,
) -> Iterator[str]:
    """Lines for people: of one pair the reasons, of more a matrix and the reasons by object.

    Args:
        verdicts: One for each pair.
        objects: Names of the objects, in order.
        kernels: Names of the kernels, in order.
        verbose: Whether to show all reasons, also for what is degraded or unknown.
    """
    signs = _signs()
    if len(verdicts) == 1:
        [one] = verdicts
        where = f"{one.kernel} ({one.release})" if one.release not in one.kernel else one.kernel
        yield f"{visible(one.object)} on {visible(where)}: {paint(one.result, _LOOKS[one.result])}"
        for result, finding in _reasons(one, verbose=True):
            yield from _reason(signs[result], _LOOKS[result], finding)
        return
    names = _columns(verdicts, kernels)
    yield from _matrix(verdicts, objects, kernels, names, signs)
    by_pair = {(each.object, each.kernel): each for each in verdicts}
    for path, shown in zip(objects, _short(objects), strict=True):
        found: dict[tuple[str, Finding], list[str]] = {}
        for kernel, name in zip(kernels, names, strict=True):
            for reason in dict.fromkeys(_reasons(by_pair[path, kernel], verbose=verbose)):
                found.setdefault(reason, []).append(name)
        if found:
            yield ""
            yield visible(shown)
        for (result, finding), on in list(found.items())[: None if verbose else _MOST]:
            where = "everywhere" if len(on) == len(kernels) > 1 else ", ".join(on)
            yield from _reason(signs[result], _LOOKS[result], finding, where)
        if not verbose and len(found) > _MOST:
            yield f"    and {len(found) - _MOST} more; -v shows them"
    if not verbose and any(each.result == DEGRADED for each in verdicts):
        yield ""
        yield paint("-v shows what the degraded do without", DIM)


def _signs() -> dict[str, str]:
    """Signs that standard output can show."""
    try:
        "".join(_SIGNS.values()).encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return _ASCII
    return _SIGNS


def _reason(sign: str, look: str, finding: Finding, where: str = "") -> Iterator[str]:
    line = str(replace(finding, remedy=""))
    yield f"  {paint(sign, look)} {visible(f'{where}: {line}' if where else line)}"
    if finding.remedy:
        yield paint(f"      {visible(finding.remedy)}", DIM)


def _matrix(
    verdicts: Sequence[Verdict],
    objects: Sequence[str],
    kernels: Sequence[str],
    names: Sequence[str],
    signs: dict[str, str],
) -> Iterator[str]:
    results = {(each.object, each.kernel): each.result for each in verdicts}
    rows = [
        [visible(shown), *(signs[results[path, kernel]] for kernel in kernels)]
        for path, shown in zip(objects, _short(objects), strict=True)
    ]
    looks = {sign: _LOOKS[result] for result, sign in signs.items()}
    width = sum(len(name) + 2 for name in names) + max(len(row[0]) for row in rows) + 2
    numbered = sys.stdout.isatty() and width > shutil.get_terminal_size().columns
    heads = [str(n) for n in range(1, len(names) + 1)] if numbered else list(map(visible, names))
    yield from table(["OBJECT", *heads], rows, looks)
    yield ""
    if numbered:
        yield from (f"  {n:>3}  {visible(name)}" for n, name in zip(heads, names, strict=True))
        yield ""
    counts = {result: sum(each.result == result for each in verdicts) for result in _LOOKS}
    yield ", ".join(
        f"{paint(signs[result], _LOOKS[result])} {result}: {counts[result]}"
        for result in (LOADS, DEGRADED, FAILS)
    )


def _reasons(verdict: Verdict, *, verbose: bool) -> list[tuple[str, Finding]]:
    found = [(FAILS, each) for each in verdict.problems]
    if verbose:
        found += [(DEGRADED, each) for each in verdict.degraded]
        found += [(_UNKNOWN, each) for each in verdict.unknown]
    return found


def _columns(verdicts: Sequence[Verdict], kernels: Sequence[str]) -> list[str]:
    """Headings of kernels: releases if they tell them apart, without what all end in."""
    releases = {each.kernel: each.release for each in verdicts}
    names = [releases[kernel] for kernel in kernels]
    if not all(names) or len(set(names)) < len(names):
        return _short(kernels)
    split = [name.split("-") for name in names]
    while len(split) > 1 == len({parts[-1] for parts in split}) and min(map(len, split)) > 1:
        split = [parts[:-1] for parts in split]
    return ["-".join(parts) for parts in split]


def _short(paths: Sequence[str]) -> list[str]:
    """Names of files; where they are not enough, paths without what all have in common."""
    names = [PurePath(path).name for path in paths]
    if len(set(names)) == len(names):
        return names
    split = [PurePath(path).parts for path in paths]
    while len({parts[0] for parts in split}) == 1 and min(map(len, split)) > 1:
        split = [parts[1:] for parts in split]
    while len({parts[-1] for parts in split}) == 1 and min(map(len, split)) > 1:
        split = [parts[:-1] for parts in split]
    return ["/".join(parts) for parts in split]


def html(verdicts: Sequence[Verdict], objects: Sequence[str], kernels: Sequence[str]) -> str:
    """One self-contained page: the matrix, and the reasons of each pair below it."""
    numbers = {(each.object, each.kernel): n for n, each in enumerate(verdicts)}
    head = "".join(
        f'<th title="{escaped(kernel)}">{escaped(name)}</th>'
        for kernel, name in zip(kernels, _columns(verdicts, kernels), strict=True)
    )
    rows = []
    for path, shown in zip(objects, _short(objects), strict=True):
        cells = []
        for kernel in kernels:
            number = numbers[path, kernel]
            result = verdicts[number].result
            cells.append(
                f'<td class="{result}"><a href="#p{number}">{_SIGNS[result]} {result}</a></td>'
            )
        rows.append(f"<tr><th>{escaped(shown)}</th>{''.join(cells)}</tr>")
    details = []
    for number, verdict in enumerate(verdicts):
        groups = (
            ("problem", verdict.problems),
            ("degraded", verdict.degraded),
            ("unknown", verdict.unknown),
        )
        items = "".join(_item(name, each) for name, found in groups for each in found)
        on = " ".join(dict.fromkeys(filter(None, (verdict.kernel, verdict.release))))
        title = f"{escaped(verdict.object)} on {escaped(on)}: {verdict.result}"
        details.append(f'<h3 id="p{number}">{title}</h3><ul>{items}</ul>')
    matrix = f"<table><tr><th></th>{head}</tr>\n" + "\n".join(rows) + "</table>"
    return page("pybpfload check", ["<h1>Will it load?</h1>", matrix, *details])


def _item(name: str, finding: Finding) -> str:
    remedy = f"<br><small>{escaped(finding.remedy)}</small>" if finding.remedy else ""
    return f'<li class="{name}">{escaped(str(replace(finding, remedy="")))}{remedy}</li>'


def junit(verdicts: Sequence[Verdict]) -> str:
    """JUnit's XML: a case for each pair; what it does without is its output."""
    failures = sum(bool(each.problems) for each in verdicts)
    suite = ElementTree.Element(
        "testsuite", name="pybpfload check", tests=str(len(verdicts)), failures=str(failures)
    )
    for each in verdicts:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_xml(each.kernel), name=_xml(each.object)
        )
        if each.problems:
            lines = "\n".join(map(str, each.problems))
            failure = ElementTree.SubElement(case, "failure", message=_xml(str(each.problems[0])))
            failure.text = _xml(lines)
        rest = [*each.degraded, *each.unknown]
        if rest:
            ElementTree.SubElement(case, "system-out").text = _xml("\n".join(map(str, rest)))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _xml(value: str) -> str:
    """A text without what XML cannot hold."""
    return "\n".join(visible(line) for line in value.split("\n"))
