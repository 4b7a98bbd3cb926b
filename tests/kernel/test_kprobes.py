"""Probes on kernel functions: each fires when this process removes a file, and stops."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

import pybpfload
from pybpfload.kernel import door, kallsyms, probe
from pybpfload.kernel import tracefs as kernel_tracefs
from pybpfload.runtime.attach.kprobe import parse_place, syscall_function
from pybpfload.uapi import LinkType

pytestmark = [pytest.mark.vm, pytest.mark.needs_feature("config:KPROBES")]

_PLACES = {
    "on_kprobe": 0,
    "on_kretprobe": 1,
    "on_kprobe_multi": 2,
    "on_kretprobe_multi": 3,
    "on_kprobe_session": 4,
    "on_ksyscall": 5,
    "on_kretsyscall": 6,
    "on_any": 7,
}


@pytest.fixture
def probes(opened):
    """Load programs of the fixture `kprobe` by name."""
    loaded = []

    def load(*names: str, **constants):
        spec = opened("kprobe")
        for program in spec:
            program.autoload = program.name in names
        for name, value in constants.items():
            spec.variables[name].value = value
        obj = spec.load()
        loaded.append(obj)
        obj.variables["target_tgid"].value = os.getpid()
        return obj

    yield load
    for obj in loaded:
        obj.close()


def hits(obj, name: str, act) -> int:
    before = obj.variables["hits"].value[_PLACES[name]]
    act()
    return obj.variables["hits"].value[_PLACES[name]] - before


def call_getpgid() -> None:
    os.getpgid(0)


def fires(obj, name: str, act, *target, times: int = 1, **options) -> pybpfload.Link:
    """Attach, see it fire so often, close, see it fire no more."""
    assert hits(obj, name, act) == 0
    link = obj.programs[name].attach(*target, **options)
    assert hits(obj, name, act) == times
    link.close()
    assert hits(obj, name, act) == 0
    return link


@pytest.mark.parametrize("name", ["on_kprobe", "on_kretprobe"])
@pytest.mark.parametrize("options", [{}, {"via": "perf"}, {"link": False}, {"via": "tracefs"}])
def test_function_of_the_section(probes, unlink_a_file, tracefs, name, options):
    fires(probes(name), name, unlink_a_file, **options)
    left = Path(f"{tracefs}/kprobe_events").read_text()
    assert "pybpfload_" not in left


@pytest.mark.parametrize("target", ["vfs_unlink", "vfs_unlink+0", "vfs_unlink+0x0"])
def test_function_by_name(probes, unlink_a_file, target):
    fires(probes("on_any"), "on_any", unlink_a_file, target)


def test_function_by_address(probes, unlink_a_file):
    address = kallsyms.lookup(["vfs_unlink"])["vfs_unlink"]
    fires(probes("on_any"), "on_any", unlink_a_file, address)


def test_on_return(probes, unlink_a_file):
    fires(probes("on_any"), "on_any", unlink_a_file, "vfs_unlink", on_return=True)


@pytest.mark.parametrize("name", ["on_ksyscall", "on_kretsyscall"])
def test_system_call(probes, name):
    fires(probes(name), name, call_getpgid)


def test_system_call_has_its_machine_s_name(monkeypatch):
    assert syscall_function("getpgid").endswith("_sys_getpgid")
    monkeypatch.setattr(probe, "has", lambda _: False)
    assert syscall_function("getpgid") == "__se_sys_getpgid"


@pytest.mark.kernel("5.15")
def test_cookie(probes, unlink_a_file):
    obj = probes("on_kprobe", with_cookie=True)
    with obj.programs["on_kprobe"].attach(cookie=0x1234567890) as link:
        assert link.info().type == LinkType.PERF_EVENT
        unlink_a_file()
    assert obj.variables["cookies"].value[0] == 0x1234567890


@pytest.mark.kernel(below="5.15")
def test_no_cookie(probes):
    obj = probes("on_kprobe")
    with pytest.raises(pybpfload.NotSupportedError, match=r"5\.15"):
        obj.programs["on_kprobe"].attach(cookie=1)


def test_mistakes(probes):
    program = probes("on_any").programs["on_any"]
    with pytest.raises(pybpfload.AttachError, match="names no function"):
        program.attach()
    with pytest.raises(pybpfload.AttachError, match="no such function"):
        program.attach("there_is_no_such_function")
    with pytest.raises(pybpfload.AttachError, match="no function, function"):
        program.attach("a b")
    with pytest.raises(pybpfload.AttachError, match="has no offset"):
        program.attach("vfs_unlink+4", on_return=True)
    with pytest.raises(pybpfload.AttachError, match="must not be probed"):
        program.attach("do_int3" if os.uname().machine == "x86_64" else "notify_die")
    with pytest.raises(ValueError, match="via is"):
        program.attach("vfs_unlink", via="magic")


def test_tracefs_event_goes_when_attaching_fails(probes, tracefs, monkeypatch):
    program = probes("on_any").programs["on_any"]
    monkeypatch.setattr(
        kernel_tracefs, "tracepoint_id", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        program.attach("vfs_unlink", via="tracefs")
    assert "pybpfload_" not in Path(f"{tracefs}/kprobe_events").read_text()


@pytest.mark.needs_feature("config:FPROBE")
class TestMulti:
    @pytest.mark.kernel("5.18")
    @pytest.mark.parametrize("name", ["on_kprobe_multi", "on_kretprobe_multi"])
    def test_pattern_of_the_section(self, probes, unlink_a_file, tracefs, name):
        assert fires(probes(name), name, unlink_a_file).target.startswith("vfs_unlin? (1 ")

    @pytest.mark.kernel("5.18")
    @pytest.mark.parametrize("hidden", [False, True])
    def test_pattern_where_tracefs_has_no_addresses(
        self, probes, unlink_a_file, tracefs, monkeypatch, hidden
    ):
        """What Linux 5.18 to 6.4 need, also where kallsyms has no addresses for this process."""
        lines, read_file = kernel_tracefs.lines, door.read_file

        def without_addresses(file):
            if file.endswith("_addrs"):
                raise pybpfload.KernelError(errno.ENOENT, "open", file)
            return ["vfs_unlinx", *lines(file)]  # which kallsyms does not have

        def without_values(path, limit=-1):
            text = read_file(path, limit)
            return re.sub(rb"(?m)^[0-9a-f]+", b"0", text) if path == "/proc/kallsyms" else text

        monkeypatch.setattr(kernel_tracefs, "lines", without_addresses)
        if hidden:
            monkeypatch.setattr(door, "read_file", without_values)
        link = fires(probes("on_kprobe_multi"), "on_kprobe_multi", unlink_a_file)
        assert link.target == "vfs_unlin? (1 functions)"

    @pytest.mark.kernel("5.18")
    def test_names_and_cookies(self, probes, unlink_a_file):
        obj = probes("on_kprobe_multi", with_cookie=True, with_address=True)
        program = obj.programs["on_kprobe_multi"]
        with program.attach(["vfs_unlink", "vfs_rename"], cookies=[7, 8]) as link:
            assert link.info().type == LinkType.KPROBE_MULTI
            assert hits(obj, "on_kprobe_multi", unlink_a_file) == 1
        address = kallsyms.lookup(["vfs_unlink"])["vfs_unlink"]
        assert obj.variables["cookies"].value[2] == 7
        assert obj.variables["addresses"].value[2] == address
        fires(obj, "on_kprobe_multi", unlink_a_file, [address])
        fires(obj, "on_kprobe_multi", unlink_a_file, "vfs_unlink")

    @pytest.mark.kernel("6.10")
    def test_session(self, probes, unlink_a_file, tracefs):
        fires(probes("on_kprobe_session"), "on_kprobe_session", unlink_a_file, times=2)

    @pytest.mark.kernel("5.18")
    def test_mistakes(self, probes, tracefs):
        program = probes("on_kprobe_multi").programs["on_kprobe_multi"]
        with pytest.raises(pybpfload.AttachError, match="no traceable function"):
            program.attach("there_is_no_such_*")
        with pytest.raises(pybpfload.AttachError, match="no pattern"):
            program.attach("[a-z]*")
        with pytest.raises(pybpfload.KernelError, match="no such function"):
            program.attach(["there_is_no_such_function"])
        with pytest.raises(ValueError, match="a cookie for each"):
            program.attach(["vfs_unlink"], cookies=[1, 2])

    @pytest.mark.kernel(below="6.10")
    def test_no_sessions(self, probes):
        with pytest.raises(pybpfload.BpfError, match=r"6\.10"):
            probes("on_kprobe_session").programs["on_kprobe_session"].attach(["vfs_unlink"])


@pytest.mark.kernel(below="5.18")
def test_no_multi_probes(probes):
    with pytest.raises(pybpfload.BpfError, match=r"5\.18"):
        probes("on_kprobe_multi").programs["on_kprobe_multi"].attach(["vfs_unlink"])


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("f", ("f", 0)),
        ("f.isra.0+0x1f", ("f.isra.0", 31)),
        ("f+010", ("f", 10)),
        (0xFFFF, (None, 0xFFFF)),
    ],
)
def test_places(text, place):
    assert parse_place(text) == place
