"""Virtual machines: boot a kernel under QEMU, run one command there, and tell how it ended.

Every run boots a fresh machine from memory: no disk, no network, nothing left over. The guest finds

* the checkout and the Python packages at the same paths as on this machine, so that tracebacks make
  sense on both;
* `python3` (and `python`), busybox's programs, `ip`, `tc`, `bpftool` and `strace` in its `PATH`;
* all file systems mounted that BPF programs and their tests use (see init.sh);
* a folder `/tmp/results`: what the command leaves there comes back.

QEMU emulates the processor ("tcg"): it works without any privilege on any machine, at about an
eighth of its speed. What a guest writes comes back through virtio ports, the kernel's console
separately.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import secrets
import selectors
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pybpfload.testing.vm import kernels, payload, userland
from pybpfload.testing.vm.apt import foreign_command
from pybpfload.testing.vm.cache import VirtualMachineError
from pybpfload.testing.vm.cpio import CpioWriter
from pybpfload.testing.vm.modules import modules_archive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

TIMED_OUT = 124
"""Exit status that stands for a command that did not end in time, as with timeout(1)."""

DIED = 125
"""Exit status that stands for a guest that ended before its command: a panic or an oops."""

_STREAMS = ("stdout", "stderr", "events", "results")
_PORTS = (*_STREAMS, "status")
_GRACE = 10.0  # seconds without more output after the command's exit status has come
_CONSOLE_TROUBLE = re.compile(
    r"Kernel panic|\bOops\b|\bBUG: |WARNING: CPU|general protection fault|double fault|"
    r"Unable to handle kernel|rcu.*self-detected stall|soft lockup|invoked oom-killer"
)


@dataclasses.dataclass(frozen=True)
class _Architecture:
    """How QEMU plays a machine of an architecture.

    Attributes:
        qemu: The end of the program's name.
        machine: QEMU arguments for the machine itself.
        console: The name of its console for the kernel's command line.
        console_device: QEMU arguments that join the console to the chardev `console`.
        bus: The bus by which virtio devices are reached.
    """

    qemu: str
    machine: tuple[str, ...]
    console: str
    console_device: tuple[str, ...] = ("-serial", "chardev:console")
    bus: str = "pci"


_ARCHITECTURES = {
    "amd64": _Architecture("x86_64", ("-machine", "q35", "-cpu", "max,-erms,-fsrm"), "ttyS0"),
    # Faster than `max` under emulation: no pointer authentication to compute.
    "arm64": _Architecture("aarch64", ("-machine", "virt", "-cpu", "cortex-a57"), "ttyAMA0"),
    "s390x": _Architecture(
        "s390x",
        ("-machine", "s390-ccw-virtio", "-cpu", "max"),
        "ttysclp0",
        ("-device", "sclpconsole,chardev=console"),
        "ccw",
    ),
}


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run in a virtual machine ended.

    Attributes:
        kernel: Name of the kernel.
        release: Its `uname -r`.
        outcome: `"exited"`: the command ended and `status` is its exit status. `"timeout"`: it did
            not end in time. `"died"`: the guest ended or broke before the command did.
        status: The command's exit status; `None` if it has none.
        stdout: What the command wrote to its standard output.
        stderr: What it wrote to its standard error.
        events: The lines written to the pipe that `PYBPFLOAD_VM_EVENTS` names in the guest.
        console: What the kernel wrote to its console: warnings and worse.
        boot_seconds: From starting QEMU to the command's start; `None` if it never started.
        seconds: From starting QEMU to the end.
    """

    kernel: str
    release: str
    outcome: str
    status: int | None
    stdout: bytes
    stderr: bytes
    events: tuple[str, ...]
    console: str
    boot_seconds: float | None
    seconds: float

    @property
    def exit_status(self) -> int:
        """The command's exit status, or 124 for a time-out, 125 for a guest that died."""
        if self.outcome == "exited" and self.status is not None:
            return self.status
        return TIMED_OUT if self.outcome == "timeout" else DIED

    @property
    def trouble(self) -> list[str]:
        """Lines of the console with warnings, oopses and panics of the kernel."""
        return [line for line in self.console.splitlines() if _CONSOLE_TROUBLE.search(line)]

    def explain(self, lines: int = 40) -> str:
        """Why there is no exit status, with the console's last lines; empty if there is one."""
        if self.outcome == "exited":
            return ""
        if self.outcome == "timeout":
            why = f"no end after {self.seconds:.0f} s"
        elif self.trouble:
            why = f"the guest died: {self.trouble[0].strip()}"
        else:
            why = "the guest ended before its command"
        if self.boot_seconds is None:
            why += " (before the command started)"
        tail = "\n".join(f"  | {line}" for line in self.console.splitlines()[-lines:])
        return f"{self.kernel} ({self.release}): {why}\n{tail}".rstrip("\n")


