"""Gives objects to libbpf and to pybpfload in one process, and tells what differs.

This file is run as a program of its own (:mod:`libbpf_pool` does), on the C library of the packages
that libbpf came with. It is told the setting as JSON in its argument, reads one path a line, and
answers each with one line of JSON, the fields of :class:`libbpf_compare.Result`, after some that
say who is at work.

Both loaders ask scripted kernels (:mod:`libbpf_kernel`): the real one sees nothing of this. libbpf
remembers what it found out about the kernel as long as it lives, so a worker has one setting.
"""

from __future__ import annotations

import gzip
import json
import struct
import sys
import time
import traceback
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import libbpf_compare as compare
from libbpf_kernel import NATIVE, Recorder
from libbpf_library import Libbpf, LibbpfObject

from pybpfload.btf import Btf
from pybpfload.elf.image import btf_from_image, elf_section
from pybpfload.errors import BpfError
from pybpfload.kernel import btf as kernel_btf
from pybpfload.object import ObjectSpec, open_object
from pybpfload.relocate import Relocation, Target, match_struct_ops, relocate
from pybpfload.runtime.externs import resolve
from pybpfload.runtime.loader import _OLD_HELPERS as OLD_HELPERS
from pybpfload.runtime.loader import Loader
from pybpfload.runtime.object import Object
from pybpfload.runtime.struct_ops import StructOpsMap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.relocate import RelocatedProgram

_SETTINGS = {"bool": "y", "tristate": "m", "char": "y", "int": "3", "string": '"x"'}


class WatchedLoader(Loader):
    """The loader, telling how far it got."""

    stage = "prepare"

    def _load_program(self, program: RelocatedProgram, undo: Any) -> Any:
        self.stage = "load"
        return super()._load_program(program, undo)


