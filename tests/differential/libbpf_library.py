"""libbpf through ctypes: what it makes of an object file, as Python values.

The library must be found by the dynamic loader; :mod:`libbpf_worker` is started so that it is.
"""

from __future__ import annotations

import ctypes
import time
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
from typing import Any

from libbpf_kernel import LibbpfDoor, Recorder

_LOG_LINE = 1 << 14
_SIGNATURES = """
    libbpf_version_string: s
    libbpf_set_print: p p
    bpf_object__open_file: p s p
    bpf_object__prepare: i p
    bpf_object__load: i p
    bpf_object__close: - p
    bpf_object__name: s p
    bpf_object__btf: p p
    bpf_object__next_program: p p p
    bpf_object__next_map: p p p
    bpf_program__name: s p
    bpf_program__section_name: s p
    bpf_program__type: i p
    bpf_program__expected_attach_type: i p
    bpf_program__flags: u p
    bpf_program__autoload: b p
    bpf_program__set_autoload: i p b
    bpf_program__fd: i p
    bpf_program__insns: p p
    bpf_program__insn_cnt: z p
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
    bpf_map__is_internal: b p
    bpf_map__autocreate: b p
    bpf_map__inner_map: p p
    bpf_map__attach_struct_ops: p p
    bpf_link__destroy: i p
    bpf_map__initial_value: p p p
    btf__raw_data: p p p
"""
_KINDS = {
    "s": c_char_p, "p": c_void_p, "i": c_int, "u": c_uint32, "q": c_uint64, "z": c_size_t,
    "b": c_bool, "-": None,
}  # fmt: skip


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


