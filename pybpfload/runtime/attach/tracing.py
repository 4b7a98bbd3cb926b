"""fentry, fexit, fmod_ret, fsession, tp_btf, LSM: attached to what they were verified for."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pybpfload.errors import AttachError, KernelError, NotSupportedError
from pybpfload.kernel import bpf, door
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime.link import Link
from pybpfload.uapi import AttachType

if TYPE_CHECKING:
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["attach", "check_lsm"]

# Those that kernels before LINK_CREATE for tracing (5.20) attach by BPF_RAW_TRACEPOINT_OPEN.
_OLD_WAY = frozenset(
    {
        AttachType.TRACE_RAW_TP,
        AttachType.TRACE_FENTRY,
        AttachType.TRACE_FEXIT,
        AttachType.MODIFY_RETURN,
        AttachType.LSM_MAC,
    }
)


def attach(
    program: Program, loaded_for: AttachTarget, target: str | None, *, cookie: int = 0
) -> Link:
    """Attach to the function, tracepoint or hook that the program was loaded for.

    Args:
        program: The program.
        loaded_for: What it was loaded for.
        target: Must be ``None``: it cannot be chosen any more.
        cookie: What ``bpf_get_attach_cookie()`` gives (fentry, fexit, fmod_ret: Linux 5.19; tp_btf,
            lsm: 6.10).

    Raises:
        AttachError: A target was given.
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
    if spec.expected_attach_type == AttachType.LSM_MAC:
        check_lsm(program.name)
    try:
        fd = bpf.link_create(program.fileno(), 0, spec.expected_attach_type, cookie=cookie)
    except KernelError as error:
        if error.errno != errno.EINVAL or spec.expected_attach_type not in _OLD_WAY:
            raise _explained(error, program, loaded_for) from None
        if cookie:
            raise NotSupportedError(
                f"program {program.name}: this kernel has no attach cookies "
                f"for {spec.section.split('/')[0]} programs",
                feature="attach cookies",
                since="6.10" if spec.expected_attach_type == AttachType.TRACE_RAW_TP else "5.19",
            ) from error
        try:
            fd = bpf.raw_tracepoint_open(None, program.fileno())
        except KernelError as second:
            raise _explained(second, program, loaded_for) from None
    return Link(
        FileDescriptor(fd, f"link of {program.name}"),
        kind=spec.sec.auto if spec.sec else "trace",
        target=loaded_for.name,
        program=program.name,
    )


def _explained(error: KernelError, program: Program, loaded_for: AttachTarget) -> KernelError:
    error.target = f"program {program.name} to {loaded_for.name}"
    if error.errno == errno.EBUSY and not error.hint:
        error.hint = "the function has a trampoline that cannot take another program"
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
