"""Which CPUs there are, and when that changes."""

from __future__ import annotations

import errno

from pybpfload.errors import FormatError
from pybpfload.kernel import door
from pybpfload.kernel.errors import kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

__all__ = ["CpuWatch", "online_cpus", "parse_cpu_list", "possible_cpus"]

_LIMIT = 1 << 16
_PLACE = "/sys/devices/system/cpu/"
_UEVENTS = 15  # NETLINK_KOBJECT_UEVENT
_FROM_KERNEL = 1  # its multicast group
_ANNOUNCEMENTS = (b"online@/devices/system/cpu/", b"offline@/devices/system/cpu/")


def parse_cpu_list(text: str, file: str | None = None) -> list[int]:
    """Numbers of a list such as ``0-3,8``.

    Raises:
        FormatError: It is empty or no such list, a range goes down, or a number is beyond any
            machine.
    """
    found: set[int] = set()
    for part in text.replace("\n", ",").split(","):
        if not part:
            continue
        first, dash, last = part.partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise FormatError(f"{part[:40]!r} is no range of CPUs", file=file)
        low, high = int(first[:10]), int((last or first)[:10])
        if high < low or high >= _LIMIT:
            raise FormatError(f"{part[:40]!r} is no range of CPUs", file=file)
        found.update(range(low, high + 1))
    if not found:
        raise FormatError("no CPU", file=file)
    return sorted(found)


def possible_cpus() -> int:
    """How many CPUs there may ever be: per-CPU maps have a value for each.

    Raises:
        KernelError: ``/sys`` is not mounted.
    """
    cache = door.cache()
    if "possible cpus" not in cache:
        cache["possible cpus"] = len(_read("possible"))
    count: int = cache["possible cpus"]
    return count


def online_cpus() -> list[int]:
    """Numbers of the CPUs that run now.

    Raises:
        KernelError: ``/sys`` is not mounted.
    """
    return _read("online")


class CpuWatch:
    """Notices that CPUs come and go, by what the kernel announces about its devices (uevents).

    Raises:
        OSError: There are no announcements for this process.
    """

    def __init__(self) -> None:
        self._socket: socket.socket = door.netlink(_UEVENTS)
        try:
            self._socket.setblocking(False)
            self._socket.bind((0, _FROM_KERNEL))
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """A descriptor that is readable when something was announced."""
        return self._socket.fileno()

    def changed(self) -> bool:
        """Whether CPUs have come or gone since the last call, or may have; does not wait."""
        found = False
        while True:
            try:
                found |= self._socket.recv(4096).startswith(_ANNOUNCEMENTS)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # some were dropped
                    raise
                found = True

    def close(self) -> None:
        """Stop; again does nothing."""
        self._socket.close()


def _read(name: str) -> list[int]:
    path = _PLACE + name
    try:
        text = door.read_file(path).decode(errors="replace")
    except OSError as error:
        raise kernel_error(error.errno or 5, "open", path) from None
    return parse_cpu_list(text, path)
