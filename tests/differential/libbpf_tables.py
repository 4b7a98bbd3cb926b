"""Puts tables of BTF together and deduplicates them with libbpf, as a program of its own.

It runs on the C library of the packages that libbpf came with, as :mod:`libbpf_worker` does. Each
line of input is JSON: ``paths`` of raw BTF and ``out``, where to write the deduplicated table. The
answer is a line with the numbers of types ``before`` and ``after`` and the CPU time in ``seconds``,
or with an ``error`` number.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from ctypes import byref, c_char_p, c_int, c_uint32, c_void_p
from pathlib import Path
from typing import Any

_SIGNATURES = {
    "btf__parse_raw": (c_void_p, c_char_p),
    "btf__new_empty": (c_void_p,),
    "btf__set_endianness": (c_int, c_void_p, c_int),
    "btf__endianness": (c_int, c_void_p),
    "btf__add_btf": (c_int, c_void_p, c_void_p),
    "btf__dedup": (c_int, c_void_p, c_void_p),
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


def answer(lib: Any, paths: list[str], out: str) -> dict[str, Any]:
    """Do what one line asks for."""
    tables = [checked(lib.btf__parse_raw(path.encode())) for path in paths]
    whole = checked(lib.btf__new_empty())
    for table in tables:
        checked(lib.btf__add_btf(whole, table))
    checked(lib.btf__set_endianness(whole, lib.btf__endianness(tables[0])))
    before, started = lib.btf__type_cnt(whole) - 1, time.process_time()
    checked(lib.btf__dedup(whole, None))
    seconds, size = time.process_time() - started, c_uint32()
    data = checked(lib.btf__raw_data(whole, byref(size)))
    Path(out).write_bytes(ctypes.string_at(data, size.value))
    after = lib.btf__type_cnt(whole) - 1
    for table in (*tables, whole):
        lib.btf__free(table)
    return {"before": before, "after": after, "seconds": seconds}


def main() -> None:
    lib = library()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            told = answer(lib, asked["paths"], asked["out"])
        except Refused as error:
            told = {"error": error.args[0]}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
