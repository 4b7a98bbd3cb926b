"""The same object through libbpf and through pybpfload, and what differs.

libbpf is Debian's newest package, fetched through the machine's own apt into the cache folder and
never installed. Its worker (``libbpf_worker.py``) runs on the C library that comes with the
package, so that it works on older systems too.
"""

from __future__ import annotations

import base64
import json
import os
import re
import select
import subprocess
import sys
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pybpfload.btf import Btf
from pybpfload.elf.image import btf_from_image
from pybpfload.errors import BpfError
from pybpfload.isa import insn as isa
from pybpfload.object import ObjectSpec, open_object
from pybpfload.relocate import CoreKind, ReferenceKind, Relocation, relocate

WORKER = Path(__file__).with_name("libbpf_worker.py")
_EXTERN_KINDS = {ReferenceKind.KSYM, ReferenceKind.KSYM_BTF, ReferenceKind.KFUNC}
_CORE_POISON, _KFUNC_POISON = 0xBAD2310, 2002000000
_PATIENCE = 20  # seconds for one object


# libbpf's side


def libbpf_folder(*, fetch: bool = False) -> Path | None:
    """Folder of the unpacked libbpf and all that it needs.

    Args:
        fetch: Get it if it isn't there.

    Returns:
        ``None`` when it isn't there, or cannot be got.
    """
    try:
        from pybpfload.testing.vm.apt import Apt, host_architecture
        from pybpfload.testing.vm.cache import build, cache_folder
    except ImportError:  # not on an operating system without fcntl
        return None
    folder = cache_folder() / "libbpf" / "sid"
    if folder.exists() or not fetch:
        return folder if folder.exists() else None
    apt = Apt("sid", host_architecture())
    return build(folder, lambda fresh: apt.unpack(["libbpf1"], fresh, dependencies=True))


def kernel_btf(name: str, *, fetch: bool = False) -> Path | None:
    """File with the BTF of a kernel of tools/kernels, taken out of its image once.

    Returns:
        ``None`` when the kernel isn't in the cache and ``fetch`` does not ask for it.
    """
    from pybpfload.testing.vm import kernels
    from pybpfload.testing.vm.cache import build, cache_folder

    if not fetch and not kernels.find(name).fetched:
        return None
    kernel = kernels.fetch(name)
    label = (kernel.folder / "package").read_text().strip().replace(" ", "_")
    return build(
        cache_folder() / "libbpf" / f"{name}-{label}.btf",
        lambda fresh: fresh.write_bytes(btf_from_image(kernel.image.read_bytes(), name)) and None,
    )


def why_not() -> str | None:
    """Why nothing can be compared here, or ``None`` when it can; libbpf is fetched if need be.

    ``PYBPFLOAD_FETCH=0`` keeps it from fetching.
    """
    if not sys.platform.startswith("linux"):
        return "libbpf needs Linux"
    if os.geteuid() != 0:
        return "libbpf prepares objects only as root: it creates their maps"
    from pybpfload.testing.vm.cache import VirtualMachineError

    try:
        folder = libbpf_folder(fetch=os.environ.get("PYBPFLOAD_FETCH") != "0")
    except VirtualMachineError as error:
        return f"libbpf cannot be fetched: {error}"
    return None if folder is not None else "libbpf is not in the cache, and PYBPFLOAD_FETCH is 0"


