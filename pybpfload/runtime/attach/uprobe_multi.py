"""Probes in executables and libraries, many by one link: uprobe.multi (Linux 6.6), and sessions.

Source of the rules: libbpf, ``bpf_program__attach_uprobe_multi()``. Unlike libbpf, this finds lists
of functions in stripped files and in archives too, and probes each place once.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pybpfload.errors import AttachError
from pybpfload.kernel import door
from pybpfload.runtime.attach.common import check_pid, create_link
from pybpfload.runtime.attach.user_files import (
    HINTS,
    UserFile,
    find_file,
    function_offset,
    open_binary,
    split_target,
)
from pybpfload.uapi import AttachType, UprobeMultiFlag

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from pybpfload.runtime.link import Link
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["LIMIT", "attach"]

LIMIT = 1 << 20
"""Most probes that the kernel puts into one link."""

_HINTS = {
    **HINTS,
    errno.EBADF: "it is no regular file",
    errno.ENOENT: "the kernel does not find the file",
}


def attach(
    program: Program,
    loaded_for: AttachTarget,
    target: str | PathLike[str] | None,
    *,
    symbols: Sequence[str] = (),
    offsets: Sequence[int] = (),
    ref_ctr_offsets: Sequence[int] = (),
    cookies: Sequence[int] = (),
    pid: int = -1,
    on_return: bool | None = None,
) -> Link:
    """Attach to all functions of a pattern or list, by one link.

    Args:
        program: The program.
        loaded_for: Unused: the places are chosen at attach.
        target: ``path:pattern`` with ``*`` and ``?``; what the section says when ``None``. Only the
            path if one of the next two is given. Paths are those of
            :func:`pybpfload.runtime.attach.uprobe.attach`.
        symbols: Names of functions, which may have versions.
        offsets: Offsets in the file, bytes. What is listed twice counts once, unless there are
            cookies or reference counters.
        ref_ctr_offsets: Offsets of the places' reference counters, one for each place of a list.
        cookies: What ``bpf_get_attach_cookie()`` gives, one for each place of a list.
        pid: Process to watch, 0 for this one; -1 for all, also those that will start later.
        on_return: Fire when the functions return; what the section says when ``None``.

    Raises:
        AttachError: Nothing says where, or there is no such file or function; a pattern matches
            nothing, or more than :data:`LIMIT` functions.
        FormatError: The file is no executable or library, or damaged.
        NotSupportedError: The kernel has no such links.
        KernelError: The kernel refuses.
        ValueError: Lists that exclude each other or differ in length.
    """
    check_pid(pid)
    kind = program.spec.section.split("/")[0]
    session = program.spec.expected_attach_type == AttachType.TRACE_UPROBE_SESSION
    if on_return is None:
        on_return = kind.startswith("uret")
    if on_return and session:
        raise ValueError("a session fires at entry and return anyway")
    if isinstance(symbols, str):
        raise ValueError("symbols is a list of names; a single one goes behind the path")
    if symbols and offsets:
        raise ValueError("symbols and offsets exclude each other")
    lists: dict[str, Any] = {"ref_ctr_offsets": ref_ctr_offsets, "cookies": cookies}
    for name, given in lists.items():
        if given and len(given) != len(symbols or offsets):
            raise ValueError(f"{name} go with symbols or offsets, one for each")
    if symbols or offsets:
        path = target if isinstance(target, str) else split_target(program, target, "function")[0]
        where, places = _listed(program, path, symbols, offsets)
        if not any(lists.values()):  # with those, a place may well be meant several times
            places = list(dict.fromkeys(places))
        what = f"{len(places)} places of {path}"
    else:
        path, pattern = split_target(program, target, "function")
        where, places = _matching(program, path, pattern)
        what = f"{path}:{pattern} ({len(places)} functions)"
    return create_link(
        program,
        0,
        kind=kind,
        target=what,
        since="6.13" if session else "6.6",
        hints=_HINTS if len(places) == 1 else _of_many(len(places)),
        path=where,
        offsets=places,
        multi_flags=int(UprobeMultiFlag.RETURN) if on_return else 0,
        pid=door.pid() if pid == 0 else max(pid, 0),
        **lists,
    )


def _of_many(places: int) -> dict[int, str]:
    """The same of several places: the kernel does not tell which of them it refuses."""
    of_a_place = {number: HINTS[number] for number in (errno.EINVAL, errno.ENOEXEC, 524)}
    return _HINTS | {
        number: f"this holds for at least one of the {places} places: {hint}"
        for number, hint in of_a_place.items()
    }


def _listed(
    program: Program, path: str, symbols: Sequence[str], offsets: Sequence[int]
) -> tuple[str, list[int]]:
    if symbols or "!/" in path:
        file = open_binary(program, path)
    else:
        return find_file(program, path), list(offsets)
    if symbols:
        return file.path, [function_offset(program, file, name) for name in symbols]
    return file.path, [file.start + offset for offset in offsets]


def _matching(program: Program, path: str, pattern: str) -> tuple[str, list[int]]:
    if not pattern:
        raise AttachError(
            f"it attaches to functions of {path}: name a pattern, symbols or offsets",
            program=program.name,
            target=path,
        )
    file: UserFile = open_binary(program, path)
    if not {"*", "?"} & set(pattern):
        return file.path, [function_offset(program, file, pattern)]
    found = file.binary.matching(pattern)
    if not found:
        raise AttachError(
            f"no function of {file.binary.name} matches {pattern!r}; it has "
            f"{len(file.binary.function_names())} functions with names",
            program=program.name,
            target=f"{path}:{pattern}",
        )
    if len(found) > LIMIT:
        raise AttachError(
            f"{len(found)} functions of {file.binary.name} match {pattern!r}, "
            f"and the kernel takes {LIMIT} at a time",
            program=program.name,
            target=f"{path}:{pattern}",
        )
    return file.path, [file.start + function.offset for function in found]
