"""The reference on the site names everything that is public."""

import re
from pathlib import Path

import pybpfload

PAGES = Path(__file__).parents[2] / "docs" / "api"


def test_every_public_name_has_its_place():
    page = (PAGES / "pybpfload.md").read_text(encoding="utf-8")
    named = re.findall(r"^\.\. auto\w+:: pybpfload\.(\w+)$", page, re.MULTILINE)
    assert sorted(named) == sorted(pybpfload.__all__)
