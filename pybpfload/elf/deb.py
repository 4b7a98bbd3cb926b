"""Kernels inside Debian packages (deb(5)): an ``ar`` archive with a packed tar in it."""

from __future__ import annotations

import re
import tarfile
from typing import TYPE_CHECKING, BinaryIO, cast

from pybpfload.elf.image import decompressed
from pybpfload.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["is_deb", "kernel_of_deb", "members_of_deb"]

_AR = b"!<arch>\n"
_FIRST = b"debian-binary"
_HEADER_SIZE = 60  # of a member of an ar archive: name 16, date 12, owner 6, group 6, mode 8,
_SIZE_AT, _SIZE_END, _HEADER_END = 48, 58, b"`\n"  # size 10, and this
_MEMBERS = 16  # of a package: three, and perhaps signatures

# As Debian and Ubuntu have it; vmlinux is in packages with debugging information.
_KERNEL = re.compile(
    r"(?:\./)?(?:usr/lib/debug/)?(?:usr/)?(?:boot/vmlinu[xz]-[^/]+|lib/modules/[^/]+/vmlinu[xz])"
)


def is_deb(data: bytes | memoryview) -> bool:
    """Whether a file is a Debian package."""
    start = bytes(data[: len(_AR) + len(_FIRST)])
    return start == _AR + _FIRST


def kernel_of_deb(data: bytes, name: str = "") -> tuple[str, bytes]:
    """Find the kernel in a package: the first ``vmlinuz`` or ``vmlinux``.

    What the package unpacks to is limited by its size as for images
    (:func:`pybpfload.elf.image.output_limit`); nothing behind the kernel is unpacked.

    Args:
        data: The whole package.
        name: Its name, for errors only.

    Returns:
        The kernel's path in the package, and its content.

    Raises:
        FormatError: It is no package, damaged, or there is no kernel in it.
    """
    for found in members_of_deb(data, name, _KERNEL.fullmatch):
        return found
    raise FormatError(
        "no kernel in this package",
        file=name or None,
        hint="kernels are in packages called linux-image-VERSION or linux-image-unsigned-VERSION",
    )


def members_of_deb(
    data: bytes, name: str, wanted: Callable[[str], object]
) -> Iterator[tuple[str, bytes]]:
    """Read files of a package one by one, in its order; nothing behind the last is unpacked.

    Limits are those of :func:`kernel_of_deb`.

    Args:
        data: The whole package.
        name: Its name, for errors only.
        wanted: Tells by a file's path whether it is to be read.

    Yields:
        Path in the package and content of each wanted file.

    Raises:
        FormatError: It is no package, or damaged.
    """
    packed = _Pieces(decompressed(_data_tar(data, name), name))
    try:
        with tarfile.open(fileobj=cast("BinaryIO", packed), mode="r|") as archive:
            for member in archive:
                if member.isreg() and wanted(member.name):
                    opened = archive.extractfile(member)
                    assert opened is not None  # of regular files it never is
                    yield member.name.removeprefix("./"), opened.read()
    except FormatError:
        raise
    except Exception as error:  # tarfile lets several kinds escape when an archive is damaged
        raise FormatError(f"damaged package: {error}", file=name or None) from None


def _data_tar(data: bytes, name: str) -> memoryview:
    """The member ``data.tar``, packed as it is."""
    view = memoryview(data)
    at = len(_AR)
    if not is_deb(view):
        raise FormatError("no Debian package", file=name or None)
    for _ in range(_MEMBERS):
        header = bytes(view[at : at + _HEADER_SIZE])
        size = header[_SIZE_AT:_SIZE_END].strip()
        if not header.endswith(_HEADER_END) or not size.isdigit():
            break
        at += _HEADER_SIZE
        if at + int(size) > len(view):
            break
        if header.startswith(b"data.tar"):
            return view[at : at + int(size)]
        at += int(size) + int(size) % 2
    raise FormatError("damaged package: there is no data.tar in it", file=name or None, offset=at)


class _Pieces:
    """Pieces of bytes as a file that can only be read onward."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Up to a number of bytes; fewer only at the end."""
        found = bytearray()
        while len(found) < size:
            if not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._rest = memoryview(piece)
            wanted = size - len(found)
            found += self._rest[:wanted]
            self._rest = self._rest[wanted:]
        return bytes(found)
