"""RLIMIT_MEMLOCK: before Linux 5.11 the memory of maps and programs is charged to it.

Source of the rule: libbpf raises the limit once before its first map, program or BTF if the kernel
does not account BPF memory to control groups.
"""

from __future__ import annotations

from contextlib import suppress

from pybpfload.kernel import door

__all__ = ["charged_limit", "ensure"]


def ensure() -> None:
    """Raise RLIMIT_MEMLOCK to unlimited where the kernel needs that; once, failure is no error."""
    cache = door.cache()
    if cache.get("memlock") is not None:
        return
    cache["memlock"] = True  # first, because the probe below loads a program
    from pybpfload.kernel.probe import Feature, has

    if not has(Feature.MEMCG_ACCOUNT):
        with suppress(OSError):  # the load itself will say what is wrong
            door.lift_memlock_limit()


def charged_limit() -> int | None:
    """The limit in bytes if this kernel charges BPF memory to it, otherwise ``None``.

    Judged by the kernel's version (control groups since Linux 5.11), because this explains a
    failure and must not make system calls that could fail for the same reason.
    """
    from pybpfload.kernel.version import kernel_version

    version = kernel_version()
    if version == 0 or version >= 5 << 16 | 11 << 8:
        return None
    limit = door.memlock_limit()
    return None if limit < 0 else limit
