"""What notebooks show: the text of the commands, escaped and bounded."""

import html
import re

import pytest
from test_cli_main import LITTLE, ROOT

import pybpfload
from pybpfload.check import Verdict
from pybpfload.check.verdict import Finding
from pybpfload.cli import main, style
from pybpfload.testing.fakekernel import FakeKernel
from pybpfload.verifier import explain, split

MINIMAL = LITTLE / "minimal.bpf.o"


def text_of(shown):
    """The text that somebody reads; fails if it is more than one <pre>."""
    inside = re.fullmatch(r'<pre style="[^"<>]*">(.*)</pre>', shown, re.DOTALL)[1]
    inside = re.sub(r"<i>(and \d+ more lines)</i>$", r"\1", inside)
    assert "<" not in inside
    assert ">" not in inside
    return html.unescape(inside)


def test_an_object_is_what_inspect_shows(capsys):
    main(["inspect", str(MINIMAL)])
    assert text_of(pybpfload.open(MINIMAL)._repr_html_()) == capsys.readouterr().out.rstrip("\n")


def test_it_has_no_escape_sequences_even_while_a_command_runs():
    plain = pybpfload.open(MINIMAL)._repr_html_()
    with style.chosen("always"):
        assert pybpfload.open(MINIMAL)._repr_html_() == plain


def test_a_hostile_name_is_text():
    spec = pybpfload.open(MINIMAL)
    program = next(iter(spec.programs.values()))
    program.name = "<script>alert('\x1b[31m')</script>&amp;"
    shown = spec._repr_html_()
    assert "<script>" not in shown
    assert "\x1b" not in shown
    assert "<script>alert('\\x1b[31m')</script>&amp;" in text_of(shown)


def test_an_explanation_is_what_log_shows():
    logs = (ROOT / "tests" / "pure" / "verifier-logs.txt").read_text(encoding="utf-8")
    for program, log in split(logs):
        found = explain(log, program=program)
        assert text_of(found._repr_html_()).expandtabs() == str(found).expandtabs()


def test_a_verdict():
    found = Verdict("<a>.o", "6.1", [Finding("no <helper>", "helper", "p", 3)])
    assert text_of(found._repr_html_()).splitlines() == [
        "<a>.o on 6.1: fails",
        "  ✗ program p, instruction 3: no <helper>",
    ]


def test_only_so_much_is_shown():
    found = Verdict("o", "k", [Finding("x" * 5000, "helper")] * 5000)
    text = text_of(found._repr_html_())
    assert text.endswith("\nand 4601 more lines")
    assert len(text.splitlines()) == 401
    assert max(map(len, text.splitlines())) <= 1000


@pytest.mark.filterwarnings("error")
def test_a_program():
    with FakeKernel(), pybpfload.load(MINIMAL) as obj:
        program = obj.programs["count_syscalls"]
        lines = dict(line.split(maxsplit=1) for line in text_of(program._repr_html_()).splitlines())
        assert lines["program"] == "count_syscalls"
        assert lines["section"] == program.spec.section
        assert lines["id"] == str(program.info(code=False).id)
        program.close()
        assert "closed    yes" in text_of(program._repr_html_())
