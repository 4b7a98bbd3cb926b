"""Links on scripted kernels: what they are asked for, what is told of them, what Ctrl-C leaves."""

from __future__ import annotations

import contextlib
import errno
import struct
import sys
from pathlib import Path

import pytest
from user_binary import UserBinaryBuilder

import pybpfload
from pybpfload import AttachError, KernelError, NotSupportedError, lowlevel
from pybpfload.btf.build import BtfBuilder
from pybpfload.kernel import linkinfo
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime.attach.common import LinkGroup
from pybpfload.runtime.link import Link
from pybpfload.testing.fakekernel import FakeKernel, memory, store
from pybpfload.uapi import AttachType, LinkType, MapType, PerfEventType

OBJECTS = Path(__file__).parents[2] / "fixtures" / "bpfel"
TRACEFS = "/sys/kernel/tracing"
CGROUP = "/sys/fs/cgroup/some"

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the objects are little endian")


@contextlib.contextmanager
def loaded(name: str, program: str):
    """One program of a fixture."""
    spec = pybpfload.open(OBJECTS / f"{name}.bpf.o")
    for each in spec:
        each.autoload = each.name == program
    with spec.load() as obj:
        yield obj.programs[program]


# What the kernel tells of a link


class Telling(FakeKernel):
    """A kernel that tells certain things of every link.

    Args:
        told: The structure.
        known: Bytes of it that this kernel knows.
        pointed: What it writes to the pointers, by their offsets in the structure.
        counted: By the offset of a pointer, that of its count.
    """

    def __init__(self, told: bytes, known: int = 64, pointed=None) -> None:
        super().__init__()
        self.told, self.known, self.pointed = told, known, pointed or {}

    def _info(self, target, fields, attr) -> int:
        given = memory(fields["info"], fields["info_len"])
        if any(given[self.known :]):
            return -errno.E2BIG
        for offset, content in self.pointed.items():
            store(struct.unpack_from("=Q", given, offset)[0], content)
        store(fields["info"], self.told[: self.known])
        struct.pack_into("=I", attr, 4, min(self.known, 64))
        return 0


def info_of(kind: LinkType, *parts: bytes, known: int = 64, **pointed: bytes):
    told = struct.pack("=III4x", kind, 7, 9) + b"".join(parts)
    places = {int(name[2:]): content for name, content in pointed.items()}
    with Telling(told.ljust(64, b"\0"), known, places) as fake:
        return lowlevel.link_info(fake.open_object(fake.make("link")))


def words(*numbers: int) -> bytes:
    return struct.pack(f"={len(numbers)}I", *numbers)


