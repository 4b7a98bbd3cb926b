"""Classic tracepoints: attached by link or ioctl, with ``__data_loc`` strings."""

from __future__ import annotations

import os

import pytest
from conftest import run_true

import pybpfload
from pybpfload.kernel import probe
from pybpfload.kernel.probe import Feature

pytestmark = pytest.mark.vm


@pytest.fixture
def traced(opened, tracefs):
    spec = opened("tracepoint")
    spec.variables["target_ppid"].value = os.getpid()
    spec.variables["target_tgid"].value = os.getpid()
    with spec.load() as obj:
        yield obj


def test_data_loc_string(traced):
    traced.programs["on_exec"].attach()
    run_true()
    (event,) = traced.maps["events"].reader().poll(1)
    assert event.filename == "/bin/true"
    assert event.ppid == os.getpid()


def test_system_call_and_its_argument(traced, tracefs):
    if not os.path.exists(f"{tracefs}/events/syscalls/sys_enter_getpgid"):
        pytest.skip("this kernel has no tracepoints of system calls")
    link = traced.programs["on_getpgid"].attach()
    os.getpgid(os.getpid())
    assert traced.variables["getpgids"].value == 1
    assert traced.variables["getpgid_arg"].value == os.getpid()
    link.close()
    os.getpgid(0)
    assert traced.variables["getpgids"].value == 1


def test_without_perf_links_the_ioctl_does_it(traced, monkeypatch):
    """What kernels before 5.15 need, forced here by hiding the feature."""
    known = probe.has
    monkeypatch.setattr(probe, "has", lambda f: f is not Feature.PERF_LINK and known(f))
    link = traced.programs["on_exec"].attach()
    run_true()
    assert traced.variables["execs"].value == 1
    with pytest.raises(pybpfload.NotSupportedError, match=r"needs Linux 5\.15"):
        traced.programs["on_exec"].attach(cookie=1)
    link.close()
    run_true()
    assert traced.variables["execs"].value == 1


def test_unknown_tracepoint(traced):
    with pytest.raises(pybpfload.AttachError, match="nosuch"):
        traced.programs["on_exec"].attach("sched/nosuch")


def test_a_name_without_category(traced):
    with pytest.raises(pybpfload.AttachError, match="category/name"):
        traced.programs["on_exec"].attach("sched_process_exec")


@pytest.mark.kernel("5.15")
def test_a_pinned_link_goes_on_when_it_is_closed(traced, bpffs):
    with traced.programs["on_exec"].attach() as link:
        link.pin(f"{bpffs}/pybpfload-{os.getpid()}")
    try:
        run_true()
        assert traced.variables["execs"].value == 1
        with pybpfload.Link.from_pin(link.pin_path) as again:
            again.unpin()
            run_true()
            assert traced.variables["execs"].value == 2
    finally:
        if link.pin_path and os.path.exists(link.pin_path):
            os.unlink(link.pin_path)
    run_true()
    assert traced.variables["execs"].value == 2