class Worker:
    """Compares objects in one setting.

    Args:
        setting: The fields of :class:`libbpf_pool.Setting`.
    """

    def __init__(self, setting: dict[str, Any]) -> None:
        self.setting = setting
        self.libbpf = Libbpf()
        self.btf = _blob(setting["btf"]) if setting["btf"] else b""
        self.modules = {name: Path(path).read_bytes() for name, path in setting["modules"].items()}
        self.custom: str | None = setting["custom"]
        self.cache: dict[Any, Any] = {}
        self.taken: set[bytes] = set()
        self._temporary = TemporaryDirectory()  # removed with the worker
        self._folder = Path(self._temporary.name)
        self.seconds = {"pybpfload": 0.0, "libbpf": 0.0, "harness": 0.0}

    def compare(self, path: Path) -> compare.Result:
        """Give one object to both loaders.

        All programs are loaded together; then, where some are off by default, those that are on;
        and where all together are refused, each alone.
        """
        started = time.process_time(), self.libbpf.seconds
        self.seconds["pybpfload"] = 0.0
        result = compare.Result(f"{path.parent.name}/{path.name}", self.setting["name"])
        try:
            with self.measured():
                spec: ObjectSpec | None = open_object(path)
            problem = ""
        except BpfError as error:
            spec, problem = None, str(error)
        try:
            self._compare_opened(result, path, spec, problem)
        except Exception as error:  # whatever it is, it is to be told of
            where = traceback.extract_tb(error.__traceback__)[-1]
            result.say(f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})")
        result.seconds = {
            "pybpfload": self.seconds["pybpfload"],
            "libbpf": self.libbpf.seconds - started[1],
        }
        result.seconds["harness"] = time.process_time() - started[0] - sum(result.seconds.values())
        return result

    def libbpf_open(self, path: Path, kernel: Recorder) -> LibbpfObject:
        """Open a file with libbpf.

        Raises:
            OSError: It refuses.
        """
        _at("libbpf")
        return self.libbpf.open(str(path), kernel, self.custom)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Count the CPU time of what is inside as pybpfload's."""
        _at("pybpfload")
        before = time.process_time()
        try:
            yield
        finally:
            self.seconds["pybpfload"] += time.process_time() - before

    def _compare_opened(
        self, result: compare.Result, path: Path, spec: ObjectSpec | None, problem: str
    ) -> None:
        result.counts["runs"] += 1
        kernel = self.kernel(spec)
        if spec is not None and (legible := _legible(path, spec, self._folder)) != path:
            result.say("BTF: libbpf does not read a header of 32 bytes in the other byte order")
            path = legible
        try:
            opened = self.libbpf_open(path, kernel)
        except OSError as error:
            if spec is None:
                result.refuse("open", self.libbpf.last_words())
            else:
                result.say(f"open: libbpf refuses ({error}), pybpfload does not")
            return
        with opened:
            if spec is None:
                result.say(f"open: pybpfload refuses ({problem}), libbpf does not")
                return
            compare.compare_opened(result, opened, spec, self.libbpf.version)
        version = self.libbpf.version
        known = {
            at for at, each in enumerate(spec) if not compare.unknown_to(version, each.section)
        }
        chosen = {at for at, each in enumerate(spec) if each.autoload} & known
        verdict = self._compare_run(result, path, spec, known)
        selections = [chosen] if chosen not in (known, set()) else []
        if verdict != "loaded" and len(known) > 1:
            selections += [{at} for at in sorted(known)]
        for selection in selections:
            self._compare_run(result, path, spec, selection)

    def target(self) -> Target:
        """What to relocate against; asks the present kernel."""
        if self.custom is None:
            return Target(kernel_btf.vmlinux(), lambda: [m.btf for m in kernel_btf.modules()])
        if "custom" not in self.cache:
            blob = _blob(self.custom)
            self.cache["custom"] = Btf.from_bytes(blob, name="vmlinux", pointer_size=8)
        return Target(self.cache["custom"])

    def kernel(self, spec: ObjectSpec | None) -> Recorder:
        """A kernel that has all that an object asks for, but nothing that is weak.

        Variables and functions with types are those of its BTF.
        """
        settings, symbols = b"", b"ffffffff81000000 T __x64_sys_bpf\n"
        for at, extern in enumerate(spec.externs.values() if spec is not None else ()):
            if extern.weak:
                continue
            if extern.kind == "kconfig" and extern.name.startswith("CONFIG_"):
                settings += f"{extern.name}={_SETTINGS.get(extern.kconfig_type, 'y')}\n".encode()
            elif extern.kind == "ksym" and not extern.is_typed:
                symbols += b"ffffffff82%06x d %s\n" % (16 * at, extern.name.encode())
        files = {"/proc/config.gz": gzip.compress(settings, mtime=0), "/proc/kallsyms": symbols}
        age = self.setting["age"]
        # libbpf raises RLIMIT_MEMLOCK once in its life, not once for each of these kernels.
        options: dict[str, Any] = {"files": files, "memlock": -1}
        kernel = Recorder.like(age, **options) if age else Recorder(**options)
        # libbpf knows nothing of this and would lose all BTF (docs/differences.md).
        kernel.lacks -= {"BTF_EMPTY_DATASEC"}
        kernel.taken = self.taken
        if self.btf:
            kernel.add_vmlinux(self.btf)
        for name, data in self.modules.items():
            kernel.add_module(name, data)
        return kernel

    def _compare_run(
        self, result: compare.Result, path: Path, spec: ObjectSpec, selection: set[int]
    ) -> str:
        """Load some programs with both; returns ``"loaded"``, ``"refused"`` or ``"different"``."""
        result.counts["runs"] += 1
        for at, program in enumerate(spec):
            program.autoload = at in selection
        theirs, ours = self.kernel(spec), self.kernel(spec)
        ours.cache = self.cache
        with self.libbpf_open(path, theirs) as opened, ours:
            run = _Run(self, spec, ours)
            _at("libbpf")
            opened.select(selection)
            stage = "prepare" if opened.prepare() else ""
            prepared = _Prepared(opened, theirs, selection) if not stage else None
            log = list(self.libbpf.log)
            if not stage and run.is_native and opened.load():
                stage = "load"
            verdict = "refused" if stage else "loaded"
            reason = self.libbpf.last_words()
            # Preparing and loading are one step here, so it does not count which of them refuses.
            if bool(stage) != bool(run.stage):
                verdict = "different"
                result.say(self._disagreement(theirs, spec, stage, reason, run))
            elif stage:
                result.refuse(stage, reason)
            if run.relocation is not None and prepared is not None:
                compare.compare_decisions(result, log, run.relocation.decisions)
            if run.object is not None and not stage:
                result.counts["loaded"] += 1
                for key, each in run.object.maps.items():
                    if isinstance(each, StructOpsMap):  # whose value is only set now
                        opened.register(list(spec.maps).index(key))
                        each.attach()
                loaded = _loaded_by_libbpf(opened, spec, theirs), run.loaded()
                compare.compare_loaded(result, (theirs, ours), *loaded)
            elif prepared is not None and run.relocation is not None:
                prepared.compare(result, spec, run.relocation, theirs)
            run.close()
        result.same("left open", theirs.leaked(), ours.leaked())
        return verdict

    def _disagreement(
        self, kernel: Recorder, spec: ObjectSpec, stage: str, reason: str, run: _Run
    ) -> str:
        libbpf = f"libbpf refuses to {stage} ({reason})" if stage else "libbpf does not refuse"
        ours = "pybpfload does not refuse"
        if run.stage:
            ours = f"pybpfload refuses to {run.stage} ({run.problem})"
        about = ""
        if "GLOBAL_DATA" in kernel.lacks and any(each.is_internal for each in spec.maps.values()):
            about = "no global variables: "
        elif not run.is_native:
            about = "other byte order: "
        return f"{about}{libbpf}, {ours}"


