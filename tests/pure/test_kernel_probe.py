"""Feature probes against kernels that lack things."""

from __future__ import annotations

import errno

import pytest

from pybpfload.errors import NotSupportedError
from pybpfload.kernel import probe
from pybpfload.kernel.probe import Feature
from pybpfload.testing.fakekernel import FakeKernel

# What a kernel without one thing lacks besides, because a probe needs it.
ALSO = {
    "PROG_NAME": {"ARG_CTX_TAG"},
    "GLOBAL_DATA": {"LDIMM64_FULL_RANGE_OFF"},
    "BTF": {name for name in Feature.__members__ if name.startswith("BTF_")}
    | {"MODULE_BTF", "ARG_CTX_TAG"},
    "BTF_FUNC": {"BTF_GLOBAL_FUNC", "ARG_CTX_TAG"},
    "BTF_GLOBAL_FUNC": {"ARG_CTX_TAG"},
    "BTF_DATASEC": {"BTF_QMARK_DATASEC", "BTF_EMPTY_DATASEC", "BTF_DECL_TAG"},
    "BTF_DECL_TAG": {"ARG_CTX_TAG"},
    "EXP_ATTACH_TYPE": {"UPROBE_MULTI_LINK"},
}


def test_a_kernel_with_everything() -> None:
    with FakeKernel() as fake:
        assert [f.name for f in Feature if not probe.has(f)] == []
        assert not fake.leaked()


@pytest.mark.parametrize("name", list(Feature.__members__))
def test_a_kernel_without(name: str) -> None:
    with FakeKernel(lacks={name}) as fake:
        missing = {f.name for f in Feature if not probe.has(f)}
        assert missing == {name} | ALSO.get(name, set())
        assert not fake.leaked()


def test_answers_are_remembered() -> None:
    with FakeKernel() as fake:
        assert probe.has(Feature.BTF)
        calls = len(fake.calls)
        assert probe.has(Feature.BTF)
        assert len(fake.calls) == calls
        probe.clear_cache()
        assert probe.has(Feature.BTF)
        assert len(fake.calls) > calls


def test_not_permitted_is_not_absent() -> None:
    with FakeKernel(refuses={"PROG_LOAD": errno.EPERM}) as fake:
        assert probe.probe(Feature.PROG_NAME) == (None, errno.EPERM)
        assert not probe.has(Feature.PROG_NAME)
        assert "could not be found out: EPERM" in probe.why(Feature.PROG_NAME)
        with pytest.raises(NotSupportedError, match=r"could not be found out \(EPERM\)"):
            probe.require(Feature.PROG_NAME)
        fake.refuses.clear()
        assert probe.has(Feature.PROG_NAME)  # it was not remembered


@pytest.mark.parametrize("feature", list(Feature))
def test_without_privileges_nothing_is_claimed_absent(feature: Feature) -> None:
    commands = ("PROG_LOAD", "MAP_CREATE", "BTF_LOAD", "TOKEN_CREATE")
    denied = PermissionError(errno.EACCES, "no")
    with FakeKernel(
        refuses=dict.fromkeys(commands, errno.EPERM), files={"/proc/kallsyms": denied}
    ) as fake:
        assert probe.probe(feature) == (None, errno.EPERM)
        assert not fake.leaked()


@pytest.mark.parametrize("feature", list(Feature))
def test_nothing_leaks_wherever_a_probe_fails(feature: Feature) -> None:
    with FakeKernel() as fake:
        probe.probe(feature)
        calls = len(fake.calls)
    for after in range(calls):
        with FakeKernel() as fake:
            fake.fail(after, errno.ENOMEM)
            assert probe.probe(feature)[0] is None
            assert not fake.leaked()


def test_words() -> None:
    with FakeKernel(lacks={"BPF_COOKIE"}):
        assert probe.why(Feature.BPF_COOKIE) == (
            "this kernel lacks attach cookies (Linux 5.15): EINVAL"
        )
        assert probe.why(Feature.BTF) == "this kernel has BTF (Linux 4.18)"
        with pytest.raises(NotSupportedError) as caught:
            probe.require(Feature.BPF_COOKIE, "cookie of tracepoint x")
        assert caught.value.since == "5.15"
        assert caught.value.feature == "BPF_COOKIE"
        assert str(caught.value) == (
            "cookie of tracepoint x: this kernel has no attach cookies (needs Linux 5.15)"
        )
        probe.require(Feature.BTF)


def test_a_machine_whose_wrappers_are_unknown() -> None:
    with FakeKernel(machine="loongarch64"):
        assert not probe.has(Feature.SYSCALL_WRAPPER)


def test_lockdown_hides_helpers() -> None:
    """It makes the kernel say that there is no such helper."""
    files = {"/sys/kernel/security/lockdown": b"none integrity [confidentiality]\n"}
    with FakeKernel(lacks={"PROBE_READ_KERN"}, files=files):
        assert probe.probe(Feature.PROBE_READ_KERN) == (None, errno.EPERM)
    files = {"/sys/kernel/security/lockdown": b"[none] integrity confidentiality\n"}
    with FakeKernel(lacks={"PROBE_READ_KERN"}, files=files):
        assert probe.probe(Feature.PROBE_READ_KERN) == (False, errno.EINVAL)
