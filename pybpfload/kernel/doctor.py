"""Why can't I load: what stands between this process and loading BPF programs, and what to do.

Each finding is looked up or tried on its own, so that one reason does not hide another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pybpfload.errors import BpfError, KernelError
from pybpfload.kernel import bpffs, door, features, kallsyms, kconfig, memlock, token, tracefs
from pybpfload.kernel.errors import (
    CAPABILITIES,
    in_user_namespace,
    locked_down,
    missing_capabilities,
    process_status,
)
from pybpfload.uapi import MapType, ProgType

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Finding", "diagnose"]


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        topic: What it is, a word or two.
        state: ``"ok"``; ``"limited"``: some programs cannot do without; ``"bad"``: nothing can be
            loaded; ``"unknown"``: it could not be found out.
        found: How it is.
        remedy: What to do, or what goes without; ``""`` where all is well.
    """

    topic: str
    state: str
    found: str
    remedy: str = ""


def diagnose() -> list[Finding]:
    """Find out whether this process can load BPF programs on this kernel, and what is in the way.

    Some of it is tried, with the BPF token that is shown, if there is one: a map and programs of
    two instructions are made and closed again. Nothing is attached, and no setting is changed.
    """
    return [check() for check in _CHECKS]


def _kernel() -> Finding:
    name = door.uname()
    return Finding("kernel", "ok", f"Linux {name.release}, {name.machine}")


def _bpf() -> Finding:
    answer = features.map_type(MapType.ARRAY)
    topic = "bpf(2)"
    if answer.has:
        return Finding(topic, "ok", "a map was made")
    remedy = "the lines below say what this process lacks"
    if "ENOSYS" in answer.why:
        remedy = "use a kernel with CONFIG_BPF_SYSCALL"
    return Finding(topic, "bad", f"making a map failed: {answer.why}", remedy)


def _capabilities() -> Finding:
    missing = missing_capabilities(*CAPABILITIES)
    topic = "capabilities"
    if not missing and in_user_namespace():
        found = "all that BPF asks for, but they count only in this process' user namespace"
        return Finding(topic, "limited", found, "see user namespace")
    if not missing:
        return Finding(topic, "ok", "this process has all that BPF asks for")
    needed = {
        "CAP_BPF": "anything",
        "CAP_PERFMON": "tracing programs",
        "CAP_NET_ADMIN": "network programs",
        "CAP_SYS_ADMIN": "objects by their ids",
    }
    lacks = ", ".join(f"{name} (for {needed[name]})" for name in missing)
    state = "bad" if "CAP_BPF" in missing else "limited"
    remedy = "run as root, or give it these: AmbientCapabilities= in systemd, --cap-add in Docker"
    return Finding(topic, state, f"this process lacks {lacks}", remedy)


def _user_namespace() -> Finding:
    topic = "user namespace"
    if not in_user_namespace():
        return Finding(topic, "ok", "this process is in the first one")
    shown = token.current()
    if shown is not None:
        found = f"this process is in one, and {shown.path} delegates commands of BPF to it"
        return Finding(topic, "limited", found, "what is not delegated goes without")
    return Finding(
        topic,
        "bad",
        "this process is in a user namespace (a rootless container): capabilities do not count",
        "run it outside, or mount a BPF filesystem that delegates what it needs (Linux 6.9)",
    )


def _counts_not(capability: str) -> bool:
    """Whether this process lacks a capability, or has it only in its user namespace."""
    return bool(missing_capabilities(capability)) or in_user_namespace()


def _seccomp() -> Finding:
    if process_status().get("Seccomp", "0") != "2":
        return Finding("seccomp", "ok", "no filter")
    return Finding(
        "seccomp",
        "limited",
        "a filter of system calls is on, which may refuse bpf(2) or perf_event_open(2)",
        "let the container's profile allow both, if they fail (--security-opt seccomp=FILE)",
    )


def _unprivileged() -> Finding:
    topic, name = "unprivileged BPF", "/proc/sys/kernel/unprivileged_bpf_disabled"
    value = _read(name)
    if value is None:
        return Finding(topic, "unknown", f"{name} cannot be read")
    if value == "0":
        return Finding(topic, "ok", "socket and control group programs need no capability")
    text = "every program needs CAP_BPF (kernel.unprivileged_bpf_disabled is " + value + ")"
    lacking = _counts_not("CAP_BPF")
    remedy = "give it CAP_BPF; letting every user load programs is no good idea" if lacking else ""
    return Finding(topic, "limited" if lacking else "ok", text, remedy)


def _lockdown() -> Finding:
    topic = "lockdown"
    if _read("/sys/kernel/security/lockdown") is None:
        remedy = "mount -t securityfs securityfs /sys/kernel/security shows its mode"
        return Finding(topic, "unknown", "securityfs does not tell", remedy)
    found = locked_down()
    if found is None:
        return Finding(topic, "ok", "off")
    remedy = "boot with lockdown=none, or without Secure Boot, for tracing programs"
    return Finding(topic, "limited", found, remedy)


def _memlock() -> Finding:
    topic = "memlock"
    limit = memlock.charged_limit()
    if limit is None:
        return Finding(topic, "ok", "no limit, or BPF memory is not charged to it (Linux 5.11)")
    state = "limited" if limit < 64 << 20 else "ok"
    remedy = "ulimit -l unlimited, or LimitMEMLOCK=infinity in systemd" if state != "ok" else ""
    return Finding(topic, state, f"{limit >> 10} KiB for all maps and programs", remedy)


