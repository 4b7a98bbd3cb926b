"""fentry, fexit, fmod_ret, tp_btf, raw_tp, LSM: each proved by what it sees or does."""

from __future__ import annotations

import errno
import os
import time

import netlink
import pytest
from conftest import OBJECTS, run_true

import pybpfload

pytestmark = pytest.mark.vm


def test_fentry_fexit_and_fmod_ret_see_a_file_removed(trampolines, opened, unlink_a_file):
    spec = opened("unlink")
    spec.variables["target_tgid"].value = os.getpid()
    with spec.load() as obj:
        links = obj.attach()
        assert [link.program for link in links] == ["unlink_enter", "unlink_exit", "unlink_modify"]
        unlink_a_file("seen-by-three")
        events = [e for e in obj.maps["events"].reader().poll(1) if e.name == "seen-by-three"]
        assert [(e.probe.name, e.tgid, e.retval) for e in events] == [
            ("PROBE_FENTRY", os.getpid(), 0),
            ("PROBE_FMOD_RET", os.getpid(), 0),
            ("PROBE_FEXIT", os.getpid(), 0),
        ]
        assert obj.variables["hits"].value == 3
        assert list(obj.maps["counts"].values())[:3] == [1, 1, 1]
        for link in links:
            link.close()
        unlink_a_file("seen-by-none")
        assert obj.variables["hits"].value == 3


def test_fexit_sees_the_return_value(trampolines, opened, tmp_path):
    spec = opened("unlink")
    spec.variables["target_tgid"].value = os.getpid()
    with spec.load() as obj, obj.programs["unlink_exit"].attach():
        (tmp_path / "sub").mkdir()
        with pytest.raises((IsADirectoryError, PermissionError)):
            os.unlink(tmp_path / "sub")
        assert obj.variables["last_retval"].value in (-errno.EISDIR, -errno.EPERM, 0)


def test_fmod_ret_changes_what_the_process_gets(trampolines, opened, tmp_path):
    spec = opened("fmodret")
    spec.variables["deny_name"].value = "denied"
    with spec.load() as obj:
        obj.attach()
        obj.variables["target_tgid"].value = os.getpid()
        (tmp_path / "denied").write_bytes(b"")
        (tmp_path / "allowed").write_bytes(b"")
        with pytest.raises(PermissionError):
            os.unlink(tmp_path / "denied")
        os.unlink(tmp_path / "allowed")
        obj.variables["deny"].value = False
        os.unlink(tmp_path / "denied")
        assert obj.variables["denied"].value == 1
        assert obj.variables["seen"].value == 3


@pytest.mark.kernel("7.0")
def test_sleepable_fentry_on_a_system_call(trampolines, opened):
    if os.uname().machine != "x86_64":
        pytest.skip("the fixture names the x86 entry point of getpgid")
    spec = opened("unlink")
    for program in spec:
        program.autoload = program.name == "getpgid_enter_sleepable"
    spec.variables["target_tgid"].value = os.getpid()
    with spec.load() as obj:
        obj.attach()
        os.getpgid(0)
        assert obj.variables["hits"].value >= 1


@pytest.mark.kernel("5.11")
def test_fentry_on_a_function_of_a_kernel_module(trampolines, opened):
    if not os.path.exists("/sys/kernel/btf/nf_tables"):
        pytest.skip("module nf_tables, with BTF, is not loaded")
    spec = opened("module_fentry")
    spec.variables["target_tgid"].value = os.getpid()
    with spec.load() as obj:
        links = obj.attach()
        assert links[0].target == "nf_tables:nf_tables_newtable"
        netlink.add_and_drop_nft_table()
        assert obj.variables["entered"].value == 1
        assert obj.variables["left"].value == 1
        assert obj.variables["entered_unnamed"].value == 1


def test_a_module_that_is_not_loaded_is_named(opened, trampolines):
    spec = opened("module_fentry")
    spec.programs["newtable_enter"].set_attach_target(function="no_such_module:f")
    with pytest.raises(pybpfload.AttachError, match="modprobe no_such_module"):
        spec.load()


