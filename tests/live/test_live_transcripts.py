"""Transcripts of commands in the documentation that ask a kernel, run on this one.

A transcript whose commands need something to look at has a preparation here, by how its first
command begins. Programs watch this process only, and what is made is gone when the test ends.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import transcripts
from snippets import ROOT
from transcripts import check, expand, printed, provide_objects

import pybpfload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.live

NATIVE = "bpfel" if sys.byteorder == "little" else "bpfeb"
OWN_NAME = Path("/proc/self/comm").read_text().strip() if sys.platform == "linux" else ""


@contextlib.contextmanager
def loaded(name: str, attach: bool = False, **variables: Any) -> Iterator[pybpfload.Object]:
    spec = pybpfload.open(ROOT / "fixtures" / NATIVE / f"{name}.bpf.o")
    for variable, value in variables.items():
        spec.variables[variable].value = value
    with spec.load() as obj:
        if attach:
            obj.attach()
        yield obj


@contextlib.contextmanager
def counting(folder: Path) -> Iterator[dict[str, str]]:
    """The program ``count_syscalls`` is attached; by whom is the page's python."""
    with loaded("minimal", attach=True, target_tgid=0):
        yield {"python": OWN_NAME}


@contextlib.contextmanager
def compiled(folder: Path) -> Iterator[dict[str, str]]:
    """The program ``count_syscalls``, named by its id, where its machine code is the page's."""
    if platform.machine() != "x86_64" or shutil.which("objdump") is None:
        pytest.skip("the page shows the machine code of x86-64 as objdump has it")
    with loaded("minimal", target_tgid=0) as obj:
        yield {"count_syscalls": str(obj.programs["count_syscalls"].info().id)}


@contextlib.contextmanager
def maps(folder: Path) -> Iterator[dict[str, str]]:
    """Maps ``counts`` and ``flows``, named by their ids: other processes may have such maps."""
    with loaded("minimal", target_tgid=0) as counts, loaded("maps") as flows:
        counts.maps["counts"][0] = 7
        yield {
            "counts": str(counts.maps["counts"].info().id),
            "flows": str(flows.maps["flows"].info().id),
        }


@contextlib.contextmanager
def variables(folder: Path) -> Iterator[dict[str, str]]:
    """Sections of variables, named by their ids."""
    with loaded("execsnoop") as obj:
        names = ("execsnoo.bss", "execsnoo.rodata")
        yield {name: str(obj.maps[name].info().id) for name in names}


@contextlib.contextmanager
def in_a_group(folder: Path) -> Iterator[dict[str, str]]:
    """A program of a control group of its own, in which no process is."""
    mounted = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    root = next((words[1] for words in mounted if words[2] == "cgroup2"), None)
    if root is None:
        pytest.skip("cgroup2 is not mounted")
    group = Path(root, f"pybpfload-page-{os.getpid()}")
    group.mkdir()
    try:
        spec = pybpfload.open(ROOT / "fixtures" / NATIVE / "network.bpf.o")
        spec.programs["on_cgroup_ingress"].autoload = True
        with spec.load() as obj:
            obj.programs["on_cgroup_ingress"].attach(group)
            yield {"/sys/fs/cgroup/system.slice": str(group)}
    finally:
        group.rmdir()


@contextlib.contextmanager
def summing(folder: Path) -> Iterator[dict[str, str]]:
    with loaded("test_run") as obj:
        yield {"sum_bytes": str(obj.programs["sum_bytes"].info().id)}


@contextlib.contextmanager
def refused(folder: Path) -> Iterator[dict[str, str]]:
    """What a loader printed, with the verifier's log, is in ``refused.txt``."""
    words = ["run", "-v", "--program", "null_check", "verifier_causes.bpf.o"]
    provide_objects(words, folder, NATIVE)
    (folder / "refused.txt").write_text(printed(words))
    yield {}


@contextlib.contextmanager
def itself(folder: Path) -> Iterator[dict[str, str]]:
    """This process is the page's shell."""
    yield {"bash": OWN_NAME}


@contextlib.contextmanager
def without_trampolines(folder: Path) -> Iterator[dict[str, str]]:
    """The page shows a kernel that refuses trampolines by policy."""
    try:
        with loaded("unlink"):
            pytest.skip("this kernel has trampolines: nothing is refused")
    except pybpfload.NotPermittedError:
        yield {}


PREPARED: dict[str, Callable[[Path], contextlib.AbstractContextManager[dict[str, str]]]] = {
    "prog list": counting,
    "prog dump": compiled,
    "link list": counting,
    "top": counting,
    "map get counts": maps,
    "map get execsnoo.bss": variables,
    "cgroup tree": in_a_group,
    "test-run sum_bytes": summing,
    "log refused.txt": refused,
    "iter run": itself,
    "run unlink.bpf.o": without_trampolines,
}

ASKING = transcripts.transcripts(asking_a_kernel=True)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def patience():
    """No command may run for ever."""

    def over(number: int, frame: object) -> None:
        raise AssertionError("the command did not end within a minute")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def provide_btf(words: list[str], folder: Path, kernel_btfs: Any) -> None:
    for word in words:
        if word == "vmlinux":
            (folder / word).symlink_to("/sys/kernel/btf/vmlinux")
        elif word.endswith(".btf"):
            (folder / word).write_bytes(kernel_btfs[word.removesuffix(".btf")].to_bytes())


@pytest.mark.parametrize("transcript", ASKING, ids=str)
def test_transcript(transcript, folder, kernel_btfs):
    first = transcript.commands[0].line
    prepare = next(
        (PREPARED[start] for start in PREPARED if first.startswith(start)),
        lambda folder: contextlib.nullcontext({}),
    )
    with prepare(folder) as names:
        for command in transcript.commands:
            words = expand([names.get(word, word) for word in command.words])
            provide_objects(words, folder, NATIVE)
            provide_btf(words, folder, kernel_btfs)
            if "^C" in command.expected:
                got = until_interrupted(words)
            elif command.before:
                got = started_by(command.before, words)
            else:
                got = printed(words)
            check(command.expected.replace("^C", ""), got, exact=False, renamed=names)


def started_by(before: list[str], words: list[str]) -> str:
    """Run a command by way of another one."""
    if shutil.which(before[0]) is None:
        pytest.skip(f"{before[0]} is not installed")
    command = [*before, sys.executable, "-m", "pybpfload", *words]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.stdout


def until_interrupted(words: list[str]) -> str:
    """Run ``pybpfload run``, with something to see for it, until Ctrl-C."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "pybpfload", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        try:
            lines = [process.stdout.readline()]
            assert " attached, until " in lines[0], lines[0] + process.stdout.read()
            subprocess.run(["/bin/echo", "hi"], stdout=subprocess.DEVNULL, check=True)
            lines += [process.stdout.readline(), process.stdout.readline()]
            process.send_signal(signal.SIGINT)
            return "".join(lines) + process.stdout.read()
        finally:
            process.kill()


def test_every_preparation_is_for_a_transcript():
    for start in PREPARED:
        assert any(each.commands[0].line.startswith(start) for each in ASKING), start


def test_this_process_is_not_a_shell():
    assert str(os.getpid()) in expand(["$$"])