class _Run:
    """What pybpfload makes of the programs that are on.

    Attributes:
        stage: Where it refused: ``"prepare"``, ``"load"``, or ``""`` if it did not.
        problem: Why.
        relocation: Without a kernel's answers, if it got so far.
        object: The loaded object; ``None`` too if it is for machines of the other byte order,
            which :attr:`is_native` says.
    """

    def __init__(self, worker: Worker, spec: ObjectSpec, kernel: Recorder) -> None:
        self.spec, self._kernel = spec, kernel
        self.is_native = spec.byteorder == NATIVE
        self.stage = self.problem = ""
        self.relocation: Relocation | None = None
        self.object: Object | None = None
        before = kernel.seconds
        with worker.measured():
            try:
                self.stage = "prepare"
                if not self.is_native:  # which loading would do
                    resolve(spec, worker.target())
                    match_struct_ops(spec, worker.target())
                exceptions = "BTF_DECL_TAG" not in kernel.lacks
                self.relocation = relocate(spec, worker.target(), exception_callbacks=exceptions)
                if self.is_native:
                    self._load(worker)
                self.stage = ""
            except BpfError as error:
                self.problem = str(error)
        worker.seconds["pybpfload"] -= kernel.seconds - before

    def _load(self, worker: Worker) -> None:
        loader = WatchedLoader(self.spec, btf=worker.target().btf if worker.custom else None)
        try:
            with loader.run():
                self.object = Object(self.spec, loader)
        finally:
            self.stage = loader.stage

    def loaded(self) -> compare.Loaded:
        """What the kernel was given."""
        assert self.object is not None
        maps = {name: each.fileno() for name, each in self.object.maps.items()}
        programs = {name: each.fileno() for name, each in self.object.programs.items()}
        return compare.Loaded.of(self._kernel, maps, programs)

    def close(self) -> None:
        """Close the object."""
        if self.object is not None:
            self.object.close()


class _Prepared:
    """What libbpf made of programs before it loaded them."""

    def __init__(self, opened: LibbpfObject, kernel: Recorder, selection: set[int]) -> None:
        programs = {at: opened.programs[at] for at in selection}
        self.code = {at: opened.code(each) for at, each in programs.items()}
        self.info = {
            at: {kind: opened.info(each, kind) for kind in ("func_info", "line_info")}
            for at, each in programs.items()
        }
        self.maps = {fd: at for at, fd in enumerate(opened.descriptors()[0]) if fd >= 0}

    def compare(
        self, result: compare.Result, spec: ObjectSpec, ours: Relocation, kernel: Recorder
    ) -> None:
        """Compare with the programs that pybpfload relocated."""
        has_info = "BTF_FUNC" not in kernel.lacks  # else libbpf does without at once
        old = OLD_HELPERS if "PROBE_READ_KERN" in kernel.lacks else {}
        for at, key in enumerate(spec.programs):
            if at in self.code and key in ours.programs:
                mine = ours.programs[key]
                info = self.info[at] if has_info else {}
                compare.compare_relocated(result, spec, mine, self.code[at], info, self.maps, old)


def _loaded_by_libbpf(opened: LibbpfObject, spec: ObjectSpec, kernel: Recorder) -> compare.Loaded:
    maps, programs = opened.descriptors()
    return compare.Loaded.of(
        kernel,
        dict(zip(spec.maps, maps, strict=True)),
        dict(zip(spec.programs, programs, strict=True)),
    )


def _blob(path: str) -> bytes:
    """BTF of a file, raw or ELF."""
    return btf_from_image(Path(path).read_bytes(), path)


def _legible(path: Path, spec: ObjectSpec, folder: Path) -> Path:
    """A file that libbpf 1.7 reads all of, in a folder, or the file itself if it does.

    Foreign BTF must have a header of 24 bytes (docs/differences.md); one of 32 that says no more is
    cut to that.
    """
    data = path.read_bytes()
    blob = elf_section(data, ".BTF")
    order = spec.byteorder
    if order == NATIVE or blob is None or len(blob) < 32:
        return path
    length = struct.unpack_from(f"{order}I", blob, 4)[0]
    if length != 32 or any(blob[24:32]):
        return path
    at = data.index(blob)
    short = blob[:4] + struct.pack(f"{order}I", 24) + blob[8:24] + blob[32:] + bytes(8)
    copy = folder / path.name
    copy.write_bytes(data[:at] + short + data[at + len(blob) :])
    return copy


def _at(who: str) -> None:
    """Say whose turn it is, in case that this process does not live to tell more."""
    print(json.dumps({"at": who}), flush=True)


def main() -> None:
    worker = Worker(json.loads(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(vars(worker.compare(Path(line.rstrip("\n"))))), flush=True)


if __name__ == "__main__":
    main()
