"""The text of ``pybpfload inspect``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pybpfload.cli.failure import visible
from pybpfload.cli.style import TITLE, paint
from pybpfload.cli.table import shorten, table

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["render"]


_REASONS = 3


def render(one: dict[str, Any], *, verbose: bool) -> Iterator[str]:
    """Yield the lines about an object that :func:`pybpfload.cli.describe.describe` described."""
    yield paint(visible(one["object"]), TITLE)
    yield from _summary(one)
    parts = (
        ("Programs", list(_programs(one["programs"]))),
        ("Calls", _calls(one["programs"])),
        ("Subprograms", _subprograms(one["subprograms"])),
        ("Maps", list(_maps(one["maps"]))),
        ("Variables", _variables(one["variables"])),
        ("Externs", _externs(one["externs"])),
        ("Notes", [f"  {visible(note)}" for note in one["notes"]]),
        ("Types", list(_definitions(one["definitions"])) if verbose else []),
    )
    for title, lines in parts:
        if lines:
            yield ""
            yield paint(title, TITLE)
            yield from lines


def _summary(one: dict[str, Any]) -> Iterator[str]:
    yield f"  name        {visible(one['name'])}"
    yield f"  byte order  {one['byteorder']} endian"
    yield f"  licence     {visible(one['license']) or 'none'}"
    if one["kernel_version"] is not None:
        yield f"  version     {one['kernel_version']:#x}"
    if btf := one["btf"]:
        yield f"  BTF         {btf['types']} types, {btf['size']} bytes ({_counts(btf['kinds'])})"
    else:
        yield "  BTF         none"
    core = one["core_relocations"]
    kinds = f" ({_counts(core['kinds'])})" if core["count"] else ""
    plural = "" if core["count"] == 1 else "s"
    yield f"  CO-RE       {core['count'] or 'no'} relocation{plural}{kinds}"
    needs = one["needs"]
    if needs["kernel"]:
        reasons = [visible(f"{r['what']} ({', '.join(r['whose'])})") for r in needs["because"]]
        more = f" and {len(reasons) - _REASONS} more" if len(reasons) > _REASONS else ""
        yield f"  needs       Linux {needs['kernel']}: {'; '.join(reasons[:_REASONS])}{more}"
    for each in needs["optional"]:
        yield f"  may use     {visible(each['what'])}" + (
            f" (Linux {each['since']})" * bool(each["since"])
        )


def _counts(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def _programs(programs: list[dict[str, Any]]) -> Iterator[str]:
    rows = [
        (
            p["name"],
            p["section"],
            p["type"],
            p["expected_attach_type"],
            p["attach_to"],
            p["insn_count"],
            p["stack"],
            "yes" if p["autoload"] else "no",
            ", ".join(p["subprograms"] or ()),
        )
        for p in programs
    ]
    columns = (
        "name",
        "section",
        "type",
        "attach type",
        "target",
        "insns",
        "stack",
        "autoload",
        "calls",
    )
    yield from table(columns, rows)


def _calls(programs: list[dict[str, Any]]) -> list[str]:
    """Helpers and kernel functions of programs that call any."""
    rows = [
        (p["name"], ", ".join(p["helpers"]), ", ".join(p["kfuncs"]), ", ".join(p["maps"]))
        for p in programs
        if p["helpers"] or p["kfuncs"]
    ]
    return table(("program", "helpers", "kernel functions", "maps"), rows)


def _subprograms(functions: list[dict[str, Any]]) -> list[str]:
    rows = [(f["name"], "global" if f["global"] else "static", f["insn_count"]) for f in functions]
    return table(("name", "linkage", "insns"), rows)


def _maps(maps: list[dict[str, Any]]) -> Iterator[str]:
    rows = [
        (
            m["name"],
            m["type"],
            _sized(m["key_type"], m["key_size"]),
            _sized(m["value_type"], m["value_size"]),
            m["max_entries"],
            ", ".join(m["flags"]),
            "; ".join(_map_details(m)),
        )
        for m in maps
    ]
    yield from table(("name", "type", "key", "value", "entries", "flags", "more"), rows)


def _sized(name: str | None, size: int) -> str:
    if not size:
        return name or ""
    return f"{name} ({size})" if name else f"{size} bytes"


def _map_details(found: dict[str, Any]) -> Iterator[str]:
    if found["pinning"]:
        yield "pinned by name"
    for attribute in ("map_extra", "numa_node", "ifindex"):
        if found[attribute]:
            yield f"{attribute} {found[attribute]}"
    if inner := found["inner"]:
        key = _sized(inner["key_type"], inner["key_size"]) or "no key"
        value = _sized(inner["value_type"], inner["value_size"]) or "no value"
        yield f"inner {inner['type']}: {key}, {value}, {inner['max_entries']} entries"
    if found["records"]:
        yield "records " + ", ".join(found["records"])
    if found["values"]:
        yield "values " + ", ".join(value or "-" for value in found["values"])


def _variables(variables: list[dict[str, Any]]) -> list[str]:
    rows = [
        (
            v["declaration"] or v["name"],
            v["section"],
            v["offset"],
            v["size"],
            None if v["value"] is None else shorten(json.dumps(v["value"], ensure_ascii=False)),
        )
        for v in variables
    ]
    return table(("declaration", "section", "offset", "size", "value"), rows)


def _externs(externs: list[dict[str, Any]]) -> list[str]:
    rows = [
        (e["name"], e["kind"], "weak" if e["weak"] else "strong", e["declaration"]) for e in externs
    ]
    return table(("name", "kind", "linkage", "declaration"), rows)


def _definitions(texts: dict[str, str]) -> Iterator[str]:
    for position, text in enumerate(texts.values()):
        if position:
            yield ""
        yield from (f"  {line}" for line in text.expandtabs(4).splitlines())
