"""Every command that reads a file, on 1,000 damaged ones: what is checked, and in new processes.

The files themselves are run by test_damaged_files.py, where commands are targets like others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter

import fuzz_commands
import hostile
import pytest
from environment import ROOT
from fuzz_commands import COMMANDS, LIVE, Lines
from fuzz_targets import COMMAND_TARGETS

from pybpfload.cli.synopsis import entries

READ = {"OBJ", "SRC", "FILE"}  # what arguments that name files to be read are called,
WRITTEN = {"-o", "--output", "--html", "--junit"}  # unless they have such a name
FRESH = 2  # cases of each
OFFLINE = [each for each in COMMANDS if each.command not in LIVE]
"""The others would load what is damaged into this machine's kernel."""


def test_every_command_that_reads_files_reads_1000():
    reading = {
        entry.path
        for entry in entries()
        for each in (*entry.options, *entry.operands)
        if READ.intersection(each.metavar.replace("[", " ").replace("]", " ").split())
        and not WRITTEN.intersection(each.flags)
    }
    cases = Counter[str]()
    for each in COMMANDS:
        cases[each.command] += each.cases
    assert cases.keys() == reading
    assert all(count >= 1000 for count in cases.values())


@pytest.mark.parametrize("wanted", COMMANDS, ids=lambda wanted: wanted.target)
def test_good_files_are_read(wanted):
    """Of each way to call a command; some have nothing to do, and say so in one line."""
    for line in wanted.lines:
        one = wanted._replace(lines=(line,))
        statuses = set()
        for data in COMMAND_TARGETS[wanted.target].seeds()[:6]:
            words = fuzz_commands.arguments(one, data)
            status, out, err = fuzz_commands.called(one, words)
            fuzz_commands.judge(one, words, status, out, err)
            statuses.add(status)
        assert 0 in statuses or wanted.command in ("check", "run", "iter run", "test-run"), line


@pytest.mark.parametrize("wanted", OFFLINE, ids=lambda wanted: wanted.target)
def test_in_a_new_process(wanted):
    for case in range(FRESH):
        data = hostile.made(wanted.target, 1, case).data
        words = fuzz_commands.arguments(wanted, data)
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "pybpfload", *words],
            input="print(obj)",
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
            env={**os.environ, "PYTHONWARNINGS": "error"},
        )
        fuzz_commands.judge(wanted, words, done.returncode, done.stdout, done.stderr)
        assert time.monotonic() - started < 20  # on a busy machine; the rest is measured


@pytest.mark.parametrize(
    ("status", "out", "err", "found"),
    [
        (1, "", "Traceback (most recent call last):\n", "on standard error: 'Traceback"),
        (1, "", "", "0 lines on standard error"),
        (1, "", "pybpfload: one\npybpfload: two\n", "2 lines on standard error"),
        (1, "", "pybpfload: \x1b[31m\n", "on standard error: "),
        (0, "a\x1b[31m", "", "an escape sequence"),
        (-11, "", "", "status -11"),
        (1, "", f"pybpfload: {'x' * 30000}\n", "a line of 30011 characters"),
    ],
)
def test_what_is_wrong_is_noticed(status, out, err, found):
    wanted = Lines("inspect", "object", 0, ("FILE",))
    with pytest.raises(AssertionError, match=found.replace("[", r"\[")):
        fuzz_commands.judge(wanted, ["inspect", "x.o"], status, out, err)


def test_a_document_that_is_none_is_noticed():
    wanted = Lines("inspect", "object", 0, ("FILE",))
    with pytest.raises(ValueError, match="Expecting"):
        fuzz_commands.judge(wanted, ["inspect", "--json", "x.o"], 0, "{", "")
