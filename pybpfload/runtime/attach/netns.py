"""Programs of network namespaces: sk_lookup (Linux 5.9), flow dissectors (links: 5.8).

Source of the rules: libbpf, ``bpf_program__attach_netns()``;
``Documentation/bpf/prog_sk_lookup.rst``, ``prog_flow_dissector.rst``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pybpfload.runtime.attach.common import create_link, open_target

if TYPE_CHECKING:
    from pybpfload.runtime.link import Link
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["attach"]

_OWN = "/proc/thread-self/ns/net"

_HINTS = {
    errno.EEXIST: "the namespace has a flow dissector already, or the initial one has",
    errno.E2BIG: "the namespace has as many such programs as it can: one flow dissector, or 64 of "
    "sk_lookup",
    errno.EINVAL: "this is no network namespace (/proc/PID/ns/net, /run/netns/NAME)",
}


def attach(program: Program, loaded_for: AttachTarget, target: Any) -> Link:
    """Attach to a network namespace.

    Args:
        program: The program.
        loaded_for: Unused: the namespace is chosen at attach.
        target: Its file, ``/run/netns/NAME`` or ``/proc/PID/ns/net``, or anything with
            ``fileno()``; ``None`` for the one that this thread is in.

    Raises:
        AttachError: There is no such file.
        NotSupportedError: The kernel has no such links.
        KernelError: The kernel refuses.
    """
    with open_target(program, target, "network namespace", default=_OWN) as namespace:
        return create_link(
            program,
            namespace.fileno(),
            kind="netns",
            target=namespace.what,
            since="5.8",
            hints=_HINTS,
        )