def _programs() -> Finding:
    """Whether the verifier takes one of each family."""
    kinds = (ProgType.SOCKET_FILTER, ProgType.TRACEPOINT, ProgType.KPROBE, ProgType.XDP)
    answers = {kind.name.lower(): features.prog_type(kind) for kind in kinds}
    refused = [f"{name}: {answer.why}" for name, answer in answers.items() if not answer.has]
    if not refused:
        return Finding("programs", "ok", f"programs were loaded: {', '.join(answers)}")
    state = "bad" if len(refused) == len(kinds) else "limited"
    return Finding("programs", state, "; ".join(refused), "see what else is not ok here")


def _trampolines() -> Finding:
    answer = features.trampolines()
    if answer.has:
        return Finding("trampolines", "ok", answer.why)
    found = f"no fentry, fexit, fmod_ret, LSM, freplace: {answer.why}"
    remedy = "use tp_btf or raw tracepoints instead, unless it is for what is not ok above"
    return Finding("trampolines", "limited", found, remedy)


def _btf() -> Finding:
    path = "/sys/kernel/btf/vmlinux"
    if door.exists(path):
        return Finding("BTF", "ok", path)
    return Finding(
        "BTF",
        "limited",
        f"{path} does not exist: no CO-RE, fentry, tp_btf, LSM, iterator, struct_ops",
        "use a kernel with CONFIG_DEBUG_INFO_BTF, or give its BTF: load(btf=...), run --btf FILE",
    )


def _bpffs() -> Finding:
    topic = "bpffs"
    try:
        if bpffs.is_bpffs(bpffs.DEFAULT):
            return Finding(topic, "ok", bpffs.DEFAULT)
    except KernelError:
        pass  # no such directory: sysfs is not mounted
    found = f"none is mounted at {bpffs.DEFAULT}: nothing can be pinned there"
    return Finding(topic, "limited", found, f"mount -t bpf bpf {bpffs.DEFAULT}")


def _tracefs() -> Finding:
    try:
        return Finding("tracefs", "ok", tracefs.root())
    except KernelError as error:
        found = "it cannot be used: no tracepoints (tp), no bpf_printk lines"
        return Finding("tracefs", "limited", found, error.hint or str(error))


def _lsm() -> Finding:
    modules = _read("/sys/kernel/security/lsm")
    if modules is None:
        return Finding("LSM", "unknown", "securityfs does not tell which modules are active")
    if "bpf" in modules.split(","):
        return Finding("LSM", "ok", modules)
    remedy = f"boot with lsm={modules},bpf" if modules else "boot with lsm=bpf"
    return Finding("LSM", "limited", f"lsm programs have no effect ({modules})", remedy)


def _jit() -> Finding:
    value = _read("/proc/sys/net/core/bpf_jit_enable")
    if value == "0":
        remedy = "sysctl net.core.bpf_jit_enable=1"
        return Finding("JIT", "limited", "programs are interpreted; no kfuncs, no fentry", remedy)
    if value is None:
        return Finding("JIT", "unknown", "net.core.bpf_jit_enable cannot be read")
    return Finding("JIT", "ok", "programs are compiled")


def _perf() -> Finding:
    name = "/proc/sys/kernel/perf_event_paranoid"
    value = _read(name)
    topic = "perf events"
    if value is None:
        return Finding(topic, "unknown", f"{name} cannot be read")
    if value.lstrip("-").isdigit() and int(value) > 1 and _counts_not("CAP_PERFMON"):
        found = f"kprobes, uprobes and tracepoints need CAP_PERFMON (perf_event_paranoid {value})"
        return Finding(topic, "limited", found, "give it CAP_PERFMON")
    return Finding(topic, "ok", "kprobes, uprobes, tracepoints and counters may be opened")


def _symbols() -> Finding:
    topic = "kernel symbols"
    try:
        text = kallsyms.read()
    except BpfError as error:
        return Finding(topic, "limited", f"{error}: no ksym externs, no symbolised stacks")
    addresses = [line.split()[0] for line in text[:4096].splitlines()[:20]]
    if not any(address.strip(b"0") for address in addresses):
        remedy = "sysctl kernel.kptr_restrict=1 and CAP_SYSLOG"
        return Finding(topic, "limited", "addresses in /proc/kallsyms are hidden", remedy)
    return Finding(topic, "ok", "/proc/kallsyms has addresses")


def _config() -> Finding:
    topic = "kernel config"
    try:
        return Finding(topic, "ok", kconfig.read_kernel_config()[1])
    except BpfError as error:
        remedy = "for programs with CONFIG_ externs: load(kconfig=...), or CONFIG_IKCONFIG_PROC"
        return Finding(topic, "limited", str(error).partition(":")[0], remedy)


def _read(path: str) -> str | None:
    try:
        return door.read_file(path, 4096).decode(errors="replace").strip()
    except OSError:
        return None


_CHECKS: tuple[Callable[[], Finding], ...] = (
    _kernel,
    _bpf,
    _capabilities,
    _user_namespace,
    _unprivileged,
    _seccomp,
    _lockdown,
    _memlock,
    _programs,
    _trampolines,
    _btf,
    _bpffs,
    _tracefs,
    _lsm,
    _jit,
    _perf,
    _symbols,
    _config,
)
