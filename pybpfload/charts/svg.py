"""What every SVG of ours begins with."""

from __future__ import annotations

import re

__all__ = ["FONT_SIZE", "LETTER", "document", "escape", "fitting", "number"]

FONT_SIZE = 12
"""Height of letters, pixels."""

LETTER = 7.25
"""Width of a letter of the monospaced font, pixels."""

# What XML 1.0 has no place for, not even escaped: control characters, surrogates, two others.
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})


def escape(text: str) -> str:
    """Text for the content of an element or an attribute; what XML cannot hold becomes U+FFFD."""
    return _ILLEGAL.sub("\ufffd", text).translate(_ESCAPES)


def number(value: float) -> str:
    """A coordinate: at most two decimals, the same on every machine."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def fitting(text: str, width: float) -> str:
    """As much of a text as fits into a width in pixels; nothing if that is too little to read."""
    room = int(width / LETTER)
    if len(text) <= room:
        return text
    return text[: room - 2] + ".." if room > 4 else ""


def document(
    width: float, height: float, title: str, description: str, body: list[str], style: str
) -> str:
    """A whole file.

    Args:
        width: Pixels; it is shown as wide as there is room.
        height: Pixels.
        title: What readers of the screen say first.
        description: What they say then.
        body: Elements.
        style: CSS.
    """
    size = f'width="{number(width)}" height="{number(height)}"'
    box = f'viewBox="0 0 {number(width)} {number(height)}"'
    role = 'role="figure" aria-labelledby="title desc"'
    head = [
        '<?xml version="1.0" encoding="UTF-8" standalone="no"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" version="1.1" {size} {box} {role}>',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="desc">{escape(description)}</desc>',
        f"<style>text {{ font: {FONT_SIZE}px monospace; fill: #000 }} {style}</style>",
        f'<rect width="{number(width)}" height="{number(height)}" fill="#fff"/>',
    ]
    return "\n".join([*head, *body, "</svg>", ""])
