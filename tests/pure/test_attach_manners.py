"""Attaching on scripted kernels: odd arguments, what others did meanwhile, and what errors say."""

from __future__ import annotations

import contextlib
import errno
import sys
from pathlib import Path

import pytest
from user_binary import UserBinaryBuilder

import pybpfload
from pybpfload import AttachError, BpfError, KernelError, NotSupportedError, lowlevel
from pybpfload.runtime.attach.perf_event import event_names
from pybpfload.testing.fakekernel import FakeKernel
from pybpfload.uapi import MapType

OBJECTS = (
    Path(__file__).parents[2] / "fixtures" / f"bpf{'el' if sys.byteorder == 'little' else 'eb'}"
)
CGROUP = "/sys/fs/cgroup/some"


def own_btf(name: str) -> dict[str, bytes]:
    """A fixture's types for those of the kernel, as if it had no others."""
    btf = pybpfload.open(OBJECTS / f"{name}.bpf.o").btf
    assert btf is not None
    return {"/sys/kernel/btf/vmlinux": btf.to_bytes()}


@contextlib.contextmanager
def loaded(name: str, program: str):
    """One program of a fixture."""
    spec = pybpfload.open(OBJECTS / f"{name}.bpf.o")
    for each in spec:
        each.autoload = each.name == program
    with spec.load() as obj:
        yield obj.programs[program]


class TestAnchors:
    @pytest.mark.parametrize("option", ["before", "after"])
    @pytest.mark.parametrize("anchor", [False, "first", 0, 1])
    def test_what_is_no_place(self, option, anchor):
        with FakeKernel() as fake, loaded("network", "on_cgroup_ingress") as program:
            fake.dirs.add(CGROUP)
            before = len(fake.fds)
            with pytest.raises(ValueError, match=f"{option} is {anchor!r}, not a program, a link"):
                program.attach(CGROUP, **{option: anchor})
            assert "LINK_CREATE" not in fake.commands()
            assert len(fake.fds) == before

    def test_what_is_one(self):
        with FakeKernel() as fake, loaded("network", "on_cgroup_ingress") as program:
            fake.dirs.add(CGROUP)
            first = program.attach(CGROUP, before=True)
            told = []
            for anchor in (program, first):
                program.attach(CGROUP, after=anchor)
                told.append(fake.calls[-1].fields)
            assert [each["relative_fd"] for each in told] == [program.fileno(), first.fileno()]
            assert told[1]["flags"] != told[0]["flags"]


class TestPins:
    def test_somebody_else_has_removed_it(self):
        with FakeKernel() as fake, loaded("minimal", "count_syscalls") as program:
            link = program.attach()
            link.pin("/sys/fs/bpf/kept")
            fake.unlink("/sys/fs/bpf/kept")
            with pytest.raises(KernelError, match="ENOENT") as caught:
                link.unpin()
            assert caught.value.errno == errno.ENOENT
            assert link.pin_path is None
            link.pin("/sys/fs/bpf/kept")
            with pytest.raises(BpfError, match="pinned already at /sys/fs/bpf/kept"):
                link.pin("/sys/fs/bpf/again")
            fake.unlink("/sys/fs/bpf/kept")
            link.pin("/sys/fs/bpf/again")
            assert list(fake.pins) == ["/sys/fs/bpf/again"]

    def test_it_cannot_be_removed(self, monkeypatch):
        with FakeKernel() as fake, loaded("minimal", "count_syscalls") as program:
            link = program.attach()
            link.pin("/sys/fs/bpf/kept")

            def refuse(path):
                raise PermissionError(errno.EPERM, "no")

            monkeypatch.setattr(fake, "unlink", refuse)
            with pytest.raises(KernelError, match="EPERM"):
                link.unpin()
            assert link.pin_path == "/sys/fs/bpf/kept"