class TestInfo:
    def test_common(self):
        info = info_of(LinkType.TRACING, words(AttachType.TRACE_FENTRY, 1, 77))
        assert isinstance(info, lowlevel.TracingLinkInfo)
        assert (info.type, info.id, info.prog_id) == (LinkType.TRACING, 7, 9)
        assert info.attach_type is AttachType.TRACE_FENTRY
        assert (info.target_obj_id, info.target_btf_id, info.cookie) == (1, 77, 0)

    def test_a_record_stays_as_it_is(self):
        info = info_of(LinkType.XDP, words(1))
        assert info.interface == "lo"
        with pytest.raises(AttributeError, match="not changed"):
            info.ifindex = 2
        same = info_of(LinkType.XDP, words(1))
        assert info == same
        assert hash(info) == hash(same)
        assert info != info_of(LinkType.TCX, words(1))
        assert info.details == {"ifindex": 1, "interface": "lo"}
        assert repr(info) == (
            "XdpLinkInfo(type=<LinkType.XDP: 6>, id=7, prog_id=9, ifindex=1, interface='lo')"
        )
        with pytest.raises(TypeError, match="ifindex"):
            lowlevel.XdpLinkInfo(type=LinkType.XDP, id=1, prog_id=2)

    def test_place_in_words(self):
        assert info_of(LinkType.XDP, words(1)).place == "device 1 lo"
        body = words(PerfEventType.KPROBE, 0) + bytes(8) + words(8, 4)
        assert info_of(LinkType.PERF_EVENT, body, at24=b"do_exit\0").place == "do_exit+0x4"
        assert info_of(LinkType.NETFILTER, words(10, 3)).place == "IPV6 OUTPUT"
        assert info_of(LinkType(99)).place == ""
        for record in {*linkinfo._ARMS.values(), *linkinfo._ITERATORS.values()}:
            values = {name: field.make(0) for name, field in record._fields().items()}
            assert record(**values).place or record is linkinfo.PerfEventLinkInfo

    def test_no_device_of_that_index(self):
        assert info_of(LinkType.XDP, words(5)).interface == ""
        assert info_of(LinkType.NETKIT, words(0, AttachType.NETKIT_PEER)).interface == ""

    def test_kinds_that_are_not_known(self):
        info = info_of(LinkType(99), words(1, 2, 3))
        assert type(info) is lowlevel.LinkInfo
        assert (info.type, info.details) == (99, {})
        assert info.type.name == "UNKNOWN_99"

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            (PerfEventType.KPROBE, {"func_name": "do_exit", "offset": 4, "addr": 0x1000}),
            (PerfEventType.URETPROBE, {"file_name": "do_exit", "offset": 4, "cookie": 0x1000}),
            (PerfEventType.TRACEPOINT, {"tp_name": "do_exit", "cookie": 0x1000}),
            (PerfEventType.UNSPEC, {}),
        ],
    )
    def test_perf_events(self, kind, expected):
        body = words(kind, 0) + bytes(8) + words(8, 4) + struct.pack("=Q", 0x1000)
        info = info_of(LinkType.PERF_EVENT, body, at24=b"do_exit\0")
        told = info.details
        assert told.pop("perf_type") is kind
        assert {name: told[name] for name in expected} == expected
        assert not any(value for name, value in told.items() if name not in expected)

    def test_iterators(self):
        head = bytes(8) + words(16)
        info = info_of(LinkType.ITER, head + words(0, 0, 5), at16=b"task_vma\0")
        assert isinstance(info, lowlevel.TaskIterLinkInfo)
        assert (info.target_name, info.tid, info.pid) == ("task_vma", 0, 5)
        info = info_of(LinkType.ITER, head + words(12), at16=b"bpf_map_elem\0")
        assert info.details == {"target_name": "bpf_map_elem", "map_id": 12}
        info = info_of(LinkType.ITER, head + words(0, 3, 0, 1), at16=b"cgroup\0")
        assert (info.cgroup_id, info.order.name) == (3, "SELF_ONLY")
        assert info_of(LinkType.ITER, head, at16=b"bpf_prog\0").details == {
            "target_name": "bpf_prog"
        }

    def test_netfilter(self):
        info = info_of(LinkType.NETFILTER, words(10, 3) + struct.pack("=iI", -5, 1))
        assert (info.pf.name, info.hooknum.name, info.priority) == ("IPV6", "OUTPUT", -5)
        assert info.flags.name == "IP_DEFRAG"

    def test_uprobes(self):
        body = bytes(32) + words(9, 2, 1, 42)
        lists = {f"at{at}": struct.pack("=2Q", at, at + 1) for at in (24, 32, 40)}
        info = info_of(LinkType.UPROBE_MULTI, body, at16=b"/lib/x.so\0", **lists)
        assert info.details == {
            "path": "/lib/x.so", "count": 2, "flags": 1, "pid": 42,
            "offsets": (24, 25), "ref_ctr_offsets": (32, 33), "cookies": (40, 41),
        }  # fmt: skip

    @pytest.mark.parametrize("known", [48, 56])
    def test_kernels_with_a_smaller_structure(self, known):
        """Linux 6.6 and 6.7 have links of uprobe.multi, but nowhere to tell of them."""
        info = info_of(LinkType.UPROBE_MULTI, known=known)
        assert info.details == {
            "path": "", "count": 0, "flags": 0, "pid": 0,
            "offsets": (), "ref_ctr_offsets": (), "cookies": (),
        }  # fmt: skip

    def test_every_class_is_for_something(self):
        used = {*linkinfo._ARMS.values(), *linkinfo._EVENTS.values()}
        used |= {*linkinfo._ITERATORS.values(), linkinfo.LinkInfo}
        assert {each.__name__ for each in used} == {
            name for name in linkinfo.__all__ if name.endswith("LinkInfo")
        }
        assert set(linkinfo.__all__) <= set(lowlevel.__all__)