class VirtualMachine:
    """A machine with a given kernel, which can be booted any number of times.

    Making one fetches what it needs (the kernel, QEMU, the guest's userland) unless it is in the
    cache.

    Args:
        kernel: Name of a kernel in `KERNELS`.
        cpus: How many processors it has. Two show what is kept per processor.
        memory: Its memory in MiB; 512 is enough for most.
        parameters: More words for the kernel's command line.
        accelerator: QEMU's `-accel`: `"kvm"` where that works, for a kernel of this machine's
            architecture.

    Raises:
        VirtualMachineError: Something that it needs cannot be had.
    """

    def __init__(
        self,
        kernel: str,
        *,
        cpus: int = 2,
        memory: int = 1024,
        parameters: Sequence[str] = (),
        accelerator: str = "tcg",
    ) -> None:
        if not kernels.find(kernel).bootable:
            raise VirtualMachineError(f"kernel {kernel} cannot be booted: only its BTF is of use")
        self.kernel = kernels.fetch(kernel)
        self.cpus = cpus
        self.memory = memory
        self.parameters = tuple(parameters)
        self.accelerator = accelerator
        self._parts = (
            userland.root_archive(self.kernel.architecture),
            modules_archive(self.kernel),
        )
        self._tools = userland.tools()

    def run(
        self,
        command: Sequence[str],
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        packages: Iterable[str] = payload.PACKAGES,
        output: Path | None = None,
        timeout: float = 600,
        on_stdout: Callable[[bytes], object] | None = None,
        on_stderr: Callable[[bytes], object] | None = None,
        on_event: Callable[[str], object] | None = None,
    ) -> Result:
        """Boot the machine, run a command in it as root, and end the machine.

        Args:
            command: The program and its arguments, as for `subprocess.run`.
            folder: The working directory, by default this process's. The git checkout that it is
                in, or it itself if it is in none, is brought into the guest and is first in
                `PYTHONPATH`.
            environment: Variables for the command, besides those of the guest.
            packages: Names of Python distributions, installed here, that the guest gets with all
                they require, as far as they are pure Python.
            output: A folder, made if missing, for the files that the command leaves in
                `/tmp/results`.
            timeout: Seconds for everything, booting included.
            on_stdout: Called with pieces of the standard output as they come.
            on_stderr: Called with pieces of the standard error as they come.
            on_event: Called with each line written to the pipe that `PYBPFLOAD_VM_EVENTS` names.

        Returns:
            How it ended. A command that fails, a panic and a time-out are results, not exceptions.

        Raises:
            VirtualMachineError: QEMU could not be started, or the payload could not be made.
        """
        folder = Path.cwd() if folder is None else folder.absolute()
        end = b"\0pybpfload:" + secrets.token_hex(16).encode() + b"\0"
        # The initrd is a file without a name: nothing is left over however this process ends.
        with tempfile.TemporaryFile(prefix="pybpfload-initrd-") as initrd:
            for part in self._parts:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, initrd, 1 << 20)
            with CpioWriter(initrd) as cpio:
                _add_payload(cpio, command, folder, environment or {}, packages, end)
            initrd.flush()
            conversation = _Conversation(
                end, {"stdout": on_stdout, "stderr": on_stderr, "events": _lines(on_event)}
            )
            with self._booted(initrd.fileno()) as (process, ends):
                outcome = conversation.hold(process, ends, timeout)
        if output is not None:
            _extract(conversation.received["results"], output)
        return conversation.result(self.kernel, outcome)

    @contextlib.contextmanager
    def _booted(
        self, initrd: int
    ) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, socket.socket]]]:
        """QEMU running, with this machine's ends of its ports; killed on leaving."""
        with contextlib.ExitStack() as stack:
            ours: dict[str, socket.socket] = {}
            theirs: dict[str, socket.socket] = {}
            for name in (*_PORTS, "console"):
                near, far = socket.socketpair()
                ours[name] = stack.enter_context(near)
                theirs[name] = stack.enter_context(far)
            numbers = {name: end.fileno() for name, end in theirs.items()}
            log = stack.enter_context(tempfile.TemporaryFile())
            try:
                process = subprocess.Popen(
                    self._command(initrd, numbers),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(initrd, *numbers.values()),
                    env={**os.environ, "QEMU_MODULE_DIR": self._modules_folder()},
                    start_new_session=True,  # Ctrl-C reaches this process, which then ends QEMU
                )
            except OSError as error:
                raise VirtualMachineError(f"QEMU does not start: {error}") from None
            try:
                for end in theirs.values():
                    end.close()
                yield process, ours
                if process.poll() not in (None, 0):
                    log.seek(0)
                    raise VirtualMachineError(f"QEMU failed: {log.read().decode(errors='replace')}")
            finally:
                process.kill()
                process.wait()

    def _modules_folder(self) -> str:
        """Where QEMU's loadable modules are."""
        return next((str(path) for path in self._tools.glob("usr/lib/*/qemu")), "")

    def _command(self, initrd: int, ports: Mapping[str, int]) -> list[str]:
        """QEMU's command line."""
        arch = _ARCHITECTURES[self.kernel.architecture]
        words = [
            f"console={arch.console}",
            "loglevel=5",  # warnings and worse: they come out in the result
            "panic=-1",  # at a panic, reboot at once; with -no-reboot QEMU ends then
            "oops=panic",
            "mitigations=off",
            "init_on_alloc=0",  # less to emulate
            *self.kernel.parameters,
            *self.parameters,
        ]
        firmware = self._tools / "usr/share"
        command = [
            # Util-linux's: QEMU is killed when this process, or its thread, ends in whatever way.
            *("setpriv", "--pdeathsig", "KILL"),
            *foreign_command(self._tools, f"usr/bin/qemu-system-{arch.qemu}"),
            *("-L", str(firmware / "qemu"), "-L", str(firmware / "seabios")),
            *arch.machine,
            *("-accel", self.accelerator, "-smp", str(self.cpus), "-m", f"{self.memory}M"),
            *("-nodefaults", "-display", "none", "-no-reboot"),
            *(
                "-kernel",
                str(self.kernel.image),
                "-initrd",
                f"/dev/fd/{initrd}",
                "-append",
                " ".join(words),
            ),
            *("-chardev", f"socket,id=console,fd={ports['console']}", *arch.console_device),
            *("-device", f"virtio-serial-{arch.bus},max_ports={len(_PORTS) + 1}"),
        ]
        for name in _PORTS:
            command += ["-chardev", f"socket,id={name},fd={ports[name]}"]
            command += ["-device", f"virtserialport,chardev={name},name={name}"]
        return command


