"""Netfilter programs: a link on a hook of a protocol family (Linux 6.4).

Source of the rules: libbpf, ``bpf_program__attach_netfilter()``; ``linux/netfilter.h``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pybpfload.errors import AttachError
from pybpfload.kernel import bpf
from pybpfload.runtime.attach.common import create_link
from pybpfload.uapi import NetfilterFlag

if TYPE_CHECKING:
    from pybpfload.runtime.link import Link
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["FAMILIES", "HOOKS", "attach"]

FAMILIES = {each.name.lower(): int(each) for each in bpf.NetfilterFamily}
"""Protocol families that have such hooks (``NFPROTO_*``)."""

HOOKS = {each.name.lower(): int(each) for each in bpf.NetfilterHook}
"""Hooks by nft(8)'s names (``NF_INET_*``)."""

_HINTS = {
    errno.EAFNOSUPPORT: "this kernel has no netfilter for that protocol family",
    errno.EBUSY: "another program has that priority on this hook; choose another one",
    errno.ERANGE: "the priority is one of the kernel's own, or with defrag not above -400",
}


def attach(
    program: Program,
    loaded_for: AttachTarget,
    target: str | None,
    *,
    family: str = "ipv4",
    priority: int = 0,
    defrag: bool = False,
) -> Link:
    """Attach to a hook of the network namespace that this thread is in.

    Args:
        program: The program.
        loaded_for: Unused: the hook is chosen at attach.
        target: A key of :data:`HOOKS`.
        family: A key of :data:`FAMILIES`.
        priority: Programs and rules run by ascending priority; 0 is that of nft's ``filter``, and
            no two programs of a hook may have the same.
        defrag: Have IP fragments put together before (Linux 6.6). Needs a priority above -400,
            the one at which that happens.

    Raises:
        AttachError: No hook is named, or there is none of that name.
        NotSupportedError: The kernel has no netfilter programs.
        KernelError: The kernel refuses.
        ValueError: There is no such family.
    """
    if target not in HOOKS:
        raise AttachError(
            f"it attaches to a hook: name one of {', '.join(HOOKS)}, not {target!r}",
            program=program.name,
        )
    if family not in FAMILIES:
        raise ValueError(f"family is {family!r}, not one of {', '.join(FAMILIES)}")
    return create_link(
        program,
        0,
        kind="netfilter",
        target=f"{family} {target}",
        since="6.6" if defrag else "6.4",
        hints=_HINTS,
        pf=FAMILIES[family],
        hooknum=HOOKS[target],
        priority=priority,
        netfilter_flags=int(NetfilterFlag.IP_DEFRAG) if defrag else 0,
    )