# Attachments without a link: Ctrl-C


def interrupting(fake: FakeKernel, command: str) -> None:
    """Let the call be done, and Ctrl-C come before its caller goes on."""

    def answer(call):
        raise KeyboardInterrupt

    fake.on(command, answer)


class TestInterrupted:
    @pytest.mark.parametrize(
        ("name", "program", "target", "options"),
        [
            ("network", "on_cgroup_ingress", CGROUP, {"link": False}),
            ("network", "on_sk_msg", None, {"link": False}),
            ("lirc", "on_lirc", "/dev/lirc0", {}),
        ],
    )
    def test_what_was_attached_is_detached(self, name, program, target, options):
        with FakeKernel(files={"/dev/lirc0": b""}) as fake:
            fake.dirs.add(CGROUP)
            interrupting(fake, "PROG_ATTACH")
            with loaded(name, program) as loaded_program:
                sockets = fake.open_object(fake.make("map")) if target is None else -1
                before = len(fake.fds)
                with pytest.raises(KeyboardInterrupt):
                    loaded_program.attach(sockets if target is None else target, **options)
                assert fake.commands()[-2:] == ["PROG_ATTACH", "PROG_DETACH"]
                assert len(fake.fds) == before
                assert loaded_program.links == []

    def test_what_was_refused_is_not(self):
        with FakeKernel(refuses={"PROG_ATTACH": errno.EINVAL}) as fake:
            fake.dirs.add(CGROUP)
            with loaded("network", "on_cgroup_ingress") as program:
                before = len(fake.fds)
                with pytest.raises(KernelError, match="on_cgroup_ingress"):
                    program.attach(CGROUP, link=False)
                assert "PROG_DETACH" not in fake.commands()
                assert len(fake.fds) == before


# Groups of links


class TestGroups:
    @pytest.fixture
    def group(self):
        with FakeKernel() as fake, loaded("perf_event", "on_sample") as program:
            link = program.attach("cpu-clock", frequency=99)
            assert isinstance(link, LinkGroup)
            yield fake, program, link

    def test_update_of_all_or_none(self, group):
        fake, program, link = group
        old = fake.fds[program.fileno()].id
        done = []

        def answer(call):
            done.append(fake.fds[call.fields["new_prog_fd"]].id)
            return -errno.EINVAL if len(done) == 3 else 0

        fake.on("LINK_UPDATE", answer)
        fake.on("OBJ_GET_INFO_BY_FD", lambda call: told(call, old))
        with loaded("perf_event", "on_sample") as other:
            before = len(fake.fds)
            with pytest.raises(KernelError, match="cannot be updated"):
                link.update(other)
            new = fake.fds[other.fileno()].id
            assert done == [new, new, new, old, old]
            assert {each.program for each in link.links} == {"on_sample"}
            done[:] = [0, 0, 0]
            link.update(other)
            assert done[3:] == [new] * len(link.links)
            assert len(fake.fds) == before

    def test_one_of_them_is_closed(self, group):
        _, _, link = group
        first, second = link.links[:2]
        first.close()
        assert not link.closed
        assert link.fileno() == second.fileno()
        assert "closed" not in repr(link)
        link.close()
        assert link.closed
        with pytest.raises(ValueError, match="closed"):
            link.fileno()