def run(
    kernel: str,
    command: Sequence[str],
    *,
    cpus: int = 2,
    memory: int = 1024,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    output: Path | None = None,
    timeout: float = 600,
) -> Result:
    """Run one command under a kernel: `VirtualMachine(kernel).run(command)` in one step.

    Arguments, result and exceptions are those of `VirtualMachine` and its `run`.
    """
    machine = VirtualMachine(kernel, cpus=cpus, memory=memory)
    return machine.run(
        command, folder=folder, environment=environment, output=output, timeout=timeout
    )


class _Conversation:
    """What comes from a guest's ports, until it has said all.

    Args:
        end: What marks the end of a port's data.
        listeners: By port, who is told of data as it comes.
    """

    def __init__(
        self, end: bytes, listeners: Mapping[str, Callable[[bytes], object] | None]
    ) -> None:
        self._end = end
        self._listeners = listeners
        self._told = dict.fromkeys(_PORTS, 0)
        self._open = set(_STREAMS)
        self._start = time.monotonic()
        self.received = {name: bytearray() for name in (*_PORTS, "console")}
        self.boot_seconds: float | None = None
        self.status: int | None = None

    def hold(
        self,
        process: subprocess.Popen[bytes],
        ends: Mapping[str, socket.socket],
        timeout: float,
    ) -> str:
        """Listen until all is said, the guest is gone or time is over; returns the outcome."""
        deadline = self._start + timeout
        with selectors.DefaultSelector() as selector:
            for name, end in ends.items():
                end.setblocking(False)
                selector.register(end, selectors.EVENT_READ, name)
            while selector.get_map():
                if self.status is not None and not self._open:
                    return "exited"
                left = deadline - time.monotonic()
                if left <= 0:
                    return "timeout" if self.status is None else "exited"
                for key, _ in selector.select(left):
                    data = _receive(key.fileobj)
                    if data:
                        self._take(key.data, data)
                    else:
                        selector.unregister(key.fileobj)
                if self.status is not None:
                    deadline = time.monotonic() + _GRACE
        process.wait()
        return "died" if self.status is None else "exited"

    def result(self, kernel: kernels.Kernel, outcome: str) -> Result:
        """What is known at the end."""
        return Result(
            kernel=kernel.name,
            release=kernel.release,
            outcome=outcome,
            status=self.status,
            stdout=bytes(self.received["stdout"]),
            stderr=bytes(self.received["stderr"]),
            events=tuple(self.received["events"].decode(errors="replace").splitlines()),
            console=self.received["console"].decode(errors="replace").replace("\r", ""),
            boot_seconds=self.boot_seconds,
            seconds=time.monotonic() - self._start,
        )

    def _take(self, port: str, data: bytes) -> None:
        if port in _STREAMS and port not in self._open:
            return  # from a process that the command left behind
        buffer = self.received[port]
        buffer += data
        if port == "status":
            self._take_status(buffer)
        if port not in _STREAMS:
            return
        # What was not yet told begins with what may have been the beginning of the end.
        stop = buffer.find(self._end, self._told[port])
        if stop >= 0:
            self._open.discard(port)
            del buffer[stop:]
        else:
            stop = len(buffer)
            for size in range(min(len(self._end) - 1, stop - self._told[port]), 0, -1):
                if buffer.endswith(self._end[:size]):
                    stop -= size
                    break
        if (listener := self._listeners.get(port)) and stop > self._told[port]:
            listener(bytes(buffer[self._told[port] : stop]))
        self._told[port] = stop

    def _take_status(self, buffer: bytearray) -> None:
        lines = bytes(buffer).split(b"\n")[:-1]
        if lines and self.boot_seconds is None:
            self.boot_seconds = time.monotonic() - self._start
        if len(lines) > 1:
            self.status = int(lines[1])


