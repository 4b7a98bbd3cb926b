"""Programs of control groups: a link (Linux 5.7), or BPF_PROG_ATTACH.

Source of the rules: libbpf, ``bpf_program__attach_cgroup()``; ``man 7 cgroups``;
``Documentation/bpf/prog_cgroup_*.rst``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pybpfload.errors import KernelError, NotSupportedError
from pybpfload.kernel import bpf, door
from pybpfload.runtime.attach.common import (
    PLACE_HINTS,
    LegacyLink,
    anchors,
    create_link,
    explain,
    open_target,
    raise_if_young,
)
from pybpfload.uapi import AttachFlag

if TYPE_CHECKING:
    from pybpfload.runtime.link import Link
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["SHARING", "attach"]

SHARING = {"multi": AttachFlag.ALLOW_MULTI, "override": AttachFlag.ALLOW_OVERRIDE, "none": 0}
"""What a program without a link lets others do: run besides it here and below; take its place
below; nothing. All programs of one place and type must say the same."""

_HINTS = {
    errno.EBADF: "it is no directory of a cgroup2 file system",
    errno.EPERM: "a program in this group or above it does not share with others (SHARING)",
    errno.ENOENT: "the group was removed",
    errno.ESTALE: "the programs of the group have changed since that revision",
}
_SHARED_HINTS = {
    **_HINTS,
    errno.EINVAL: "this program is there already, and without a link the kernel takes it once",
}


def attach(
    program: Program,
    loaded_for: AttachTarget,
    target: Any,
    *,
    link: bool | None = None,
    before: Program | Link | bool | None = None,
    after: Program | Link | bool | None = None,
    revision: int = 0,
    sharing: str = "multi",
) -> Link:
    """Attach to a control group; what is in it, and below it, is what the program gets to see.

    Args:
        program: The program.
        loaded_for: Unused: the group is chosen at attach.
        target: Directory of the group: a path, or anything with ``fileno()``.
        link: ``True``: only by a link; ``False``: without one, which outlives the process if it is
            killed; ``None``: without one on kernels that have none.
        before: Links: go before this program or link (Linux 6.17); ``True`` for before all.
        after: Links: go after it; ``True`` for after all.
        revision: Links: refuse if the list of programs has changed since (ESTALE).
        sharing: Without a link: a key of :data:`SHARING`. Links share always.

    Raises:
        AttachError: No group is named, or there is none such.
        NotSupportedError: The kernel has no links of control groups (before 5.7), or lets only one
            program share at a time, ``sharing="override"`` (before 4.15).
        KernelError: The kernel refuses.
        ValueError: Arguments that exclude each other.
    """
    if sharing not in SHARING:
        raise ValueError(f"sharing is {sharing!r}, not one of {', '.join(SHARING)}")
    placed = before is not None or after is not None or revision
    if link is None and sharing != "multi":
        link = False
    if link and sharing != "multi":
        raise ValueError("links share always; sharing needs link=False")
    if link is False and placed:
        raise ValueError("before, after and revision are of links")
    group = open_target(program, target, "control group")
    name = group.what.removeprefix("control group ")
    try:
        if link is not False:
            try:
                made = create_link(
                    program,
                    group.fileno(),
                    kind="cgroup",
                    target=name,
                    since="5.7",
                    hints={**_HINTS, **PLACE_HINTS} if placed else _HINTS,
                    **anchors(before, after, revision),
                )
            except NotSupportedError:
                if link or placed:
                    raise
            else:
                group.close()
                return made
        return _without_link(program, group, name, SHARING[sharing])
    except BaseException:
        group.close()
        raise


def _without_link(program: Program, group: Any, name: str, flags: int) -> Link:
    attach_type = program.spec.expected_attach_type
    multi = flags & AttachFlag.ALLOW_MULTI

    def do() -> None:
        try:
            bpf.prog_attach(program.fileno(), group.fileno(), attach_type, attach_flags=flags)
        except KernelError as error:
            if multi:
                several = "groups with several programs, but for sharing='override'"
                raise_if_young(error, program, several, "4.15")
            explain(error, program, name, _SHARED_HINTS if multi else _HINTS)
            raise

    def undo(fd: int) -> None:
        try:
            if not multi and not _is_there(group, attach_type, fd):
                return
            bpf.prog_detach(group.fileno(), attach_type, prog_fd=fd)
        except KernelError as error:
            if error.errno != errno.ENOENT:  # somebody else has taken it away
                raise

    place = None
    if not multi:  # several are told apart: none is there twice
        told = door.fstat(group.fileno())
        place = ("cgroup", told.st_dev, told.st_ino, attach_type)
    return LegacyLink(
        program, kind="cgroup", target=name, undo=undo, held=group, do=do, place=place
    )


def _is_there(group: Any, attach_type: int, prog_fd: int) -> bool:
    """Whether the group has the program: one that does not share loses whichever it has."""
    try:
        there = bpf.prog_query(group.fileno(), attach_type).prog_ids
    except KernelError as error:
        if error.errno != errno.EINVAL:
            raise
        return True  # before Linux 4.15 nobody can ask
    return bpf.prog_info(prog_fd).id in there
