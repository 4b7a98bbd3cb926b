"""pybpfload shell: a prompt with an object, or a program from standard input."""

import io
import sys
import types

import pytest
from test_cli_main import LITTLE

import pybpfload
from pybpfload.cli import main

MINIMAL = str(LITTLE / "minimal.bpf.o")


@pytest.fixture
def terminal(monkeypatch):
    """Makes standard input a terminal on which somebody types."""

    def types_in(text):
        stream = io.StringIO(text)
        stream.isatty = lambda: True
        monkeypatch.setattr(sys, "stdin", stream)

    return types_in


def test_a_program_from_standard_input(monkeypatch, capsys):
    text = "def f():\n    return obj.name, btf is obj.btf, kernel is not btf\nprint(*f())\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert main(["shell", "--btf", MINIMAL, MINIMAL]) == 0
    assert capsys.readouterr().out == "minimal True True\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [("1 / 0", "ZeroDivisionError"), ("if", "SyntaxError"), ("raise OSError(2)", "OSError")],
)
def test_its_exceptions_are_its_own(text, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert main(["shell", MINIMAL]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Traceback")
    assert words in err


def test_it_ends_as_the_program_says(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("raise SystemExit(7)"))
    assert main(["shell", MINIMAL]) == 7


def test_the_prompt(terminal, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.setitem(sys.modules, "readline", None)
    terminal("obj.name\nlen(btf)\n")
    assert main(["shell", MINIMAL]) == 0
    out, err = capsys.readouterr()
    assert "'minimal'" in out
    assert str(len(pybpfload.open(MINIMAL).btf)) in out
    assert "<ObjectSpec minimal: 1 programs, 3 maps>" in err  # the banner


def test_ipython_if_it_is_there(terminal, monkeypatch, capsys):
    started = []
    ipython = types.SimpleNamespace(start_ipython=lambda **with_what: started.append(with_what))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    terminal("")
    assert main(["shell", MINIMAL]) == 0
    assert set(started[0]["user_ns"]) == {"obj", "btf", "pybpfload"}
    assert "ObjectSpec minimal" in capsys.readouterr().out


def test_it_has_no_json(capsys):
    assert main(["shell", "--json", MINIMAL]) == 2
    assert "nothing to print as JSON" in capsys.readouterr().err
