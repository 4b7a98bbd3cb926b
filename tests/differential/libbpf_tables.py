"""Does things to whole tables of BTF with libbpf, as a program of its own.

It runs on the C library of the packages that libbpf came with, as :mod:`libbpf_worker` does. Each
line of input is JSON: what to ``do`` and its arguments, paths of files with BTF. The answer is a
line with what the functions below return, or with an ``error`` number.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

_SIGNATURES = {
    "libbpf_major_version": (c_uint32,),
    "libbpf_minor_version": (c_uint32,),
    "btf__parse_raw": (c_void_p, c_char_p),
    "btf__parse_raw_split": (c_void_p, c_char_p, c_void_p),
    "btf__parse_split": (c_void_p, c_char_p, c_void_p),
    "btf__base_btf": (c_void_p, c_void_p),
    "btf__pointer_size": (c_size_t, c_void_p),
    "btf__new_empty": (c_void_p,),
    "btf__new_empty_split": (c_void_p, c_void_p),
    "btf__set_endianness": (c_int, c_void_p, c_int),
    "btf__endianness": (c_int, c_void_p),
    "btf__add_btf": (c_int, c_void_p, c_void_p),
    "btf__dedup": (c_int, c_void_p, c_void_p),
    "btf__distill_base": (c_int, c_void_p, c_void_p, c_void_p),
    "btf__relocate": (c_int, c_void_p, c_void_p),
    "btf__type_cnt": (c_uint32, c_void_p),
    "btf__raw_data": (c_void_p, c_void_p, c_void_p),
    "btf__free": (None, c_void_p),
}


def library() -> Any:
    """libbpf, quiet."""
    found = ctypes.CDLL("libbpf.so.1", use_errno=True)
    found.libbpf_set_print(None)
    for name, (result, *arguments) in _SIGNATURES.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


class Refused(Exception):
    """The library returned an error number."""


def checked(result: int | None) -> Any:
    """A result of the library that is not an error."""
    if result is None or result < 0:
        raise Refused(-result if result else ctypes.get_errno())
    return result


class Tables:
    """What can be asked for. Tables are freed when it was done, those over others first."""

    def __init__(self, lib: Any) -> None:
        self._lib = lib
        self._open: list[int] = []

    def free(self) -> None:
        for table in reversed(self._open):
            self._lib.btf__free(table)
        self._open.clear()

    def _read(self, path: str, base: int | None = None) -> int:
        if base is None:
            found = checked(self._lib.btf__parse_raw(path.encode()))
        else:
            found = checked(self._lib.btf__parse_raw_split(path.encode(), base))
        self._open.append(found)
        return found

    def _write(self, table: int, out: str) -> None:
        size = c_uint32()
        data = checked(self._lib.btf__raw_data(table, byref(size)))
        Path(out).write_bytes(ctypes.string_at(data, size.value))

    def version(self) -> dict[str, Any]:
        """The library's ``version``, as two numbers."""
        lib = self._lib
        return {"version": [lib.libbpf_major_version(), lib.libbpf_minor_version()]}

    def dedup(self, paths: list[str], out: str, base: str | None = None) -> dict[str, Any]:
        """Put tables together, over a base or not, and deduplicate.

        Returns:
            Numbers of types ``before`` and ``after``, those of the base included, and CPU time in
            ``seconds``.
        """
        lib = self._lib
        below = self._read(base) if base else None
        tables = [self._read(path, below) for path in paths]
        whole = checked(lib.btf__new_empty_split(below) if below else lib.btf__new_empty())
        self._open.append(whole)
        for table in tables:
            checked(lib.btf__add_btf(whole, table))
        checked(lib.btf__set_endianness(whole, lib.btf__endianness(tables[0])))
        before, started = lib.btf__type_cnt(whole) - 1, time.process_time()
        checked(lib.btf__dedup(whole, None))
        seconds = time.process_time() - started
        self._write(whole, out)
        return {"before": before, "after": lib.btf__type_cnt(whole) - 1, "seconds": seconds}

    def distill(self, split: str, base: str, out: str, out_base: str) -> dict[str, Any]:
        """Write split BTF over its distilled base, and that."""
        table = self._read(split, self._read(base))
        found_base, found = c_void_p(), c_void_p()
        checked(self._lib.btf__distill_base(table, byref(found_base), byref(found)))
        self._open += [checked(found_base.value), checked(found.value)]
        self._write(found_base.value, out_base)  # type: ignore[arg-type]
        self._write(found.value, out)  # type: ignore[arg-type]
        return {}

    def relocate(self, split: str, distilled: str, base: str, out: str) -> dict[str, Any]:
        """Write split BTF over another base than its distilled one."""
        other = self._read(base)
        table = self._read(split, self._read(distilled))
        checked(self._lib.btf__relocate(table, other))
        self._write(table, out)
        return {}

    def parse(self, path: str, out: str, base: str | None = None) -> dict[str, Any]:
        """Read an ELF file, over a base or not, and write its BTF.

        Returns:
            Its number of ``types``, those of its base included, and its ``pointer_size``.
        """
        lib = self._lib
        below = self._read(base) if base else None
        table = checked(lib.btf__parse_split(path.encode(), below))
        self._open.append(table)
        self._write(table, out)
        return {"types": lib.btf__type_cnt(table), "pointer_size": lib.btf__pointer_size(table)}


def main() -> None:
    tables = Tables(library())
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            told = getattr(tables, asked.pop("do"))(**asked)
        except Refused as error:
            told = {"error": error.args[0]}
        tables.free()
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
