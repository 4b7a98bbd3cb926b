"""The pictures in the documentation are what the tool draws now.

``PYBPFLOAD_UPDATE=1 pytest tests/pure/test_pictures.py`` draws them anew.
"""

import os
from pathlib import Path

import pytest

from pybpfload.cli import main

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
OLD, NEW = (["story.bpf.o", "--btf", f"story_{age}.bpf.o"] for age in ("old", "new"))
DRAWN_BY = {
    "core-tgid-old": ["core", *OLD, "--insn", "13", "--svg"],
    "core-tgid-new": ["core", *NEW, "--insn", "13", "--svg"],
    "core-flavour": ["core", *OLD, "--insn", "36", "--svg"],
    "core-missing": ["core", *OLD, "--insn", "26", "--svg"],
    "core-bits": ["core", *NEW, "--insn", "57", "--svg"],
    "core-enum": ["core", *NEW, "--insn", "72", "--svg"],
    "core-dead-code": ["disasm", *OLD, "--cfg", "svg"],
}


@pytest.mark.parametrize("name", DRAWN_BY)
def test_picture(name, capsys, monkeypatch):
    monkeypatch.chdir(ROOT / "fixtures" / "bpfel")
    assert main(DRAWN_BY[name]) == 0
    drawn = capsys.readouterr().out
    path = PICTURES / f"{name}.svg"
    if os.environ.get("PYBPFLOAD_UPDATE"):
        path.write_text(drawn, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == drawn


def test_every_picture_is_shown_and_drawn_here():
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    for path in PICTURES.iterdir():
        assert path.stem in DRAWN_BY
        assert f"](pictures/{path.name})" in pages
