"""Failed system calls as errors that say why and what to do."""

from __future__ import annotations

import errno as _errno

from pybpfload.errors import KernelError, NotPermittedError
from pybpfload.kernel import door, token

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "CAPABILITIES",
    "BatchError",
    "in_user_namespace",
    "kernel_error",
    "locked_down",
    "missing_capabilities",
    "process_status",
    "setting",
    "why_not_permitted",
]

CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
"""Bit numbers of the capabilities that BPF asks for; CAP_PERFMON and CAP_BPF since Linux 5.8."""

_CHARGED = ("BPF_MAP_CREATE", "BPF_PROG_LOAD", "BPF_BTF_LOAD")
"""Commands whose memory old kernels charge to RLIMIT_MEMLOCK."""


_MODE = "the map is frozen, or this descriptor was opened for the other direction only"
# Where the kernel says EPERM or EACCES for reasons that have nothing to do with privilege.
_OTHERWISE = {
    **dict.fromkeys(
        (
            "BPF_MAP_LOOKUP_ELEM",
            "BPF_MAP_UPDATE_ELEM",
            "BPF_MAP_DELETE_ELEM",
            "BPF_MAP_GET_NEXT_KEY",
            "BPF_MAP_LOOKUP_AND_DELETE_ELEM",
            "BPF_MAP_LOOKUP_BATCH",
            "BPF_MAP_LOOKUP_AND_DELETE_BATCH",
            "BPF_MAP_UPDATE_BATCH",
            "BPF_MAP_DELETE_BATCH",
            "BPF_MAP_FREEZE",
        ),
        _MODE,
    ),
    "BPF_LINK_UPDATE": "another program is in place than the one named as the old one",
    "BPF_PROG_ATTACH": "the place has a program already, and it or one above it does not share "
    "(ALLOW_MULTI, ALLOW_OVERRIDE)",
    "BPF_OBJ_PIN": "the directory is not in a BPF filesystem, or the name has a dot, which names "
    "there may not have",
}


class BatchError(KernelError):
    """A batch stopped before its end.

    Attributes:
        count: Number of elements that were done before.
    """

    def __init__(self, errno: int, operation: str, target: str | None, *, count: int = 0) -> None:
        where = f"{target} after {count} elements"
        super().__init__(errno, operation, where, hint=_general_hint(errno, operation))
        self.count = count

    def __reduce__(self) -> Any:
        # As VerifierError: OSError would give back its own two arguments.
        return (type(self), (self.errno, self.operation, self.target), self.__dict__)


def kernel_error(
    errno: int, operation: str, target: str | None = None, *, hint: str | None = None
) -> KernelError:
    """Make the right error for a failed system call.

    Args:
        errno: Error number, positive or as the door returns it (negative).
        operation: ``"BPF_MAP_CREATE"``, ``"perf_event_open"`` and so on.
        target: On what, for example ``"map events"``.
        hint: A better hint than the general one.

    Returns:
        A :class:`NotPermittedError` for EPERM and EACCES, otherwise a :class:`KernelError`.
    """
    number = abs(errno)
    if number in (_errno.EPERM, _errno.EACCES):
        reason = hint or why_not_permitted(number, operation)
        return NotPermittedError(number, operation, target, hint=reason)
    return KernelError(number, operation, target, hint=hint or _general_hint(number, operation))


def _general_hint(number: int, operation: str) -> str | None:
    if number == _errno.ENOSYS:
        if operation.startswith("BPF_"):
            return "this kernel was built without CONFIG_BPF_SYSCALL"
        return "this kernel does not have this system call"
    if number == _errno.E2BIG and operation.startswith("BPF_"):
        if operation == "BPF_MAP_UPDATE_ELEM":
            return "the map is full, or the array index is beyond its end"
        return (
            "something was asked for that this kernel is too old to know, or the input is too big"
        )
    if number in (_errno.EMFILE, _errno.ENFILE):
        return "too many open files; raise the limit (ulimit -n)"
    if number == _errno.ENOMEM and operation in _CHARGED:
        return "no kernel memory, or the limit of the control group or of RLIMIT_MEMLOCK is reached"
    if number == 524:
        return "this kind of object does not have this operation"
    return None


