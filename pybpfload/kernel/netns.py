"""Other network namespaces: looking and attaching there without moving this process."""

from __future__ import annotations

import contextvars
import errno
import os
from typing import TYPE_CHECKING

from pybpfload.kernel import door
from pybpfload.kernel.errors import kernel_error
from pybpfload.kernel.fd import FileDescriptor

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["in_network_namespace", "open_namespace"]

_NEWNET = 0x40000000  # CLONE_NEWNET
_NAMED = "/run/netns"  # where `ip netns add` mounts them
_HINTS = {
    errno.ENOENT: "it is the path of one, a name as of `ip netns`, or the number of a process",
    errno.EACCES: "namespaces of other users' processes need CAP_SYS_PTRACE",
}


def open_namespace(where: str | int | os.PathLike[str]) -> FileDescriptor:
    """Open a network namespace.

    Args:
        where: A path, such as ``/proc/1/ns/net``; a name as of ``ip netns``; the number of a
            process that is in it.

    Raises:
        KernelError: There is none such, or it may not be opened (those of other processes need
            CAP_SYS_PTRACE).
    """
    path = os.fspath(where) if not isinstance(where, int) else str(where)
    if "/" not in path:
        named = f"{_NAMED}/{path}"
        path = f"/proc/{path}/ns/net" if path.isdecimal() and not door.exists(named) else named
    try:
        return FileDescriptor(door.open_fd(path), path)
    except OSError as error:
        number = error.errno or errno.EIO
        target = f"network namespace {path}"
        raise kernel_error(number, "open", target, hint=_HINTS.get(number)) from None


def in_network_namespace(where: str | int | os.PathLike[str], work: Callable[[], T]) -> T:
    """Call a function in another network namespace (CAP_SYS_ADMIN).

    It runs in a thread of its own, which ends with it: setns(2) moves only the calling thread, and
    no thread of this process is left elsewhere, whatever happens. Unlike a child process, it can
    return what is open, such as links::

        link = in_network_namespace("blue", lambda: program.attach("eth0"))

    Files are those of this process' mounts: ``/sys/class/net`` goes on to show the devices here.

    Args:
        where: As for :func:`open_namespace`.
        work: Called without arguments, while this thread waits.

    Returns:
        What ``work`` returns.

    Raises:
        KernelError: There is no such namespace, or this process may not enter it.
        Exception: What ``work`` raises.
    """
    from concurrent.futures import ThreadPoolExecutor

    def there() -> T:
        result = door.setns(namespace.fileno(), _NEWNET)
        if result < 0:
            hint = "it is no network namespace" if result == -errno.EINVAL else None
            raise kernel_error(result, "setns", namespace.what, hint=hint)
        return work()

    with open_namespace(where) as namespace, ThreadPoolExecutor(1) as thread:
        return thread.submit(contextvars.copy_context().run, there).result()
