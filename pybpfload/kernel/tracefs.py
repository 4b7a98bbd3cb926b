"""tracefs: ids and formats of tracepoints, and the lines of bpf_printk()."""

from __future__ import annotations

import errno
import itertools
import os
import re
from contextlib import suppress

from pybpfload.errors import FormatError
from pybpfload.kernel import door
from pybpfload.kernel.call import Record
from pybpfload.kernel.errors import kernel_error
from pybpfload.kernel.fd import FileDescriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "TracePipe",
    "TracepointField",
    "TracepointFormat",
    "add_probe",
    "lines",
    "parse_format",
    "remove_probe",
    "root",
    "tracepoint_format",
    "tracepoint_id",
    "tracepoints",
]

INVALID = "__ftrace_invalid_address___"
"""What names of ``available_filter_functions`` begin with that stand for no function any more."""

_PLACES = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_NAME = re.compile(r"[A-Za-z0-9_.\-]+", re.ASCII)
_NO_TRACEPOINTS = frozenset({"enable", "filter", "header_event", "header_page"})  # files


def root() -> str:
    """Where tracefs is mounted.

    Raises:
        KernelError: It is not mounted (ENOENT), or closed to this process (EACCES).
    """
    for place in _PLACES:
        if door.exists(f"{place}/events"):
            return place
    try:
        mounts = door.read_file("/proc/self/mounts").decode(errors="replace")
    except OSError:
        mounts = ""
    for line in mounts.splitlines():
        words = line.split()
        if len(words) > 2 and words[2] == "tracefs":
            place = words[1].replace("\\040", " ")
            if door.exists(f"{place}/events"):
                return place
            raise kernel_error(errno.EACCES, "open", place, hint="only root may look into tracefs")
    raise kernel_error(
        errno.ENOENT,
        "open",
        "tracefs",
        hint="tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing",
    )


def tracepoint_id(category: str, name: str) -> int:
    """Number of a tracepoint, ``config`` of its perf event.

    Raises:
        KernelError: tracefs is not mounted, or has no such tracepoint.
        FormatError: The names are no names, or the file has no number.
    """
    text = _read(category, name, "id").strip()
    if not text.isdecimal():
        raise FormatError(f"{text[:20]!r} is no number", file=f"events/{category}/{name}/id")
    return int(text)


def lines(file: str) -> list[str]:
    """The lines of a file of tracefs, as ``available_filter_functions``.

    Raises:
        KernelError: tracefs is not mounted, or has no such file.
    """
    path = f"{root()}/{file}"
    try:
        return door.read_file(path).decode(errors="replace").splitlines()
    except OSError as error:
        raise kernel_error(error.errno or errno.EIO, "open", path) from None


class TracepointField(Record):
    """A field of a tracepoint's record.

    Attributes:
        name: Its name.
        type: Its C type, as the kernel writes it.
        offset: Bytes from the start of the record.
        size: Bytes.
        signed: Whether a number is signed.
        data_loc: Whether it tells where the data is (``__data_loc``: offset in the low 16 bits of
            a 32-bit number, length in the high ones).
    """

    __slots__ = ("data_loc", "name", "offset", "signed", "size", "type")
    name: str
    type: str
    offset: int
    size: int
    signed: bool
    data_loc: bool


class TracepointFormat(Record):
    """A tracepoint's record.

    Attributes:
        name: Name of the tracepoint.
        id: Its number.
        fields: The fields, the common ones first.
        print_fmt: How the kernel prints it.
    """

    __slots__ = ("fields", "id", "name", "print_fmt")
    name: str
    id: int
    fields: list[TracepointField]
    print_fmt: str


def tracepoint_format(category: str, name: str) -> TracepointFormat:
    """The record of a tracepoint.

    Raises:
        KernelError: tracefs is not mounted, or has no such tracepoint.
        FormatError: The description is not understood.
    """
    return parse_format(_read(category, name, "format"), f"events/{category}/{name}/format")


_FIELD = re.compile(
    r"\tfield:(.+?)(\w+)((?:\[[^\]]*\])*);\s+offset:(\d+);\s+size:(\d+);(?:\s+signed:([01]);)?"
)


def parse_format(text: str, file: str | None = None) -> TracepointFormat:
    """Read the text of a ``format`` file. Pure: makes no system call.

    Raises:
        FormatError: It is no such text.
    """
    name = re.search(r"^name: (\S+)$", text, re.MULTILINE)
    number = re.search(r"^ID: (\d{1,9})$", text, re.MULTILINE)
    printed = re.search(r"^print fmt: (.*)$", text, re.MULTILINE)
    if name is None or number is None:
        raise FormatError("no description of a tracepoint", file=file)
    fields = [
        TracepointField(
            name=field,
            type=f"{kind.strip()}{dims}",
            offset=int(offset[:9]),
            size=int(size[:9]),
            signed=signed == "1",
            data_loc=kind.startswith("__data_loc"),
        )
        for kind, field, dims, offset, size, signed in _FIELD.findall(text)
    ]
    return TracepointFormat(
        name=name.group(1),
        id=int(number.group(1)),
        fields=fields,
        print_fmt=printed.group(1) if printed else "",
    )


