"""Probes in executables and libraries, one at a time: a perf event, or one made in tracefs.

Source of the rules: libbpf, ``bpf_program__attach_uprobe_opts()``;
``Documentation/trace/uprobetracer.rst``.
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING

from pybpfload.errors import AttachError, KernelError, NotSupportedError
from pybpfload.kernel import door, perf, tracefs
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime.attach.common import check_pid
from pybpfload.runtime.attach.tracepoint import attach_perf_event, open_tracefs_probe
from pybpfload.runtime.attach.user_files import (
    explained,
    find_file,
    function_offset,
    open_binary,
    split_target,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from pybpfload.runtime.link import Link
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["attach", "attach_at", "require_ref_counters"]

_UNIT = "/sys/bus/event_source/devices/uprobe"
_OFFSET = re.compile(r"(.*)\+(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})", re.DOTALL)


def attach(
    program: Program,
    loaded_for: AttachTarget,
    target: str | PathLike[str] | None,
    *,
    symbol: str | None = None,
    offset: int = 0,
    pid: int = -1,
    cookie: int = 0,
    ref_ctr_offset: int = 0,
    link: bool | None = None,
    via: str | None = None,
    on_return: bool | None = None,
) -> Link:
    """Attach to a function, or to any instruction, of an executable or library.

    Args:
        program: The program.
        loaded_for: Unused: the place is chosen at attach.
        target: ``path:function``, ``path:function+offset``; what the section says when ``None``. A
            path without a folder is searched for, as programs and libraries are; a library in an
            APK is ``archive.apk!/lib/x.so``. Only the path if one of the next two is given.
        symbol: The function, which may have a version: ``name@VERSION``.
        offset: Bytes from the beginning of the function; without a function, from the beginning of
            the file, as for stripped ones. A path with a colon in it is taken as a whole if there
            is such a file.
        pid: Process to watch, 0 for this one; -1 for all, also those that will start later.
        cookie: What ``bpf_get_attach_cookie()`` gives (Linux 5.15).
        ref_ctr_offset: Offset in the file of a 16-bit counter that is raised in every process as
            long as the probe is there (Linux 4.20).
        link: ``True``: only by a link (Linux 5.15); ``False``: by ioctl.
        via: ``"perf"``: only by a perf event of the unit ``uprobe`` (Linux 4.17); ``"tracefs"``: by
            an event made in tracefs, which a killed process leaves behind; ``None``: the first that
            works.
        on_return: Fire when the function returns; what the section says when ``None``.

    Raises:
        AttachError: Nothing says where, there is no such file or function, or the name is
            ambiguous.
        FormatError: The file is no executable or library, or damaged.
        NotSupportedError: The kernel lacks what was asked for.
        KernelError: The kernel refuses.
        ValueError: A number is out of its range.
    """
    check_pid(pid)
    kind = program.spec.section.split("/")[0]
    if on_return is None:
        on_return = kind.startswith("uret")
    path, name, more = _place(program, target, symbol, offset)
    if on_return and name and more:
        raise AttachError(
            "a probe of the return of a function has no offset",
            program=program.name,
            target=f"{path}:{name}+{more:#x}",
        )
    if name:
        file = open_binary(program, path)
        where, place = file.path, function_offset(program, file, name) + more
        what = f"{path}:{name}+{more:#x}" if more else f"{path}:{name}"
    else:
        where = find_file(program, path)
        if "!/" in where:
            file = open_binary(program, path)
            where, more = file.path, file.start + more
        place, what = more, f"{path}+{more:#x}"
    if ref_ctr_offset:
        require_ref_counters(program)
    return attach_at(
        program,
        where,
        place,
        kind=kind,
        what=f"return of {what}" if on_return else what,
        on_return=on_return,
        pid=pid,
        cookie=cookie,
        ref_ctr_offset=ref_ctr_offset,
        link=link,
        via=via,
    )


def _place(
    program: Program, target: str | PathLike[str] | None, symbol: str | None, offset: int
) -> tuple[str, str, int]:
    """Path, function or ``""``, and offset."""
    if offset < 0 or offset >= 1 << 64:
        raise ValueError(f"offset is {offset}, not within a file")
    whole = symbol is not None or (offset and isinstance(target, str) and door.exists(target))
    if whole and isinstance(target, str):
        return target, symbol or "", offset
    path, name = split_target(program, target, "function")
    if symbol is not None:
        return path, symbol, offset
    if found := _OFFSET.fullmatch(name):
        # As in C, but a leading 0 does not make a number octal.
        name, offset = found[1], offset + int(found[2], 16 if "x" in found[2].lower() else 10)
    if not name and not offset:
        raise AttachError(
            f"it attaches to an instruction of {path}: name a function or an offset",
            program=program.name,
            target=path,
        )
    return path, name, offset


def require_ref_counters(program: Program) -> None:
    """Insist on reference counters.

    Raises:
        NotSupportedError: The kernel has none.
    """
    if not door.exists(f"{_UNIT}/format/ref_ctr_offset"):
        raise NotSupportedError(
            f"program {program.name}: this kernel has no reference counters (semaphores) of "
            "uprobes",
            feature="uprobe reference counters",
            since="4.20",
        )


def attach_at(
    program: Program,
    path: str,
    offset: int,
    *,
    kind: str,
    what: str,
    on_return: bool = False,
    pid: int = -1,
    cookie: int = 0,
    ref_ctr_offset: int = 0,
    link: bool | None = None,
    via: str | None = None,
) -> Link:
    """Attach to an offset of a file.

    Args:
        program: The program.
        path: What the kernel opens.
        offset: Of the instruction in that file, bytes.
        kind: As for :class:`Link`.
        what: The place, for people.
        on_return: As for :func:`attach`, and so are the others.
        pid: As above.
        cookie: As above.
        ref_ctr_offset: As above.
        link: As above.
        via: As above.

    Raises:
        NotSupportedError, KernelError, ValueError: As :func:`attach`.
    """
    if not 0 <= ref_ctr_offset < 1 << 32:
        raise ValueError(f"ref_ctr_offset is {ref_ctr_offset}, not within 4 GiB")
    if via not in (None, "perf", "tracefs"):
        raise ValueError(f"via is {via!r}, not 'perf' or 'tracefs'")
    has_unit = door.exists(f"{_UNIT}/type")
    if via == "perf" and not has_unit:
        raise NotSupportedError(
            f"program {program.name}: this kernel has no perf events for uprobes",
            feature="perf events for uprobes",
            since="4.17",
        )
    cleanup: Callable[[], None] | None = None
    try:
        if via == "tracefs" or not has_unit:
            if ref_ctr_offset:
                raise ValueError("events made in tracefs have no ref_ctr_offset")
            event, cleanup = _tracefs_event(program, path, offset, on_return, pid)
        else:
            event = perf.open_probe(
                "uprobe", path, offset, on_return=on_return, ref_ctr_offset=ref_ctr_offset, pid=pid
            )
    except KernelError as error:
        raise explained(error, program, what) from None
    return attach_perf_event(
        program,
        FileDescriptor(event, f"uprobe {what}"),
        kind=kind,
        target=what,
        cookie=cookie,
        cleanup=cleanup,
        link=link,
    )


def _tracefs_event(
    program: Program, path: str, offset: int, on_return: bool, pid: int
) -> tuple[int, Callable[[], None]]:
    """A perf event of a probe made in tracefs, and what removes that again."""
    label = f"{path.rpartition('/')[2]}_{offset:#x}"
    try:
        return open_tracefs_probe(
            "uprobe", label, f"{path}:{offset:#x}", on_return=on_return, pid=pid
        )
    except KernelError as error:
        if error.errno == errno.ENOENT and not door.exists(f"{tracefs.root()}/uprobe_events"):
            raise NotSupportedError(
                f"program {program.name}: this kernel is built without uprobes "
                "(CONFIG_UPROBE_EVENTS)",
                feature="uprobes",
            ) from None
        raise
