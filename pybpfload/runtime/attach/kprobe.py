"""Probes on kernel functions, one at a time: a perf event (Linux 4.17), or one made in tracefs.

Source of the rules: libbpf, ``bpf_program__attach_kprobe_opts()`` and ``..._ksyscall()``;
``Documentation/trace/kprobetrace.rst``.
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.errors import AttachError, KernelError, NotSupportedError
from pybpfload.kernel import door, perf, probe, tracefs
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.kernel.probe import Feature
from pybpfload.runtime.attach.tracepoint import attach_perf_event, open_tracefs_probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from pybpfload.runtime.link import Link
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["Place", "attach", "parse_place", "syscall_function"]

_PLACE = re.compile(r"([A-Za-z0-9_.]+)(?:\+(0[xX][0-9a-fA-F]{1,16}|\d{1,20}))?")


class Place(NamedTuple):
    """Where a probe goes.

    Attributes:
        function: Name of a kernel function, ``None`` for an address.
        where: Offset in the function in bytes, or the address.
    """

    function: str | None
    where: int

    def __str__(self) -> str:
        if self.function is None:
            return hex(self.where)
        return f"{self.function}+{self.where:#x}" if self.where else self.function


def parse_place(text: str | int) -> Place:
    """Read ``function``, ``function+offset`` or an address.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(text, int):
        return Place(None, text)
    found = _PLACE.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no function, function+offset or address")
    # As in C, but a leading 0 does not make a number octal.
    return Place(
        found[1], int(found[2], 16 if found[2][:2] in ("0x", "0X") else 10) if found[2] else 0
    )


def syscall_function(name: str) -> str:
    """Name of the kernel function behind a system call.

    Args:
        name: Of the system call, without any prefix.
    """
    machine = probe.SYSCALL_WRAPPERS.get(door.uname().machine)
    if machine is not None and probe.has(Feature.SYSCALL_WRAPPER):
        return f"__{machine}_sys_{name}"
    return f"__se_sys_{name}"


def attach(
    program: Program,
    loaded_for: AttachTarget,
    target: str | int | None,
    *,
    cookie: int = 0,
    link: bool | None = None,
    via: str | None = None,
    on_return: bool | None = None,
) -> Link:
    """Attach to a kernel function, or to a system call (sections ``ksyscall``, ``kretsyscall``).

    Args:
        program: The program.
        loaded_for: Unused: the function is chosen at attach.
        target: Function, ``function+offset``, or address; name of the system call; what the
            section says when ``None``.
        cookie: What ``bpf_get_attach_cookie()`` gives (Linux 5.15).
        link: ``True``: only by a link (Linux 5.15); ``False``: by ioctl.
        via: ``"perf"``: only by a perf event of the unit ``kprobe``; ``"tracefs"``: by an event
            made in tracefs, which a killed process leaves behind; ``None``: the first that works.
        on_return: Fire when the function returns; what the section says when ``None``.

    Raises:
        AttachError: No function is named, or it cannot be probed.
        NotSupportedError: The kernel has no kprobes, or lacks what was asked for.
        KernelError: The kernel refuses.
    """
    kind = program.spec.section.split("/")[0]
    if on_return is None:
        on_return = kind.startswith("kret")
    named = target if target is not None else program.spec.attach_to
    if not named and named != 0:
        raise AttachError(
            f"SEC({program.spec.section!r}) names no function: name one, as in attach('do_exit')",
            program=program.name,
        )
    try:
        place = parse_place(named)
    except ValueError as error:
        raise AttachError(str(error), program=program.name, target=str(named)) from None
    if kind.endswith("syscall") and place.function is not None:
        place = place._replace(function=syscall_function(place.function))
    if on_return and place.function is not None and place.where:
        raise AttachError(
            "a probe of the return of a function has no offset",
            program=program.name,
            target=str(place),
        )
    try:
        event, cleanup = _open(place, on_return, via)
    except KernelError as error:
        raise _explained(error, program, place, via) from error

    what = f"{'return of ' if on_return else ''}{place}"
    return attach_perf_event(
        program, event, kind=kind, target=what, cookie=cookie, cleanup=cleanup, link=link
    )


def _open(
    place: Place, on_return: bool, via: str | None
) -> tuple[FileDescriptor, Callable[[], None] | None]:
    """The perf event, and what removes the event in tracefs if it needed one."""
    if via not in (None, "perf", "tracefs"):
        raise ValueError(f"via is {via!r}, not 'perf' or 'tracefs'")
    what = f"kprobe {place}"
    if via != "tracefs":
        try:
            perf.pmu_number("kprobe")
        except KernelError as error:
            if via or error.errno != errno.ENOENT:
                raise
        else:
            fd = perf.open_probe(
                "kprobe", place.function, place.where, on_return=on_return, target=what
            )
            return FileDescriptor(fd, what), None
    where = f"{place.function}+{place.where:#x}" if place.function else hex(place.where)
    label = place.function or "address"
    fd, remove = open_tracefs_probe(
        "kprobe", f"{label}_{place.where:#x}", where, on_return=on_return, target=what
    )
    return FileDescriptor(fd, what), remove


def _explained(
    error: KernelError, program: Program, place: Place, via: str | None
) -> NotSupportedError | AttachError | KernelError:
    has_unit = door.exists("/sys/bus/event_source/devices/kprobe/type")
    if error.errno == errno.ENOENT and not (has_unit and via != "tracefs"):
        if via == "perf":
            return NotSupportedError(
                f"program {program.name}: this kernel has no perf events for kprobes",
                feature="perf events for kprobes",
                since="4.17",
            )
        try:
            has_file = door.exists(f"{tracefs.root()}/kprobe_events")
        except KernelError:
            # tracefs is not mounted. The units of kprobes and uprobes came together (Linux 4.17).
            if has_unit or not door.exists("/sys/bus/event_source/devices/uprobe/type"):
                error.target = f"program {program.name} to {place}"
                return error
            has_file = False
        if not has_file:
            return NotSupportedError(
                f"program {program.name}: this kernel is built without kprobes "
                "(CONFIG_KPROBE_EVENTS)",
                feature="kprobes",
            )
    reasons = {
        errno.ENOENT: "the kernel has no such function, or the compiler has merged it into its "
        "callers; `/proc/kallsyms` has all names, also those with a suffix as .isra.0",
        errno.EADDRNOTAVAIL: "there is no such function",
        errno.EINVAL: "it must not be probed (/sys/kernel/debug/kprobes/blacklist), or this is no "
        "place where an instruction begins",
        errno.EILSEQ: "this is no place where an instruction begins",
    }
    if reason := reasons.get(error.errno or 0):
        return AttachError(f"{place}: {reason}", program=program.name, target=str(place))
    return error
