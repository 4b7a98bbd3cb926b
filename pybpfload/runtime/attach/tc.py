"""tc programs: tcx and netkit links (Linux 6.6 and 6.7), or filters of ``clsact`` by rtnetlink.

Source of the rules: libbpf, ``bpf_program__attach_tcx()``, ``bpf_program__attach_netkit()``,
``bpf_tc_attach()``; ``man 8 tc-bpf``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from pybpfload.errors import AttachError, KernelError, NotSupportedError
from pybpfload.kernel import netdev
from pybpfload.kernel.netlink import route_socket
from pybpfload.runtime.attach.common import (
    PLACE_HINTS,
    LegacyLink,
    anchors,
    create_link,
    device_index,
    explain,
    own_namespace,
)
from pybpfload.uapi import AttachType, ProgType

if TYPE_CHECKING:
    import socket

    from pybpfload.runtime.link import Link
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["attach"]

_PARENTS = {"ingress": netdev.INGRESS, "egress": netdev.EGRESS}
_TCX = {"ingress": AttachType.TCX_INGRESS, "egress": AttachType.TCX_EGRESS}
_NETKIT = (AttachType.NETKIT_PRIMARY, AttachType.NETKIT_PEER)
_HINTS = {
    errno.EEXIST: "this program is there already",
    errno.ESTALE: "the programs of this place have changed since that revision",
}
_NETKIT_HINTS = dict.fromkeys(
    (errno.ENXIO, errno.EACCES, errno.EINVAL), "name the primary device of a netkit pair"
)
_FILTER_HINTS = {errno.EEXIST: "there is a filter of that handle and priority"}


def attach(
    program: Program,
    loaded_for: AttachTarget,
    target: str | int | None,
    *,
    direction: str | None = None,
    link: bool | None = None,
    before: Program | Link | bool | None = None,
    after: Program | Link | bool | None = None,
    revision: int = 0,
    priority: int = 0,
    handle: int = 0,
    replace: bool = False,
) -> Link:
    """Attach to a network device.

    Sections ``tcx/ingress``, ``tcx/egress``, ``netkit/primary`` and ``netkit/peer`` say on which
    side and are attached by links; ``tc`` leaves the side to ``direction`` and makes a filter. A
    tcx program becomes a filter where the kernel has no tcx, unless ``link=True``.

    Args:
        program: The program.
        loaded_for: Unused: the device is chosen at attach.
        target: Name or index of the device; the primary one of a netkit pair.
        direction: ``"ingress"`` or ``"egress"``, where the section does not say.
        link: ``True``: only by a link; ``False``: only by a filter, which outlives the process if
            it is killed.
        before: Links: go before this program or link; ``True`` for before all.
        after: Links: go after it; ``True`` for after all.
        revision: Links: refuse if the list of programs has changed since (ESTALE).
        priority: Filters: 1 to 65535; 0 lets the kernel choose. They run by ascending priority.
        handle: Filters: with the priority the filter's name; 0 lets the kernel choose.
        replace: Filters: take the place of that handle and priority.

    Raises:
        AttachError: No device or no direction is named, or there is no such device.
        NotSupportedError: The kernel has no such links, and a filter cannot stand in.
        KernelError: The kernel refuses.
        ValueError: Arguments that exclude each other, or a number out of its range.
    """
    attach_type = AttachType(program.spec.expected_attach_type)
    if program.spec.prog_type == ProgType.SCHED_ACT:
        raise AttachError(
            "actions are attached to a filter with tc(8); classifiers attach here",
            program=program.name,
        )
    declared = next((side for side, kind in _TCX.items() if kind == attach_type), None)
    if declared and direction not in (None, declared):
        raise ValueError(f"SEC({program.spec.section!r}) is for {declared}, not {direction}")
    if attach_type in _NETKIT and (direction is not None or link is False):
        raise ValueError("netkit sections say on which side, and are attached by links only")
    if not (0 <= priority < 1 << 16 and 0 <= handle < 1 << 32):
        raise ValueError(f"priority {priority} or handle {handle} is out of range")
    ifindex = device_index(program, target)
    name = f"device {target}"
    placed = before is not None or after is not None or revision
    if attach_type in _NETKIT or (declared and link is not False):
        kind, since = ("netkit", "6.7") if attach_type in _NETKIT else ("tcx", "6.6")
        if priority or handle or replace:
            raise ValueError(f"priority, handle and replace are of filters, not of {kind} links")
        hints = _HINTS if declared else {**_HINTS, **_NETKIT_HINTS}
        try:
            return create_link(
                program,
                ifindex,
                kind=kind,
                target=f"{name} {declared or attach_type.name.split('_')[1].lower()}",
                since=since,
                hints={**hints, **PLACE_HINTS} if placed else hints,
                **anchors(before, after, revision),
            )
        except NotSupportedError:
            if link or placed or not declared:
                raise
    elif link:
        raise NotSupportedError(
            f"program {program.name}: links of tc programs need a section that says where, "
            "as SEC('tcx/ingress')"
        )
    if placed:
        raise ValueError("before, after and revision are of links; filters have priorities")
    direction = declared or direction
    if direction not in _PARENTS:
        raise AttachError(
            f"direction is {direction!r}: say 'ingress' or 'egress'", program=program.name
        )
    return _filter(program, ifindex, f"{name} {direction}", direction, priority, handle, replace)


def _filter(
    program: Program,
    ifindex: int,
    target: str,
    direction: str,
    priority: int,
    handle: int,
    replace: bool,
) -> Link:
    via = route_socket()  # the thread may be in another namespace when it detaches
    try:
        return _filter_of(program, ifindex, target, direction, priority, handle, replace, via)
    except BaseException:
        via.close()
        raise


def _filter_of(
    program: Program,
    ifindex: int,
    target: str,
    direction: str,
    priority: int,
    handle: int,
    replace: bool,
    via: socket.socket,
) -> Link:
    made = netdev.create_clsact(ifindex)
    if not made and direction == "egress" and not netdev.has_clsact(ifindex):
        raise AttachError(
            "the device has the queueing discipline `ingress` in the place of `clsact`, and that "
            "has no egress; remove it (tc qdisc del dev DEVICE ingress)",
            program=program.name,
            target=target,
        )
    place = (own_namespace(), ifindex)
    clsact: _Clsact | None = None
    if made:
        clsact = _ours[place] = _Clsact()
    else:
        clsact = _ours.get(place)
    number = program.info().id
    found: netdev.TcFilter | None = None

    def do() -> None:
        nonlocal found
        try:
            found = netdev.tc_attach(
                ifindex,
                _PARENTS[direction],
                program.fileno(),
                f"{program.name}:[{number}]",
                handle=handle,
                priority=priority,
                replace=replace,
            )
        except KernelError as error:
            if clsact is not None:
                _remove_unused(ifindex, via)
            explain(error, program, target, _FILTER_HINTS)
            raise

    def undo(_: int) -> None:
        nonlocal clsact
        ours, clsact = clsact is not None, None
        there = found
        if there is None:  # interrupted before the kernel has said which filter it is
            filters = netdev.tc_filters(ifindex, _PARENTS[direction])
            new = [each for each in filters if each.prog_id == number]
            if len(new) != 1:  # of several nobody can say which is the new one
                if ours:
                    _remove_unused(ifindex, via)
                return
            there = new[0]
        name = (ifindex, there.parent, there.handle, there.priority)
        try:
            if netdev.tc_query(*name, via=via).prog_id != number:
                return  # somebody else has taken its place
            netdev.tc_detach(*name, via=via)
        except KernelError as error:
            # Gone with its device, with clsact, or by somebody else's hand.
            if error.errno not in (errno.ENODEV, errno.ENOENT, errno.EINVAL):
                raise
            return
        if ours:
            _remove_unused(ifindex, via)

    return LegacyLink(program, kind="tc", target=target, undo=undo, held=via, do=do)


class _Clsact:
    """Stands for ``clsact`` of a device that was made here, held by the links of its filters.

    Whichever of them is closed last removes it.
    """


_ours: WeakValueDictionary[tuple[str, int], _Clsact] = WeakValueDictionary()


def _remove_unused(ifindex: int, via: socket.socket) -> None:
    """Remove ``clsact`` unless somebody, whoever it is, has filters there."""
    if not any(netdev.has_filters(ifindex, each, via=via) for each in _PARENTS.values()):
        netdev.delete_clsact(ifindex, via=via)
