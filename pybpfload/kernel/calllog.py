"""A kernel whose calls are logged: what :mod:`~pybpfload.kernel.door` puts before the real one.

Calls of bpf(2) are shown by the fields of their attribute, without zeros and addresses; a string
that an address leads to is shown instead of it::

    bpf(MAP_CREATE, map_type=RINGBUF, max_entries=262144, map_name='events', btf_fd=4) = 5
    bpf(RAW_TRACEPOINT_OPEN, name='sys_enter', prog_fd=7) = -EINVAL
"""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["LoggedKernel", "bpf_text"]

_STRINGS = frozenset({"license", "name", "path", "pathname"})  # addresses of strings
_ENUMS = {
    "map_type": "MapType",
    "prog_type": "ProgType",
    "attach_type": "AttachType",
    "expected_attach_type": "AttachType",
}
_HEX = frozenset({"kern_version", "map_extra", "log_level"})  # and all names that end in flags
_IOCTLS = {0: "ENABLE", 1: "DISABLE", 3: "RESET", 8: "SET_BPF", 9: "PAUSE_OUTPUT", 10: "QUERY_BPF"}
_LOOKS = frozenset(
    {"exists", "filesystem_type", "fstat", "interface_index", "interface_name", "is_executable",
     "list_dir", "map_file", "memlock_limit", "pid", "pread", "read", "read_file", "real_path",
     "uname"}
)  # fmt: skip
_LONGEST = 64  # characters of an argument
_LONGEST_STRING = 4096  # bytes of a path, PATH_MAX


class LoggedKernel:
    """Stands before a kernel, and logs what is asked and answered.

    Args:
        kernel: Who answers.
        calls: Gets a format and its arguments, as ``logger.debug`` does; ``None`` for no records.
        files: The same for what only looks at files.

    Attributes:
        unlogged: Who answers.
    """

    def __init__(
        self, kernel: Any, calls: Callable[..., None] | None, files: Callable[..., None] | None
    ) -> None:
        self.unlogged = kernel
        self._calls = calls
        self._files = files

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.unlogged, name)
        log = self._files if name in _LOOKS else self._calls
        if log is None or name.startswith("_") or not callable(found):
            return found
        text = _TEXTS.get(name)

        def call(*arguments: Any) -> Any:
            # Before the call: the kernel may write into what it is given.
            asked = text(*arguments) if text else f"{name}({', '.join(map(_short, arguments))})"
            try:
                answer = found(*arguments)
            except OSError as error:
                log("%s = %s", asked, _number(-(error.errno or 0)))
                raise
            log("%s = %s", asked, _answer(answer))
            return answer

        setattr(self, name, call)  # found at once the next time
        return call


def bpf_text(cmd: int, attr: bytearray, size: int) -> str:
    """A call of bpf(2), as the module's description shows it."""
    from pybpfload.kernel.attrs import layout, names
    from pybpfload.kernel.cmd_link import link_kind
    from pybpfload.uapi import Cmd

    command = Cmd(cmd).name
    if command not in names():
        return f"bpf({command}, {attr[:size].hex(' ', 8)}, {size})"
    found = layout(command)
    fields = found.unpack(attr, size)
    if command == "LINK_CREATE" and (kind := link_kind(fields["attach_type"])):
        found = layout(f"LINK_CREATE/{kind}")
        fields = found.unpack(attr, size)
    texts = [
        f"{name}={_value(name, fields[name])}"
        for name, (code, _) in found.fields.items()
        if fields[name] and fields[name] != bytes(16) and (code != "ptr" or name in _STRINGS)
    ]
    return f"bpf({', '.join([command, *texts])})"


def _value(name: str, value: int | bytes) -> str:
    if isinstance(value, bytes):
        return repr(value.rstrip(b"\0").decode(errors="backslashreplace"))
    if name in _STRINGS:
        from pybpfload.kernel.door import own_memory

        text, end, _ = own_memory(value, _LONGEST_STRING).partition(b"\0")
        return repr(text.decode(errors="backslashreplace")) if end else f"{value:#x}"
    if name in _ENUMS:
        from pybpfload import uapi

        return str(getattr(uapi, _ENUMS[name])(value).name)
    return f"{value:#x}" if name in _HEX or name.endswith("flags") else str(value)


def _event_text(attr: bytearray, pid: int, cpu: int, group_fd: int, flags: int) -> str:
    from pybpfload.kernel.perf import event_fields

    told = [f"{name}={value}" for name, value in event_fields(attr).items()]
    where = [f"pid={pid}", f"cpu={cpu}", f"group_fd={group_fd}", f"flags={flags:#x}"]
    return f"perf_event_open({', '.join(told + where)})"


def _ioctl_text(fd: int, request: int, argument: int | bytearray) -> str:
    name = _IOCTLS.get(request & 0xFF) if request >> 8 & 0xFF == ord("$") else None
    shown = f"PERF_EVENT_IOC_{name}" if name else f"{request:#x}"
    return f"ioctl({fd}, {shown}, {_short(argument)})"


def _short(value: object) -> str:
    """An argument or an answer in a few words."""
    if isinstance(value, str | int | float | None | bool):
        text = repr(value)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    try:
        return f"<{len(value)} bytes>" if _is_buffer(value) else f"<{type(value).__name__}>"  # type: ignore[arg-type]
    except ValueError:  # a mapping that is closed
        return f"<{type(value).__name__}>"


def _is_buffer(value: object) -> bool:
    import mmap

    return isinstance(value, bytes | bytearray | memoryview | mmap.mmap)


def _answer(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return _number(value)
    if isinstance(value, list):
        return f"<{len(value)} names>"
    return _short(value)


def _number(value: int) -> str:
    return str(value) if value >= 0 else f"-{errno.errorcode.get(-value, -value)}"


_TEXTS: dict[str, Callable[..., str]] = {
    "bpf": bpf_text,
    "perf_event_open": _event_text,
    "ioctl": _ioctl_text,
}
