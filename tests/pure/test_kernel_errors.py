"""Refusals that explain themselves."""

from __future__ import annotations

import errno

import pytest

from pybpfload.errors import KernelError, NotPermittedError, VerifierError
from pybpfload.kernel import door, memlock
from pybpfload.kernel.errors import kernel_error, missing_capabilities, why_not_permitted
from pybpfload.kernel.progload import load_program
from pybpfload.testing.fakekernel import Call, FakeKernel, store
from pybpfload.uapi import ProgType

ROOT = b"CapEff:\t000001ffffffffff\nSeccomp:\t0\n"
NO_CAPABILITIES = b"CapEff:\t0000000000000000\nSeccomp:\t0\n"
ONLY_BPF = b"CapEff:\t0000008000000000\nSeccomp:\t0\n"
STATUS = "/proc/self/status"
LOCKDOWN = "/sys/kernel/security/lockdown"


def hint(operation: str = "BPF_PROG_LOAD", number: int = errno.EPERM, **arguments: object) -> str:
    with FakeKernel(**arguments):
        error = kernel_error(number, operation, "program x")
    assert isinstance(error, NotPermittedError)
    assert isinstance(error, PermissionError)
    assert "\n" not in str(error)
    assert error.hint
    return error.hint


def test_capabilities_come_first() -> None:
    text = hint(
        files={
            STATUS: NO_CAPABILITIES,
            "/proc/sys/kernel/unprivileged_bpf_disabled": b"2\n",
            LOCKDOWN: b"none integrity [confidentiality]\n",
        }
    )
    assert "lacks CAP_BPF and CAP_PERFMON and CAP_NET_ADMIN (or CAP_SYS_ADMIN)" in text
    assert "kernel.unprivileged_bpf_disabled is 2" in text


def test_some_capabilities() -> None:
    text = hint(files={STATUS: ONLY_BPF})
    assert "lacks CAP_PERFMON and CAP_NET_ADMIN" in text
    with FakeKernel(files={STATUS: ONLY_BPF}):
        assert missing_capabilities("CAP_BPF") == []
        assert missing_capabilities("CAP_PERFMON", "CAP_BPF") == ["CAP_PERFMON"]
    with FakeKernel():
        assert missing_capabilities("CAP_PERFMON", "CAP_BPF") == []
    with FakeKernel(files={STATUS: b""}):
        assert missing_capabilities("CAP_PERFMON") == []


def test_perf_events() -> None:
    text = hint(
        "perf_event_open",
        errno.EACCES,
        files={STATUS: ONLY_BPF, "/proc/sys/kernel/perf_event_paranoid": b"3\n"},
    )
    assert (
        text
        == "this process lacks CAP_PERFMON (or CAP_SYS_ADMIN) (kernel.perf_event_paranoid is 3)"
    )


def test_user_namespace() -> None:
    text = hint(files={"/proc/self/uid_map": b"         0       1000          1\n"})
    assert "user namespace" in text


def test_seccomp() -> None:
    assert "seccomp" in hint(files={STATUS: ROOT.replace(b"Seccomp:\t0", b"Seccomp:\t2")})


@pytest.mark.parametrize(
    ("limit", "release", "operation", "told"),
    [
        (65536, "5.4.0", "BPF_MAP_CREATE", True),
        (65536, "5.4.0", "BPF_LINK_CREATE", False),
        (65536, "6.1.0", "BPF_MAP_CREATE", False),
        (-1, "5.4.0", "BPF_MAP_CREATE", False),
    ],
)
def test_memlock(limit: int, release: str, operation: str, told: bool) -> None:
    text = hint(operation, release=release, memlock=limit)
    assert ("memory lock limit of 64 KiB" in text) is told
    assert ("policy" in text) is not told


def test_lockdown() -> None:
    text = hint(files={LOCKDOWN: b"none integrity [confidentiality]\n"})
    assert text.startswith("kernel lockdown is in confidentiality mode")