class TestProgramAsTarget:
    """Programs attached to the function of another BPF program."""

    def provoke(self) -> None:
        assert netlink.add_filter_to_missing_qdisc() == errno.EINVAL

    def check(self, events) -> None:
        seen = {
            e.source.name: (e.msg, e.retval, e.tgid)
            for e in events
            if e.msg.startswith("Parent Qdisc")
        }
        message = "Parent Qdisc doesn't exists"
        assert seen == {
            "SOURCE_FENTRY": (message, 0, os.getpid()),
            "SOURCE_TRACEPOINT": (message, 0, os.getpid()),
            "SOURCE_FEXIT": (message, 1, os.getpid()),
        }

    @pytest.fixture(autouse=True)
    def needs(self, trampolines, tracefs):
        if not os.path.exists(f"{tracefs}/events/netlink/netlink_extack"):
            pytest.skip("this kernel has no tracepoint netlink:netlink_extack (since 5.13)")

    def test_in_one_object(self, opened):
        """The demonstration: one message arrives three times, through one map."""
        spec = opened("extack")
        traced = spec.programs["tp__netlink_extack"]
        for name in ("fentry__netlink_extack", "fexit__netlink_extack"):
            spec.programs[name].autoload = True
            spec.programs[name].set_attach_target(traced, "tp__netlink_extack")
        spec.variables["target_tgid"].value = os.getpid()
        with spec.load() as obj:
            links = obj.attach()
            assert len(links) == 3
            self.provoke()
            self.check(obj.maps["events"].reader().poll(1))

    @pytest.mark.parametrize("how", ["object", "id", "pin"])
    def test_in_two_objects(self, opened, how, bpffs):
        first = opened("extack")
        first.variables["target_tgid"].value = os.getpid()
        with first.load() as obj:
            traced = obj.programs["tp__netlink_extack"]
            pin = f"{bpffs}/pybpfload_test_extack"
            second = opened("extack_trace")
            second.variables["target_tgid"].value = os.getpid()
            second.maps["events"].reuse = obj.maps["events"]
            try:
                if how == "pin":
                    traced.pin(pin)
                target = {"object": traced, "id": traced.info().id, "pin": pin}[how]
                for program in second:
                    program.set_attach_target(target, "tp__netlink_extack")
                with second.load() as tracer:
                    obj.attach()
                    tracer.attach()
                    self.provoke()
                    self.check(obj.maps["events"].reader().poll(1))
            finally:
                if how == "pin":
                    os.unlink(pin)

    def test_unknown_function_lists_those_there_are(self, opened):
        with opened("extack").load() as obj:
            second = opened("extack_trace")
            for program in second:
                program.set_attach_target(obj.programs["tp__netlink_extack"], "nosuch")
            with pytest.raises(pybpfload.AttachError, match="it has: tp__netlink_extack"):
                second.load()


def test_raw_tp_and_tp_btf(opened):
    spec = opened("rawtp")
    spec.variables["target_tgid"].value = os.getpid()
    with spec.load() as obj:
        for name in ("sys_enter", "newtask", "newtask_btf"):
            obj.programs[name].attach()
        run_true()
        os.getpgid(0)
        assert obj.variables["sys_enter_hits"].value > 0
        assert obj.variables["newtask_hits"].value == 1
        assert obj.variables["newtask_btf_hits"].value == 1
        assert obj.variables["last_syscall"].value > 0


def test_writable_raw_tp_changes_the_result_of_a_test_run(opened):
    spec = opened("rawtp")
    spec.variables["target_tgid"].value = os.getpid()
    with spec.load() as obj, opened("test_run").load() as other:
        xdp = next(p for p in other.programs.values() if p.type.name == "XDP")
        xdp.test_run(bytes(64))
        with obj.programs["test_finish"].attach():
            with pytest.raises(pybpfload.KernelError) as caught:
                xdp.test_run(bytes(64))
            assert caught.value.errno == 7
        assert obj.variables["test_finish_hits"].value == 1
        xdp.test_run(bytes(64))


def test_unknown_raw_tracepoint(opened):
    with opened("rawtp").load() as obj:
        with pytest.raises(pybpfload.AttachError, match="there is no raw tracepoint 'nosuch'"):
            obj.programs["sys_enter"].attach("nosuch")