def told(call, program: int) -> int:
    store(call.fields["info"], struct.pack("=III", LinkType.PERF_EVENT, 1, program))
    return 0


def test_a_table_of_functions_does_not_take_its_own_place():
    """Linux 6.18 adds it to a list twice then, and dies with the lock held."""
    with FakeKernel() as fake:
        table = lowlevel.map_create(MapType.ARRAY, 4, 4, 1)
        other = lowlevel.map_create(MapType.ARRAY, 4, 4, 1)
        mine = fake.fds[table].id

        def answer(call):
            if call.fields["info_len"] > 64:  # asked about a map
                number = fake.fds[call.fields["bpf_fd"]].id
                store(call.fields["info"], struct.pack("=II", MapType.ARRAY, number))
            else:
                told = struct.pack("=IIIII", LinkType.STRUCT_OPS, 9, 0, 0, mine)
                store(call.fields["info"], told)
            return 0

        fake.on("OBJ_GET_INFO_BY_FD", answer)
        fake.on("LINK_UPDATE", lambda call: 0)
        link = Link(
            FileDescriptor(lowlevel.map_create(MapType.ARRAY, 4, 4, 1), "a link"),
            kind="struct_ops",
            target="table",
            program="table",
        )
        tables = [FileDescriptor(fd, "a map") for fd in (table, other)]
        with pytest.raises(pybpfload.BpfError, match="the one that is registered"):
            link.update(tables[0])
        assert "LINK_UPDATE" not in fake.commands()
        link.update(tables[1])
        assert "LINK_UPDATE" in fake.commands()
        for each in (link, *tables):
            each.close()


class TestWithoutLinks:
    def test_perf_events_of_old_kernels(self):
        with FakeKernel.like("5.10") as fake, loaded("perf_event", "on_sample") as program:
            link = program.attach("task-clock", period=1, pid=1)
            before = len(fake.calls)
            for act in (
                link.info, link.detach, lambda: link.update(program), lambda: link.pin("/x"),
            ):  # fmt: skip
                with pytest.raises(NotSupportedError, match=r"on_sample.*needs Linux 5\.15"):
                    act()
            assert len(fake.calls) == before
            assert not link.closed


# Attaching an object


class TestObjects:
    def test_what_is_left_alone_is_told(self):
        spec = pybpfload.open(OBJECTS / "network.bpf.o")
        for program in spec:
            program.autoload = program.name in ("on_xdp", "on_cgroup_ingress")
        with FakeKernel(), spec.load() as obj:
            assert obj.attach() == []
            assert obj.unattached == {
                "on_xdp": 'SEC("xdp") does not say where: attach() wants a network device',
                "on_cgroup_ingress": 'SEC("cgroup_skb/ingress") does not say where: attach() wants '
                "a control group",
            }
            obj.programs["on_xdp"].attach("lo")
            assert list(obj.unattached) == ["on_cgroup_ingress"]

    def test_what_could_be_attached(self):
        spec = pybpfload.open(OBJECTS / "minimal.bpf.o")
        with FakeKernel(), spec.load() as obj:
            assert obj.unattached == {
                "count_syscalls": "attach() was not called, or it was detached"
            }
            (link,) = obj.attach()
            assert obj.unattached == {}
            link.close()
            assert list(obj.unattached) == ["count_syscalls"]
        spec.programs["count_syscalls"].autoattach = False
        with FakeKernel(), spec.load() as obj:
            assert obj.attach() == []
            assert obj.unattached == {"count_syscalls": "autoattach is off"}

    def test_programs_of_maps_and_test_runs(self):
        from pybpfload.runtime.attach import left_alone

        reasons = {
            program.name: left_alone(program)
            for name in ("xdp_maps", "test_run")
            for program in pybpfload.open(OBJECTS / f"{name}.bpf.o")
        }
        assert reasons["on_devmap"] == "a devmap runs it for its entries"
        assert reasons["compute"] == "test_run() runs it"

    def test_a_failure_names_the_program_and_detaches_the_others(self):
        spec = pybpfload.open(OBJECTS / "rawtp.bpf.o")
        for program in spec:
            program.autoload = program.name in ("sys_enter", "newtask")
        files = {"/sys/kernel/btf/vmlinux": spec.btf.to_bytes()}
        with FakeKernel(files=files) as fake, spec.load() as obj:
            number = iter([None, -errno.EBUSY])
            fake.on("RAW_TRACEPOINT_OPEN", lambda call: next(number))
            with pytest.raises(KernelError, match="program newtask to raw tracepoint task_newtask"):
                obj.attach()
            assert not fake.of_kind("link")
            assert set(obj.unattached) == set(obj.programs)

    def test_errors_of_all_sorts_get_the_name(self):
        from pybpfload.errors import FormatError
        from pybpfload.runtime.attach import _name_program

        for error in (
            FormatError("damaged", file="lib.so", hint="mend it"),
            KernelError(errno.EPERM, "open", "/proc/1/maps"),
            KernelError(errno.EPERM, "open"),
            NotSupportedError("no BTF", since="5.2"),
            AttachError("no such"),
        ):
            _name_program(error, "on_this")
            once = str(error)
            assert once.count("on_this") == 1
            _name_program(error, "on_this")
            assert str(error) == once


