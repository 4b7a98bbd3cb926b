"""The tracers of examples/, run as people run them: each names what this test makes happen."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from children import drop_capabilities, in_child

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRIED = ("5.10.", "6.12.")
pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(
        "PYBPFLOAD_VM_EVENTS" in os.environ
        and not (os.uname().machine == "x86_64" and os.uname().release.startswith(_TRIED)),
        reason="in virtual machines the tracers are tried on 5.10 and 6.12 on x86-64",
    ),
]

EXAMPLES = Path(__file__).parents[2] / "examples"
TRACERS = sorted(path.name.split(".")[0] for path in (EXAMPLES / "bpf").glob("*.bpf.c"))
# execsnoop, whose object is among the fixtures, is tested by tests/live/test_examples.py.
LOOP_SET_FD, LOOP_CLR_FD, LOOP_CTL_GET_FREE = 0x4C00, 0x4C01, 0x4C82


class Tracer:
    """An example that runs and is attached.

    Attributes:
        output: What it has printed so far; all after :meth:`stop`.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.output = ""

    def _read(self, pipe: int) -> str:
        assert select.select([pipe], [], [], 30)[0], f"no more is said after {self.output!r}"
        return os.read(pipe, 65536).decode()

    def wait_ready(self) -> None:
        """Streams print their title when they are attached, others say so on stderr."""
        out, err = self._process.stdout.fileno(), self._process.stderr.fileno()
        ready, _, _ = select.select([out, err], [], [], 60)
        if err in ready:
            said = self._process.stderr.readline()
            assert said.endswith(b"; Ctrl-C shows the result.\n"), said
        else:
            self.output += self._read(out)

    def expect(self, pattern: str) -> re.Match[str]:
        """Read until a line matches."""
        while not (found := re.search(pattern, self.output, re.MULTILINE)):
            more = self._read(self._process.stdout.fileno())
            assert more, f"the example ended without {pattern!r}: {self.output}"
            self.output += more
        return found

    def stop(self) -> str:
        """Ctrl-C: it ends cleanly; returns all that it printed."""
        self._process.send_signal(signal.SIGINT)
        rest, complaints = self._process.communicate(timeout=60)
        assert (self._process.returncode, complaints) == (0, b"")
        self.output += rest.decode()
        return self.output


@contextlib.contextmanager
def start(name: str, *arguments: object) -> Iterator[Tracer]:
    """Run an example until it is attached; what fails here must not wait for it."""
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            tracer = Tracer(process)
            tracer.wait_ready()
            yield tracer
        finally:
            process.kill()


def run_here(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run an example in this process, for what ends before anything is attached."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


@pytest.fixture
def syscall_tracepoints(tracefs) -> None:
    if not Path(tracefs, "events/syscalls/sys_enter_openat").exists():
        pytest.skip("this kernel has no tracepoints of system calls")


def test_opensnoop_shows_what_is_opened_and_what_is_not_there(syscall_tracepoints, tmp_path):
    missing = tmp_path / "missing"
    with start("opensnoop", "-p", os.getpid()) as tracer:
        with open(__file__, "rb") as file:
            opened_as = file.fileno()
        with pytest.raises(FileNotFoundError):
            os.open(missing, os.O_RDONLY)
        tracer.expect(rf"ENOENT +{missing}$")
        output = tracer.stop()
    assert re.search(rf"^ *{os.getpid()} +\S.* {opened_as} +{__file__}$", output, re.MULTILINE)
    pids = {line.split()[0] for line in output.splitlines()[1:]}
    assert pids == {str(os.getpid())}


def test_tcplife_shows_connections_of_loopback(netns):
    with start("tcplife", "-p", os.getpid()) as tracer:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port)) as client:
                own = client.getsockname()[1]
                accepted, _ = server.accept()
                with accepted:
                    client.sendall(bytes(1000))
                    assert accepted.recv(1000, socket.MSG_WAITALL) == bytes(1000)
                    accepted.sendall(bytes(30))
                    assert client.recv(30, socket.MSG_WAITALL) == bytes(30)
                    client.shutdown(socket.SHUT_WR)
                    assert accepted.recv(1) == b""
        there = rf"127\.0\.0\.1:{own} > 127\.0\.0\.1:{port}"
        back = rf"127\.0\.0\.1:{port} > 127\.0\.0\.1:{own}"
        who = rf" +{os.getpid()} +\S.* "
        tracer.expect(rf"^connect{who}{there} +[\d.]+ ms$")
        sent, received = tracer.expect(rf"^close{who}{there} +[\d.]+ ms +(\d+) +(\d+)$").groups()
        assert (int(sent) - 1000 in (0, 1, 2), int(received) - 30 in (0, 1)) == (True, True)
        tracer.expect(rf"^close{who}{back} ")
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
            port = server.getsockname()[1]
            socket.create_connection(("::1", port)).close()
        tracer.expect(rf"^connect{who}\[::1\]:\d+ > \[::1\]:{port} ")
        tracer.stop()


def test_runqlat_counts_wakeups():
    with start("runqlat", "-p", os.getpid()) as tracer:
        for _ in range(20):
            time.sleep(0.02)
        output = tracer.stop()
    assert output.startswith("wait for a CPU\n")
    # A machine that stands still for so long lets a time pass without a sleep.
    assert sum(int(count) for count in re.findall(r"-> \d+ +: (\d+) ", output)) >= 15


