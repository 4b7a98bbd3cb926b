"""Python in the documentation, run as tests.

A block marked ```` ```python offline ```` needs no kernel, one marked ```` ```python live ````
loads BPF. A text block right after it is what it prints, up to numbers that differ every time.
Unmarked blocks are fragments.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(
    r"^```python (\w+)\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL
)


@dataclasses.dataclass
class Snippet:
    """A block of Python, and what it prints, if the page says so."""

    page: Path
    line: int
    code: str
    output: str | None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def snippets(mark: str) -> list[Snippet]:
    """All snippets with this mark."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in _BLOCK.finditer(text):
            if block[1] == mark:
                line = text.count("\n", 0, block.start()) + 1
                found.append(Snippet(page, line, block[2], block[3]))
    return found


def check(snippet: Snippet) -> None:
    """Run it in a fresh process at the root of the project, and compare what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", snippet.code],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{snippet}:\n{done.stderr}"
    assert not done.stderr
    _compare(snippet, done.stdout)


def check_here(snippet: Snippet) -> None:
    """Run it in this process, whose folder is the root of the project: nothing has to start."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(snippet.code, str(snippet), "exec"), {"__name__": "__main__"})
    _compare(snippet, output.getvalue())


def _compare(snippet: Snippet, printed: str) -> None:
    if snippet.output is not None:
        assert _without_numbers(printed) == _without_numbers(snippet.output)


def _without_numbers(text: str) -> str:
    """Process ids differ, and some systems have their programs in /bin."""
    return re.sub(r"\d{2,}", "N", text).replace(" /bin/", " /usr/bin/")
