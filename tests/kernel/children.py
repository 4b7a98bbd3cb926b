"""Child processes with fewer rights than the tests have: what they find is given back."""

from __future__ import annotations

import ctypes
import os
import pickle
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_LIBC = ctypes.CDLL(None, use_errno=True)
# These system calls have the same numbers everywhere.
_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 429, 430, 431, 432
_SET_STRING, _CREATE = 1, 6
_CLOEXEC, _MOVE_EMPTY_PATH = 1, 4
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_AT_FDCWD = -100


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def _call(number: int, *arguments: Any) -> int:
    return _checked(_LIBC.syscall(number, *arguments), f"system call {number}")


def drop_capabilities(keep: Iterable[int] = ()) -> None:
    """Give up all capabilities but some, by their numbers, for good."""
    wanted = sum(1 << bit for bit in keep)
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    low, high = wanted & 0xFFFFFFFF, wanted >> 32
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, high, high, 0))
    _checked(_LIBC.capset(header, data), "capset")


def in_child(act: Callable[[], Any], supervise: Callable[[int], None] = lambda pid: None) -> Any:
    """Run ``act`` in a child process, and ``supervise`` with its id here.

    Returns:
        What it returns, which must be possible to pickle.

    Raises:
        BaseException: What it raises.
    """
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        _report(theirs, act)
    os.close(theirs)
    try:
        supervise(pid)
    finally:
        with open(ours, "rb") as pipe:
            report = pipe.read()
        _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with status {status}"
    good, result = pickle.loads(report)
    if not good:
        raise result
    return result


def _report(pipe: int, act: Callable[[], Any]) -> None:
    """Write what comes of it and end the process."""
    status = 1
    try:
        try:
            report: tuple[bool, Any] = True, act()
        except BaseException as error:
            report = False, error
        with open(pipe, "wb") as file:
            file.write(pickle.dumps(report))
        status = 0
    finally:
        os._exit(status)


def in_user_namespace(
    act: Callable[[], Any], delegate: Mapping[str, str] | None = None, at: str = "/sys/fs/bpf"
) -> Any:
    """Run ``act`` in a user namespace and a mount namespace of its own, as root there.

    Args:
        act: As for :func:`in_child`.
        delegate: What the BPF filesystem that is mounted for it delegates: ``cmds``, ``maps``,
            ``progs``, ``attachs``, each with names and colons between. ``None``: none is mounted.
        at: Where it is mounted.
    """
    ours, theirs = socket.socketpair()

    def child() -> Any:
        ours.close()
        _checked(_LIBC.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "unshare")
        theirs.send(b"n")
        theirs.recv(1)  # who is who in the namespace is written
        if delegate is not None:
            filesystem = _call(_FSOPEN, b"bpf", _CLOEXEC)
            socket.send_fds(theirs, [b"f"], [filesystem])
            if not theirs.recv(1):  # it is configured
                return None  # and what failed is raised by the other side
            mount = _call(_FSMOUNT, filesystem, _CLOEXEC, 0)
            _call(_MOVE_MOUNT, mount, b"", _AT_FDCWD, at.encode(), _MOVE_EMPTY_PATH)
            os.close(mount)
            os.close(filesystem)
        return act()

    def supervise(pid: int) -> None:
        theirs.close()
        with ours:
            if not ours.recv(1):
                return
            for file in ("uid_map", "gid_map"):
                Path(f"/proc/{pid}/{file}").write_text("0 0 1")
            ours.send(b"m")
            if delegate is None:
                return
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
            for filesystem in descriptors:
                # Only the first user namespace may delegate.
                for kind, names in delegate.items():
                    option = f"delegate_{kind}".encode()
                    _call(_FSCONFIG, filesystem, _SET_STRING, option, names.encode(), 0)
                _call(_FSCONFIG, filesystem, _CREATE, None, None, 0)
                os.close(filesystem)
            ours.send(b"c")

    return in_child(child, supervise)