class TestOneAtATime:
    """Attachments without a link that the kernel cannot tell apart: the same program again."""

    def test_of_a_control_group(self):
        asked = {"PROG_ATTACH": 0, "PROG_DETACH": 0}

        def count(call):
            asked[call.command] += 1
            return 0

        with FakeKernel() as fake, loaded("network", "on_cgroup_ingress") as program:
            fake.dirs.add(CGROUP)
            fake.on("PROG_ATTACH", count)
            fake.on("PROG_DETACH", count)
            fake.on("PROG_QUERY", lambda call: -errno.EINVAL)
            older, younger = (program.attach(CGROUP, sharing="override") for _ in range(2))
            older.close()
            assert asked == {"PROG_ATTACH": 2, "PROG_DETACH": 0}
            fake.refuses["PROG_ATTACH"] = errno.EPERM
            with pytest.raises(KernelError, match="EPERM"):
                program.attach(CGROUP, sharing="override")
            younger.close()
            assert asked == {"PROG_ATTACH": 2, "PROG_DETACH": 1}

    def test_of_a_map_of_sockets(self):
        with FakeKernel() as fake, loaded("network", "on_sk_msg") as program:
            sockets = lowlevel.map_create(MapType.SOCKMAP, 4, 4, 1)
            older, younger = (program.attach(sockets, link=False) for _ in range(2))
            older.close()
            assert "PROG_DETACH" not in fake.commands()
            younger.close()
            assert fake.commands().count("PROG_DETACH") == 1


class TestPerfEvents:
    def events(self, fake):
        return [each for each in fake.fds.values() if each.kind == "perf_event"]

    def test_each_thread_of_a_process(self):
        with FakeKernel() as fake, loaded("perf_event", "on_sample") as program:
            fake.dirs |= {"/proc/50/task/50", "/proc/50/task/52", "/proc/50/task/51"}
            link = program.attach("task-clock", period=1000, pid=50)
            assert [each["pid"] for each in self.events(fake)] == [51, 52, 50]
            inherit = 1 << 1 if sys.byteorder == "little" else 1 << 62
            for each in self.events(fake):
                assert each["cpu"] == -1
                assert int.from_bytes(each["attr"][40:48], sys.byteorder) & inherit
            assert link.target == "task-clock"
            link.close()
            assert not self.events(fake)

    @pytest.mark.parametrize(("gone", "watched"), [(51, [52, 50]), (50, None)])
    def test_a_thread_ends_meanwhile(self, monkeypatch, gone, watched):
        with FakeKernel() as fake, loaded("perf_event", "on_sample") as program:
            fake.dirs |= {"/proc/50/task/50", "/proc/50/task/52", "/proc/50/task/51"}
            really = fake.perf_event_open
            monkeypatch.setattr(
                fake,
                "perf_event_open",
                lambda attr, pid, *rest: -errno.ESRCH if pid == gone else really(attr, pid, *rest),
            )
            if watched is None:
                with pytest.raises(KernelError, match="there is no such process"):
                    program.attach("task-clock", period=1000, pid=50)
                assert not self.events(fake)
            else:
                program.attach("task-clock", period=1000, pid=50)
                assert [each["pid"] for each in self.events(fake)] == watched

    @pytest.mark.parametrize(
        ("name", "same"),
        [
            ("cycles", "cpu-cycles"),
            ("ref-cycles", "ref-cpu-cycles"),
            ("minor-faults", "page-faults-min"),
            ("faults", "page-faults"),
            ("cs", "context-switches"),
        ],
    )
    def test_names_of_perf(self, name, same):
        known = event_names()
        assert known[name] == known[same]

    def test_a_typo(self):
        with FakeKernel(), loaded("perf_event", "on_sample") as program:
            with pytest.raises(AttachError, match=r"not 'cpu-glock'; did you mean cpu-clock"):
                program.attach("cpu-glock", frequency=1)

    def test_declined_links_are_not_told_to_be_missing(self):
        with FakeKernel() as fake, loaded("perf_event", "on_sample") as program:
            for options in ({}, {"cpu": 0}):
                link = program.attach("cpu-clock", frequency=99, link=False, **options)
                for act in (link.info, link.detach):
                    with pytest.raises(NotSupportedError, match="attached without a link") as told:
                        act()
                    assert told.value.since is None
            assert not {"LINK_DETACH", "OBJ_GET_INFO_BY_FD"} & set(fake.commands())


@pytest.mark.parametrize(
    ("name", "program", "target", "options"),
    [
        ("perf_event", "on_sample", "cpu-clock", {"period": 1}),
        ("uprobe", "on_any", "/lib/x.so:f", {}),
        ("uprobe", "on_uprobe_multi", "/lib/x.so:f", {}),
        ("usdt", "on_probe", "/lib/x.so:server:request", {}),
    ],
)
def test_a_negative_pid_is_not_all_processes(name, program, target, options):
    with FakeKernel() as fake, loaded(name, program) as known:
        with pytest.raises(ValueError, match="pid is -2: neither a process nor -1"):
            known.attach(target, pid=-2, **options)
        assert not fake.of_kind("link")


