"""XDP programs: a link (Linux 5.9), or rtnetlink.

Source of the rules: libbpf, ``bpf_program__attach_xdp()``, ``bpf_xdp_attach()``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pybpfload.errors import AttachError, KernelError, NotSupportedError
from pybpfload.formats.netlink import XdpFlag
from pybpfload.kernel import bpf, netdev
from pybpfload.kernel.netlink import route_socket
from pybpfload.runtime.attach.common import (
    LegacyLink,
    create_link,
    device_index,
    explain,
    own_namespace,
)
from pybpfload.uapi import AttachType

if TYPE_CHECKING:
    import socket

    from pybpfload.runtime.link import Link
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["MODES", "attach"]

MODES = {
    None: XdpFlag(0),
    "generic": XdpFlag.SKB_MODE,
    "native": XdpFlag.DRV_MODE,
    "offload": XdpFlag.HW_MODE,
}
"""Where a program runs: where the driver likes it best, in the stack (4.12), driver or device."""

_HINTS = {
    errno.EBUSY: "the device has an XDP program already: that of a link is replaced by the link's "
    "update(), another one by `replace`",
    errno.EEXIST: "the device has another XDP program than expected, or one in another mode",
    errno.EOPNOTSUPP: "its driver does not run XDP programs in this mode; try mode='generic'",
    errno.ERANGE: "its MTU is too large for a program without SEC('xdp.frags') (Linux 5.18)",
    errno.EINVAL: "the program is not for this device and mode: one to be offloaded, or bound to a "
    "device, is loaded for it (`ifindex` of its spec)",
}
_IN_MAPS = {AttachType.XDP_DEVMAP: "devmap", AttachType.XDP_CPUMAP: "cpumap"}


def attach(
    program: Program,
    loaded_for: AttachTarget,
    target: str | int | None,
    *,
    mode: str | None = None,
    link: bool | None = None,
    replace: Program | None = None,
) -> Link:
    """Attach to a network device.

    Args:
        program: The program.
        loaded_for: Unused: the device is chosen at attach.
        target: Name or index of the device.
        mode: ``"native"``, ``"generic"``; ``"offload"`` of a program that was loaded with the
            device's index in :attr:`ProgramSpec.ifindex`; ``None`` leaves the choice to the kernel.
        link: ``True``: only by a link; ``False``: only by rtnetlink, which outlives the process if
            it is killed; ``None``: by rtnetlink on kernels without such links.
        replace: The program that is there and shall give way (rtnetlink only, Linux 5.7). To
            replace the program of a link, use :meth:`Link.update`.

    Raises:
        AttachError: No device is named, or there is none; the program is for a map.
        NotSupportedError: The kernel has no XDP links (before 5.9), and nothing else was allowed.
        KernelError: EBUSY: there is a program already; EOPNOTSUPP: not in this mode; ERANGE: the
            MTU is too large; EINVAL: the program was not loaded for this device or mode.
        ValueError: There is no such mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, not one of {', '.join(filter(None, MODES))}")
    if kind := _IN_MAPS.get(AttachType(program.spec.expected_attach_type)):
        raise AttachError(
            f"it runs on entries of a {kind}: put it into the map's values", program=program.name
        )
    ifindex = device_index(program, target)
    name, flags = f"device {target}", MODES[mode]
    if link is not False and replace is None:
        try:
            return create_link(
                program, ifindex, kind="xdp", target=name, since="5.9", hints=_HINTS, flags=flags
            )
        except NotSupportedError:
            if link:
                raise
    if link:
        raise ValueError("replace needs rtnetlink; use Link.update() for links")
    expected = replace.fileno() if replace is not None else None
    if expected is None:
        flags |= XdpFlag.UPDATE_IF_NOEXIST
    via = route_socket()  # the thread may be in another namespace when it detaches

    def do() -> None:
        try:
            netdev.xdp_attach(ifindex, program.fileno(), flags, expected_fd=expected, via=via)
        except KernelError as error:
            explain(error, program, name, _HINTS)
            raise

    return LegacyLink(
        program,
        kind="xdp",
        target=name,
        undo=lambda fd: _take_away(ifindex, fd, MODES[mode], via),
        held=via,
        do=do,
        # Only the device itself runs a program besides another one.
        place=("xdp", own_namespace(), ifindex, mode == "offload"),
    )


def _take_away(ifindex: int, prog_fd: int, flags: int, via: socket.socket) -> None:
    """Detach the program if it is still the one that is there."""
    try:
        netdev.xdp_attach(ifindex, -1, flags, expected_fd=prog_fd, via=via)
    except KernelError as error:
        if error.errno == errno.ENODEV:
            return  # the device is gone, and the attachment with it
        if error.errno in (errno.EEXIST, errno.EBUSY):
            return  # another one is there, or a link
        if error.errno != errno.EINVAL:
            raise
        # Before Linux 5.7 nobody can say which program is expected.
        if bpf.prog_info(prog_fd).id in netdev.xdp_query(ifindex, via=via)[1:]:
            netdev.xdp_attach(ifindex, -1, flags, via=via)