class TestCookies:
    COOKIE = 0x1234567890ABCDEF

    def load(self, opened, name):
        spec = opened("cookies")
        for program in spec:
            program.autoload = program.name == name
        spec.variables["target_tgid"].value = os.getpid()
        return spec.load()

    @pytest.mark.kernel("6.10")
    def test_raw_tp(self, opened):
        with self.load(opened, "cookie_raw_tp") as obj:
            obj.programs["cookie_raw_tp"].attach(cookie=self.COOKIE)
            os.getpgid(0)
            assert obj.variables["cookies"].value[0] == self.COOKIE

    @pytest.mark.kernel("6.10")
    def test_tp_btf(self, opened):
        with self.load(opened, "cookie_tp_btf") as obj:
            obj.programs["cookie_tp_btf"].attach(cookie=self.COOKIE)
            run_true()
            assert obj.variables["cookies"].value[1] == self.COOKIE

    @pytest.mark.kernel("5.15")
    def test_tracepoint(self, opened, tracefs):
        if not os.path.exists(f"{tracefs}/events/syscalls/sys_enter_getpgid"):
            pytest.skip("this kernel has no tracepoints of system calls")
        with self.load(opened, "cookie_tracepoint") as obj:
            obj.programs["cookie_tracepoint"].attach(cookie=self.COOKIE)
            os.getpgid(0)
            assert obj.variables["cookies"].value[2] == self.COOKIE

    @pytest.mark.kernel("5.19")
    @pytest.mark.parametrize(
        ("name", "place"), [("cookie_fentry", 3), ("cookie_fexit", 4), ("cookie_fmod_ret", 5)]
    )
    def test_trampolines(self, opened, trampolines, unlink_a_file, name, place):
        with self.load(opened, name) as obj:
            obj.programs[name].attach(cookie=self.COOKIE)
            unlink_a_file()
            assert obj.variables["cookies"].value[place] == self.COOKIE

    def test_too_old(self, opened):
        if os.uname().release.split(".")[:2] not in (["6", "1"], ["5", "10"]):
            pytest.skip("this kernel has cookies for raw tracepoints")
        with opened("rawtp").load() as obj:
            with pytest.raises(pybpfload.NotSupportedError, match=r"needs Linux 6\.10"):
                obj.programs["sys_enter"].attach(cookie=self.COOKIE)


class TestLsm:
    def test_denies(self, trampolines, opened, tmp_path):
        spec = opened("lsm")
        try:
            obj = spec.load()
        except pybpfload.KernelError as error:
            pytest.skip(f"no LSM programs here: {error}")
        with obj:
            try:
                obj.attach()
            except pybpfload.NotSupportedError as error:
                pytest.skip(str(error))
            (tmp_path / "kept").write_bytes(b"")
            obj.variables["target_tgid"].value = os.getpid()
            with pytest.raises(PermissionError):
                os.unlink(tmp_path / "kept")
            obj.variables["target_tgid"].value = 0
            os.unlink(tmp_path / "kept")
            assert obj.variables["denied"].value == 1

    @pytest.mark.kernel("5.11")
    def test_sleepable(self, trampolines, opened, tmp_path):
        spec = opened("lsm")
        spec.programs["deny_unlink"].autoload = False
        spec.programs["deny_unlink_sleepable"].autoload = True
        try:
            obj = spec.load()
            links = obj.attach()
        except pybpfload.NotSupportedError as error:
            pytest.skip(str(error))
        with obj:
            assert len(links) == 1
            (tmp_path / "kept").write_bytes(b"")
            obj.variables["target_tgid"].value = os.getpid()
            with pytest.raises(PermissionError):
                os.unlink(tmp_path / "kept")
            obj.variables["deny"].value = False
            os.unlink(tmp_path / "kept")

    def test_a_kernel_without_the_bpf_module_is_named(self, monkeypatch):
        from pybpfload.kernel import door
        from pybpfload.runtime.attach import tracing

        monkeypatch.setattr(door, "read_file", lambda path, limit=-1: b"capability,yama\n")
        with pytest.raises(pybpfload.NotSupportedError, match="lsm=capability,yama,bpf"):
            tracing.check_lsm("p")


def test_policy_is_named_when_trampolines_are_refused(jit):
    """Where trampolines are refused to root, the error says that it is policy, in one line."""
    spec = pybpfload.open(OBJECTS / "fmodret.bpf.o")
    try:
        spec.load().close()
    except pybpfload.NotPermittedError as error:
        text = str(error)
        assert "\n" not in text
        assert "lockdown" in text
        assert "policy" in text
    except pybpfload.KernelError as error:
        if error.errno != 524:
            raise
        pytest.skip("this architecture has no trampolines")
    else:
        pytest.skip("this kernel lets trampolines load")


def test_closing_an_object_detaches_and_unloads(opened):
    spec = opened("minimal")
    spec.variables["target_tgid"].value = os.getpid()
    obj = spec.load()
    obj.attach()
    prog_id = obj.programs["count_syscalls"].info().id
    obj.close()
    obj.close()
    from pybpfload import lowlevel

    # The kernel frees programs behind our back, after a grace period.
    deadline = time.monotonic() + 5
    while prog_id in list(lowlevel.iter_ids("prog")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert prog_id not in list(lowlevel.iter_ids("prog"))


def test_a_dropped_link_warns(opened):
    with opened("minimal").load() as obj:
        link = obj.programs["count_syscalls"].attach()
        obj.programs["count_syscalls"].links.clear()
        with pytest.warns(ResourceWarning, match="link of count_syscalls"):
            del link