_PROBE_LINE = 1024  # characters that the kernel reads of one definition
_PROBE_NAME = 63
_made = itertools.count()


def add_probe(kind: str, name: str, place: str, *, on_return: bool = False) -> tuple[str, str]:
    """Make the event of a probe, for kernels whose perf events cannot do without (before 4.17).

    It stays until it is removed, whatever becomes of this process.

    Args:
        kind: ``"kprobe"`` or ``"uprobe"``.
        name: What the event is called after.
        place: ``function+0xoffset``, or ``path:0xoffset``.
        on_return: Fire when the function returns.

    Returns:
        Its category and name, as :func:`tracepoint_id` takes them.

    Raises:
        KernelError: tracefs is not mounted, or the kernel refuses; EINVAL also for a definition
            that is too long.
    """
    category = {"kprobe": "kretprobes", "uprobe": "uretprobes"}[kind] if on_return else f"{kind}s"
    event = f"pybpfload_{door.pid()}_{next(_made)}_{name}"[:_PROBE_NAME]
    event = re.sub(r"[^A-Za-z0-9_]", "_", event)
    line = f"{'r' if on_return else 'p'}:{category}/{event} {place}"
    path = f"{root()}/{kind}_events"
    if len(line) >= _PROBE_LINE:
        raise kernel_error(errno.EINVAL, "write", path, hint="the definition is too long")
    _append(path, line)
    return category, event


def remove_probe(kind: str, category: str, event: str) -> None:
    """Remove the event of a probe; it must not be open any more.

    Raises:
        KernelError: EBUSY: it is open still; ENOENT: there is none.
    """
    _append(f"{root()}/{kind}_events", f"-:{category}/{event}")


def _append(path: str, line: str) -> None:
    try:
        door.write_file(path, line.encode("utf-8", "surrogateescape"), append=True)
    except OSError as error:
        raise kernel_error(error.errno or errno.EIO, "write", f"{path} ({line})") from None


def tracepoints(category: str | None = None) -> list[str]:
    """Names of all categories, or of the tracepoints of one.

    Raises:
        KernelError: tracefs is not mounted, or has no such category.
    """
    path = f"{root()}/events" + (f"/{category}" if category else "")
    try:
        names = door.list_dir(path)
    except OSError as error:
        raise kernel_error(error.errno or errno.EIO, "open", path) from None
    return [name for name in names if name not in _NO_TRACEPOINTS]


def _read(category: str, name: str, file: str) -> str:
    for word in (category, name):
        if not _NAME.fullmatch(word) or word.startswith("."):
            raise FormatError(f"{word[:60]!r} is no name of a tracepoint or category")
    place = root()
    try:
        return door.read_file(f"{place}/events/{category}/{name}/{file}").decode(errors="replace")
    except OSError as error:
        number = error.errno or errno.EIO
    hint = None
    if number == errno.ENOENT:
        import difflib

        known = tracepoints()
        word = category
        if category in known:
            known, word = tracepoints(category), name
        close = difflib.get_close_matches(word, known, 3)
        hint = f"this kernel has no tracepoint {'category ' if word == category else ''}{word}"
        if close:
            hint += f"; did you mean {' or '.join(close)}?"
    raise kernel_error(number, "open", f"tracepoint {category}/{name}", hint=hint)


class TracePipe(FileDescriptor):
    """Lines that programs write with ``bpf_printk()``, from ``trace_pipe``.

    There is one such pipe for the whole machine: each line goes to one reader only, and other
    tracers' lines come too.

    Raises:
        KernelError: tracefs is not mounted or closed to this process; ENODATA: tracing is switched
            off.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        path = f"{root()}/trace_pipe"
        on = b""
        with suppress(OSError):
            on = door.read_file(f"{root()}/tracing_on").strip()
        if on == b"0":
            # Whoever traces may do that, and a kernel that oopses does (oops_enter()).
            hint = f"tracing is switched off: echo 1 > {root()}/tracing_on"
            raise kernel_error(errno.ENODATA, "read", path, hint=hint)
        try:
            fd = door.open_fd(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise kernel_error(error.errno or errno.EIO, "open", path) from None
        super().__init__(fd, "trace_pipe")
        self._rest = b""

    def read_lines(self) -> list[str]:
        """The lines that are there now, without their newlines; does not wait.

        Raises:
            KernelError: Reading failed.
        """
        lines: list[str] = []
        while True:
            try:
                data = door.read(self.fileno(), 1 << 16)
            except BlockingIOError:
                return lines
            except OSError as error:
                raise kernel_error(error.errno or errno.EIO, "read", "trace_pipe") from None
            if not data:
                return lines
            *whole, self._rest = (self._rest + data).split(b"\n")
            lines += [line.decode(errors="replace") for line in whole]

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for lines.

        Args:
            timeout: Seconds; ``None`` waits for ever.

        Returns:
            Whether there are any.
        """
        import select

        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def __iter__(self) -> Iterator[str]:
        """Lines as they come, for ever."""
        while True:
            self.wait()
            yield from self.read_lines()
