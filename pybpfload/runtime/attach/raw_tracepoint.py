"""raw_tp programs, writable ones too: ``BPF_RAW_TRACEPOINT_OPEN`` by name (Linux 4.17)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pybpfload.errors import AttachError, KernelError
from pybpfload.kernel import bpf
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime.attach.common import explain, require_cookies
from pybpfload.runtime.link import Link

if TYPE_CHECKING:
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["attach"]


def attach(
    program: Program, loaded_for: AttachTarget, target: str | None, *, cookie: int = 0
) -> Link:
    """Attach to a raw tracepoint.

    Args:
        program: The program.
        loaded_for: Unused: raw tracepoints are chosen at attach.
        target: Name of the tracepoint without its category; what the section says when ``None``.
        cookie: What ``bpf_get_attach_cookie()`` gives (Linux 6.10).

    Raises:
        AttachError: No name, or no tracepoint of that name.
        NotSupportedError: No cookies here.
    """
    name = program.spec.attach_to if target is None else target
    if not name:
        raise AttachError(
            f"SEC({program.spec.section!r}) names no tracepoint; give attach() one",
            program=program.name,
        )
    if cookie:
        require_cookies(program, "raw_tracepoint", since="6.10")
    try:
        fd = bpf.raw_tracepoint_open(name, program.fileno(), cookie=cookie)
    except KernelError as error:
        if error.errno == errno.ENOENT:
            raise AttachError(
                f"there is no raw tracepoint {name!r} (tracepoints are named without category)",
                program=program.name,
                target=name,
            ) from error
        there = {errno.EEXIST: "this program is there already, and this kernel takes it once"}
        explain(error, program, f"raw tracepoint {name}", there)
        raise
    return Link(
        FileDescriptor(fd, f"link of {program.name}"),
        kind="raw_tp",
        target=name,
        program=program.name,
    )
