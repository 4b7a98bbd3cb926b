"""Completion and the manual page: made from the commands' own parsers, right for their readers."""

import json
import re
import shlex
import shutil
import subprocess

import pytest
from test_cli_main import LITTLE

from pybpfload.cli import COMMANDS, main, shells
from pybpfload.cli.manpage import page
from pybpfload.cli.synopsis import OBJECTS, commands_of, entries

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def every():
    return {entry.path: entry for entry in entries()}


def test_every_command_is_described(every):
    expected = [
        f"{name} {word}".rstrip() for name in COMMANDS for word in commands_of(name) or {"": ""}
    ]
    assert list(every) == expected
    assert every["inspect"].operands[0].takes == OBJECTS
    assert every["inspect"].operands[0].many
    options = {flag: option for option in every["run"].options for flag in option.flags}
    assert options["--btf"].takes == "files"
    assert options["--set"].many
    assert options["--verbose"] is not None
    assert options["--verbose"].metavar == ""
    assert options["--color"].words == ("auto", "always", "never")


def test_every_value_is_known(every):
    """A metavar that means a file is in the table, so that files are completed for it."""
    for path, entry in every.items():
        for argument in (*entry.options, *entry.operands):
            if re.search(r"\bfile\b", argument.about) and argument.metavar.isupper():
                assert argument.takes != "nothing" or argument.words, (path, argument)


@pytest.fixture(scope="module")
def scripts():
    return {shell: getattr(shells, shell)() for shell in ("bash", "zsh", "fish")}


def test_syntax(scripts, tmp_path):
    """That of the other shells, which are fetched, is in tests/differential/test_shells.py."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    script = tmp_path / "script"
    script.write_text(scripts["bash"])
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_option_is_in_every_script(shell, every, scripts):
    script = scripts[shell]
    for entry in every.values():
        for option in entry.options:
            for flag in option.flags:
                written = flag
                if shell == "fish":
                    written = f"-l {flag[2:]}" if flag[:2] == "--" else f"-s {flag[1:]}"
                assert written in script, (entry.path, flag)


def test_what_bash_completes(scripts, tmp_path):
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    (tmp_path / "tracer.bpf.o").touch()
    (tmp_path / "my file.o").touch()
    (tmp_path / "vmlinux").touch()
    (tmp_path / "folder").mkdir()
    cases = {
        ("ins",): {"inspect"},
        ("--json", "--color", "always", "rel"): {"relocate"},
        ("inspect", ""): {"tracer.bpf.o", "my file.o", "folder"},
        ("inspect", "inspect", "tr"): {"tracer.bpf.o"},
        ("-v", "inspect", "--js"): {"--json"},
        ("inspect", "--color", "a"): {"auto", "always"},
        ("inspect", "--color", "=", "ne"): {"never"},
        ("inspect", "--color", "="): {"auto", "always", "never"},
        ("relocate", "--btf", "v"): {"vmlinux"},
        ("run", "--set", ""): set(),
        ("completion", ""): {"bash", "zsh", "fish", "man"},
        ("nonsense", "--ver"): {"--version", "--verbose"},
    }
    lines = []
    for words in cases:
        quoted = " ".join(map(shlex.quote, ("pybpfload", *words)))
        lines.append(f"COMP_WORDS=({quoted}) COMP_CWORD={len(words)}; _pybpfload")
        lines.append("printf '%s|' \"${COMPREPLY[@]}\"; echo")
    script = scripts["bash"] + "\n".join(lines)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = [{word for word in line.split("|") if word} for line in done.stdout.splitlines()]
    assert dict(zip(cases, found, strict=True)) == cases


@pytest.fixture(scope="module")
def manual():
    return page()


def test_the_manual_page(every, manual):
    text = manual
    sections = re.findall(r"^\.SH (.*)", text, re.MULTILINE)
    assert sections[:4] == ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"]
    assert sections[-3:] == ["EXIT STATUS", "ENVIRONMENT", "SEE ALSO"]
    for path, entry in every.items():
        assert f".SS pybpfload {path}".replace("-", "\\-") + "\n" in text
        for option in entry.options:
            assert option.flags[-1].replace("-", "\\-") in text
    for line in text.splitlines():  # nothing but what man(7) knows is obeyed
        assert re.match(r"\.(TH|SH|SS|PP|TP|RS|RE|nf|fi|B|I|BR)\b|[^.']", line) or not line, line


def test_groff_has_nothing_to_say(manual):
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8"], input=manual, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert "EXIT STATUS" in re.sub(".\b|\x1b\\[[0-9;]*m", "", done.stdout)


def test_the_command(scripts, manual, capsys):
    for what, text in {**scripts, "man": manual}.items():
        assert main(["completion", what]) == 0
        assert capsys.readouterr().out == text
    assert main(["completion", "--json", "man"]) == 0
    assert json.loads(capsys.readouterr().out) == {"for": "man", "text": manual}
    assert main(["completion", "tcsh"]) == 2
    assert "'tcsh'" in capsys.readouterr().err
    assert main(["inspect", str(LITTLE / "minimal.bpf.o"), "--help"]) == 0  # help is back
    assert capsys.readouterr().out.startswith("usage: pybpfload inspect")
