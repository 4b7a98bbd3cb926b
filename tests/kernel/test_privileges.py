"""Processes with too few privileges: the error says which one is missing."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import pytest
from children import drop_capabilities, in_child

import pybpfload
from pybpfload import lowlevel
from pybpfload.kernel import memlock
from pybpfload.kernel.errors import CAPABILITIES
from pybpfload.uapi import MapType

pytestmark = pytest.mark.vm


def with_capabilities(*names: str):
    """A function that runs another in a child process with these capabilities only."""

    def run(act):
        def child():
            drop_capabilities(CAPABILITIES[name] for name in names)
            return act()

        return in_child(child)

    return run


def only(spec: pybpfload.ObjectSpec, wanted: str) -> pybpfload.ObjectSpec:
    for name, program in spec.programs.items():
        program.autoload = name == wanted
    return spec


def refusal(caught) -> str:
    assert isinstance(caught.value, PermissionError)
    return str(caught.value)


def test_none_at_all(opened):
    spec = opened("rawtp")
    disabled = Path("/proc/sys/kernel/unprivileged_bpf_disabled").read_text().strip()
    assert disabled != "0"
    with pytest.raises(pybpfload.NotPermittedError) as caught:
        with_capabilities()(lambda: spec.load().close())
    assert "lacks CAP_BPF and CAP_PERFMON and CAP_NET_ADMIN (or CAP_SYS_ADMIN)" in refusal(caught)
    assert f"kernel.unprivileged_bpf_disabled is {disabled}" in refusal(caught)


@pytest.mark.parametrize(
    ("name", "program", "has", "lacks"),
    [
        ("rawtp", "sys_enter", ["CAP_BPF"], "CAP_PERFMON"),
        ("rawtp", "sys_enter", ["CAP_BPF", "CAP_NET_ADMIN"], "CAP_PERFMON"),
        ("test_run", "measure", ["CAP_BPF"], "CAP_NET_ADMIN"),
        ("test_run", "measure", ["CAP_BPF", "CAP_PERFMON"], "CAP_NET_ADMIN"),
    ],
)
def test_the_capability_of_a_program_type(opened, name, program, has, lacks):
    spec = only(opened(name), program)
    with pytest.raises(pybpfload.NotPermittedError) as caught:
        with_capabilities(*has)(lambda: spec.load().close())
    assert f"program {program}: " in refusal(caught)
    assert re.search(rf"need CAP_BPF and {lacks}, this process lacks {lacks} \(or", refusal(caught))


@pytest.mark.parametrize(
    ("name", "program", "has"),
    [
        ("rawtp", "sys_enter", ["CAP_BPF", "CAP_PERFMON"]),
        ("test_run", "measure", ["CAP_BPF", "CAP_NET_ADMIN"]),
        ("rawtp", "sys_enter", ["CAP_SYS_ADMIN"]),
    ],
)
def test_what_suffices(opened, name, program, has):
    """What the errors ask for is enough."""
    spec = only(opened(name), program)

    def load() -> list[str]:
        with spec.load() as obj:
            return list(obj.programs)

    assert with_capabilities(*has)(load) == [program]


def test_the_capability_of_a_map_type():
    def make() -> None:
        lowlevel.map_create(MapType.DEVMAP, 4, 4, 1)

    with pytest.raises(pybpfload.NotPermittedError, match="maps of type DEVMAP need CAP_BPF and"):
        with_capabilities("CAP_BPF")(make)
    with_capabilities("CAP_BPF", "CAP_NET_ADMIN")(make)


def test_ids():
    with pytest.raises(pybpfload.NotPermittedError, match="by their ids needs CAP_SYS_ADMIN, this"):
        with_capabilities("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN")(
            lambda: lowlevel.prog_get_next_id(0)
        )


def test_pinning_is_a_matter_of_files(opened, tmp_path):
    with pytest.raises(pybpfload.KernelError, match="is not in a BPF filesystem"):
        with_capabilities("CAP_BPF", "CAP_NET_ADMIN")(
            lambda: (
                only(opened("test_run"), "measure").load().programs["measure"].pin(tmp_path / "p")
            )
        )


@pytest.mark.kernel(below="5.11")
def test_the_memory_lock_limit():
    """Which old kernels charge maps to, and which needs CAP_SYS_RESOURCE to be raised."""

    def make() -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 16, 1 << 16))
        drop_capabilities(
            [CAPABILITIES[name] for name in ("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN")]
        )
        memlock.ensure()
        lowlevel.map_create(MapType.ARRAY, 4, 1 << 16, 16)

    with pytest.raises(pybpfload.NotPermittedError, match="memory lock limit of 64 KiB"):
        in_child(make)