def test_lockdown_takes_helpers_away() -> None:
    """The verifier then says that programs of this type cannot use them."""

    def refuse(call: Call) -> int:
        store(call.fields["log_buf"], b"program of this type cannot use helper bpf_probe_read#4\0")
        return -errno.EINVAL

    for mode, told in (("none integrity [confidentiality]", True), ("[none] integrity", False)):
        with FakeKernel(files={LOCKDOWN: mode.encode()}) as fake:
            fake.on("PROG_LOAD", lambda call: refuse(call) if call.fields["log_level"] else -22)
            with pytest.raises(VerifierError) as caught:
                load_program(ProgType.KPROBE, bytes(8))
        assert ("kernel lockdown is in confidentiality mode" in str(caught.value)) is told


def test_policy() -> None:
    text = hint(files={LOCKDOWN: b"[none] integrity confidentiality\n"})
    assert "policy: a security module or a vendor's patch" in text
    text = hint(files={LOCKDOWN: b"[none]", "/sys/kernel/security/lsm": b"capability,selinux,bpf"})
    assert "a security module (capability,selinux,bpf)" in text
    text = hint()
    assert "lockdown (securityfs is not mounted" in text


def test_file_permissions() -> None:
    assert hint("BPF_OBJ_PIN", errno.EACCES).startswith("the file's or a directory's permissions")
    assert hint("BPF_OBJ_GET", errno.EACCES).startswith("it is no pinned BPF object")


def test_reasons_that_have_nothing_to_do_with_privilege() -> None:
    assert "frozen" in hint("BPF_MAP_UPDATE_ELEM")
    assert "frozen" in hint("BPF_MAP_DELETE_BATCH")
    assert "another program" in hint("BPF_LINK_UPDATE")
    assert "ALLOW_MULTI" in hint("BPF_PROG_ATTACH")
    assert "not in a BPF filesystem, or the name has a dot" in hint("BPF_OBJ_PIN")
    assert "CAP_BPF" in hint("BPF_MAP_UPDATE_ELEM", files={STATUS: NO_CAPABILITIES})


@pytest.mark.parametrize(
    ("number", "operation", "told"),
    [
        (errno.ENOSYS, "BPF_PROG_LOAD", "CONFIG_BPF_SYSCALL"),
        (errno.ENOSYS, "perf_event_open", "does not have this system call"),
        (errno.E2BIG, "BPF_PROG_LOAD", "too old"),
        (errno.E2BIG, "BPF_MAP_UPDATE_ELEM", "full"),
        (errno.EMFILE, "BPF_MAP_CREATE", "ulimit -n"),
        (errno.ENOMEM, "BPF_MAP_CREATE", "memory"),
        (524, "BPF_MAP_LOOKUP_BATCH", "does not have this operation"),
    ],
)
def test_other_hints(number: int, operation: str, told: str) -> None:
    error = kernel_error(-number, operation)
    assert type(error) is KernelError
    assert error.errno == number
    assert told in str(error)


def test_no_hint_is_better_than_a_wrong_one() -> None:
    assert kernel_error(errno.EINVAL, "BPF_LINK_UPDATE").hint is None
    assert kernel_error(errno.EPERM, "BPF_OBJ_PIN", hint="mine").hint == "mine"


def test_explaining_makes_no_calls() -> None:
    with FakeKernel() as fake:
        why_not_permitted(errno.EPERM, "BPF_PROG_LOAD")
    assert not fake.calls


def test_memlock_is_lifted_once_where_memory_is_charged() -> None:
    with FakeKernel(memlock=65536) as fake:
        memlock.ensure()
        assert fake.memlock == 65536
    with FakeKernel(lacks={"MEMCG_ACCOUNT"}, memlock=65536) as fake:
        memlock.ensure()
        assert fake.memlock == -1
        calls = len(fake.calls)
        memlock.ensure()
        assert len(fake.calls) == calls
    refuses = {"setrlimit": errno.EPERM}
    with FakeKernel(lacks={"MEMCG_ACCOUNT"}, memlock=65536, refuses=refuses) as fake:
        memlock.ensure()
        assert fake.memlock == 65536


def test_the_machines_own_memlock(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    assert door.memlock_limit() == resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    asked: list[object] = []
    monkeypatch.setattr(resource, "setrlimit", lambda *arguments: asked.append(arguments))
    door.lift_memlock_limit()
    assert asked == [(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))]

    def refuse(*arguments: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    with pytest.raises(PermissionError):
        door.lift_memlock_limit()
