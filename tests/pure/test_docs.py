"""The documentation: its offline snippets run, and its links lead somewhere."""

import re

import pytest
from snippets import PAGES, ROOT, check, snippets

_LINK = re.compile(r"\]\((?!https?://)([^)#]+)[^)]*\)")


@pytest.mark.parametrize("snippet", snippets("offline"), ids=str)
def test_snippet_runs_and_prints_what_the_page_says(snippet):
    check(snippet)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
