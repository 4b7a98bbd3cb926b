"""Putting functions of ours in place of C functions that a loaded shared library calls.

A shared library calls others through a table of addresses that the dynamic loader filled in. Each
slot of it is described by a relocation that names the function (``DT_JMPREL``), so another address
in the slot changes what this one library calls, and nothing else in the process.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from pathlib import Path
from typing import Any

_LOAD, _DYNAMIC = 1, 2  # p_type
_PLTRELSZ, _STRTAB, _SYMTAB, _JMPREL = 2, 5, 6, 23  # d_tag
_POINTER = struct.Struct("=Q")


class Slots:
    """The slots of one 64-bit ELF library that is loaded in this process.

    Args:
        library: A library; its file must be found by its name in ``/proc/self/maps``.
        name: File name of the library, for example ``"libbpf.so.1"``.

    Attributes:
        addresses: Address of the slot of each function that the library calls through one.
    """

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        path, base = _where_loaded(name)
        self._path, self._base = path, base
        self._image = path.read_bytes()
        self.addresses = dict(self._named_slots())
        self._kept: list[Any] = [library]  # whatever the slots lead to must live on

    def replace(self, name: str, prototype: Any, function: Any) -> Any:
        """Let the library call ``function`` instead of the C function ``name``.

        Args:
            name: Name of the C function.
            prototype: ``CFUNCTYPE`` of it.
            function: A Python function.

        Returns:
            The C function that was in the slot.

        Raises:
            KeyError: The library does not call a function of this name.
        """
        slot = self.addresses[name]
        before = prototype(_POINTER.unpack(ctypes.string_at(slot, 8))[0])
        ours = prototype(function)
        self._kept.append(ours)
        address = ctypes.cast(ours, ctypes.c_void_p).value
        assert address is not None
        _make_writable(slot)
        ctypes.memmove(slot, _POINTER.pack(address), 8)
        return before

    def _named_slots(self) -> Any:
        segments = [
            struct.unpack_from("=IIQQQQ", self._image, phoff) for phoff in self._program_headers()
        ]
        dynamic_at, size = next((s[2], s[5]) for s in segments if s[0] == _DYNAMIC)
        tags = dict(struct.iter_unpack("=QQ", self._image[dynamic_at : dynamic_at + size]))

        def in_file(address: int) -> int:
            for kind, _flags, offset, start, _physical, length in segments:
                if kind == _LOAD and start <= address < start + length:
                    return int(address - start + offset)
            raise ValueError(f"{self._path}: address {address:#x} is not in the file")

        symbols, strings = in_file(tags[_SYMTAB]), in_file(tags[_STRTAB])
        first = in_file(tags[_JMPREL])
        for place, info, _addend in struct.iter_unpack(
            "=QQq", self._image[first : first + tags[_PLTRELSZ]]
        ):
            (name,) = struct.unpack_from("=I", self._image, symbols + 24 * (info >> 32))
            end = self._image.index(b"\0", strings + name)
            yield self._image[strings + name : end].decode(), self._base + place

    def _program_headers(self) -> range:
        (phoff,) = struct.unpack_from("=Q", self._image, 32)
        size, count = struct.unpack_from("=HH", self._image, 54)
        return range(phoff, phoff + size * count, size)


def _where_loaded(name: str) -> tuple[Path, int]:
    """File of a loaded library, and the address at which its first byte is."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        words = line.split(maxsplit=5)
        if len(words) == 6 and words[2] == "00000000" and Path(words[5]).name.startswith(name):
            return Path(words[5]), int(words[0].partition("-")[0], 16)
    raise FileNotFoundError(f"{name} is not loaded")


def _make_writable(address: int) -> None:
    """Lift the write protection that the loader put on the table (RELRO)."""
    page = address & -mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    mprotect = libc.mprotect
    mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if mprotect(page, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE):
        raise OSError(ctypes.get_errno(), "mprotect")
