"""Tracepoint programs: a perf event on the tracepoint, the program on it (Linux 4.7)."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import TYPE_CHECKING

from pybpfload.errors import AttachError, FormatError, KernelError, NotSupportedError
from pybpfload.kernel import bpf, perf, probe, tracefs
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.kernel.probe import Feature
from pybpfload.runtime.attach.common import explain
from pybpfload.runtime.link import Link
from pybpfload.uapi import AttachType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["attach", "attach_perf_event", "open_tracefs_probe"]


_HINTS = {errno.EEXIST: "this program is there already, and once is all the kernel takes it"}


def attach(
    program: Program, loaded_for: AttachTarget, target: str | None, *, cookie: int = 0
) -> Link:
    """Attach to a tracepoint.

    Args:
        program: The program.
        loaded_for: Unused: tracepoints are chosen at attach.
        target: ``"category/name"``; what the section says when ``None``.
        cookie: What ``bpf_get_attach_cookie()`` gives (Linux 5.15).

    Raises:
        AttachError: No name, or no tracepoint of that name.
        NotSupportedError: No cookies here.
        KernelError: tracefs is not mounted, or the kernel refuses.
    """
    name = (program.spec.attach_to or "") if target is None else target
    category, slash, event = name.partition("/")
    if not slash or not category or not event:
        raise AttachError(
            f"a tracepoint is named as category/name, not {name!r}",
            program=program.name,
            target=name,
        )
    try:
        event_id = tracefs.tracepoint_id(category, event)
    except FormatError as error:
        raise AttachError(error.message, program=program.name, target=name) from None
    except KernelError as error:
        if error.errno != errno.ENOENT or not error.hint or "tracepoint" not in error.hint:
            raise  # tracefs is not mounted, or closed to this process
        raise AttachError(error.hint, program=program.name, target=name) from error
    fd = FileDescriptor(
        perf.open_tracepoint(event_id, target=f"tracepoint {name}"), f"perf event of {name}"
    )
    return attach_perf_event(program, fd, kind="tp", target=name, cookie=cookie)


def open_tracefs_probe(
    kind: str, label: str, place: str, *, on_return: bool, pid: int = -1, target: str | None = None
) -> tuple[int, Callable[[], None]]:
    """Make the event of a probe in tracefs and open it.

    Args:
        kind: ``"kprobe"`` or ``"uprobe"``.
        label: What the event is called after.
        place: As for :func:`pybpfload.kernel.tracefs.add_probe`.
        on_return: Fire when the function returns.
        pid: Process to watch; -1 for all.
        target: What it is, for errors.

    Returns:
        The perf event, which the caller owns, and what removes the event in tracefs again.

    Raises:
        KernelError: The kernel refuses; nothing is left then.
    """
    category, name = tracefs.add_probe(kind, label, place, on_return=on_return)

    def remove() -> None:
        tracefs.remove_probe(kind, category, name)

    try:
        return perf.open_tracepoint(
            tracefs.tracepoint_id(category, name), pid=pid, target=target
        ), remove
    except BaseException:
        remove()
        raise


def attach_perf_event(
    program: Program,
    event: FileDescriptor,
    *,
    kind: str,
    target: str,
    cookie: int,
    cleanup: Callable[[], None] | None = None,
    link: bool | None = None,
) -> Link:
    """Put a program on a perf event and enable it: by a link (Linux 5.15), by ioctl before.

    ``event`` belongs to the link afterwards and is closed on failure.

    Args:
        program: The program.
        event: The perf event.
        kind: As for :class:`Link`.
        target: As for :class:`Link`.
        cookie: What ``bpf_get_attach_cookie()`` gives.
        cleanup: As for :class:`Link`; done on failure, too.
        link: ``True``: only by a link; ``False``: by ioctl.

    Raises:
        NotSupportedError: A cookie needs a link.
        KernelError: The kernel refuses.
    """
    try:
        if link is not False and probe.has(Feature.PERF_LINK):
            fd = FileDescriptor(
                bpf.link_create(
                    program.fileno(), event.fileno(), AttachType.PERF_EVENT, cookie=cookie
                ),
                f"link of {program.name}",
            )
        elif link is False and cookie:
            raise ValueError("cookies are of links")
        elif cookie or link:
            what = "attach cookies for perf events" if cookie else "perf event links"
            raise NotSupportedError(
                f"program {program.name}: this kernel has no {what}",
                feature="perf event links",
                since="5.15",
            )
        else:
            perf.set_bpf(event.fileno(), program.fileno())
            fd = event
    except BaseException as error:
        event.close()
        if cleanup is not None:
            with suppress(KernelError):
                cleanup()
        if isinstance(error, KernelError):
            explain(error, program, target, _HINTS)
        raise

    made = Link(fd, kind=kind, target=target, program=program.name, event=event, cleanup=cleanup)
    try:
        perf.enable(event.fileno())
    except BaseException:
        with suppress(KernelError):  # it could not be enabled: it need not be disabled
            made.close()
        raise
    return made
