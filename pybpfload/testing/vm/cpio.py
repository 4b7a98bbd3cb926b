"""A writer of cpio archives in the "newc" format, as the kernel unpacks them at boot.

The format is in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. The kernel
accepts several archives one after the other in one initrd, later files replacing earlier ones: the
guest's userland, a kernel's modules and one run's payload are made, and cached, apart from each
other.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_END = "TRAILER!!!"
_BLOCK = 512


class CpioWriter:
    """Writes one archive. A context manager: leaving it writes the trailer.

    All files belong to root. Paths are in the guest: absolute, or relative to its root, which is
    the same. Folders above a path are made as needed. An archive with the same files has the same
    bytes.

    Args:
        file: Where to write it, at any multiple of four bytes from the beginning of the initrd.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._count = 0
        self._size = 0
        self._folders = {PurePosixPath(".")}

    def __enter__(self) -> CpioWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._entry(_END, 0, b"", 0)
            self._write(bytes(-self._size % _BLOCK))

    def folder(self, path: str | PurePath, mode: int = 0o755) -> None:
        """Add a folder, unless it was added before."""
        name = _relative(path)
        if name in self._folders:
            return
        self._parents(name)
        self._folders.add(name)
        self._entry(str(name), stat.S_IFDIR | mode, b"", 0)

    def file(
        self, path: str | PurePath, data: bytes | str, *, mode: int = 0o644, mtime: float = 0
    ) -> None:
        """Add a regular file; text is written as UTF-8. `mtime` is in seconds since 1970."""
        name = _relative(path)
        self._parents(name)
        content = data.encode() if isinstance(data, str) else data
        self._entry(str(name), stat.S_IFREG | mode, content, int(mtime))

    def symlink(self, path: str | PurePath, target: str) -> None:
        """Add a symbolic link to `target`."""
        name = _relative(path)
        self._parents(name)
        self._entry(str(name), stat.S_IFLNK | 0o777, target.encode(), 0)

    def device(self, path: str | PurePath, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device."""
        name = _relative(path)
        self._parents(name)
        self._entry(str(name), stat.S_IFCHR | mode, b"", 0, (major, minor))

    def copy(self, source: Path, path: str | PurePath) -> None:
        """Add one file or symbolic link of this machine's, with its time and its permissions.

        Owners and special permission bits are not kept. Devices and sockets are left out, and so is
        what is gone: an editor may work in the same folder.
        """
        try:
            status = source.lstat()
            if stat.S_ISLNK(status.st_mode):
                self.symlink(path, str(source.readlink()))
            elif stat.S_ISREG(status.st_mode):
                mode = status.st_mode & 0o755 | 0o444
                self.file(path, source.read_bytes(), mode=mode, mtime=status.st_mtime)
        except FileNotFoundError:
            pass

    def tree(
        self, source: Path, path: str | PurePath, keep: Callable[[str], bool] = lambda _: True
    ) -> None:
        """Add a folder of this machine's with what is in it, sorted by name.

        Args:
            source: The folder.
            path: What it is called in the guest.
            keep: Told the path of each thing in it relative to it; says whether to add that thing,
                and for a folder all that is below it.
        """
        top = PurePosixPath(path)
        self.folder(top)
        for folder, folders, files in os.walk(source):
            inner = Path(folder).relative_to(source)
            folders[:] = sorted(name for name in folders if keep((inner / name).as_posix()))
            for name in folders:
                if (Path(folder) / name).is_symlink():
                    self.copy(Path(folder) / name, top / inner / name)
                else:
                    self.folder(top / inner / name)
            for name in sorted(files):
                if keep((inner / name).as_posix()):
                    self.copy(Path(folder) / name, top / inner / name)

    def _parents(self, name: PurePosixPath) -> None:
        if name.parent not in self._folders:
            self.folder(name.parent)

    def _entry(
        self, name: str, mode: int, data: bytes, mtime: int, device: tuple[int, int] = (0, 0)
    ) -> None:
        self._count += 1
        path = name.encode("utf-8", "surrogateescape") + b"\0"
        # ino, mode, uid, gid, nlink, mtime, filesize, dev major/minor, rdev major/minor, namesize,
        # check
        fields = (self._count, mode, 0, 0, 1, mtime, len(data), 0, 0, *device, len(path), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + path
        self._write(header + bytes(-len(header) % 4))
        self._write(data)
        self._write(bytes(-len(data) % 4))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._size += len(data)


def _relative(path: str | PurePath) -> PurePosixPath:
    plain = PurePosixPath(path)
    if ".." in plain.parts:
        raise ValueError(f"a path in an archive may not go up: {path}")
    return plain.relative_to("/") if plain.is_absolute() else plain
