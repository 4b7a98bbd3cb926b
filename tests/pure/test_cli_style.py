"""Colour: when, where, and that the text is the same without it."""

import io
import re

import pytest
from test_cli_main import LITTLE, ROOT

from pybpfload.cli import main, style
from pybpfload.cli.table import table

ESCAPES = re.compile("\x1b\\[[0-9;]*m")
MINIMAL = str(LITTLE / "minimal.bpf.o")
LOG = str(ROOT / "tests" / "pure" / "verifier-logs.txt")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("when", "environment", "stream", "coloured"),
    [
        ("auto", {}, Terminal(), True),
        ("auto", {}, io.StringIO(), False),
        ("auto", {"NO_COLOR": "1"}, Terminal(), False),
        ("auto", {"NO_COLOR": ""}, Terminal(), True),
        ("auto", {"TERM": "dumb"}, Terminal(), False),
        ("always", {"NO_COLOR": "1"}, io.StringIO(), True),
        ("never", {}, Terminal(), False),
    ],
)
def test_when_there_is_colour(when, environment, stream, coloured, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with style.chosen(when):
        expected = "\x1b[31mx\x1b[0m" if coloured else "x"
        assert style.paint("x", style.BAD, stream=stream) == expected
        assert style.paint("x", "", stream=stream) == "x"
    assert style.paint("x", style.BAD, stream=Terminal()) == "x"  # no command runs


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["inspect", MINIMAL], 0),
        (["log", LOG], 0),
        (["check", MINIMAL, "--kernel", str(ROOT / "fixtures" / "bpfel" / "minimal.bpf.o")], None),
        (["inspect", "missing"], 1),
        (["inspect", "--vrbose", MINIMAL], 2),
    ],
)
def test_colour_is_escape_sequences_and_nothing_else(arguments, status, capsys):
    plain_status = main(arguments)
    plain = capsys.readouterr()
    if status is not None:
        assert plain_status == status
    for asked in (["--color=always", *arguments], [*arguments, "--color", "always"]):
        assert main(asked) == plain_status
        coloured = capsys.readouterr()
        assert "\x1b[" in coloured.out + coloured.err
        assert ESCAPES.sub("", coloured.out) == plain.out
        assert ESCAPES.sub("", coloured.err) == plain.err
    assert "\x1b" not in plain.out + plain.err


def test_json_has_no_colour(capsys):
    assert main(["inspect", "--json", "--color=always", MINIMAL]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_the_last_one_wins_and_others_are_refused(capsys):
    main(["--color", "always", "inspect", MINIMAL, "--color=never"])
    assert "\x1b" not in capsys.readouterr().out
    assert main(["inspect", "--color=blue", MINIMAL]) == 2
    assert "'blue'" in capsys.readouterr().err


def test_cells_are_aligned_before_they_are_painted():
    rows = [("yes", "yes", 1), ("long name", "no", None)]
    with style.chosen("always"):
        lines = table(("NAME", "HAS", "N"), rows, {"yes": style.GOOD, "no": style.BAD})
    assert [ESCAPES.sub("", line) for line in lines] == table(("NAME", "HAS", "N"), rows)
    assert "\x1b[32myes\x1b[0m" in lines[1]
    assert lines[1].count("\x1b[32m") == 1  # the first column has names
