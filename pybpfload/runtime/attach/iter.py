"""Iterator programs: called for each kernel object of a kind, read as a file (Linux 5.8)."""

from __future__ import annotations

import errno
import io
import os
from typing import TYPE_CHECKING, Any

from pybpfload.errors import AttachError, KernelError, NotSupportedError
from pybpfload.formats.bpf_iter import link_info
from pybpfload.kernel import bpf, door
from pybpfload.kernel import btf as kernel_btf
from pybpfload.kernel.errors import kernel_error
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime.attach.common import check_options
from pybpfload.runtime.handles import descriptor
from pybpfload.runtime.link import Link
from pybpfload.uapi import AttachType, CgroupIterOrder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.object.spec import ProgramSpec
    from pybpfload.runtime.handles import HasFileno
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = [
    "attach",
    "iter_info",
    "lines",
    "needs_parameters",
    "open_stream",
    "parameter",
    "read_link",
]

_MAP_ITERATORS = ("bpf_map_elem", "bpf_sk_storage_map", "sockmap")
_PARAMETERS = {
    **dict.fromkeys(_MAP_ITERATORS, "map"),
    **dict.fromkeys(("task", "task_file", "task_vma"), "task"),
    "cgroup": "cgroup",
}


def parameter(spec: ProgramSpec) -> str:
    """What an iterator can be told to go over: ``"map"``, ``"task"``, ``"cgroup"``, or ``""``."""
    return _PARAMETERS.get((spec.attach_to or "").rpartition(":")[2], "")


def needs_parameters(spec: ProgramSpec) -> bool:
    """Whether the iterator must be told over what: elements of a map, or a cgroup."""
    return parameter(spec) in ("map", "cgroup")


