"""Pages of HTML that need nothing else: no network, no script; light or dark as the reader likes.

What is shown may come from a hostile file. Every text goes through :func:`escaped`, so that it can
neither close an element nor hide itself.
"""

from __future__ import annotations

from base64 import b64encode
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from pybpfload.cli.failure import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Markup", "anchor", "details", "escaped", "image", "link", "page", "pre", "table"]

_STYLE = """\
:root { color-scheme: light dark; --back: #fff; --fore: #1b1f24; --faint: #59636e; --line: #d1d9e0;
  --shade: #f6f8fa; --link: #0550ae; --good: #dafbe1; --fair: #fff8c5; --bad: #ffebe9;
  --wrong: #a40e26; }
@media (prefers-color-scheme: dark) { :root { --back: #0d1117; --fore: #e6edf3; --faint: #9198a1;
  --line: #3d444d; --shade: #151b23; --link: #79b8ff; --good: #12361f; --fair: #3b2f0b;
  --bad: #4a1a1d; --wrong: #ff8f8a; } img.drawing { filter: invert(0.9) hue-rotate(180deg); } }
body { font: 14px/1.5 system-ui, sans-serif; background: var(--back); color: var(--fore);
  margin: 0 auto; padding: 1.5em; max-width: 90em; }
a { color: var(--link); } h1 { font-size: 1.6em; } h2 { font-size: 1.25em; margin-top: 2em; }
nav a { margin-right: 1.2em; } .faint { color: var(--faint); }
table { border-collapse: collapse; margin: 0.6em 0; }
th, td { border: 1px solid var(--line); padding: 0.2em 0.6em; text-align: left;
  vertical-align: top; overflow-wrap: break-word; }
thead th { background: var(--shade); } td.number { text-align: right; }
code, pre { font: 12px/1.45 ui-monospace, monospace; }
pre { background: var(--shade); border: 1px solid var(--line); padding: 0.8em; overflow-x: auto; }
details { margin: 0.4em 0; } summary { cursor: pointer; } .wide { overflow-x: auto; }
img.drawing { max-width: 100%; background: #fff; }
td.loads { background: var(--good); } td.degraded { background: var(--fair); }
td.fails { background: var(--bad); } li.problem { color: var(--wrong); }
li.unknown { color: var(--faint); }
@media print { nav { display: none; } pre { white-space: pre-wrap; } tr { break-inside: avoid; }
  details::details-content { content-visibility: visible; display: block; } }
"""


class Markup(NamedTuple):
    """HTML that is as it should be, unlike a text, which is not yet escaped."""

    html: str


def escaped(shown: object) -> str:
    """A text as HTML: escaped, and what cannot be seen made visible."""
    return shown.html if isinstance(shown, Markup) else escape(visible(str(shown)))


def link(target: str, shown: str) -> Markup:
    """A way to the element of this page that has an id."""
    return Markup(f'<a href="#{escape(target)}">{escaped(shown)}</a>')


def anchor(name: str, shown: str) -> Markup:
    """A text that :func:`link` leads to, by its id."""
    return Markup(f'<span id="{escape(name)}">{escaped(shown)}</span>')


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; columns in which nothing stands are left out, and a table without rows is none.

    Args:
        columns: Headings, all empty for none.
        rows: Cells: texts, numbers, :class:`Markup`; ``None`` and ``""`` are nothing.
    """
    content = [list(row) for row in rows]
    used = [i for i in range(len(columns)) if any(row[i] not in (None, "") for row in content)]
    if not used:
        return ""
    heads = "".join(f"<th>{escaped(columns[i])}</th>" for i in used)
    head = f"<thead><tr>{heads}</tr></thead>\n" if any(columns) else ""
    lines = ["".join(_cell(row[i]) for i in used) for row in content]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def _cell(shown: Any) -> str:
    if isinstance(shown, int):
        return f'<td class="number">{shown}</td>'
    return f"<td>{'' if shown is None else escaped(shown)}</td>"


def pre(lines: Iterable[str]) -> str:
    """Lines of text, as they are; nothing without any."""
    shown = "\n".join(escaped(line.expandtabs(4)) for line in lines)
    return f"<pre>{shown}</pre>" if shown else ""


def details(summary: object, body: str, *, name: str = "") -> str:
    """Something that is folded until somebody wants to see it; nothing if there is nothing.

    Args:
        summary: What is seen of it.
        body: HTML.
        name: The id of what is folded.
    """
    if not body:
        return ""
    if name:  # inside, because a way to what is folded unfolds it
        body = f'<div id="{escape(name)}">{body}</div>'
    return f"<details><summary>{escaped(summary)}</summary>\n{body}\n</details>"


def image(svg: str, about: str) -> str:
    """A drawing as part of the page: its ids and its style stay its own."""
    data = b64encode(svg.encode()).decode()
    return f'<img class="drawing" alt="{escaped(about)}" src="data:image/svg+xml;base64,{data}">'


def page(title: str, body: Iterable[str]) -> str:
    """A whole page.

    Args:
        title: Its title.
        body: Its elements.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title>\n<style>\n{_STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body></html>\n"
    )