class Libbpf:
    """A running worker. A crash of libbpf ends one job, not the comparison."""

    def __init__(self) -> None:
        from pybpfload.testing.vm.apt import foreign_command

        folder = libbpf_folder()
        assert folder is not None, "call why_not() first"
        self._command = [*foreign_command(folder, sys.executable), str(WORKER)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Libbpf:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def run(self, path: Path, btf: Path | None = None, **options: Any) -> dict[str, Any]:
        """Open and prepare one object; see the worker for the answer."""
        if self._process is None or self._process.poll() is not None:
            self.__exit__()
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        job = {"object": str(path), "btf": str(btf) if btf else None, **options}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            if select.select([self._process.stdout], [], [], _PATIENCE)[0]:
                line = self._process.stdout.readline()
            else:
                self._process.kill()
                line = ""
        except BrokenPipeError:
            line = ""
        if not line:
            return {"opened": False, "crashed": self._process.wait(), "error": 0, "log": []}
        answer: dict[str, Any] = json.loads(line)
        return answer


# The comparison


@dataclass
class Result:
    """What comparing one object with one target gave.

    Attributes:
        differences: One line each; empty when both agree.
        known: Differences that docs/differences.md explains.
        not_compared: Parts that libbpf did not get to on this machine, and why.
        refused: Runs that both refused to relocate.
        programs, insns, relocations: How much was compared.
    """

    object: str
    target: str
    differences: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    verdict: str = ""
    refused: int = 0
    programs: int = 0
    insns: int = 0
    relocations: int = 0

    def say(self, difference: str) -> None:
        """Note a difference."""
        is_known = any(re.fullmatch(known, difference) for known in _KNOWN)
        (self.known if is_known else self.differences).append(difference)


class Target:
    """A BTF to relocate against: a file that both sides can read, raw or ELF."""

    def __init__(self, name: str = "this kernel", path: Path | None = None) -> None:
        self.name, self.path = name, path
        data = (path or Path("/sys/kernel/btf/vmlinux")).read_bytes()
        self.btf = Btf.from_bytes(btf_from_image(data), name="vmlinux")


_KNOWN = (
    # A BTF header of 32 bytes in a byte order that is not the machine's.
    r"open: libbpf refuses \(95: Error loading ELF section .BTF: -EOPNOTSUPP.*",
)


def compare(
    libbpf: Libbpf,
    path: Path,
    target: Target,
    *,
    without_maps: bool = False,
    core_only: bool = False,
) -> Result:
    """Give one object to both sides.

    All programs are relocated together; then, where some are off, those that are on; and where all
    together are refused, each alone. Where libbpf stops early for reasons of this machine (an
    extern that this kernel lacks, a map type that it refuses), what it had done by then counts.

    Args:
        libbpf: A running worker.
        path: The object file.
        target: What to relocate against.
        without_maps: Turn off the creation of all maps, which poisons the references to them: for
            objects whose maps this kernel had better not see.
        core_only: Do nothing about objects without CO-RE relocations.
    """
    result = Result(f"{path.parent.name}/{path.name}", target.name)
    try:
        spec: ObjectSpec | None = open_object(path)
        problem = ""
    except BpfError as error:
        spec, problem = None, str(error)
    if core_only and not any(f.core_relos for f in (spec.functions if spec else ())):
        result.verdict = "nothing to relocate against a kernel"
        return result
    options = {"kconfig": kconfig_text(spec) if spec else "", "without_maps": without_maps}
    theirs = libbpf.run(path, target.path, **options)
    if "crashed" in theirs:
        result.not_compared.append(f"libbpf crashed, status {theirs['crashed']}")
        return result
    if spec is None or not theirs["opened"]:
        if spec is not None:
            why = f"{theirs['error']}: {last_words(theirs)}"
            result.say(f"open: libbpf refuses ({why}), pybpfload does not")
        elif theirs["opened"]:
            result.say(f"open: pybpfload refuses ({problem}), libbpf does not")
        result.verdict = "both refuse to open it"
        return result
    compare_opened(spec, theirs, result.say)
    for each in spec.maps.values() if without_maps else ():
        each.autocreate = each.kind == "struct_ops"
    on = [program.autoload for program in spec]
    selections = [[at] for at in range(len(on))] if len(on) > 1 else []
    if _compare_selection(spec, theirs, target, result, everything=True):
        selections = [] if all(on) else [[at for at, loaded in enumerate(on) if loaded]]
    for selection in selections:
        for at, program in enumerate(spec):
            program.autoload = at in selection
        theirs = libbpf.run(path, target.path, load=selection, **options)
        if "crashed" not in theirs:
            _compare_selection(spec, theirs, target, result, everything=False)
    return result


def _compare_selection(
    spec: ObjectSpec,
    theirs: dict[str, Any],
    target: Target,
    result: Result,
    *,
    everything: bool,
) -> bool:
    """Compare what both make of the programs that are on; return whether both relocated them."""
    stage = reached(theirs)
    if stage == "externs":
        told = f"relocation: libbpf stopped before it: {last_words(theirs)}"
        if told not in result.not_compared:
            result.not_compared.append(told)
        return True
    try:
        ours = relocate(spec, target.btf, everything=everything)
    except BpfError as error:
        if stage != "refused":
            result.say(f"relocate: pybpfload refuses ({error}), libbpf does not")
        result.verdict = "both refuse to relocate it"
        result.refused += 1
        return False
    if stage == "refused":
        result.say(f"relocate: libbpf refuses ({last_words(theirs)}), pybpfload does not")
        return False
    if stage == "maps":
        result.not_compared.append(f"map references: {last_words(theirs)}")
    compare_relocated(spec, ours, theirs, result)
    return True


def kconfig_text(spec: ObjectSpec) -> str:
    """A value for each kernel option that the object asks for: instructions do not depend on it."""
    values = {"bool": "y", "tristate": "m", "char": "y", "int": "3", "string": '"x"'}
    return "".join(
        f"{extern.name}={values[extern.kconfig_type]}\n"
        for extern in spec.externs.values()
        if extern.kind == "kconfig" and extern.name.startswith("CONFIG_")
    )


def last_words(theirs: dict[str, Any]) -> str:
    """The last lines of libbpf's log, which tell of its failure."""
    told = [line.removeprefix("libbpf: ") for line in theirs["log"]]
    return " | ".join([line for line in told if "optional step" not in line][-2:])


def reached(theirs: dict[str, Any]) -> str:
    """How far libbpf got: ``done``, ``maps``, ``refused`` (by relocation) or ``externs``."""
    if theirs["prepared"] == 0:
        return "done"
    log = "\n".join(theirs["log"])
    if re.search(r"map '.*': failed to|Error loading .BTF into kernel", log):
        return "maps"
    stopped = r"extern \(|extern '.*not resolved|struct_ops init_kern|.*can't create jump table"
    if re.search(rf"\nlibbpf: ({stopped})", log):
        return "externs"
    return "refused"


def compare_opened(spec: ObjectSpec, theirs: dict[str, Any], say: Any) -> None:
    """Compare what both read from the file."""
    if spec.name != theirs["name"]:
        say(f"object name: {theirs['name']!r}, pybpfload {spec.name!r}")
    mine = list(spec.programs.values())
    _same(say, "programs", [p["name"] for p in theirs["programs"]], [p.name for p in mine])
    for told, program in zip(theirs["programs"], mine, strict=False):
        where = f"program {program.name}"
        # libbpf keeps the flags of the section name to itself until it loads.
        for label, value in (
            ("section", program.section),
            ("type", int(program.prog_type)),
            ("expected_attach_type", int(program.expected_attach_type)),
            ("autoload", program.autoload),
        ):
            if label in _TYPES and _is_newer(program.section, told, theirs["version"]):
                continue
            _same(say, f"{where}: {label}", told[label], value)
    maps = list(spec.maps.values())
    _same(say, "maps", [m["name"] for m in theirs["maps"]], [m.name for m in maps])
    for told, each in zip(theirs["maps"], maps, strict=False):
        _compare_map(say, told, each, each.name)
    if spec.btf is not None and theirs.get("btf"):
        _compare_btf(say, _bytes(theirs["btf"]), spec.btf)


_TYPES = ("type", "expected_attach_type")
_SINCE_1_8 = re.compile(
    r"((raw_)?tracepoint|(raw_)?tp|tp_btf)\.s|f(session|entry|exit)\.multi(\.s)?"
)


def _is_newer(section: str, told: dict[str, Any], version: str) -> bool:
    """Whether a section name means something to libbpf 1.8 only, and this is an older one."""
    known = tuple(map(int, version.removeprefix("v").split("."))) >= (1, 8)
    return not known and not told["type"] and bool(_SINCE_1_8.fullmatch(section.split("/")[0]))


def _compare_map(say: Any, told: dict[str, Any], mine: Any, name: str) -> None:
    pairs = {
        "type": int(mine.type), "key_size": mine.key_size, "value_size": mine.value_size,
        "max_entries": mine.max_entries, "map_flags": int(mine.flags),
        "numa_node": mine.numa_node, "map_extra": mine.map_extra, "ifindex": mine.ifindex,
        "btf_key_type_id": mine.key_type_id, "btf_value_type_id": mine.value_type_id,
        "is_internal": mine.is_internal,
    }  # fmt: skip
    if not name.endswith(".inner"):  # in which libbpf leaves it unset
        pairs["autocreate"] = mine.autocreate
    for label, value in pairs.items():
        _same(say, f"map {name}: {label}", told[label], value)
    if (told["pin_path"] is not None) != (mine.pinning == 1):
        say(f"map {name}: pin path {told['pin_path']!r}, pybpfload pinning {mine.pinning}")
    if mine.is_internal and mine.kind != "kconfig":
        # libbpf's image is rounded up; what counts is the part that becomes the value.
        image = _bytes(told["initial_value"] or "")[: len(mine.contents)]
        _same(say, f"map {name}: contents", image.hex(), bytes(mine.contents).hex())
    if (told["inner"] is None) != (mine.inner is None):
        say(
            f"map {name}: inner map {told['inner'] is not None}, pybpfload {mine.inner is not None}"
        )
    elif mine.inner is not None:
        _compare_map(say, told["inner"], mine.inner, mine.inner.name)


def _compare_btf(say: Any, raw: bytes, mine: Btf) -> None:
    try:
        theirs = Btf.from_bytes(raw, pointer_size=8)
    except BpfError as error:
        say(f"BTF: what libbpf made of it is damaged: {error}")
        return
    _same(say, "BTF: number of types", len(theirs), len(mine))
    for type_id in range(1, min(len(theirs), len(mine))):
        if theirs[type_id] != mine[type_id]:
            say(f"BTF: {theirs[type_id]}, pybpfload {mine[type_id]}")


def compare_relocated(
    spec: ObjectSpec, ours: Relocation, theirs: dict[str, Any], result: Result
) -> None:
    """Compare instructions, function and line info, and CO-RE decisions."""
    say = result.say
    fds = {int(fd): index for fd, index in theirs["map_fds"].items() if int(fd) >= 0}
    for told, key in zip(theirs["programs"], spec.programs, strict=True):
        if key not in ours.programs:
            continue
        mine = ours.programs[key]
        _compare_code(say, spec, told, mine, fds, _host_shifts(spec, mine))
        for label in ("func_info", "line_info") if theirs["prepared"] == 0 else ():
            words = array("I", _bytes(told[label])).tolist()
            _same(say, f"program {mine.name}: {label}", words, list(getattr(mine, label) or ()))
        result.programs += 1
        result.insns += len(mine.insns)
    log = _logged_decisions(theirs["log"])
    decisions = [
        (
            d.function,
            str(d),
            f"<{d.kind_name}> {d.target}" if d.target is not None else None,
        )
        for d in ours.decisions
    ]
    result.relocations += len(decisions)
    for left, right in zip(log, decisions, strict=False):
        _same(say, f"CO-RE of {right[0]}", left, right)
    _same(say, "number of CO-RE relocations", len(log), len(decisions))


def _host_shifts(spec: ObjectSpec, mine: Any) -> set[int]:
    """Instructions whose constant libbpf computes for the machine that it runs on itself.

    That is the left shift of bit fields, which pybpfload computes for the object's byte order
    (docs/differences.md).
    """
    if (spec.byteorder == "<") == (sys.byteorder == "little"):
        return set()
    return {at for at, decision in mine.core if decision.kind == CoreKind.LSHIFT_U64}


def _compare_code(
    say: Any,
    spec: ObjectSpec,
    told: dict[str, Any],
    mine: Any,
    fds: dict[int, int],
    skipped: set[int],
) -> None:
    theirs = isa.decode(_bytes(told["insns"]), "<" if sys.byteorder == "little" else ">")
    _same(say, f"program {mine.name}: number of instructions", len(theirs), len(mine.insns))
    expected = list(mine.insns)
    maps = [each.name for each in spec.maps.values()]
    for reference in mine.references:
        at = reference.insn
        if at + 1 >= min(len(theirs), len(expected)):
            break
        given = theirs[at]
        if reference.kind in _EXTERN_KINDS:
            _fill_extern(spec, expected, reference, theirs)
        elif given.imm in fds and reference.kind in (ReferenceKind.MAP, ReferenceKind.MAP_VALUE):
            _same(say, f"{mine.name}: map of {at}", maps[fds[given.imm]], reference.name)
            expected[at] = expected[at]._replace(imm=given.imm)
        else:
            expected[at] = expected[at]._replace(imm=given.imm)
    for at, (left, right) in enumerate(zip(theirs, expected, strict=False)):
        if left != right and at not in skipped:
            say(f"program {mine.name}: instruction {at}: {left}, pybpfload {right}")


def _fill_extern(
    spec: ObjectSpec, expected: list[isa.Insn], reference: Any, theirs: list[isa.Insn]
) -> None:
    """Put in what only the running kernel knew: addresses, type ids, module descriptors."""
    at, given = reference.insn, theirs[reference.insn]
    names = list(spec.externs)
    weak = spec.externs[reference.name].weak
    if given.code == isa.CALL:
        poison = _KFUNC_POISON + names.index(reference.name)
        if weak and given == isa.Insn(isa.CALL, imm=poison):
            expected[at] = given
        else:
            expected[at] = expected[at]._replace(imm=given.imm, off=given.off)
        return
    unresolved = weak and given.src == 0 and given.imm == theirs[at + 1].imm == 0
    expected[at] = expected[at]._replace(imm=given.imm, src=0 if unresolved else expected[at].src)
    expected[at + 1] = expected[at + 1]._replace(imm=theirs[at + 1].imm)


_LOCAL = re.compile(r"libbpf: prog '(.*)': relo #(\d+): (<.*)")
_MATCH = re.compile(r"libbpf: prog '.*': relo #\d+: matching candidate #\d+ (<.*)")


def _logged_decisions(log: list[str]) -> list[tuple[str, str, str | None]]:
    """``(function, local access, access in the first candidate that matched)`` of each record."""
    found: list[tuple[str, str, str | None]] = []
    for line in log:
        if local := _LOCAL.match(line):
            found.append((local[1], local[3], None))
        elif (match := _MATCH.match(line)) and found and found[-1][2] is None:
            found[-1] = (*found[-1][:2], match[1])
    return found


def _same(say: Any, what: str, theirs: Any, mine: Any) -> None:
    if theirs != mine:
        say(f"{what}: {theirs!r}, pybpfload {mine!r}")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)
