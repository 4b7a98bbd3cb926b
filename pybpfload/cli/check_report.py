"""Verdicts of ``pybpfload check`` as text, as a page and as JUnit's XML."""

from __future__ import annotations

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

_SIGNS = {LOADS: "✓", DEGRADED: "~", FAILS: "✗"}
_LOOKS = {LOADS: GOOD, DEGRADED: WARN, FAILS: BAD}
_OF_SIGNS = {**{_SIGNS[result]: look for result, look in _LOOKS.items()}, "?": DIM}
_MOST = 3  # reasons of one pair that a matrix is followed by; -v shows all


def text(
    verdicts: Sequence[Verdict],
    objects: Sequence[str],
    kernels: Sequence[str],
    *,
    verbose: bool = False,
) -> Iterator[str]:
    """Lines for people: a matrix if there is more than one pair, and reasons."""
    many = len(verdicts) > 1
    if many:
        yield from _matrix(verdicts, objects, kernels)
    for verdict in verdicts:
        found = _reasons(verdict, verbose=verbose or not many)
        if many and not found:
            continue
        if many:
            yield ""
        yield f"{visible(verdict.object)} on {visible(verdict.kernel)}: {_painted(verdict.result)}"
        cut = found if verbose or not many else found[:_MOST]
        for sign, finding in cut:
            yield f"  {paint(sign, _OF_SIGNS[sign])} {visible(str(finding))}"
        if len(found) > len(cut):
            yield f"    and {len(found) - len(cut)} more; -v shows them"


def _matrix(
    verdicts: Sequence[Verdict], objects: Sequence[str], kernels: Sequence[str]
) -> Iterator[str]:
    results = {(each.object, each.kernel): each.result for each in verdicts}
    names = _short(kernels)
    rows = [
        [visible(shown), *(_SIGNS[results[path, kernel]] for kernel in kernels)]
        for path, shown in zip(objects, _short(objects), strict=True)
    ]
    yield from table(["OBJECT", *map(visible, names)], rows, _OF_SIGNS)
    counts = [sum(each.result == result for each in verdicts) for result in _SIGNS]
    yield ""
    yield ", ".join(
        f"{paint(_SIGNS[result], _LOOKS[result])} {result}: {count}"
        for result, count in zip(_SIGNS, counts, strict=True)
    )


def _painted(result: str) -> str:
    return paint(result, _LOOKS[result])


def _reasons(verdict: Verdict, *, verbose: bool) -> list[tuple[str, Finding]]:
    found = [("✗", each) for each in verdict.problems]
    if verbose:
        found += [("~", each) for each in verdict.degraded]
        found += [("?", each) for each in verdict.unknown]
    return found


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
    head = "".join(f"<th>{escaped(name)}</th>" for name in _short(kernels))
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
        items = "".join(
            f'<li class="{name}">{escaped(str(each))}</li>'
            for name, found in groups
            for each in found
        )
        title = f"{escaped(verdict.object)} on {escaped(verdict.kernel)}: {verdict.result}"
        details.append(f'<h3 id="p{number}">{title}</h3><ul>{items}</ul>')
    matrix = f"<table><tr><th></th>{head}</tr>\n" + "\n".join(rows) + "</table>"
    return page("pybpfload check", ["<h1>Will it load?</h1>", matrix, *details])


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