class Libbpf:
    """The library in this process, behind a door to a scripted kernel.

    Attributes:
        version: For example ``"v1.7"``.
        log: Lines that it printed.
        door: Whom it asks instead of the kernel.
        seconds: CPU time spent in it, without the time of the scripted kernel.
    """

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libbpf.so.1", use_errno=True)
        for line in _SIGNATURES.strip().splitlines():
            name, _, signature = line.strip().partition(": ")
            result, *arguments = signature.split()
            function = getattr(self.library, name)
            function.restype = _KINDS[result]
            function.argtypes = [_KINDS[each] for each in arguments]
        self.version = text(self.library.libbpf_version_string()) or ""
        self.log: list[str] = []
        self.seconds = 0.0
        self.door = LibbpfDoor(self.library)
        libc = ctypes.CDLL(None)
        buffer = ctypes.create_string_buffer(_LOG_LINE)

        def note(level: int, form: int, arguments: int) -> int:
            libc.vsnprintf(buffer, c_size_t(_LOG_LINE), c_char_p(form), c_void_p(arguments))
            self.log.append(buffer.value.decode("utf-8", "backslashreplace").rstrip("\n"))
            return 0

        self._note = CFUNCTYPE(c_int, c_int, c_void_p, c_void_p)(note)
        self.library.libbpf_set_print(ctypes.cast(self._note, c_void_p))

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the library that may take long.

        Raises:
            Exception: Whatever went wrong in the scripted kernel meanwhile.
        """
        before = time.process_time() - self.door.seconds
        result = getattr(self.library, name)(*arguments)
        self.seconds += time.process_time() - self.door.seconds - before
        if self.door.errors:
            raise self.door.errors.pop()
        return result

    def open(self, path: str, kernel: Recorder, custom_btf: str | None = None) -> LibbpfObject:
        """Open an object file.

        Args:
            path: The file.
            kernel: Whom to ask from now on.
            custom_btf: File with BTF to relocate against instead of the kernel's.

        Raises:
            OSError: The library refuses it.
        """
        self.log.clear()
        self.door.kernel = kernel
        self.door.real_paths = {path, custom_btf or path}
        options = OpenOptions(
            sz=ctypes.sizeof(OpenOptions), btf_custom_path=custom_btf and custom_btf.encode()
        )
        ctypes.set_errno(0)
        handle = self.call("bpf_object__open_file", path.encode(), byref(options))
        if not handle:
            raise OSError(ctypes.get_errno(), self.last_words())
        return LibbpfObject(self, handle)

    def last_words(self) -> str:
        """The last lines of the log, which tell of a failure."""
        told = [line.removeprefix("libbpf: ") for line in self.log]
        return " | ".join([line for line in told if "optional step" not in line][-2:])


class LibbpfObject:
    """An open object.

    Attributes:
        name: Its name.
        programs, maps: Handles, in the library's order.
    """

    def __init__(self, libbpf: Libbpf, handle: int) -> None:
        self._libbpf = libbpf
        self._library: Any = libbpf.library
        self._handle = handle
        self.name = text(self._library.bpf_object__name(handle))
        self._links: list[int] = []
        self.programs = self._each("program")
        self.maps = self._each("map")

    def __enter__(self) -> LibbpfObject:
        return self

    def __exit__(self, *_: object) -> None:
        for link in self._links:
            self._libbpf.call("bpf_link__destroy", link)
        self._libbpf.call("bpf_object__close", self._handle)

    def _each(self, kind: str) -> list[int]:
        step = getattr(self._library, f"bpf_object__next_{kind}")
        found: list[int] = []
        while pointer := step(self._handle, found[-1] if found else None):
            found.append(pointer)
        return found

    # As opened

    def btf(self) -> bytes | None:
        """The BTF, as the library edited it."""
        size = c_uint32()
        btf = self._library.bpf_object__btf(self._handle)
        return btf and data(self._library.btf__raw_data(btf, byref(size)), size.value)

    def program(self, program: int) -> dict[str, Any]:
        """What it knows about a program."""
        lib = self._library
        return {
            "name": text(lib.bpf_program__name(program)),
            "section": text(lib.bpf_program__section_name(program)),
            "type": lib.bpf_program__type(program),
            "expected_attach_type": lib.bpf_program__expected_attach_type(program),
            "autoload": lib.bpf_program__autoload(program),
        }

    def map(self, pointer: int) -> dict[str, Any]:
        """What it knows about a map; ``inner`` likewise, for its inner maps."""
        lib = self._library
        told = {"name": text(lib.bpf_map__name(pointer)), "type": lib.bpf_map__type(pointer)}
        for name in (
            "key_size", "value_size", "max_entries", "map_flags", "numa_node", "map_extra",
            "ifindex", "btf_key_type_id", "btf_value_type_id", "is_internal", "autocreate",
        ):  # fmt: skip
            told[name] = getattr(lib, f"bpf_map__{name}")(pointer)
        told["pin_path"] = text(lib.bpf_map__pin_path(pointer))
        size = c_size_t()
        value = lib.bpf_map__initial_value(pointer, byref(size))
        told["initial_value"] = data(value, size.value)
        inner = lib.bpf_map__inner_map(pointer)
        told["inner"] = self.map(inner) if inner else None
        return told

    # As prepared and loaded

    def select(self, wanted: set[int]) -> None:
        """Load these programs only, by index."""
        for at, program in enumerate(self.programs):
            self._library.bpf_program__set_autoload(program, at in wanted)

    def prepare(self) -> int:
        """Everything up to the programs; 0 or a negative error number."""
        return int(self._libbpf.call("bpf_object__prepare", self._handle))

    def load(self) -> int:
        """Load the programs; 0 or a negative error number."""
        return int(self._libbpf.call("bpf_object__load", self._handle))

    def register(self, at: int) -> None:
        """Register a struct_ops map, by index, until the object is closed.

        Raises:
            OSError: The library refuses.
        """
        ctypes.set_errno(0)
        link = self._libbpf.call("bpf_map__attach_struct_ops", self.maps[at])
        if not link:
            raise OSError(ctypes.get_errno(), self._libbpf.last_words())
        self._links.append(link)

    def code(self, program: int) -> bytes:
        """Its instructions as they are now."""
        lib = self._library
        return data(lib.bpf_program__insns(program), 8 * lib.bpf_program__insn_cnt(program))

    def info(self, program: int, kind: str) -> bytes:
        """Its ``func_info`` or ``line_info`` records, once prepared."""
        lib = self._library
        count = getattr(lib, f"bpf_program__{kind}_cnt")(program)
        size = {"func_info": 8, "line_info": 16}[kind]
        return data(getattr(lib, f"bpf_program__{kind}")(program), size * count)

    def descriptors(self) -> tuple[list[int], list[int]]:
        """Of maps and of programs; negative for what is not there."""
        lib = self._library
        return (
            [lib.bpf_map__fd(each) for each in self.maps],
            [lib.bpf_program__fd(each) for each in self.programs],
        )


def text(value: bytes | None) -> str | None:
    """A C string."""
    return None if value is None else value.decode("utf-8", "backslashreplace")


def data(pointer: int | None, size: int) -> bytes:
    """Bytes in memory; none at no address."""
    return ctypes.string_at(pointer, size) if pointer and size else b""
