"""Elements of a map as rows of a table: for data frames and notebooks."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["html", "records"]

_ROWS = 20
_COLUMNS = 24
_CELL = 80  # characters


def records(per_cpu: bool, items: Iterable[tuple[Any, Any]]) -> list[dict[str, Any]]:
    """Rows by name of column; see :meth:`pybpfload.Map.to_records`.

    Args:
        per_cpu: Whether values are lists by CPU.
        items: Keys and values, all of the same types.
    """
    return list(_rows(per_cpu, items))


def _rows(per_cpu: bool, items: Iterable[tuple[Any, Any]]) -> Iterator[dict[str, Any]]:
    for key, value in items:
        keys = _flat("key", key)
        if per_cpu:
            for cpu, each in enumerate(value):
                yield _joined({**keys, "cpu": cpu}, _flat("value", each))
        else:
            yield _joined(keys, _flat("value", value))


def _flat(name: str, value: Any) -> dict[str, Any]:
    """Members of a struct by path; anything else under ``name``."""
    return dict(_members("", value)) if hasattr(value, "_fields") else {name: value}


def _members(prefix: str, record: Any) -> Iterator[tuple[str, Any]]:
    for field, member in zip(record._fields, record, strict=True):
        if hasattr(member, "_fields"):
            yield from _members(f"{prefix}{field}.", member)  # codecs limit the depth
        else:
            yield prefix + field, member


def _joined(keys: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    both = keys.keys() & values.keys()
    if not both:
        return {**keys, **values}
    return {
        f"{owner}.{name}" if name in both else name: value
        for owner, row in (("key", keys), ("value", values))
        for name, value in row.items()
    }


def html(title: str, per_cpu: bool, items: Iterable[tuple[Any, Any]]) -> str:
    """The first elements as an HTML table.

    Args:
        title: What to write above it.
        per_cpu: Whether values are lists by CPU.
        items: Keys and values.
    """
    from html import escape

    def cell(value: Any) -> str:
        text = str(value)
        return escape(text if len(text) <= _CELL else text[: _CELL - 1] + "\N{HORIZONTAL ELLIPSIS}")

    heading = f"<p><code>{escape(title)}</code></p>"
    rows = list(islice(_rows(per_cpu, items), _ROWS + 1))
    if not rows:
        return heading
    names = list(rows[0])[:_COLUMNS]
    head = "".join(f"<th>{cell(name)}</th>" for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td>{cell(row.get(name, str()))}</td>' for name in names)}</tr>"
        for row in rows[:_ROWS]
    )
    more = []
    if len(rows) > _ROWS:
        more.append(f"the first {_ROWS} rows")
    if len(rows[0]) > len(names):
        more.append(f"the first {_COLUMNS} of {len(rows[0])} columns")
    note = f"<p>Only {' and '.join(more)}.</p>" if more else ""
    return f"{heading}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"
