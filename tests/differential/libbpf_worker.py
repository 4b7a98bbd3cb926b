"""libbpf's side of the comparison: opens and prepares objects through ctypes, tells all as JSON.

This file is run as a program of its own, by a Python that runs on the C library of the packages
that libbpf came with (:class:`libbpf_compare.Libbpf`), so it imports nothing but the standard
library. It reads one job a line,

    {"object": path, "btf": path or null, "kconfig": text, "relaxed_maps": false,
     "without_maps": false, "load": [indices of programs; all by default]}

and answers each with one line: ``{"version", "opened", "error", "log", "programs", "maps", ...}``.

Nothing is loaded: ``bpf_object__prepare`` (libbpf 1.5) relocates, uploads BTF and creates maps.
Maps are kept from being pinned, and every file descriptor is closed before the answer is given.
"""

from __future__ import annotations

import base64
import ctypes
import json
import sys
from ctypes import (
    CFUNCTYPE,
    Structure,
    byref,
    c_bool,
    c_char_p,
    c_int,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)

_LOG_LINE = 1 << 14
_STRUCT_OPS = 26  # BPF_MAP_TYPE_STRUCT_OPS


class OpenOptions(Structure):
    """``struct bpf_object_open_opts``; a public interface, extended at its end only."""

    _fields_ = [
        ("sz", c_size_t),
        ("object_name", c_char_p),
        ("relaxed_maps", c_bool),
        ("pin_root_path", c_char_p),
        ("stub", c_uint32),
        ("kconfig", c_char_p),
        ("btf_custom_path", c_char_p),
    ]


class Insns(Structure):
    """Instructions are handed over as bytes; this is only something to point to."""

    _fields_ = [("bytes", ctypes.c_ubyte * 8)]


def declare(library: ctypes.CDLL) -> None:
    """Tell ctypes the signatures: result first."""
    text = """
        libbpf_version_string: s
        libbpf_set_print: p p
        bpf_object__open_file: p s p
        bpf_object__prepare: i p
        bpf_object__close: - p
        bpf_object__name: s p
        bpf_object__btf: p p
        bpf_object__next_program: p p p
        bpf_object__next_map: p p p
        bpf_program__name: s p
        bpf_program__section_name: s p
        bpf_program__type: i p
        bpf_program__expected_attach_type: i p
        bpf_program__autoload: b p
        bpf_program__set_autoload: i p b
        bpf_program__insns: p p
        bpf_program__insn_cnt: z p
        bpf_program__flags: u p
        bpf_program__func_info: p p
        bpf_program__func_info_cnt: u p
        bpf_program__line_info: p p
        bpf_program__line_info_cnt: u p
        bpf_map__name: s p
        bpf_map__fd: i p
        bpf_map__type: i p
        bpf_map__key_size: u p
        bpf_map__value_size: u p
        bpf_map__max_entries: u p
        bpf_map__map_flags: u p
        bpf_map__numa_node: u p
        bpf_map__map_extra: q p
        bpf_map__ifindex: u p
        bpf_map__btf_key_type_id: u p
        bpf_map__btf_value_type_id: u p
        bpf_map__pin_path: s p
        bpf_map__set_pin_path: i p s
        bpf_map__is_internal: b p
        bpf_map__autocreate: b p
        bpf_map__set_autocreate: i p b
        bpf_map__inner_map: p p
        bpf_map__initial_value: p p p
        btf__raw_data: p p p
    """
    kinds = {
        "s": c_char_p, "p": c_void_p, "i": c_int, "u": c_uint32, "q": c_uint64, "z": c_size_t,
        "b": c_bool, "-": None,
    }  # fmt: skip
    for line in text.split("\n"):
        name, _, signature = line.strip().partition(": ")
        function = getattr(library, name, None) if name else None
        if function is not None:
            result, *arguments = signature.split()
            function.restype = kinds[result]
            function.argtypes = [kinds[each] for each in arguments]


def text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")


def packed(pointer: int | None, size: int) -> str:
    return base64.b64encode(ctypes.string_at(pointer, size) if pointer and size else b"").decode()


