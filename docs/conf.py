"""How Sphinx builds these pages: ``tools/docs``, which CI runs with warnings as errors."""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pybpfload  # noqa: E402

project = "pybpfload"
author = "the pybpfload authors"
copyright = "the pybpfload authors"  # noqa: A001 - Sphinx names it so
version = release = pybpfload.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"pybpfload {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True  # fields of named tuples are documented by their class
# Sphinx seeks each such field as a name of its own; several classes have a "name" or "size".
suppress_warnings = ["ref.python"]  # only says that more than one was found

# Pages that are files at the top of the checkout, and how links in them are to be read here.
_TOP = {"overview": "README.md", "contributing": "CONTRIBUTING.md", "changes": "CHANGELOG.md"}
_LINKS = {
    "](docs/": "](",
    "](CHANGELOG.md)": "](changes.md)",
    "](CONTRIBUTING.md)": "](contributing.md)",
    "[Examples](examples)": "Examples",
}


def _from_top(app: object, docname: str, source: list[str]) -> None:
    if docname in _TOP:
        source[0] = (ROOT / _TOP[docname]).read_text(encoding="utf-8")
        for link, here in _LINKS.items():
            source[0] = source[0].replace(link, here)


def setup(app: Any) -> None:
    """Tell Sphinx about the pages from the top of the checkout."""
    app.connect("source-read", _from_top)
