"""Manners of every command: its help, options in any place, readers that leave, Ctrl-C.

One table over all commands, so that a new one has them or says why not.
"""

import json
import os
import signal
import subprocess
import sys

import pytest
from test_cli_main import LITTLE, ROOT

from pybpfload.cli import COMMANDS, GROUPS, NEEDS, main, module_of
from pybpfload.cli.common import parser_of
from pybpfload.cli.synopsis import Entry, commands_of, entries

ENTRIES = {entry.path: entry for entry in entries()}
MINIMAL = str(LITTLE / "minimal.bpf.o")
EXECSNOOP = str(LITTLE / "execsnoop.bpf.o")


def group_of(path):
    if path in ("btf list", "btf show"):  # of what is loaded; the other commands are offline
        return "live"
    return next(group for group, has in GROUPS.items() if path.partition(" ")[0] in has)


def test_every_command_is_in_one_group():
    assert sum(map(len, GROUPS.values())) == len(COMMANDS)
    assert GROUPS.keys() == NEEDS.keys()
    with_parsers = {path.partition(" ")[0] for path in ENTRIES}
    assert with_parsers == COMMANDS.keys()


@pytest.mark.parametrize("path", ENTRIES)
def test_help(path, capsys):
    """Worked examples of this very command, what it needs, and a help for all that it takes."""
    entry: Entry = ENTRIES[path]
    assert main([*path.split(), "--help"]) == 0
    text, err = capsys.readouterr()
    assert err == ""
    names = (path, path.replace(" show", " list"))  # which are the same command
    assert text.startswith(tuple(f"usage: pybpfload {name} " for name in names))
    assert "\nexamples:\n" in text
    assert f"pybpfload {path.partition(' ')[0]}" in text.partition("\nexamples:\n")[2]
    assert text.rstrip().endswith(f"needs: {NEEDS[group_of(path)]}")
    assert max(map(len, text.splitlines())) <= 100
    for argument in (*entry.options, *entry.operands):
        assert argument.about, argument


@pytest.mark.parametrize("path", ENTRIES)
def test_options_of_all_commands_stand_anywhere(path, monkeypatch, capsys):
    """Before the command, between, and at the end: every command reads them alike."""
    words = path.split()
    options = ["-v", "--json", "--color", "never"]
    places = [
        [*options, *words],
        [words[0], *options, *words[1:]],
        [*words, *options],
        ["--json", *words, "-v", "--color=never"],
    ]
    read = []

    def parse(parser, arguments):
        seen = [word for word in arguments if word.startswith("-") or word == "never"]
        read.append(parser.prog)
        found = {
            "json": "--json" in seen,
            "verbose": "-v" in seen,
            "color": "--color=never" in seen,
        }
        read.append(found)
        raise SystemExit(0)

    monkeypatch.setattr("pybpfload.cli.common.Parser.read", parse)
    for arguments in places:
        assert main(arguments) == 0
    expected = [ENTRIES[path].parser.prog, {"json": True, "verbose": True, "color": True}]
    assert read == expected * len(places)


SAMPLES = {
    "btf layout": [EXECSNOOP, "event"],
    "btf find": [EXECSNOOP, "ev*"],
    "btf diff": [EXECSNOOP, MINIMAL],
    "btf min": [EXECSNOOP, "--btf", EXECSNOOP, "-o", "least.btf"],
    "core": ["--btf", EXECSNOOP, EXECSNOOP],
    "check": [MINIMAL, "--kernel", EXECSNOOP],
    "log": [str(ROOT / "tests" / "pure" / "verifier-logs.txt")],
    "gen": ["stubs", MINIMAL],
    "completion": ["fish"],
}
"""Arguments of commands for which an object is not enough."""


@pytest.mark.parametrize("path", [path for path in ENTRIES if group_of(path) == "offline"])
def test_json_is_one_document_and_nothing_else(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = SAMPLES.get(path, [MINIMAL])
    status = main([*path.split(), "--json", "--color=always", *arguments])
    out, err = capsys.readouterr()
    if path == "shell":  # a prompt
        assert (status, out) == (2, "")
        return
    assert (status, err) == (0, "")
    assert isinstance(json.loads(out), (dict, list))
    assert "\x1b" not in out


@pytest.mark.parametrize("path", ENTRIES)
def test_unknown_options_get_a_suggestion(path, capsys):
    known = [operand.words[0] if operand.words else MINIMAL for operand in ENTRIES[path].operands]
    assert main([*path.split(), *known, "--vrbose"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "--verbose" in err or f"pybpfload {path} --help" in err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("raised", "status"), [(KeyboardInterrupt, 130), (BrokenPipeError, 0), (SystemExit, 0)]
)
def test_interruptions(command, raised, status, monkeypatch, capfd):
    """Whatever is being done when they come, nothing is said."""

    def run(arguments):
        raise raised

    monkeypatch.setattr(module_of(command), "run", run)
    if raised is BrokenPipeError:
        monkeypatch.setattr(os, "dup2", lambda *fds: None)  # standard output is pytest's
    assert main([command]) == status
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals of POSIX")
def test_ctrl_c_of_a_command_that_waits():
    """A real one, while the command reads what does not come."""
    with subprocess.Popen(
        [sys.executable, "-m", "pybpfload", "log"], cwd=ROOT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
    ) as process:  # fmt: skip
        for line in process.stderr:  # the last module that it imports before it reads
            if b"pybpfload.verifier.flow" in line:
                break
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=20)
    said = [line for line in err.splitlines() if not line.startswith(b"import time:")]
    assert (process.returncode, out, said) == (130, b"", [])


def test_the_help_of_groups_names_their_commands(capsys):
    for name in COMMANDS:
        for word in commands_of(name):
            assert parser_of(module_of(name).run, word) is not None
            main([name, "--help"])
            assert f"\n  {word} " in capsys.readouterr().out


def test_ctrl_c_in_a_process_of_a_pool(monkeypatch):
    """What the process has been given already is not begun any more."""
    from pybpfload.cli import check

    monkeypatch.setattr(check, "_stopped", False)
    assert check._unless_stopped(divmod, 7, 2) == (3, 1)
    with pytest.raises(KeyboardInterrupt):
        check._stop(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        check._unless_stopped(divmod, 7, 2)
