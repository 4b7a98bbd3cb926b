"""Executables and libraries: their symbols, read once, in bounded memory.

Files belong to whoever is traced, so they are taken for hostile: only regular files are opened, and
without waiting; nothing is mapped, because a file that is cut short meanwhile would kill the
process that looks at it; what is damaged has no symbols.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.elf.binary import UserBinary, address_at
from pybpfload.errors import BpfError, FormatError
from pybpfload.kernel import door
from pybpfload.symbols.table import Found, SymbolTable, elf_symbols

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from pybpfload.elf.binary import Segment

__all__ = ["CodeFile", "CodeFiles", "RegularFile"]

_LARGEST_PART = 256 << 20  # bytes read at once
_CHUNK = 1 << 20
_MOST_SEGMENTS = 64  # linkers make four or five
_OVERHEAD = 2048  # bytes of a file without symbols
_LARGEST_SUMMED = 1 << 30  # bytes of a file whose checksum is worth the time


class RegularFile:
    """A regular file that is read in parts (``file[start:end]``), a context manager.

    Args:
        path: Its path.

    Attributes:
        status: What :func:`os.fstat` tells.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """

    def __init__(self, path: str) -> None:
        self._fd = door.open_fd(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            self.status = door.fstat(self._fd)
            if not stat.S_ISREG(self.status.st_mode):
                raise OSError(22, "not a regular file", path)
        except BaseException:
            door.close(self._fd)
            raise

    def __len__(self) -> int:
        return self.status.st_size

    def __getitem__(self, part: slice) -> bytes:
        start, end, _ = part.indices(len(self))
        if end - start > _LARGEST_PART:
            raise FormatError(f"a table of {end - start} bytes; {_LARGEST_PART} are read at most")
        return door.pread(self._fd, end - start, start) if end > start else b""

    def crc32(self) -> int:
        """Checksum of the whole content."""
        total = 0
        for start in range(0, len(self), _CHUNK):
            total = zlib.crc32(self[start : start + _CHUNK], total)
        return total

    def __enter__(self) -> RegularFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        door.close(self._fd)


class CodeFile(NamedTuple):
    """What is kept of a file.

    Attributes:
        key: Which version of which file it is.
        name: Its path, as the process sees it.
        build_id: As the linker wrote it; empty if there is none.
        segments: What of it is loaded: code goes before data, because what follows the code in the
            file may be loaded twice.
        table: Its functions.
    """

    key: object
    name: str
    build_id: bytes
    segments: list[Segment]
    table: SymbolTable

    @property
    def nbytes(self) -> int:
        """Memory that it takes, in bytes."""
        return self.table.nbytes + _OVERHEAD

    def at(self, offset: int) -> tuple[int, Found | None]:
        """The ELF address of a byte of the file (0 if it is not loaded), and the symbol there."""
        address = address_at(self.segments, offset)
        return (0, None) if address is None else (address, self.table.at(address))


_NO_TABLE = SymbolTable((), b"", b"\0")


class CodeFiles:
    """Files that were read, the longest unused ones forgotten.

    Args:
        debug_folders: Where packages of debug symbols put their files.
        limit: Bytes of symbols that are kept; one file may be larger.
    """

    def __init__(self, debug_folders: Iterable[str], limit: int) -> None:
        self._debug_folders = list(debug_folders)
        self._limit = limit
        self._kept: OrderedDict[object, CodeFile] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[CodeFile]:
        return iter(list(self._kept.values()))

    @property
    def nbytes(self) -> int:
        """Memory that all of it takes, in bytes."""
        return self._bytes

    def get(self, key: object) -> CodeFile | None:
        """The file with that :attr:`CodeFile.key`, unless it was forgotten."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def open(self, path: str, name: str, root: str = "", inode: int = 0) -> CodeFile | None:
        """The file at a path; the same file under another path is not read again.

        Args:
            path: What to open.
            name: What it is called.
            root: Folder that is the root of the process, ``""`` for our own.
            inode: The file must have this number, unless it is 0.

        Returns:
            The file, without symbols if it is damaged; ``None`` if it is not there.
        """
        try:
            with RegularFile(path) as file:
                status = file.status
                if inode and status.st_ino != inode:
                    return None  # another was put in its place
                key = (status.st_dev, status.st_ino, status.st_mtime, status.st_size)
                return self.get(key) or self._keep(self._read(key, file, name, root))
        except OSError:
            return None

    def from_bytes(self, content: bytes, name: str) -> CodeFile:
        """A file that is only in memory, as the vDSO."""
        key = hashlib.sha256(content).digest()
        return self.get(key) or self._keep(self._read(key, content, name, ""))

    def by_build_id(self, build_id: bytes) -> CodeFile | None:
        """A file that is known, or that the system lists by its build id.

        Files of debug symbols do not do: their program headers tell nothing of the offsets in the
        file that they were made from.
        """
        for known in self:
            if known.build_id == build_id:
                return known
        number = build_id.hex()
        for folder in ("/usr/lib", *self._debug_folders):
            path = f"{folder}/.build-id/{number[:2]}/{number[2:]}"
            found = self.open(path, path)
            if found is not None and found.build_id == build_id:
                return found
        return None

    def _keep(self, file: CodeFile) -> CodeFile:
        self._kept[file.key] = file
        self._bytes += file.nbytes
        while self._bytes > self._limit and len(self._kept) > 1:
            _, forgotten = self._kept.popitem(last=False)
            self._bytes -= forgotten.nbytes
        return file

    def _read(self, key: object, content: RegularFile | bytes, name: str, root: str) -> CodeFile:
        try:
            binary = UserBinary(content, name)
        except BpfError:
            return CodeFile(key, name, b"", [], _NO_TABLE)
        segments = sorted(binary.segments, key=lambda each: not each.executable)
        build_id, table = binary.build_id, _NO_TABLE
        try:
            table = elf_symbols(binary, ["symtab"])
            if not len(table):
                table = self._debug_symbols(binary, build_id, root)
            if not len(table):
                table = elf_symbols(binary, ["dynsym"])
        except BpfError:
            pass  # damaged: addresses stay numbers
        return CodeFile(key, name, build_id, segments[:_MOST_SEGMENTS], table)

    # Debug symbols in files of their own

    def _debug_symbols(self, binary: UserBinary, build_id: bytes, root: str) -> SymbolTable:
        link, candidates = binary.debug_link, list(self._by_build_id(build_id))
        if link is not None and "/" not in link[0]:
            folder = binary.name.rpartition("/")[0]
            candidates += [f"{folder}/{link[0]}", f"{folder}/.debug/{link[0]}"]
            candidates += [f"{each}{folder}/{link[0]}" for each in self._debug_folders]
        for path in candidates:
            for place in dict.fromkeys((f"{root}{path}", path)):
                try:
                    with RegularFile(place) as file:
                        found = UserBinary(file, path)
                        if _belongs(file, found, build_id, link):
                            table = elf_symbols(found, ["symtab"])
                            if len(table):
                                return table
                except (OSError, BpfError):
                    continue
        return _NO_TABLE

    def _by_build_id(self, build_id: bytes) -> Iterator[str]:
        if len(build_id) >= 2:
            number = build_id.hex()
            for folder in self._debug_folders:
                yield f"{folder}/.build-id/{number[:2]}/{number[2:]}.debug"


def _belongs(
    file: RegularFile, debug: UserBinary, build_id: bytes, link: tuple[str, int] | None
) -> bool:
    """Whether a debug file is of that build id; without one, whether it has the link's checksum."""
    if build_id:
        return debug.build_id == build_id
    return link is not None and len(file) <= _LARGEST_SUMMED and file.crc32() == link[1]
