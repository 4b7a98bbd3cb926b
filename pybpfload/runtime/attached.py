"""What is attached somewhere, whoever attached it, and taking it away.

Source of the rules: libbpf, ``bpf_prog_query_opts()``, ``bpf_xdp_query()``, ``bpf_tc_query()``;
the kernel's ``bpf_prog_query()``.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pybpfload.errors import KernelError, NotSupportedError
from pybpfload.formats.netlink import XdpFlag
from pybpfload.kernel import bpf, door, netdev
from pybpfload.kernel.errors import kernel_error
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.kernel.mounts import mounted
from pybpfload.runtime.handles import duplicate
from pybpfload.runtime.link import Link
from pybpfload.runtime.map import Map
from pybpfload.runtime.program import Program
from pybpfload.uapi import AttachFlag, AttachType, QueryFlag

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from pybpfload.runtime.handles import HasFileno

    _Asked: TypeAlias = int | FileDescriptor | Map[Any, Any]

__all__ = ["Attachment", "attached", "cgroups", "detach"]

_CGROUP2: Final = 0x63677270  # CGROUP2_SUPER_MAGIC
_NAMESPACE: Final = 0x6E736673  # NSFS_MAGIC
_OWN: Final = "/proc/thread-self/ns/net"

_OF_CGROUPS = (
    *(each for each in AttachType if each.name.startswith("CGROUP_")),
    AttachType.LSM_CGROUP,
)
_OF_NAMESPACES = (AttachType.FLOW_DISSECTOR, AttachType.SK_LOOKUP)
_OF_SOCKMAPS = (
    AttachType.SK_MSG_VERDICT,
    AttachType.SK_SKB_STREAM_PARSER,
    AttachType.SK_SKB_STREAM_VERDICT,
    AttachType.SK_SKB_VERDICT,
)
_OF_DEVICES = {
    AttachType.TCX_INGRESS: ("tcx", "ingress"),
    AttachType.TCX_EGRESS: ("tcx", "egress"),
    AttachType.NETKIT_PRIMARY: ("netkit", "primary"),
    AttachType.NETKIT_PEER: ("netkit", "peer"),
}
_XDP_FLAGS = {"native": XdpFlag.DRV_MODE, "generic": XdpFlag.SKB_MODE, "offload": XdpFlag.HW_MODE}
_PARENTS = {"ingress": netdev.INGRESS, "egress": netdev.EGRESS}

_UNKNOWN_TYPE = (errno.EINVAL, errno.EOPNOTSUPP)
_NO_NETKIT = (errno.ENXIO, errno.EACCES, errno.ENODEV)  # another device, the peer, a lone one


class Attachment(NamedTuple):
    """A program that is attached.

    Attributes:
        kind: Family, as of :class:`Link`: ``xdp``, ``tc``, ``tcx``, ``netkit``, ``cgroup``,
            ``netns``, ``sockmap``, ``lirc``.
        place: Where: of XDP ``native``, ``generic`` or ``offload``; of tc and tcx ``ingress`` or
            ``egress``; of netkit ``primary`` or ``peer``; else the attach type, as
            ``cgroup_inet_ingress``.
        prog_id: The program, for :meth:`Program.from_id`.
        link_id: The link that holds it, for :meth:`Link.from_id`; 0 if there is none, or the kernel
            does not tell (only tcx and netkit do).
        flags: How it was attached, as far as the kernel tells: ``AttachFlag.ALLOW_MULTI``, ...
        priority: Of tc filters: they run by ascending priority.
        handle: Of tc filters: with the priority what tells them apart.
        revision: What ``revision=`` of attaching expects; 0 where the kernel has none.
        name: Of tc filters: what the filter is called.
    """

    kind: str
    place: str
    prog_id: int
    link_id: int = 0
    flags: AttachFlag = AttachFlag(0)
    priority: int = 0
    handle: int = 0
    revision: int = 0
    name: str = ""


def attached(
    target: str | int | os.PathLike[str] | HasFileno | None = None, *, effective: bool = False
) -> list[Attachment]:
    """Ask the kernel what programs are attached to something, by links or without.

    Args:
        target: What :meth:`Program.attach` takes. Name or index of a network device: XDP in every
            mode, tcx, netkit, and BPF filters of ``clsact``. The path of, or something open with
            ``fileno()``: a control group, a network namespace, an infrared receiver. A
            :class:`Map` of sockets. ``None``: the network namespace that this thread is in.
        effective: Of a control group: what runs for it, programs of the groups above it included.

    Returns:
        What is there; programs of one kind and place in the order in which they run.

    Raises:
        KernelError: ENODEV or ENOENT: there is no such target; and others.
        NotPermittedError: Without CAP_NET_ADMIN.
        NotSupportedError: The kernel does not tell this: of control groups before Linux 4.15, of
            namespaces before 5.2, of sockmaps before 5.18.
        ValueError: ``effective`` of something else.
    """
    if isinstance(target, Map):
        return _inherited_by_none(effective, _of_sockmap(target))
    if isinstance(target, int) or (isinstance(target, str) and "/" not in target):
        return _inherited_by_none(effective, _of_device(netdev.interface_index(target)))
    with _opened(_OWN if target is None else target) as file:
        kind = door.filesystem_type(f"/proc/self/fd/{file.fileno()}")
        if kind == _CGROUP2:
            return list(_of_cgroup(file, effective))
        return _inherited_by_none(
            effective, _of_namespace(file) if kind == _NAMESPACE else _of_receiver(file)
        )


def detach(target: str | int | os.PathLike[str] | HasFileno | None, there: Attachment) -> None:
    """Take away what :func:`attached` has found, whoever attached it, if only for now.

    A link that the kernel names (of tcx and netkit) is detached. What other links hold is left
    alone: the error says which, and :meth:`Link.detach` takes them away. A process that attached
    it may do so again.

    Args:
        target: As it was given to :func:`attached`.
        there: What it said.

    Raises:
        KernelError: ENOENT: it is not there any more, or a link holds it; EBUSY and EINVAL: a link
            holds it; and others.
    """
    if there.link_id:
        with Link.from_id(there.link_id) as link:
            link.detach()
        return
    try:
        _detach(target, there)
    except KernelError as error:
        held = []
        for link in Link.of_program(there.prog_id):
            with link:
                held.append(str(link.info().id))
        if held:
            error.hint = f"its program has links, which have to be detached: {', '.join(held)}"
        raise


def _detach(target: Any, there: Attachment) -> None:
    if there.kind == "xdp":
        netdev.xdp_attach(netdev.interface_index(target), -1, _XDP_FLAGS[there.place])
    elif there.kind == "tc":
        index = netdev.interface_index(target)
        netdev.tc_detach(index, _PARENTS[there.place], there.handle, there.priority)
    else:
        with Program.from_id(there.prog_id) as program, ExitStack() as stack:
            kinds = {place: attach_type for attach_type, place in _OF_DEVICES.items()}
            attach_type = kinds.get((there.kind, there.place))
            place: _Asked
            if attach_type is not None:
                place = netdev.interface_index(target)
            else:
                attach_type = AttachType[there.place.upper()]
                place = stack.enter_context(_opened(_OWN if target is None else target))
            try:
                bpf.prog_detach(_number(place), attach_type, prog_fd=program.fileno())
            except KernelError as error:
                error.target = _named(place)
                raise


def cgroups(root: str = "") -> Iterator[str]:
    """Directories of a control group and all groups below it, a group before those in it.

    Args:
        root: Directory of the group; by default where cgroup2 is mounted.

    Raises:
        NotSupportedError: There is no ``root``, and cgroup2 is not mounted.
    """
    if not root:
        root = next(iter(mounted("cgroup2")), "")
        if not root:
            raise NotSupportedError(
                "cgroup2 is not mounted: mount -t cgroup2 none DIR", feature="cgroup2"
            )
    left = [root]
    while left:
        group = left.pop()
        yield group
        inside = [f"{group.rstrip('/')}/{name}" for name in _listed(group)]
        left += [each for each in reversed(inside) if door.exists(f"{each}/cgroup.procs")]


def _listed(folder: str) -> list[str]:
    try:
        return door.list_dir(folder)
    except OSError:  # it went meanwhile
        return []


def _inherited_by_none(effective: bool, found: Iterator[Attachment]) -> list[Attachment]:
    if effective:
        raise ValueError("only control groups inherit programs: effective is of them")
    return list(found)


def _opened(target: Any) -> FileDescriptor:
    if hasattr(target, "fileno"):
        sockmap = isinstance(target, Map)
        what = f"map {target.name}" if sockmap else f"descriptor {target.fileno()}"
        return duplicate(target, what)
    path = os.fspath(target)
    try:
        return FileDescriptor(door.open_fd(path), path)
    except OSError as error:
        raise kernel_error(error.errno or errno.EIO, "open", path) from None


def _of_device(ifindex: int) -> Iterator[Attachment]:
    xdp = netdev.xdp_query(ifindex)
    by_mode = {"native": xdp.native_id, "generic": xdp.generic_id, "offload": xdp.offload_id}
    if not any(by_mode.values()):
        by_mode = {xdp.mode: xdp.prog_id}  # before Linux 4.19 that is all
    for mode, prog_id in by_mode.items():
        if prog_id:
            yield Attachment("xdp", mode, prog_id)
    for attach_type, (kind, place) in _OF_DEVICES.items():
        silent = (*_UNKNOWN_TYPE, *_NO_NETKIT) if kind == "netkit" else _UNKNOWN_TYPE
        options = {"prog_attach_flags": True, "link_ids": True}
        yield from _programs(kind, place, _query(ifindex, attach_type, silent, **options))
    for side, parent in _PARENTS.items():
        for each in netdev.tc_filters(ifindex, parent):
            yield Attachment(
                "tc", side, each.prog_id,
                priority=each.priority, handle=each.handle, name=each.name,
            )  # fmt: skip


def _of_cgroup(group: FileDescriptor, effective: bool) -> Iterator[Attachment]:
    if effective:
        options: tuple[dict[str, Any], ...] = ({"query_flags": QueryFlag.EFFECTIVE},)
    else:
        # Kernels tell the flags of each program since 6.0; of LSM programs, which are as young,
        # they have to be asked for.
        options = ({"prog_attach_flags": True}, {})
    answers = _answers(group, _OF_CGROUPS, "queries of control groups", "4.15", *options)
    for attach_type, there in answers.items():
        yield from _programs("cgroup", attach_type.name.lower(), there)


def _of_namespace(namespace: FileDescriptor) -> Iterator[Attachment]:
    answers = _answers(namespace, _OF_NAMESPACES, "queries of network namespaces", "5.2")
    for attach_type, there in answers.items():
        yield from _programs("netns", attach_type.name.lower(), there)


def _of_sockmap(sockmap: Map[Any, Any]) -> Iterator[Attachment]:
    answers = _answers(sockmap, _OF_SOCKMAPS, "queries of sockmaps", "5.18")
    for attach_type, there in answers.items():
        yield from _programs("sockmap", attach_type.name.lower(), there)


def _of_receiver(device: FileDescriptor) -> Iterator[Attachment]:
    try:
        there = bpf.prog_query(device.fileno(), AttachType.LIRC_MODE2)
    except KernelError as error:
        error.target = device.what
        if error.errno == errno.EINVAL:
            error.hint = (
                "programs are attached to network devices, control groups (version 2), network "
                "namespaces, maps of sockets and infrared receivers; it is none of these"
            )
        raise
    yield from _programs("lirc", "lirc_mode2", there)


def _answers(
    target: _Asked,
    types: tuple[AttachType, ...],
    feature: str,
    since: str,
    *ways: dict[str, Any],
) -> dict[AttachType, bpf.ProgQuery]:
    """Ask for the programs of several types, each in the first way that the kernel understands."""
    found = {}
    for attach_type in types:
        for options in ways or ({},):
            there = _query(target, attach_type, **options)
            if there is not None:
                found[attach_type] = there
                break
    if not found:
        raise NotSupportedError(
            f"no program can be there, or this kernel has no {feature}",
            feature=feature,
            since=since,
        )
    return found


def _query(
    target: _Asked,
    attach_type: AttachType,
    silent: tuple[int, ...] = _UNKNOWN_TYPE,
    **options: Any,
) -> bpf.ProgQuery | None:
    """Ask for the programs of one type; ``None`` if the kernel has no such type there."""
    try:
        return bpf.prog_query(_number(target), attach_type, **options)
    except KernelError as error:
        if error.errno in silent:
            return None
        error.target = _named(target)
        raise


def _number(target: _Asked) -> int:
    return target if isinstance(target, int) else target.fileno()


def _named(target: _Asked) -> str:
    if isinstance(target, int):
        return f"network device {door.interface_name(target) or target}"
    return f"map {target.name}" if isinstance(target, Map) else target.what


def _programs(kind: str, place: str, there: bpf.ProgQuery | None) -> Iterator[Attachment]:
    if there is None:
        return
    for at, prog_id in enumerate(there.prog_ids):
        flags = there.prog_attach_flags[at] if there.prog_attach_flags else there.attach_flags
        link_id = there.link_ids[at] if there.link_ids else 0
        yield Attachment(kind, place, prog_id, link_id, AttachFlag(flags), revision=there.revision)
