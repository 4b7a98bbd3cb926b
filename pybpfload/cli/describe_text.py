"""The text of ``pybpfload inspect``."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from pybpfload.cli.failure import visible
from pybpfload.cli.style import TITLE, paint
from pybpfload.cli.table import shorten, table

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["initial", "map_details", "render", "sized", "summary", "tables"]


_REASONS = 3

Table = tuple[str, tuple[str, ...], "list[tuple[Any, ...]]"]
"""A heading, those of columns, and rows: cells are texts, numbers, or lists of names."""


def render(one: dict[str, Any], *, verbose: bool) -> Iterator[str]:
    """Yield the lines about an object that :func:`pybpfload.cli.describe.describe` described."""
    yield paint(visible(one["object"]), TITLE)
    for name, fact in summary(one):
        yield f"  {name:10}  {visible(fact)}"
    width = shutil.get_terminal_size().columns // 3 if sys.stdout.isatty() else 0
    parts = [
        (title, table(columns, [_wrapped(row, width) for row in rows]))
        for title, columns, rows in tables(one)
    ]
    parts.append(("Notes", [f"  {visible(note)}" for note in one["notes"]]))
    parts.append(("Types", list(_definitions(one["definitions"])) if verbose else []))
    for title, lines in parts:
        if lines:
            yield ""
            yield paint(title, TITLE)
            yield from lines


def _wrapped(row: tuple[Any, ...], width: int) -> list[Any]:
    """A row whose lists of names are lines, on a terminal of so many columns; 0: one line."""
    return [_lines(", ".join(cell), width) if isinstance(cell, list) else cell for cell in row]


def _lines(text: str, width: int) -> list[str] | str:
    if len(text) <= width or not width:
        return text
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def summary(one: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Facts about the whole object: what, and the fact in words."""
    yield "name", one["name"]
    yield "byte order", f"{one['byteorder']} endian"
    yield "licence", one["license"] or "none"
    if one["kernel_version"] is not None:
        yield "version", f"{one['kernel_version']:#x}"
    btf, core, needs = one["btf"], one["core_relocations"], one["needs"]
    if btf:
        yield "BTF", f"{btf['types']} types, {btf['size']} bytes ({_counts(btf['kinds'])})"
    else:
        yield "BTF", "none"
    kinds = f" ({_counts(core['kinds'])})" if core["count"] else ""
    plural = "" if core["count"] == 1 else "s"
    yield "CO-RE", f"{core['count'] or 'no'} relocation{plural}{kinds}"
    if needs["kernel"]:
        reasons = [
            f"{reason['what']} ({', '.join(reason['whose'])})" for reason in needs["because"]
        ]
        more = f" and {len(reasons) - _REASONS} more" if len(reasons) > _REASONS else ""
        yield "needs", f"Linux {needs['kernel']}: {'; '.join(reasons[:_REASONS])}{more}"
    for each in needs["optional"]:
        yield "may use", each["what"] + f" (Linux {each['since']})" * bool(each["since"])


def _counts(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def tables(one: dict[str, Any]) -> Iterator[Table]:
    """What there is of each sort."""
    yield (
        "Programs",
        ("name", "section", "type", "attach type", "target", "insns", "stack", "autoload", "calls"),
        [
            (
                p["name"],
                p["section"],
                p["type"],
                p["expected_attach_type"],
                p["attach_to"],
                p["insn_count"],
                p["stack"],
                "yes" if p["autoload"] else "no",
                p["subprograms"] or [],
            )
            for p in one["programs"]
        ],
    )
    yield (
        "Calls",
        ("program", "helpers", "kernel functions", "maps"),
        [
            (p["name"], p["helpers"], p["kfuncs"], p["maps"])
            for p in one["programs"]
            if p["helpers"] or p["kfuncs"]
        ],
    )
    yield (
        "Subprograms",
        ("name", "linkage", "insns"),
        [
            (f["name"], "global" if f["global"] else "static", f["insn_count"])
            for f in one["subprograms"]
        ],
    )
    yield (
        "Maps",
        ("name", "type", "key", "value", "entries", "flags", "more"),
        [
            (
                m["name"],
                m["type"],
                sized(m["key_type"], m["key_size"]),
                sized(m["value_type"], m["value_size"]),
                m["max_entries"],
                m["flags"],
                "; ".join(map_details(m)),
            )
            for m in one["maps"]
        ],
    )
    yield (
        "Variables",
        ("declaration", "section", "offset", "size", "value"),
        [
            (v["declaration"] or v["name"], v["section"], v["offset"], v["size"], initial(v))
            for v in one["variables"]
        ],
    )
    yield (
        "Externs",
        ("name", "kind", "linkage", "declaration"),
        [
            (e["name"], e["kind"], "weak" if e["weak"] else "strong", e["declaration"])
            for e in one["externs"]
        ],
    )


def sized(name: str | None, size: int) -> str:
    """A type and its size in bytes, as far as there are any."""
    if not size:
        return name or ""
    return f"{name} ({size})" if name else f"{size} bytes"


def map_details(found: dict[str, Any]) -> Iterator[str]:
    """What few maps have, in words."""
    if found["pinning"]:
        yield "pinned by name"
    for attribute in ("map_extra", "numa_node", "ifindex"):
        if found[attribute]:
            yield f"{attribute} {found[attribute]}"
    if inner := found["inner"]:
        key = sized(inner["key_type"], inner["key_size"]) or "no key"
        value = sized(inner["value_type"], inner["value_size"]) or "no value"
        yield f"inner {inner['type']}: {key}, {value}, {inner['max_entries']} entries"
    if found["records"]:
        yield "records " + ", ".join(found["records"])
    if found["values"]:
        yield "values " + ", ".join(value or "-" for value in found["values"])


def initial(variable: dict[str, Any]) -> str | None:
    """The initial value of a variable, cut short; ``None`` if it is not known."""
    value = variable["value"]
    return None if value is None else shorten(json.dumps(value, ensure_ascii=False))


def _definitions(texts: dict[str, str]) -> Iterator[str]:
    for position, text in enumerate(texts.values()):
        if position:
            yield ""
        yield from (f"  {line}" for line in text.expandtabs(4).splitlines())