class Libbpf:
    """The library, with its log kept in a list."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libbpf.so.1", use_errno=True)
        declare(self.library)
        self.log: list[str] = []
        libc = ctypes.CDLL(None)
        buffer = ctypes.create_string_buffer(_LOG_LINE)

        def note(level: int, form: int, arguments: int) -> int:
            libc.vsnprintf(buffer, c_size_t(_LOG_LINE), c_char_p(form), c_void_p(arguments))
            self.log.append(buffer.value.decode("utf-8", "backslashreplace").rstrip("\n"))
            return 0

        self._note = CFUNCTYPE(c_int, c_int, c_void_p, c_void_p)(note)
        self.library.libbpf_set_print(ctypes.cast(self._note, c_void_p))

    def run(self, job: dict) -> dict:
        lib = self.library
        self.log.clear()
        options = OpenOptions(
            sz=ctypes.sizeof(OpenOptions),
            relaxed_maps=bool(job.get("relaxed_maps")),
            kconfig=(job.get("kconfig") or None) and job["kconfig"].encode(),
            btf_custom_path=(job.get("btf") or None) and job["btf"].encode(),
        )
        answer = {"version": text(lib.libbpf_version_string()), "opened": False, "error": 0}
        ctypes.set_errno(0)
        handle = lib.bpf_object__open_file(job["object"].encode(), byref(options))
        if not handle:
            return {**answer, "error": ctypes.get_errno(), "log": list(self.log)}
        try:
            self._describe(handle, answer)
            if job.get("prepare", True):
                self._prepare(handle, answer, job)
        finally:
            lib.bpf_object__close(handle)
        answer["log"] = list(self.log)
        return answer

    def _each(self, kind: str, handle: int) -> list[int]:
        step = getattr(self.library, f"bpf_object__next_{kind}")
        found = []
        while pointer := step(handle, found[-1] if found else None):
            found.append(pointer)
        return found

    def _describe(self, handle: int, answer: dict) -> None:
        lib = self.library
        answer["opened"] = True
        answer["name"] = text(lib.bpf_object__name(handle))
        answer["maps"] = [self._map(each) for each in self._each("map", handle)]
        answer["programs"] = [self._program(each) for each in self._each("program", handle)]
        size = c_uint32()
        if btf := lib.bpf_object__btf(handle):
            answer["btf"] = packed(lib.btf__raw_data(btf, byref(size)), size.value)

    def _program(self, program: int) -> dict:
        lib = self.library
        return {
            "name": text(lib.bpf_program__name(program)),
            "section": text(lib.bpf_program__section_name(program)),
            "type": lib.bpf_program__type(program),
            "expected_attach_type": lib.bpf_program__expected_attach_type(program),
            "flags": lib.bpf_program__flags(program),
            "autoload": lib.bpf_program__autoload(program),
        }

    def _map(self, pointer: int) -> dict:
        lib = self.library
        told = {"name": text(lib.bpf_map__name(pointer)), "type": lib.bpf_map__type(pointer)}
        for name in (
            "key_size", "value_size", "max_entries", "map_flags", "numa_node", "map_extra",
            "ifindex", "btf_key_type_id", "btf_value_type_id", "is_internal", "autocreate",
        ):  # fmt: skip
            told[name] = getattr(lib, f"bpf_map__{name}")(pointer)
        told["pin_path"] = text(lib.bpf_map__pin_path(pointer))
        size = c_size_t()
        value = lib.bpf_map__initial_value(pointer, byref(size))
        told["initial_value"] = packed(value, size.value) if value else None
        inner = lib.bpf_map__inner_map(pointer)
        told["inner"] = self._map(inner) if inner else None
        return told

    def _prepare(self, handle: int, answer: dict, job: dict) -> None:
        lib = self.library
        for each in self._each("map", handle):
            lib.bpf_map__set_pin_path(each, None)  # a comparison must not leave pins behind
            # struct_ops maps stay: without them libbpf turns their programs off too.
            if job.get("without_maps") and lib.bpf_map__type(each) != _STRUCT_OPS:
                lib.bpf_map__set_autocreate(each, False)
        programs = self._each("program", handle)
        for at, each in enumerate(programs):
            lib.bpf_program__set_autoload(each, "load" not in job or at in job["load"])
        answer["prepared"] = lib.bpf_object__prepare(handle)
        for told, each in zip(answer["programs"], programs, strict=True):
            count = lib.bpf_program__insn_cnt(each)
            told["insns"] = packed(lib.bpf_program__insns(each), 8 * count)
            for label, size in (("func_info", 8), ("line_info", 16)):
                count = getattr(lib, f"bpf_program__{label}_cnt")(each)
                told[label] = packed(getattr(lib, f"bpf_program__{label}")(each), size * count)
        answer["map_fds"] = {
            lib.bpf_map__fd(each): index for index, each in enumerate(self._each("map", handle))
        }


def main() -> None:
    libbpf = Libbpf()
    for line in sys.stdin:
        print(json.dumps(libbpf.run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
