"""The documentation: its offline snippets run, quotes are right, its links lead somewhere."""

import re

import pytest
from snippets import PAGES, ROOT, check, snippets

_EXCERPT = re.compile(
    r"^```(?:python|c|sh|toml)\n(?:# |/\* )(examples/\S+)(?: \*/)?\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\]\((?!https?://)([^)#]+)[^)]*\)")


@pytest.mark.parametrize("snippet", snippets("offline"), ids=str)
def test_snippet_runs_and_prints_what_the_page_says(snippet):
    check(snippet)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


EXCERPTS = [
    pytest.param(page, match[1], match[2], id=f"{page.name}-{match[2].splitlines()[0][:50]}")
    for page in PAGES
    for match in _EXCERPT.finditer(page.read_text(encoding="utf-8"))
]


def test_there_are_excerpts():
    assert len(EXCERPTS) > 10


@pytest.mark.parametrize(("page", "file", "code"), EXCERPTS)
def test_excerpts_are_what_the_file_says(page, file, code):
    assert code in (ROOT / file).read_text(encoding="utf-8"), f"{page.name} quotes {file} wrongly"
