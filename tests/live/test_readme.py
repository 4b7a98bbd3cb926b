"""The README's example and the other snippets that load BPF, run as they stand."""

import os
import sys

import pytest
from snippets import check, snippets

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux"),
    pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to load BPF"
    ),
]


@pytest.mark.parametrize("snippet", snippets("live"), ids=str)
def test_snippet_runs_and_prints_what_the_page_says(snippet):
    check(snippet)


def test_the_readme_has_an_example_with_its_output():
    assert any(each.page.name == "README.md" and each.output for each in snippets("live"))
