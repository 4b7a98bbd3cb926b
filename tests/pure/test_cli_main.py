"""The command line as a whole: help, usage, exit statuses, one line for each error."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pybpfload import __version__
from pybpfload.cli import COMMANDS, main
from pybpfload.cli.failure import report, status_of, visible
from pybpfload.errors import (
    BpfError,
    FormatError,
    KernelError,
    NotPermittedError,
    NotSupportedError,
    RelocationError,
    VerifierError,
)

ROOT = Path(__file__).parents[2]
LITTLE = ROOT / "fixtures" / "bpfel"
MINIMAL = str(LITTLE / "minimal.bpf.o")


def one_error(capsys):
    """The only line on standard error; standard output must be empty."""
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("pybpfload: ")
    return lines[0]


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for command in COMMANDS:
        assert f"\n  {command} " in out
    assert "examples:" in out


def test_without_arguments_the_help_is_an_error(capsys):
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: pybpfload COMMAND")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_examples(command, capsys):
    assert main([command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"usage: pybpfload {command} ")
    assert "examples:" in out
    assert max(map(len, out.splitlines())) <= 100


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pybpfload {__version__}\n"


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_python_m_pybpfload(argument):
    done = subprocess.run(
        [sys.executable, "-m", "pybpfload", argument],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "pybpfload" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"]])
def test_help_imports_nothing_of_the_library(arguments):
    code = (
        "import sys; from pybpfload.cli import main; main(sys.argv[1:]); "
        "heavy = [m for m in sys.modules if m.split('.')[0] in ('construct', 'elftools', 'ctypes') "
        "or m.startswith(('pybpfload.btf', 'pybpfload.object', 'pybpfload.kernel'))]; "
        "assert not heavy, heavy"
    )
    subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspct"], "unknown command 'inspct', did you mean 'inspect'?"),
        (["xyzzy"], "unknown command 'xyzzy'; see pybpfload --help"),
        (["--vrbose"], "unknown option '--vrbose'"),
        (["inspect"], "the following arguments are required: OBJ"),
        (["inspect", "--jsn", MINIMAL], "unknown argument '--jsn', did you mean '--json'?"),
        (["inspect", "--js", MINIMAL], "unknown argument '--js'"),
        (["relocate", MINIMAL, "other"], "unknown argument 'other'; see pybpfload relocate --help"),
        (["relocate", MINIMAL, "--program", "count"], "no program 'count'"),
        (["run", MINIMAL, "--duration", "soon"], "'soon' is no time in seconds"),
        (["run", MINIMAL, "--duration", "-1"], "'-1' is no time in seconds"),
        (["run", MINIMAL, "--duration", "nan"], "'nan' is no time in seconds"),
        (["run", MINIMAL, "--program", "count_syscal"], "did you mean 'count_syscalls'?"),
        (["run", MINIMAL, "--set", "hits"], "--set hits: expected NAME=VALUE"),
        (["run", str(LITTLE / "cookies.bpf.o")], "choose with --program: cookie_raw_tp, "),
        (["run", str(LITTLE / "maps_types.bpf.o")], "has no programs"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, words, capsys):
    assert main(arguments) == 2
    assert words in one_error(capsys)


@pytest.mark.parametrize("command", ["inspect", "relocate", "run"])
def test_files_that_are_no_objects(command, capsys, tmp_path):
    for content, words in (
        (b"", "not an ELF file"),
        (b"#!/bin/sh\n", "not an ELF file"),
        (Path(MINIMAL).read_bytes()[:100], ""),
    ):
        path = tmp_path / "file"
        path.write_bytes(content)
        assert main([command, str(path)]) == 1
        line = one_error(capsys)
        assert words in line
        assert str(path) in line
    executable = bytearray(Path(MINIMAL).read_bytes())
    executable[18] = 62  # e_machine: x86-64
    path.write_bytes(executable)
    assert main([command, str(path)]) == 1
    assert "not a BPF object: it is for ELF machine 62" in one_error(capsys)
    assert main([command, str(tmp_path / "missing")]) == 1
    assert one_error(capsys) == f"pybpfload: {tmp_path / 'missing'}: No such file or directory"
    assert main([command, str(tmp_path)]) in (1, 3)  # Windows calls it a permission
    assert str(tmp_path) in one_error(capsys)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (FormatError("x"), 1),
        (RelocationError("x"), 1),
        (BpfError("x"), 1),
        (FileNotFoundError(errno.ENOENT, "x"), 1),
        (PermissionError(errno.EACCES, "x"), 3),
        (NotPermittedError(errno.EPERM, "BPF_PROG_LOAD"), 3),
        (NotSupportedError("x"), 4),
        (KernelError(errno.ENOSYS, "BPF_PROG_LOAD"), 4),
        (KernelError(errno.EINVAL, "BPF_PROG_LOAD"), 1),
        (VerifierError(errno.EACCES, "p", "log"), 1),
    ],
    ids=repr,
)
def test_exit_statuses(error, status, capsys):
    assert status_of(error) == status
    assert report(error, verbose=False) == status
    one_error(capsys)


def test_errors_of_the_program_itself_are_not_hidden(monkeypatch):
    assert report(ZeroDivisionError(), verbose=False) is None
    monkeypatch.setitem(COMMANDS, "common", "a module without run()")
    with pytest.raises(AttributeError):
        main(["common"])


def test_a_hint_is_shown_once(capsys):
    report(BpfError("it failed").with_hint("try again"), verbose=False)
    assert one_error(capsys) == "pybpfload: it failed; try again"
    report(KernelError(errno.EPERM, "BPF_OBJ_GET", hint="mount it"), verbose=False)
    assert one_error(capsys).count("mount it") == 1


def test_verbose_shows_what_is_known(capsys):
    error = VerifierError(errno.EACCES, "p", "0: first\nlast line", summary="bad access", insn=3)
    error.swallowed = [NotSupportedError("an earlier thing")]
    error.__cause__ = FormatError("a deeper thing")
    report(error, verbose=False)
    line = one_error(capsys)
    assert "at instruction 3" in line
    assert "bad access" in line
    assert "-v shows" in line
    report(error, verbose=True)
    lines = capsys.readouterr().err.splitlines()
    assert "bad access" in lines[0]
    assert lines[1:] == [
        "verifier log of program p:",
        "  0: first",
        "  last line",
        "  before that: an earlier thing",
        "  because of: a deeper thing",
    ]


def test_hostile_names_cannot_command_the_terminal(capsys):
    report(FormatError("bad", file="a\x1b[31m\nb"), verbose=False)
    assert "\x1b" not in one_error(capsys)
    assert visible("a\x1b\u202e\udc80é") == "a\\x1b\\u202e\\udc80é"


def test_options_before_the_command(capsys):
    assert main(["--json", "inspect", MINIMAL]) == 0
    assert capsys.readouterr().out.startswith("{")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes of POSIX")
def test_a_reader_that_leaves_is_no_error():
    command = [sys.executable, "-m", "pybpfload", "inspect", *[MINIMAL] * 100]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pybpfload", "inspect", "--json", MINIMAL],
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "pybpfload: No space left on device\n"


@pytest.mark.skipif(os.name != "posix", reason="needs a shell that can close descriptors")
@pytest.mark.parametrize("arguments", [("gen", "stubs", MINIMAL), ("inspect", "no such file")])
def test_closed_output(arguments):
    """What is said on a descriptor that is closed goes nowhere, and not to the other one."""
    command = [sys.executable, "-m", "pybpfload", *arguments]
    status = int(arguments[0] == "inspect")
    for closed, left in (">&-", "stderr"), ("2>&-", "stdout"):
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *command],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == status
        assert bool(getattr(done, left)) == (status == (left == "stderr"))


def test_any_encoding_will_do():
    done = subprocess.run(
        [sys.executable, "-m", "pybpfload", "inspect", MINIMAL],
        cwd=ROOT, capture_output=True, check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0