def why_not_permitted(number: int, operation: str) -> str:
    """The likely reason of EPERM or EACCES, and the remedy, in one sentence.

    Looked at in this order: file permissions, capabilities, user namespace, what the operation
    itself has against it, a seccomp filter, the memory lock limit, lockdown and other policy.
    Nothing is tried out; only ``/proc`` and ``/sys`` are read.

    Args:
        number: EPERM or EACCES.
        operation: As for :func:`kernel_error`.
    """
    if number == _errno.EACCES and operation in ("BPF_OBJ_PIN", "open", "mkdir", "statfs"):
        return "the file's or a directory's permissions do not allow it"
    if number == _errno.EACCES and operation == "BPF_OBJ_GET":
        return "it is no pinned BPF object, or the file's or a directory's permissions forbid it"
    if operation == "perf_event_open":
        lacking = missing_capabilities("CAP_PERFMON")
        if lacking:
            return f"this process lacks {_or(lacking)}{setting('kernel.perf_event_paranoid')}"
    missing = missing_capabilities("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN")
    if "CAP_BPF" in missing:
        return (
            f"this process lacks {_or(missing)}; run it as root or give it these capabilities"
            f"{setting('kernel.unprivileged_bpf_disabled')}"
        )
    if in_user_namespace() and token.current() is None:
        return (
            "this process is in a user namespace (a rootless container), whose capabilities do not "
            "count here; run it outside, or mount a BPF filesystem for it that delegates what it "
            "needs (a BPF token, Linux 6.9)"
        )
    if missing:
        return (
            f"this process lacks {' and '.join(missing)}: tracing programs need CAP_PERFMON, "
            "networking programs CAP_NET_ADMIN, some commands CAP_SYS_ADMIN"
        )
    if operation in _OTHERWISE:
        return _OTHERWISE[operation]
    if process_status().get("Seccomp", "0") == "2":
        return "a seccomp filter, as container runtimes install them, probably forbids it"
    if number == _errno.EPERM and operation in _CHARGED and (limit := _memlock_limit()) is not None:
        return (
            f"the memory lock limit of {limit // 1024} KiB is probably reached; raise it "
            "(ulimit -l unlimited)"
        )
    return _policy()


def missing_capabilities(*names: str) -> list[str]:
    """Which of these capabilities this process lacks; CAP_SYS_ADMIN stands in for all of them."""
    try:
        effective = int(process_status()["CapEff"], 16)
    except (KeyError, ValueError):
        return []
    if effective >> CAPABILITIES["CAP_SYS_ADMIN"] & 1:
        return []
    return [name for name in names if not effective >> CAPABILITIES[name] & 1]


def _or(names: list[str]) -> str:
    return f"{' and '.join(names)} (or CAP_SYS_ADMIN)"


def _read(path: str) -> str | None:
    try:
        return door.read_file(path).decode(errors="replace")
    except OSError:
        return None


def setting(name: str) -> str:
    """``" (NAME is VALUE)"`` of a kernel setting; ``""`` where it cannot be read."""
    value = _read("/proc/sys/" + name.replace(".", "/"))
    return f" ({name} is {value.strip()})" if value else ""


def process_status() -> dict[str, str]:
    """``/proc/self/status`` by name; nothing if it cannot be read."""
    text = _read("/proc/self/status") or ""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key: value.strip() for key, _, value in pairs}


def in_user_namespace() -> bool:
    """Whether capabilities count for less, because this is not the first user namespace."""
    text = _read("/proc/self/uid_map")
    return text is not None and text.split()[:3] != ["0", "0", "4294967295"]


def _memlock_limit() -> int | None:
    """RLIMIT_MEMLOCK in bytes where the kernel charges BPF memory to it (before Linux 5.11)."""
    from pybpfload.kernel import memlock

    return memlock.charged_limit()


def locked_down() -> str | None:
    """What kernel lockdown (Linux 5.4) means for BPF, in one sentence; ``None`` if it is off.

    In mode confidentiality, programs may not read the kernel's memory: the kernel then says that
    their type has no such helper, rather than EPERM.
    """
    text = _read("/sys/kernel/security/lockdown") or ""
    mode = text.partition("[")[2].partition("]")[0]
    if mode in ("", "none"):
        return None
    return (
        f"kernel lockdown is in {mode} mode (/sys/kernel/security/lockdown), which forbids some or "
        "all tracing programs; it is switched off at boot only"
    )


def _policy() -> str:
    if locked := locked_down():
        return locked
    modules = _read("/sys/kernel/security/lsm")
    return (
        "this process has the capabilities, so the likely cause is the kernel's policy: "
        + (
            "lockdown (securityfs is not mounted, so its mode is unknown), "
            if _read("/sys/kernel/security/lockdown") is None
            else ""
        )
        + (f"a security module ({modules.strip()})" if modules else "a security module")
        + " or a vendor's patch"
    )
