"""Transcripts of commands in the documentation that need no kernel: what they show is printed."""

import re

import pytest
import transcripts
from transcripts import check, expand, printed, provide_objects

OFFLINE = transcripts.transcripts(asking_a_kernel=False)


@pytest.mark.parametrize("transcript", OFFLINE, ids=str)
def test_transcript(transcript, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in transcript.commands:
        provide_objects(command.words, tmp_path)
        typed = re.findall(r"^>>> (.*)$", command.expected, re.MULTILINE) or None
        got = printed(expand(command.words), typed)
        check(command.expected, got.removesuffix(">>> "), exact=True)


@pytest.mark.parametrize(
    ("page", "output"),
    [
        ("a: 1\n", "a: 2\n"),
        ("a\n...\nc\n", "a\nb\n"),
        ("a\n", "a\nb\n"),
        ("a, ...\n", "b, c\n"),
    ],
)
def test_what_differs_is_told(page, output):
    with pytest.raises(AssertionError, match="the page says"):
        check(page, output, exact=True)


def test_three_dots_and_numbers():
    check("a\n...\nd ... f\n", "a\nb\nc\nd e f\n", exact=True)
    check("ID  NAME\n 7  x (12)\n", "   ID  NAME\n12345  x (0x7f)\n".lstrip(), exact=False)
    with pytest.raises(AssertionError, match="the page says"):
        check("7 x\n", "7 y\n", exact=False)


def test_none_is_left_out():
    """Every prompt in a page is that of a command that is run, here or by the live tests."""
    found = transcripts.transcripts()
    for page in transcripts.PAGES:
        text = page.read_text(encoding="utf-8")
        prompts = re.findall(r"^\$ .*$", text, re.MULTILINE)
        run = [command for each in found if each.page == page for command in each.commands]
        assert len(run) == len(prompts), page
        assert not re.findall(r"^```(?:text .+|console|shell|bash)$", text, re.MULTILINE), page
    live = transcripts.transcripts(asking_a_kernel=True)
    assert len(OFFLINE) + len(live) == len(found) >= 20
