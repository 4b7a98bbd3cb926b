"""Symbols of processes: which file is mapped where, and what is at that place of the file."""

from __future__ import annotations

import re
import time
from bisect import bisect_right
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.kernel import door
from pybpfload.symbols.demangling import demangle
from pybpfload.symbols.files import CodeFiles, RegularFile
from pybpfload.symbols.frame import Frame
from pybpfload.symbols.table import SymbolTable, perf_map_symbols

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pybpfload.symbols.files import CodeFile
    from pybpfload.symbols.table import Found

__all__ = ["Mapping", "UserSymbols", "read_maps"]

_EACH = 1.0  # seconds between looks at what a process maps
_EACH_MISS = 0.1  # the same, if an address is not in it
_EACH_PERF_MAP = 1.0
_LARGEST_PERF_MAP = 64 << 20
_LARGEST_VDSO = 1 << 20
_DELETED = " (deleted)"
_MAP = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) ..x. ([0-9a-f]+) [0-9a-f]+:[0-9a-f]+ (\d+)[ \t]*(.*)$",
    re.MULTILINE,
)
_ESCAPE = re.compile(r"\\012")  # the one character that is written otherwise: a new line


class Mapping(NamedTuple):
    """Code that a process has mapped.

    Attributes:
        start, end: Addresses.
        offset: Of ``start`` in the file, bytes.
        inode: Number of the file; 0 if there is none.
        path: Of the file as the process sees it, or ``[vdso]`` and the like; empty for memory of
            no file.
    """

    start: int
    end: int
    offset: int
    inode: int
    path: str


def read_maps(text: bytes) -> list[Mapping]:
    """The executable mappings in the text of ``/proc/PID/maps``, lowest first."""
    found = []
    for line in _MAP.finditer(text):
        path = _ESCAPE.sub("\n", line[5].decode("utf-8", "surrogateescape"))
        start, end, offset = (int(number, 16) for number in line.groups()[:3])
        found.append(Mapping(start, end, offset, int(line[4]), path.removesuffix(_DELETED)))
    return sorted(found)


class UserSymbols:
    """What is at an address of a process.

    Files are found as the process has them mapped (``/proc/PID/map_files``, which also has those
    that were deleted or replaced and needs root), through its root folder (containers), or under
    their path if it is still the same file. Symbols are those of ``.symtab``, of a debug file
    (``.build-id`` folder, ``.gnu_debuglink``), of ``.dynsym``, or what a just-in-time compiler
    writes to ``/tmp/perf-PID.map``.

    What is mapped is read when a process is first asked for, and again after a second, or a tenth
    of one if an address is not in it. What was read is still used when the process is gone: to
    resolve stacks of short-lived processes, resolve as they come.

    Args:
        debug_folders: Where packages of debug symbols put their files.
        limit: Bytes of symbols that are kept; what was not used longest is forgotten first.
        processes: Number of processes that are remembered.
    """

    def __init__(
        self,
        *,
        debug_folders: Iterable[str] = ("/usr/lib/debug",),
        limit: int = 256 << 20,
        processes: int = 1024,
    ) -> None:
        self.files = CodeFiles(debug_folders, limit)
        self._most = processes
        self._processes: OrderedDict[int, _Process] = OrderedDict()

    def frame(self, pid: int, address: int, *, is_return: bool = False) -> Frame:
        """What is at an address of a process; without a symbol if there is none.

        Args:
            pid: The process, as ``/proc`` of this process numbers it.
            address: In its memory.
            is_return: It is a return address, so that the call before it is meant: behind a call
                that does not return another function may start.
        """
        return self._process(pid).frame(address, address - 1 if is_return else address)

    def frame_in_file(
        self, build_id: bytes, offset: int, *, pid: int | None = None, is_return: bool = False
    ) -> Frame:
        """What is at a place of the file with a build id.

        Args:
            build_id: As the linker wrote it, 20 bytes or less.
            offset: In the file, bytes.
            pid: A process that may have mapped it. Otherwise it must be one that is known by now,
                of another process or by ``files.open()``, or in ``/usr/lib/.build-id``.
            is_return: As for :meth:`frame`.
        """
        file = self._process(pid).file_of(build_id) if pid is not None else None
        file = file or self.files.by_build_id(build_id)
        if file is None:
            return Frame(offset, module=f"[build id {build_id.hex()}]")
        back = 1 if is_return else 0
        address, found = file.at(offset - back)
        address += back if address else 0
        if found is None:
            return Frame(offset, None, address, file.name)
        return Frame(offset, demangle(found.name), address - found.start, file.name)

    def problem(self, pid: int) -> str | None:
        """Why a process could not be looked at, or ``None``."""
        return self._process(pid).problem

    def forget(self, pid: int) -> None:
        """Forget what a process has mapped: its number may be used again."""
        self._processes.pop(pid, None)

    def _process(self, pid: int) -> _Process:
        found = self._processes.get(pid)
        if found is None:
            found = self._processes[pid] = _Process(pid, self.files)
            while len(self._processes) > self._most:
                self._processes.popitem(last=False)
        else:
            self._processes.move_to_end(pid)
        return found