class TestOptions:
    @pytest.mark.parametrize(
        ("name", "program", "target"),
        [
            ("minimal", "count_syscalls", None),
            ("network", "on_xdp", "lo"),
            ("network", "on_cgroup_ingress", CGROUP),
            ("network", "on_sk_lookup", None),
            ("uprobe", "on_any", "/lib/x.so:f"),
            ("perf_event", "on_sample", "cpu-clock"),
            ("kprobe", "on_kprobe_multi", "do_*"),
        ],
    )
    def test_unknown(self, name, program, target):
        with FakeKernel(), loaded(name, program) as known:
            with pytest.raises(AttachError, match=rf"{program}: SEC.* does not take cookey"):
                known.attach(target, cookey=1)
            assert known.links == []

    def test_the_docstring_has_all_families_and_options(self):
        from importlib import import_module
        from inspect import cleandoc

        from pybpfload.runtime.attach import _BY_ATTACH_TYPE, _BY_PROG_TYPE, _FAMILIES

        text = cleandoc(pybpfload.Program.attach.__doc__).partition("Args:")[0]
        items = text.split("\n* ")
        told = {item.partition("(``")[2].partition("``)")[0]: item for item in items}
        del told[""]  # what is before the list
        homes = {*_FAMILIES.values(), *_BY_ATTACH_TYPE.values(), *_BY_PROG_TYPE.values()}
        assert set(told) == homes
        for home, item in told.items():
            attach = import_module(f"pybpfload.runtime.attach.{home}").attach
            for option in attach.__kwdefaults__ or ():
                assert f"``{option}``" in item, (home, option)


# Two of a program, and after the end


class TestLife:
    def test_two_attachments_of_one_program(self):
        with FakeKernel() as fake, loaded("minimal", "count_syscalls") as program:
            first, second = program.attach(), program.attach()
            assert first.fileno() != second.fileno()
            first.close()
            first.close()
            assert program.attached
            assert not second.closed
            assert len(fake.of_kind("link")) == 1
        assert second.closed
        assert not fake.leaked()

    def test_attach_after_close(self):
        with FakeKernel() as fake:
            with loaded("minimal", "count_syscalls") as program:
                pass
            before = len(fake.calls)
            with pytest.raises(ValueError, match="count_syscalls is closed"):
                program.attach()
            assert len(fake.calls) == before

    def test_a_closed_link(self):
        with FakeKernel(), loaded("minimal", "count_syscalls") as program:
            link = program.attach()
            link.close()
            for act in (link.info, link.detach, lambda: link.update(program)):
                with pytest.raises(ValueError, match="closed"):
                    act()