def _add_payload(
    cpio: CpioWriter,
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    packages: Iterable[str],
    end: bytes,
) -> None:
    checkout = payload.checkout_of(folder)
    payload.add_checkout(cpio, checkout)
    cpio.folder(folder)
    path = [checkout]
    site_packages = payload.site_packages(checkout)
    for place, files in payload.package_files(site_packages, packages).items():
        payload.add_files(cpio, place, files)
        path.append(place)
    # Plugins of pytest are loaded by name where they are wanted. Found by themselves, each would
    # have its whole distribution compiled again for pytest's assertions, which takes the guest half
    # a minute.
    variables = {
        "PYTHONPATH": ":".join(map(str, path)),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        **environment,
    }
    init = Path(__file__).with_name("init.sh")
    cpio.file("/init", init.read_bytes(), mode=0o755)
    cpio.file("/etc/pybpfload/command", payload.command_script(command, folder, variables))
    cpio.file("/etc/pybpfload/end", end)


def _receive(end: object) -> bytes:
    """What is there to read; nothing if the other side is gone."""
    assert isinstance(end, socket.socket)
    try:
        return end.recv(1 << 16)
    except ConnectionError:
        return b""


def _lines(listener: Callable[[str], object] | None) -> Callable[[bytes], object] | None:
    """A listener for bytes that tells another one of whole lines."""
    if listener is None:
        return None
    pending = bytearray()

    def take(data: bytes) -> None:
        pending.extend(data)
        *lines, rest = bytes(pending).split(b"\n")
        pending[:] = rest
        for line in lines:
            listener(line.decode(errors="replace"))

    return take


def _extract(archive: bytearray, folder: Path) -> None:
    """Unpack what was in `/tmp/results`: only files and folders, and only below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if not archive:
        return
    top = folder.resolve()
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                place = (top / member.name).resolve()
                if not place.is_relative_to(top):
                    continue
                if member.isdir():
                    place.mkdir(parents=True, exist_ok=True)
                elif member.isreg() and (content := tar.extractfile(member)) is not None:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(content.read())
    except tarfile.TarError as error:
        raise VirtualMachineError(
            f"the files from the guest did not arrive whole: {error}"
        ) from None
