"""Programs of infrared receivers (``lirc_mode2``, Linux 4.18): the kernel has no links of them.

Source of the rules: the kernel's ``drivers/media/rc/bpf-lirc.c``; ``man 1 ir-keytable``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pybpfload.errors import KernelError
from pybpfload.kernel import bpf
from pybpfload.runtime.attach.common import LegacyLink, explain, open_target, raise_if_young

if TYPE_CHECKING:
    from pybpfload.runtime.link import Link
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["attach"]

_HINTS = {
    errno.EINVAL: "it is no receiver of raw infrared (/dev/lirc0), or the kernel has no programs "
    "of them (CONFIG_BPF_LIRC_MODE2)",
    errno.E2BIG: "the receiver has 64 programs already",
    errno.EEXIST: "this program is there already",
}


def attach(program: Program, loaded_for: AttachTarget, target: Any) -> Link:
    """Attach to an infrared receiver: the program sees its pulses and spaces, and reports keys.

    The attachment outlives the process if that is killed.

    Args:
        program: The program.
        loaded_for: Unused: the receiver is chosen at attach.
        target: The device: ``"/dev/lirc0"``, or anything with ``fileno()``.

    Raises:
        AttachError: No device is named, or there is none such.
        NotSupportedError: The kernel has no such programs (before 4.18).
        KernelError: EINVAL: it is no receiver of raw infrared; and others.
    """
    device = open_target(program, target, "infrared receiver")
    attach_type = program.spec.expected_attach_type

    def do() -> None:
        try:
            bpf.prog_attach(program.fileno(), device.fileno(), attach_type)
        except KernelError as error:
            raise_if_young(error, program, "infrared programs", "4.18")
            explain(error, program, device.what, _HINTS)
            raise

    def undo(fd: int) -> None:
        try:
            bpf.prog_detach(device.fileno(), attach_type, prog_fd=fd)
        except KernelError as error:
            # Somebody else has taken it away, or the receiver was unplugged.
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise

    return LegacyLink(program, kind="lirc", target=device.what, undo=undo, held=device, do=do)