class TestTargets:
    @pytest.mark.parametrize(
        ("name", "program", "target", "text"),
        [
            ("minimal", "count_syscalls", "", "names no tracepoint"),
            ("tracepoint", "on_exec", "", "named as category/name, not ''"),
            ("network", "on_cgroup_ingress", True, "it attaches to a control group"),
            ("network", "on_sk_msg", True, "it attaches to a map of sockets"),
            ("perf_event", "on_sample", True, "it attaches to a perf event"),
            ("network", "on_xdp", 9999, "9999 is no index of a network device"),
            ("network", "on_netfilter", "inptu", "name one of prerouting.*, not 'inptu'"),
        ],
    )
    def test_odd_ones(self, name, program, target, text):
        with FakeKernel(files=own_btf(name)) as fake, loaded(name, program) as known:
            before = len(fake.fds)
            with pytest.raises(AttachError, match=text):
                known.attach(target)
            assert len(fake.fds) == before

    def test_a_function_named_twice(self):
        made = UserBinaryBuilder()
        made.symbol("run", 0x20)
        asked = []
        with FakeKernel(files={"/lib/x.so": made.build()}) as fake:
            fake.on("LINK_CREATE", lambda call: asked.append(call.fields["cnt"]))
            with loaded("uprobe", "on_uprobe_multi") as program:
                asked.clear()
                program.attach("/lib/x.so", symbols=["run", "run"])
                program.attach("/lib/x.so", symbols=["run", "run"], cookies=[1, 2])
        assert asked == [1, 2]


class TestHints:
    @pytest.mark.parametrize(
        ("program", "target", "options", "command", "number", "text"),
        [
            ("on_cgroup_ingress", CGROUP, {"link": False}, "PROG_ATTACH", errno.EINVAL, "once"),
            ("on_cgroup_ingress", CGROUP, {"before": True}, "LINK_CREATE", errno.EINVAL, "of this"),
            ("on_tcx_ingress", "lo", {"after": True}, "LINK_CREATE", errno.EINVAL, "of this kind"),
            ("on_sk_msg", None, {}, "LINK_CREATE", errno.EINVAL, "no sockmap or sockhash"),
            ("on_xdp", "lo", {}, "LINK_CREATE", errno.EBUSY, "the link's update"),
        ],
    )
    def test_in_the_network(self, program, target, options, command, number, text):
        with FakeKernel() as fake, loaded("network", program) as known:
            fake.dirs.add(CGROUP)
            fake.refuses[command] = number
            where = fake.open_object(fake.make("map")) if target is None else target
            with pytest.raises(KernelError, match=text):
                known.attach(where, **options)

    def test_twice_on_a_tracepoint(self):
        files = {
            "/sys/kernel/tracing/events/enable": b"0\n",
            "/sys/kernel/tracing/events/sched/sched_process_exec/id": b"77\n",
        }
        files |= own_btf("tracepoint")
        with FakeKernel(files=files) as fake, loaded("tracepoint", "on_exec") as program:
            program.attach()
            fake.refuses["LINK_CREATE"] = errno.EEXIST
            with pytest.raises(KernelError, match=r"sched_process_exec.*this program is there al"):
                program.attach()

    @pytest.mark.parametrize("places", [1, 2])
    def test_no_instruction_begins_there(self, places):
        files = {"/lib/x.so": UserBinaryBuilder().build()}
        with FakeKernel(files=files) as fake, loaded("uprobe", "on_uprobe_multi") as program:
            fake.refuses["LINK_CREATE"] = errno.ENOEXEC
            with pytest.raises(KernelError, match="no instruction that can be probed") as caught:
                program.attach("/lib/x.so", offsets=list(range(places)))
            assert ("at least one of the 2 places" in str(caught.value)) == (places == 2)

    def test_programs_of_tables(self):
        from pybpfload.runtime.attach import _home
        from pybpfload.runtime.target import AttachTarget

        spec = next(iter(pybpfload.open(OBJECTS / "struct_ops.bpf.o")))
        with pytest.raises(AttachError, match="it is attached with its map"):
            _home(spec, AttachTarget(btf_id=5))
