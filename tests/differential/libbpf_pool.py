"""Running workers that compare: where libbpf and BTF of kernels come from, and who gets what.

libbpf is Debian's newest package, fetched through the machine's own apt into the cache folder and
never installed. Workers (:mod:`libbpf_worker`) run on the C library that comes with it, so that it
works on older systems too. They need no privilege: the kernel that they ask is scripted.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libbpf_compare import Result

from pybpfload.elf.image import btf_from_image
from pybpfload.kernel.since import version_pair
from pybpfload.testing.vm import kernels
from pybpfload.testing.vm.apt import Apt, foreign_command, host_architecture
from pybpfload.testing.vm.cache import VirtualMachineError, build, cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("libbpf_worker.py")
PATIENCE = 300.0
"""Seconds that a worker may take for one object, before it is ended."""


def libbpf_folder(*, fetch: bool = False) -> Path | None:
    """Folder of the unpacked libbpf and all that it needs.

    ``PYBPFLOAD_LIBBPF`` names another, such as the newer one of ``tools/corpus build libbpf``.

    Args:
        fetch: Get it if it isn't there.

    Returns:
        ``None`` when it isn't there and was not to be fetched.

    Raises:
        VirtualMachineError: It cannot be fetched.
    """
    if chosen := os.environ.get("PYBPFLOAD_LIBBPF"):
        return Path(chosen)
    folder = cache_folder() / "libbpf" / "sid"
    if folder.exists() or not fetch:
        return folder if folder.exists() else None
    apt = Apt("sid", host_architecture())
    return build(folder, lambda fresh: apt.unpack(["libbpf1"], fresh, dependencies=True))


def why_not() -> str | None:
    """Why nothing can be compared here, or ``None`` when it can; libbpf is fetched if need be.

    ``PYBPFLOAD_FETCH=0`` keeps it from fetching.
    """
    try:
        folder = libbpf_folder(fetch=os.environ.get("PYBPFLOAD_FETCH") != "0")
    except VirtualMachineError as error:
        return f"libbpf cannot be fetched: {error}"
    return None if folder is not None else "libbpf is not in the cache, and PYBPFLOAD_FETCH is 0"


# Settings


@dataclass(frozen=True)
class Setting:
    """What both loaders find: a kernel, as far as they can see one.

    Attributes:
        name: For people.
        btf: File with the kernel's BTF, raw or ELF; ``None`` for a kernel without.
        modules: Files with BTF of loaded modules, by name.
        age: A version of Linux: the kernel refuses what came later, as
            :meth:`pybpfload.testing.fakekernel.FakeKernel.like` says. ``None`` takes everything.
        custom: File with BTF that the loaders are told to relocate against instead.
    """

    name: str
    btf: Path | None
    modules: tuple[tuple[str, Path], ...] = ()
    age: str | None = None
    custom: Path | None = None

    @classmethod
    def old(cls, name: str, btf: Path, age: str) -> Setting:
        """A kernel of a certain age. Before 5.4, which has BTF of its own, loaders are given it."""
        if version_pair(age) < (5, 4):
            return cls(f"{name} on {age}", None, age=age, custom=btf)
        return cls(f"{name} on {age}", btf, age=age)

    def to_json(self) -> str:
        """As a worker wants it."""
        told = {**vars(self), "modules": dict(self.modules)}
        return json.dumps(told, default=str)


def kernel_btf(name: str, *, fetch: bool = False) -> Path | None:
    """File with the BTF of a kernel of tools/kernels, taken out of its image once.

    Returns:
        ``None`` when the kernel isn't in the cache and ``fetch`` does not ask for it.
    """
    if not fetch and not kernels.find(name).fetched:
        return None
    kernel = kernels.fetch(name)
    return _extracted(name, kernel, "", kernel.image)


def module_btf(name: str, module: str, *, fetch: bool = False) -> Path | None:
    """File with the BTF of a module of a kernel of tools/kernels; else as :func:`kernel_btf`.

    Raises:
        FileNotFoundError: The kernel has no such module.
    """
    if not fetch and not kernels.find(name).fetched:
        return None
    kernel = kernels.fetch(name)
    found = next(kernel.modules.rglob(f"{module}.ko*"), None)
    if found is None:
        raise FileNotFoundError(f"kernel {name} has no module {module}")
    return _extracted(name, kernel, f"-{module}", found)


def _extracted(name: str, kernel: kernels.Kernel, suffix: str, image: Path) -> Path:
    label = (kernel.folder / "package").read_text().strip().replace(" ", "_")

    def extract(fresh: Path) -> None:
        fresh.write_bytes(btf_from_image(image.read_bytes(), name))

    return build(cache_folder() / "libbpf" / f"{name}-{label}{suffix}.btf", extract)


def objects_below(paths: Iterable[Path]) -> list[Path]:
    """Object files: those given, and all ``*.o`` in folders, at any depth."""
    found: list[Path] = []
    for path in paths:
        found += sorted(path.rglob("*.o")) if path.is_dir() else [path]
    return found


# Workers


class Worker:
    """A process that compares in one setting; it is started anew when libbpf crashed in it.

    A context manager.
    """

    def __init__(self, setting: Setting, patience: float = PATIENCE) -> None:
        self.setting = setting
        self._patience = patience
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def compare(self, path: Path) -> Result:
        """Compare one object. A worker that crashes or takes too long is reported in the result."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Timer(self._patience, process.kill)
        late.start()
        at = "the worker"
        try:
            process.stdin.write(f"{path.resolve()}\n")
            process.stdin.flush()
            for line in process.stdout:
                told = json.loads(line)
                if "differences" in told:
                    told["counts"] = Counter(told["counts"])
                    return Result(**told)
                at = told["at"]
        except BrokenPipeError:
            pass
        finally:
            late.cancel()
        status = process.wait()
        how = f"{at} ended by {signal.Signals(-status).name}" if status < 0 else f"{at} ended"
        if status == -signal.SIGKILL:
            how = f"{at} took more than {self._patience:.0f} s"
        self._end()
        return Result(f"{path.parent.name}/{path.name}", self.setting.name, crashed=how)

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._process is None:
            folder = libbpf_folder()
            assert folder is not None, "call why_not() first"
            # sys.path is handed over, as a foreign loader leaves no trace of the environment.
            self._process = subprocess.Popen(
                [*foreign_command(folder, sys.executable), str(WORKER), self.setting.to_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None


def compare_all(
    tasks: Sequence[tuple[Setting, Path]], *, jobs: int, patience: float = PATIENCE
) -> Iterator[Result]:
    """Compare objects in settings, several at a time; results come as they are ready.

    Args:
        tasks: What to compare; those of the same setting had better be together.
        jobs: How many workers there are at a time.
        patience: Seconds for each object.
    """
    waiting: queue.SimpleQueue[tuple[Setting, Path]] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    ready: queue.SimpleQueue[Result | BaseException] = queue.SimpleQueue()

    def work() -> None:
        worker: Worker | None = None
        try:
            while True:
                setting, path = waiting.get_nowait()
                if worker is None or worker.setting != setting:
                    if worker is not None:
                        worker.__exit__()
                    worker = Worker(setting, patience)
                ready.put(worker.compare(path))
        except queue.Empty:
            pass
        except BaseException as error:  # told to the caller
            ready.put(error)
        finally:
            if worker is not None:
                worker.__exit__()

    for _ in range(min(jobs, len(tasks))):
        threading.Thread(target=work, daemon=True).start()
    for _ in tasks:
        result = ready.get()
        if isinstance(result, BaseException):
            raise result
        yield result


@dataclass
class Totals:
    """Sums over results."""

    comparisons: int = 0
    different: int = 0
    known: int = 0
    crashed: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)

    def add(self, result: Result) -> None:
        """Count one more."""
        self.comparisons += 1
        self.different += bool(result.differences)
        self.known += bool(result.known)
        self.crashed += bool(result.crashed)
        self.counts.update(result.counts)
        self.refusals.update(result.refusals)
        for who, seconds in result.seconds.items():
            self.seconds[who] += seconds  # type: ignore[assignment]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**vars(self), **{k: dict(v) for k, v in vars(self).items() if hasattr(v, "keys")}}