# Cookies, functions, events, files


@pytest.mark.parametrize("has_place", [True, False])
def test_cookies_are_asked_for_by_the_kernels_own_types(has_place):
    made = BtfBuilder()
    number = made.add_int("u64", 8)
    opened = made.add_struct("", 24, [("cookie" if has_place else "name", number, 0)])
    made.add_union("bpf_attr", 24, [("raw_tracepoint", opened, 0)])
    files = {"/sys/kernel/btf/vmlinux": made.btf().to_bytes()}
    with FakeKernel(files=files) as fake, loaded("minimal", "count_syscalls") as program:
        if has_place:
            fake.refuses["RAW_TRACEPOINT_OPEN"] = errno.EINVAL
            with pytest.raises(KernelError, match="EINVAL"):
                program.attach(cookie=1)
        else:
            with pytest.raises(NotSupportedError, match=r"no attach cookies.*6\.10"):
                program.attach(cookie=1)
            assert "RAW_TRACEPOINT_OPEN" not in fake.commands()


class TestManyFunctions:
    """Lists of functions without addresses: Linux 5.18 to 6.4."""

    LISTED = b"vfs_a\nvfs_b\nvfs_gone\nvfs_two\nvfs_two\nother\nvfs_mod [some]\n"
    SYMBOLS = (
        b"ffffffff81000010 T vfs_a\nffffffff81000020 t vfs_b.llvm.123\n"
        b"ffffffff81000030 t vfs_two\nffffffff81000040 t vfs_two\nffffffff81000050 D vfs_a\n"
        b"ffffffffc0000010 t vfs_mod\t[some]\nffffffff81000060 T vfs_c\n"
    )

    def asked(self, symbols: bytes | None, pattern: str = "vfs_*"):
        files = {
            f"{TRACEFS}/available_filter_functions": self.LISTED,
            f"{TRACEFS}/events/enable": b"0\n",
            "/proc/kallsyms": symbols if symbols is not None else PermissionError(13, "closed"),
        }
        found = {}

        def answer(call):
            fields = call.fields
            found["syms"], found["addrs"] = fields["syms"], ()
            if fields["addrs"]:
                raw = memory(fields["addrs"], 8 * fields["cnt"])
                found["addrs"] = struct.unpack(f"={fields['cnt']}Q", raw)
            else:
                raw = struct.unpack(f"={fields['cnt']}Q", memory(fields["syms"], 8 * fields["cnt"]))
                found["syms"] = [memory(each, 16).partition(b"\0")[0].decode() for each in raw]

        with FakeKernel(files=files) as fake, loaded("kprobe", "on_kprobe_multi") as program:
            fake.on("LINK_CREATE", answer)
            program.attach(pattern)
        return found

    def test_addresses_of_those_that_kallsyms_has(self):
        found = self.asked(self.SYMBOLS)
        assert [hex(each)[-9:] for each in found["addrs"]] == [
            "f81000010", "f81000020", "f81000030", "f81000040", "fc0000010",
        ]  # fmt: skip

    def test_names_where_one_is_not_traceable(self):
        more = self.SYMBOLS + b"ffffffff81000070 t vfs_two\n"
        assert self.asked(more)["syms"] == ["vfs_a", "vfs_b", "vfs_mod", "vfs_two"]

    def test_names_where_addresses_are_hidden(self):
        hidden = b"".join(bytes([48]) * 16 + line[16:] for line in self.SYMBOLS.splitlines(True))
        assert self.asked(hidden)["syms"] == ["vfs_a", "vfs_b", "vfs_mod", "vfs_two"]

    def test_names_where_kallsyms_cannot_be_read(self):
        assert "vfs_gone" in self.asked(None)["syms"]

    def test_nothing_is_left(self):
        with pytest.raises(AttachError, match=r"no traceable function .* matches 'vfs_gon[?]'"):
            self.asked(self.SYMBOLS, "vfs_gon?")