def iter_info(
    *,
    map: HasFileno | int | None = None,  # noqa: A002 - the name users expect
    pid: int = 0,
    tid: int = 0,
    pidfd: HasFileno | int | None = None,
    cgroup: HasFileno | str | os.PathLike[str] | int | None = None,
    cgroup_id: int = 0,
    order: CgroupIterOrder | str | None = None,
) -> tuple[bytes, list[FileDescriptor]]:
    """Build ``union bpf_iter_link_info``.

    Returns:
        Its bytes (empty without parameters) and descriptors that must stay open until the link
        exists.

    Raises:
        AttachError: The arguments do not go together.
        KernelError: The control group cannot be opened.
    """
    given = [
        name
        for name, value in (("map", map), ("pid", pid), ("tid", tid), ("pidfd", pidfd))
        if value is not None and value != 0
    ]
    if cgroup is not None or cgroup_id or order is not None:
        given.append("cgroup")
    if len(given) > 1:
        raise AttachError(f"{' and '.join(given)} exclude each other")
    if not given:
        return b"", []
    owned: list[FileDescriptor] = []
    kind = given[0]
    if map is not None and kind == "map":
        return link_info("map", map_fd=descriptor(map)), owned
    if kind != "cgroup":
        if not (0 <= pid < 1 << 32 and 0 <= tid < 1 << 32):
            raise AttachError(f"{pid or tid} is no number of a process or thread")
        return link_info(
            "task", tid=tid, pid=pid, pid_fd=descriptor(pidfd) if pidfd is not None else 0
        ), owned
    if cgroup is not None and cgroup_id:
        raise AttachError("cgroup and cgroup_id exclude each other")
    if order is None:
        order = CgroupIterOrder.SELF_ONLY
    elif isinstance(order, str):
        try:
            order = CgroupIterOrder[order.upper()]
        except KeyError:
            known = ", ".join(o.name.lower() for o in CgroupIterOrder)
            raise AttachError(f"order {order!r} is none of {known}") from None
    fd = 0
    if isinstance(cgroup, (str, os.PathLike)):
        path = os.fspath(cgroup)
        try:
            opened = door.open_fd(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise kernel_error(error.errno or errno.EIO, "open", f"cgroup {path}") from None
        owner = FileDescriptor(opened, f"cgroup {path}")
        owned.append(owner)
        fd = owner.fileno()
    elif cgroup is not None:
        fd = descriptor(cgroup)
    return link_info("cgroup", order=int(order), cgroup_fd=fd, cgroup_id=cgroup_id), owned


def attach(
    program: Program,
    loaded_for: AttachTarget,
    target: str | None,
    *,
    map: HasFileno | int | None = None,  # noqa: A002 - the name users expect
    pid: int = 0,
    tid: int = 0,
    pidfd: HasFileno | int | None = None,
    cgroup: HasFileno | str | os.PathLike[str] | int | None = None,
    cgroup_id: int = 0,
    order: CgroupIterOrder | str | None = None,
) -> Link:
    """Make an iterator link, which can be read any number of times or pinned as a file.

    Args:
        program: The program.
        loaded_for: The iterator it was loaded for.
        target: Must be ``None``.
        map: The map to go over, for ``bpf_map_elem``, ``bpf_sk_storage_map`` and ``sockmap``.
        pid: The one process to look at, for ``task``, ``task_file`` and ``task_vma`` (Linux 6.1);
            0 for all.
        tid: The one thread instead; 0 for all.
        pidfd: The one process instead.
        cgroup: The group to begin with, for ``cgroup`` (Linux 6.1): path or descriptor.
        cgroup_id: The same by its id.
        order: ``"self_only"``, ``"descendants_pre"``, ``"descendants_post"``, ``"ancestors_up"``.

    Raises:
        AttachError: The parameters do not fit the iterator.
        NotSupportedError: The kernel does not know them, or has no iterators.
        KernelError: The kernel refuses.
    """
    spec = program.spec
    if target is not None:
        raise AttachError(
            f"it was verified against {loaded_for.name}; iterators are chosen before loading",
            program=program.name,
        )
    if spec.expected_attach_type != AttachType.TRACE_ITER:
        raise AttachError(f"SEC({spec.section!r}) is not an iterator", program=program.name)
    all_parameters: dict[str, Any] = {
        "map": map, "pid": pid, "tid": tid, "pidfd": pidfd,
        "cgroup": cgroup, "cgroup_id": cgroup_id, "order": order,
    }  # fmt: skip
    parameters: dict[str, Any] = {
        name: value
        for name, value in all_parameters.items()
        if value is not None and not (isinstance(value, int) and value == 0)
    }
    if needs_parameters(spec) and not parameters:
        wanted = "cgroup=" if loaded_for.name.endswith("cgroup") else "map="
        raise AttachError(f"iterator {loaded_for.name} needs {wanted}", program=program.name)
    _check_known(program, parameters)
    try:
        info, owned = iter_info(**parameters)
    except AttachError as error:
        error.program = program.name
        raise
    try:
        fd = bpf.link_create(program.fileno(), 0, AttachType.TRACE_ITER, iter_info=info)
    except KernelError as error:
        error.target = f"iterator {program.name}"
        if error.errno == errno.EINVAL and info:
            error.hint = f"iterator {loaded_for.name} does not take {', '.join(parameters)}"
        if error.errno == errno.EBADF and "cgroup" in parameters:
            error.hint = "that is no control group of the unified hierarchy (cgroup2)"
        if error.errno == errno.EINVAL and not info:
            raise NotSupportedError(
                f"program {program.name}: this kernel cannot attach iterators", since="5.8"
            ) from error
        raise
    finally:
        for owner in owned:
            owner.close()
    return Link(
        FileDescriptor(fd, f"link of {program.name}"),
        kind="iter",
        target=loaded_for.name,
        program=program.name,
    )


def _check_known(program: Program, parameters: dict[str, Any]) -> None:
    """Refuse parameters that an older kernel would not notice, going over everything instead.

    Raises:
        NotSupportedError: The kernel's own type of iterator parameters does not have them.
    """
    arms = {"pid": "task", "tid": "task", "pidfd": "task"}
    arms.update(dict.fromkeys(("cgroup", "cgroup_id", "order"), "cgroup"))
    wanted = {arms[name] for name in parameters if name in arms}
    if not wanted:
        return
    if any(kernel_btf.has_member("bpf_iter_link_info", arm) is False for arm in wanted):
        raise NotSupportedError(
            f"program {program.name}: iterators of this kernel do not take {', '.join(parameters)}",
            feature="iterator parameters",
            since="6.1",
        )


class _Stream(io.RawIOBase):
    """Output of one run of an iterator."""

    def __init__(self, fd: FileDescriptor) -> None:
        super().__init__()
        self._owner = fd

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._owner.fileno()

    def readinto(self, buffer: Any) -> int:
        while True:
            try:
                data = door.read(self._owner.fileno(), len(buffer))
            except BlockingIOError:
                continue  # the kernel ended a read that took too long; the next goes on there
            buffer[: len(data)] = data
            return len(data)

    def close(self) -> None:
        if not self.closed:
            self._owner.close()
        super().close()


def read_link(link: Link) -> io.BufferedReader:
    """Run the iterator of a link once and return its output as a binary file object.

    Raises:
        KernelError: It is not an iterator link.
    """
    fd = FileDescriptor(bpf.iter_create(link.fileno()), f"iterator {link.program}")
    return io.BufferedReader(_Stream(fd), buffer_size=64 * 1024)


def lines(stream: io.BufferedReader) -> Iterator[str]:
    """Lines of an iterator's output as text, without their newlines; closes it in the end."""
    with stream:
        for line in stream:
            yield line.decode("utf-8", "backslashreplace").rstrip("\n")


def open_stream(
    program: Program, loaded_for: AttachTarget, parameters: dict[str, Any]
) -> io.BufferedReader:
    """Attach, run once, give the output; the link is closed, the run holds what it needs."""
    check_options(program, attach, parameters)
    with attach(program, loaded_for, None, **parameters) as link:
        return read_link(link)
