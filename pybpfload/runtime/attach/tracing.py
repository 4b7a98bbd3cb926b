"""fentry, fexit, fmod_ret, fsession, tp_btf, LSM: attached to what they were verified for."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pybpfload.errors import AttachError, KernelError, NotSupportedError
from pybpfload.kernel import bpf, door
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime.attach.common import require_cookies
from pybpfload.runtime.link import Link
from pybpfload.uapi import AttachType, ProgType

if TYPE_CHECKING:
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["attach", "check_lsm"]


def attach(
    program: Program, loaded_for: AttachTarget, target: str | None, *, cookie: int = 0
) -> Link:
    """Attach to the function, tracepoint or hook that the program was loaded for.

    Args:
        program: The program.
        loaded_for: What it was loaded for.
        target: Must be ``None``: it cannot be chosen any more.
        cookie: What ``bpf_get_attach_cookie()`` gives (fentry, fexit, fmod_ret, lsm: Linux 5.19;
            tp_btf: 6.10; freplace: none).

    Raises:
        AttachError: A target was given, or a cookie to a freplace program.
        NotSupportedError: No cookies here, or the kernel runs no LSM programs.
        KernelError: The kernel refuses.
    """
    spec = program.spec
    if target is not None:
        raise AttachError(
            f"it was verified against {loaded_for.name}; "
            "choose the target with set_attach_target() before loading",
            program=program.name,
            target=target,
        )
    if cookie and spec.prog_type == ProgType.EXT:
        raise AttachError("freplace programs cannot be given a cookie", program=program.name)
    if spec.prog_type == ProgType.LSM:
        check_lsm(program.name)
    if cookie and spec.expected_attach_type == AttachType.TRACE_RAW_TP:
        require_cookies(program, "raw_tracepoint", since="6.10")  # tp_btf got them together with it
    elif cookie:
        require_cookies(program, "link_create", "tracing", since="5.19")
    try:
        # Where the kernel knows no such links (before 5.19), this opens a raw tracepoint instead.
        fd = bpf.link_create(program.fileno(), 0, spec.expected_attach_type, cookie=cookie)
    except KernelError as error:
        raise _explained(error, program, loaded_for) from None
    return Link(
        FileDescriptor(fd, f"link of {program.name}"),
        kind="lsm" if spec.prog_type == ProgType.LSM else "trace",
        target=loaded_for.name,
        program=program.name,
    )


def _explained(error: KernelError, program: Program, loaded_for: AttachTarget) -> KernelError:
    error.target = f"program {program.name} to {loaded_for.name}"
    if error.errno == errno.EBUSY and not error.hint:
        error.hint = "this program is there already, or the function cannot take another one"
    return error


def check_lsm(program: str) -> None:
    """Refuse to attach an LSM program to a kernel that would never run it.

    Such a kernel accepts the attachment without a word, because the hooks exist but are not called.

    Raises:
        NotSupportedError: ``bpf`` is not among the active security modules.
    """
    try:
        active = door.read_file("/sys/kernel/security/lsm").decode().strip()
    except OSError:
        return  # securityfs is not mounted: nothing can be said
    if "bpf" not in active.split(","):
        raise NotSupportedError(
            f"program {program}: this kernel was started without the BPF security module, "
            f"so it would never run (active: {active}); boot with lsm={active},bpf",
            feature="LSM programs",
            since="5.7",
        )