class TestEvents:
    LIMIT = "/proc/sys/kernel/perf_event_max_sample_rate"

    @pytest.mark.parametrize(
        ("number", "options", "text"),
        [
            (errno.EINVAL, {"frequency": 5000}, f"at most 4000 times a second \\({LIMIT}"),
            (errno.EINVAL, {"frequency": 4000}, "no such event, or the CPU"),
            (errno.ENOENT, {"period": 5000}, "no such counter"),
        ],
    )
    def test_refused(self, number, options, text):
        with FakeKernel(files={self.LIMIT: b"4000\n"}) as fake:
            with loaded("perf_event", "on_sample") as program:
                fake.refuses["perf_event_open"] = number
                with pytest.raises(KernelError, match=rf"program on_sample to perf event.*{text}"):
                    program.attach("cpu-cycles", **options)
                assert not program.attached


class TestFiles:
    def test_a_path_with_a_colon(self):
        unit = "/sys/bus/event_source/devices/uprobe"
        files = {
            "/opt/a:b/lib.so": b"",
            f"{unit}/type": b"8\n",
            f"{unit}/format/retprobe": b"config:0\n",
        }
        with FakeKernel(files=files) as fake, loaded("uprobe", "on_any") as program:
            link = program.attach("/opt/a:b/lib.so", offset=0x40)
            assert link.target == "/opt/a:b/lib.so+0x40"
            event = next(o for o in fake.fds.values() if o.kind == "perf_event")
            assert struct.unpack_from("=Q", event["attr"], 64) == (0x40,)
            with pytest.raises(AttachError, match="there is no file /opt/c"):
                program.attach("/opt/c:f", offset=0x40)

    def test_a_file_without_probes(self):
        made = UserBinaryBuilder()
        made.code += bytes(64)
        made.symbol("run")
        files = {"/opt/lib.so": made.build()}
        with FakeKernel(files=files), loaded("usdt", "on_probe") as program:
            with pytest.raises(AttachError, match=r"on_probe: /opt/lib\.so has no USDT probes"):
                program.attach("/opt/lib.so:server:request")


class TestSockets:
    """Who takes a program away that others may have put their own in the place of."""

    @pytest.fixture
    def kernel(self, monkeypatch):
        import os

        fake = FakeKernel()
        asked = []

        def set_option(fd, option, value):
            asked.append(option)
            return 0

        monkeypatch.setattr(fake, "set_socket_option", set_option)
        monkeypatch.setattr(
            fake, "fstat", lambda fd: os.stat_result((0, fake.fds[fd].id, *[0] * 8))
        )
        with fake:
            yield fake, asked

    def test_the_older_link_leaves_the_younger_program(self, kernel):
        fake, asked = kernel
        with loaded("network", "on_socket") as program:
            one, two = (fake.open_object(fake.make("socket")) for _ in range(2))
            older, younger, elsewhere = (program.attach(each) for each in (one, one, two))
            assert asked == [50, 50, 50]
            older.close()
            assert asked == [50, 50, 50]
            younger.close()
            assert asked[3:] == [27]
            elsewhere.close()
            assert asked[4:] == [27]

    def test_the_descriptor_is_another_socket_by_now(self, kernel):
        fake, asked = kernel
        with loaded("network", "on_socket") as program:
            number = fake.open_object(fake.make("socket"))
            link = program.attach(number)
            fake.fds[number] = fake.make("socket")
            link.close()
            assert asked == [50]

    def test_interrupted(self, kernel, monkeypatch):
        fake, asked = kernel
        with loaded("network", "on_socket") as program:
            number = fake.open_object(fake.make("socket"))

            def interrupt(fd, option, value):
                asked.append(option)
                if option == 50:
                    raise KeyboardInterrupt
                return 0

            monkeypatch.setattr(fake, "set_socket_option", interrupt)
            with pytest.raises(KeyboardInterrupt):
                program.attach(number)
            assert asked == [50, 27]