class _Process:
    def __init__(self, pid: int, files: CodeFiles) -> None:
        self.pid = pid
        self.problem: str | None = None
        self._files = files
        self._mappings: list[Mapping] = []
        self._starts: list[int] = []
        self._keys: dict[Mapping, object] = {}  # of files that were found; they may be forgotten
        self._looked = 0.0
        self._perf_map = _PerfMap(pid)
        self._read()

    def frame(self, address: int, wanted: int) -> Frame:
        age = time.monotonic() - self._looked
        if age > _EACH:
            self._read()  # it may have become another program, or another process of its number
        mapping = self._mapping(wanted)
        if mapping is None and _EACH_MISS < age <= _EACH:
            self._read()
            mapping = self._mapping(wanted)
        place, found = 0, None
        if mapping is not None:
            file = self._file(mapping)
            if file is not None:
                place, found = file.at(wanted - mapping.start + mapping.offset)
        if found is None:
            place, found = self._perf_map.at(wanted, place)
        module = "" if mapping is None else mapping.path or "[anon]"
        if found is None:
            return Frame(address, None, place, module)
        offset = place - found.start + address - wanted
        return Frame(address, demangle(found.name), offset, module)

    def file_of(self, build_id: bytes) -> CodeFile | None:
        """The file with a build id that is mapped."""
        for mapping in self._mappings:
            file = self._file(mapping)
            if file is not None and file.build_id == build_id:
                return file
        return None

    def _read(self) -> None:
        self._looked = time.monotonic()
        try:
            found = read_maps(door.read_file(f"/proc/{self.pid}/maps"))
        except OSError as error:
            self.problem = f"process {self.pid} cannot be looked at: {error.strerror}"
            return
        if not found:
            self.problem = f"process {self.pid} has no memory: it has ended, or is of the kernel"
            return
        self.problem = None
        self._mappings, self._starts = found, [mapping.start for mapping in found]
        self._keys = {each: self._keys[each] for each in found if each in self._keys}

    def _mapping(self, address: int) -> Mapping | None:
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address >= self._mappings[index].end:
            return None
        return self._mappings[index]

    def _file(self, mapping: Mapping) -> CodeFile | None:
        if mapping in self._keys:
            key = self._keys[mapping]
            if key is None:
                return None  # it cannot be read
            known = self._files.get(key)
            if known is not None:
                return known
        file = self._open(mapping)
        self._keys[mapping] = None if file is None else file.key
        return file

    def _open(self, mapping: Mapping) -> CodeFile | None:
        if mapping.path == "[vdso]":
            return self._vdso(mapping)
        if not mapping.inode or not mapping.path.startswith("/"):
            return None
        root = f"/proc/{self.pid}/root"
        name, inode = mapping.path, mapping.inode
        mapped = f"/proc/{self.pid}/map_files/{mapping.start:x}-{mapping.end:x}"
        return (
            self._files.open(mapped, name, root)
            or self._files.open(root + name, name, root, inode)
            or self._files.open(name, name, root, inode)
        )

    def _vdso(self, mapping: Mapping) -> CodeFile | None:
        """The kernel's own library, which is in memory only."""
        size = mapping.end - mapping.start
        if size > _LARGEST_VDSO:
            return None
        try:
            memory = door.open_fd(f"/proc/{self.pid}/mem")
        except OSError:
            return None
        try:
            content = door.pread(memory, size, mapping.start)
        except OSError:
            return None
        finally:
            door.close(memory)
        return self._files.from_bytes(content, mapping.path)


class _PerfMap:
    """What a just-in-time compiler tells of its code."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._table: SymbolTable | None = None
        self._version: tuple[float, int] | None = None
        self._looked = float("-inf")

    def at(self, address: int, place: int) -> tuple[int, Found | None]:
        """The address and the symbol there; ``place`` as given if there is none."""
        found = self._table.at(address) if self._table is not None else None
        if found is None and self._read():
            found = self._table.at(address) if self._table is not None else None
        return (address, found) if found is not None else (place, None)

    def _read(self) -> bool:
        """Read the file if it has changed; whether it has."""
        now = time.monotonic()
        if now - self._looked < _EACH_PERF_MAP:
            return False
        self._looked = now
        for path in self._paths():
            try:
                with RegularFile(path) as file:
                    version = (file.status.st_mtime, len(file))
                    if version == self._version:
                        return False
                    self._table = perf_map_symbols(file[:_LARGEST_PERF_MAP])
                    self._version = version
                    return True
            except OSError:
                continue
        return False

    def _paths(self) -> list[str]:
        """The process may be in a container, where it has another number and another ``/tmp``."""
        inside = self._pid
        try:
            status = door.read_file(f"/proc/{self._pid}/status")
        except OSError:
            status = b""
        numbers = re.search(rb"^NSpid:.*?(\d+)$", status, re.MULTILINE)
        if numbers:
            inside = int(numbers[1])
        own = f"/tmp/perf-{self._pid}.map"
        return [f"/proc/{self._pid}/root/tmp/perf-{inside}.map", own]