def test_offcputime_shows_where_a_process_sleeps(tmp_path):
    graph = tmp_path / "waits.svg"
    with start("offcputime", "-p", os.getpid(), "-o", graph) as tracer:
        for _ in range(10):
            time.sleep(0.03)
        output = tracer.stop()
    stacks = [line.rpartition(" ") for line in output.splitlines()]
    asleep = sum(int(time_us) for stack, _, time_us in stacks if "nanosleep" in stack)
    assert 300_000 <= asleep < 10_000_000
    assert "schedule" in output
    assert graph.read_text("utf-8").startswith("<?xml")
    assert "nanosleep" in graph.read_text("utf-8")


def test_syscount_counts_by_name():
    with start("syscount", "-p", os.getpid()) as tracer:
        for _ in range(200):
            os.getpgid(0)
        output = tracer.stop()
    # Where the kernel hides its table of system calls, numbers stand for names.
    has_names = " sys_call_table\n" in Path("/proc/kallsyms").read_text("utf-8")
    name = "getpgid" if has_names else r"number \d+"
    counts = [int(n) for n in re.findall(rf"^{name} +(\d+) +[\d.]+ ms$", output, re.MULTILINE)]
    assert 200 in counts, output


def test_filelife_shows_a_file_of_a_moment(trampolines, tmp_path):
    with start("filelife", "-p", os.getpid()) as tracer:
        path = tmp_path / "of-a-moment"
        path.write_bytes(b"")
        time.sleep(0.05)
        path.unlink()
        age = tracer.expect(rf"^ *{os.getpid()} +\S.* ([\d.]+) s +of-a-moment$")[1]
        tracer.stop()
    assert 0.05 <= float(age) < 30


def test_killsnoop_shows_signals_of_one_process():
    with start("killsnoop", "-p", os.getpid(), "-s", "TERM") as tracer:
        child = subprocess.Popen(["sleep", "60"])
        child.terminate()
        child.wait()
        tracer.expect(rf"^ *{os.getpid()} +\S.* SIGTERM +{child.pid} +\S+ +delivered$")
        output = tracer.stop()
    assert "SIGCHLD" not in output


def test_killsnoop_refuses_a_name_that_is_none(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_here("killsnoop", monkeypatch, "-s", "NONE")
    assert capsys.readouterr().err.endswith("no signal is called NONE\n")


@pytest.fixture
def block_device(tmp_path) -> Iterator[str]:
    """A loop device of 64 MiB, its file in memory where the folder of tests is."""
    with contextlib.suppress(FileNotFoundError):
        subprocess.run(["modprobe", "loop"], capture_output=True, check=False)
    if not Path("/dev/loop-control").exists():
        pytest.skip("this kernel has no loop devices")
    with open("/dev/loop-control", "rb") as control:
        path = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
    with open(tmp_path / "disk", "w+b") as file, open(path, "r+b") as device:
        file.truncate(64 << 20)
        fcntl.ioctl(device, LOOP_SET_FD, file.fileno())
        try:
            yield path
        finally:
            fcntl.ioctl(device, LOOP_CLR_FD)


def test_biolatency_measures_requests_of_one_device(tracefs, block_device):
    with start("biolatency", "--device", block_device) as tracer:
        with open(block_device, "r+b", buffering=0) as device:
            for block in range(64):
                os.pwrite(device.fileno(), bytes(4096), block << 20)
            os.fsync(device.fileno())
        output = tracer.stop()
    assert output.startswith("block requests\n")
    assert sum(int(count) for count in re.findall(r"-> \d+ +: (\d+) ", output)) >= 64


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A control group whose processes have 16 MiB together."""
    root = Path("/sys/fs/cgroup")
    known = root / "cgroup.controllers"
    if not known.exists() or "memory" not in known.read_text().split():
        pytest.skip("the memory controller is not in the unified hierarchy here")
    group = root / "pybpfload-oomkill"
    controllers = root / "cgroup.subtree_control"
    was_on = "memory" in controllers.read_text().split()
    controllers.write_text("+memory")
    group.mkdir()
    try:
        (group / "memory.max").write_text(str(16 << 20))
        (group / "memory.oom.group").write_text("0")
        yield group
    finally:
        group.rmdir()
        if not was_on:
            controllers.write_text("-memory")


def test_oomkill_shows_the_victim(tracefs, small_cgroup):
    hungry = (
        f"open('{small_cgroup}/cgroup.procs', 'w').write('0')\n"
        "kept = [bytearray(1 << 20) for _ in range(64)]\n"
    )
    with start("oomkill") as tracer:
        child = subprocess.Popen([sys.executable, "-c", hungry])
        assert child.wait(60) == -signal.SIGKILL
        tracer.expect(rf"^ *{child.pid} +python\S* +{child.pid} +\S+ +(\d+ KiB|\?)$")
        tracer.stop()


@pytest.mark.parametrize("name", ["execsnoop", *TRACERS])
def test_help_says_how_to_run_it(name, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="0"):
        run_here(name, monkeypatch, "--help")
    assert f"sudo python examples/{name}.py" in capsys.readouterr().out


def test_without_privileges_it_says_so_in_one_line(monkeypatch):
    def unprivileged() -> None:
        drop_capabilities()
        run_here("killsnoop", monkeypatch)

    with pytest.raises(SystemExit, match=r"^killsnoop: .*CAP_") as stopped:
        in_child(unprivileged)
    assert "\n" not in stopped.value.code
