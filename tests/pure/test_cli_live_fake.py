"""Commands on programs, maps and links against a scripted kernel; tests/live has a real one."""

import errno
import json
import re
import struct
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

import pybpfload
from pybpfload.btf.build import BtfBuilder
from pybpfload.cli import cgroup, link, main, net
from pybpfload.cli.group import Command, run_group
from pybpfload.cli.live import print_list
from pybpfload.formats.pcap import read_pcap
from pybpfload.kernel import bpf, linkinfo, token
from pybpfload.kernel.errors import kernel_error
from pybpfload.kernel.linkinfo import (
    NetfilterFamily,
    NetfilterHook,
    NetfilterLinkInfo,
    TracingLinkInfo,
)
from pybpfload.runtime.attached import Attachment
from pybpfload.runtime.loaded_btf import LoadedBtf
from pybpfload.testing.fakekernel import FakeKernel, store
from pybpfload.uapi import (
    AttachFlag,
    AttachType,
    KprobeMultiFlag,
    LinkType,
    PerfEventType,
    PerfType,
    ProgType,
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb")


@pytest.fixture
def fake():
    """A kernel with the object ``minimal`` loaded, and one process that has parts of it open."""
    spec = pybpfload.open(FIXTURES / "minimal.bpf.o")
    files = {
        "/sys/kernel/btf/vmlinux": spec.btf.to_bytes(),
        "/proc/7/comm": b"tracer\n",
        "/proc/7/fdinfo/4": b"link_type:\traw_tracepoint\nlink_id:\t1\nprog_id:\t1\n",
        "/proc/7/fdinfo/5": b"pos:\t0\nflags:\t02\n",
        "/proc/8/fdinfo/3": PermissionError(13, "not yours"),
    }
    with FakeKernel(files=files) as kernel, spec.load() as obj:
        obj.programs["count_syscalls"].attach()
        kernel.obj = obj
        kernel.prog = obj.programs["count_syscalls"].info().id
        kernel.map = obj.maps["counts"].info().id
        # Probes of the loader have used some ids.
        kernel.files["/proc/7/fdinfo/3"] = b"pos:\t0\nprog_type:\t17\nprog_id:\t%d\n" % kernel.prog
        kernel.before = len(kernel.fds)
        yield kernel
        assert len(kernel.fds) == kernel.before
    assert kernel.leaked() == []


def printed(capsys, *words, status=0):
    assert main(list(words)) == status
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys, *words, status=2):
    assert main(list(words)) == status
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line.removeprefix("pybpfload: ")


def test_prog_list_is_a_table_with_holders(fake, capsys):
    heading, row = printed(capsys, "prog", "list").splitlines()
    assert heading.split()[:4] == ["ID", "TYPE", "NAME", "TAG"]
    assert row.split()[:4] == [
        str(fake.prog),
        "raw_tracepoint",
        "count_syscalls",
        b"fakeprog".hex(),
    ]
    assert row.endswith("tracer (7)")


@pytest.mark.parametrize("word", ["", "count_syscalls", "tag:" + b"fakeprog".hex().upper()])
def test_a_program_by_id_name_and_tag(fake, capsys, word):
    document = json.loads(printed(capsys, "prog", "show", word or str(fake.prog), "--json"))
    assert document["id"] == fake.prog
    assert document["pids"] == [{"pid": 7, "comm": "tracer"}]


@pytest.mark.parametrize("words", ["map show", "map dump", "link show", "prog show"])
def test_two_words_name_what_one_does(fake, capsys, words):
    kind = words.split()[0]
    number = str({"map": fake.map, "prog": fake.prog, "link": 1}[kind])
    one = printed(capsys, *words.split(), number, "--json")
    assert printed(capsys, *words.split(), "id", number, "--json") == one


def test_by_pin(fake, capsys):
    printed(capsys, "map", "pin", "counts", "/sys/fs/bpf/here")
    assert (
        json.loads(printed(capsys, "map", "show", "/sys/fs/bpf/here", "--json"))["id"] == fake.map
    )
    assert "unpinned" in printed(capsys, "map", "unpin", "/sys/fs/bpf/here", "--json")
    assert fake.pins == {}


def test_unknown_and_ambiguous_names(fake, capsys):
    assert refused(capsys, "prog", "show", "count_syscall") == (
        "there is no program 'count_syscall', did you mean 'count_syscalls'?"
    )
    assert "only programs have tags" in refused(capsys, "map", "show", "tag:00")
    assert "ENOENT" in refused(capsys, "map", "show", "99", status=1)
    with pybpfload.open(FIXTURES / "minimal.bpf.o").load():
        assert re.fullmatch(
            rf"there are 2 maps 'counts'; say which id: {fake.map}, [0-9]+",
            refused(capsys, "map", "get", "counts", "0"),
        )


def test_keys_of_listings_are_those_of_bpftool(fake, capsys):
    """Checked against bpftool's documentation of ``-j``; what is ours alone is named here."""
    bpftool = {
        "prog": {
            "id", "type", "name", "tag", "gpl_compatible", "run_time_ns", "run_cnt",
            "recursion_misses", "loaded_at", "uid", "bytes_xlated", "jited", "bytes_jited",
            "bytes_memlock", "map_ids", "btf_id", "pinned", "pids", "orphaned",
        },
        "map": {
            "id", "type", "name", "flags", "bytes_key", "bytes_value", "max_entries",
            "bytes_memlock", "owner_prog_type", "owner_jited", "frozen", "btf_id", "pinned", "pids",
        },
        "link": {"id", "type", "prog_id", "tp_name", "cookie", "pinned", "pids"},
    }  # fmt: skip
    ours = {"prog": {"verified_insns"}, "map": set(), "link": {"name", "place"}}
    always = {
        "prog": {"id", "type", "name", "tag", "gpl_compatible", "bytes_xlated", "jited"},
        "map": {"id", "type", "name", "flags", "bytes_key", "bytes_value", "max_entries"},
        "link": {"id", "type", "prog_id", "tp_name"},
    }
    for kind, known in bpftool.items():
        listed = json.loads(printed(capsys, kind, "list", "--json"))
        assert listed
        for record in listed:
            assert always[kind] <= set(record) <= known | ours[kind]


def test_elements(fake, capsys):
    assert printed(capsys, "map", "set", "counts", "0", "0x10") == ""
    assert fake.obj.maps["counts"][0] == 16
    assert printed(capsys, "map", "get", "counts", "0") == "0: 16\n"
    assert printed(capsys, "map", "dump", "counts") == "0: 16\n"
    (element,) = json.loads(printed(capsys, "map", "dump", "counts", "--json"))
    assert element["formatted"] == {"key": 0, "value": 16}
    assert bytes(int(byte, 16) for byte in element["key"]) == bytes(4)
    assert bytes(int(byte, 16) for byte in element["value"]) == (16).to_bytes(8, sys.byteorder)


def test_elements_that_do_not_fit(fake, capsys):
    assert refused(capsys, "map", "get", "counts", "5", status=1) == "map counts has no key 5"
    assert "'x'" in refused(capsys, "map", "set", "counts", "0", "x")
    assert "no deletion" in refused(capsys, "map", "del", "counts", "0")


def test_a_link_and_what_it_belongs_to(fake, capsys):
    document = json.loads(printed(capsys, "link", "show", "count_syscalls", "--json"))
    assert (document["id"], document["prog_id"], document["type"]) == (
        1,
        fake.prog,
        "raw_tracepoint",
    )
    assert json.loads(printed(capsys, "link", "detach", "1", "--json")) == {"detached": 1}
    assert "LINK_DETACH" in fake.commands()


def test_loaded_btf_and_what_uses_it(fake, capsys, monkeypatch):
    held = fake.open_object(fake.make("btf", data=bytes(24), kernel=1, name="vmlinux"))
    number = fake.fds[held].id

    def of_tracing(attach_type, link_type=LinkType.TRACING):
        common = {"type": link_type, "id": 1, "prog_id": fake.prog, "cookie": 0}
        target = {"target_obj_id": number, "target_btf_id": 3}
        made = TracingLinkInfo(**common, **target, attach_type=AttachType(attach_type))
        monkeypatch.setattr(bpf, "link_info", lambda fd: made)

    of_tracing(AttachType.TRACE_FENTRY)
    assert [each for each in pybpfload.loaded_btf() if each.kernel] == [
        LoadedBtf(number, "vmlinux", 24, True, [], [], [1])
    ]
    shown = json.loads(printed(capsys, "btf", "show", f"id:{number}", "--json"))
    assert shown == json.loads(printed(capsys, "btf", "show", "vmlinux", "--json"))
    assert {"id", "size", "prog_ids", "map_ids", "link_ids", "kernel", "name"} == {*shown}
    assert shown in json.loads(printed(capsys, "btf", "list", "--json"))
    assert refused(capsys, "btf", "show", "vmlinu").endswith("did you mean 'vmlinux'?")
    assert refused(capsys, "btf", "show", "") == "the kernel holds no BTF ''"
    of_tracing(0)  # freplace: the target is a program
    assert json.loads(printed(capsys, "btf", "show", "vmlinux", "--json"))["link_ids"] == []
    fake.close(held)


PLACES = {"count": 2, "missed": 1, "cookies": (7, 0)}
OF_LINKS = [
    (
        linkinfo.KprobeMultiLinkInfo(
            type=LinkType.KPROBE_MULTI, id=1, prog_id=0,
            flags=KprobeMultiFlag.RETURN, addrs=(0x1000, 0x2004), **PLACES,
        ),
        {
            "retprobe": True, "func_cnt": 2, "missed": 1,
            "funcs": [
                {"addr": 0x1000, "func": "first", "module": None, "cookie": 7},
                {"addr": 0x2004, "func": "second", "module": "veth", "cookie": 0},
            ],
        },
    ),
    (
        linkinfo.UprobeMultiLinkInfo(
            type=LinkType.UPROBE_MULTI, id=1, prog_id=0, path="/bin/sh", count=1, flags=0, pid=5,
            offsets=(64,), ref_ctr_offsets=(8,), cookies=(),
        ),
        {
            "retprobe": False, "func_cnt": 1, "path": "/bin/sh", "pid": 5,
            "funcs": [{"offset": 64, "ref_ctr_offset": 8}],
        },
    ),
    (
        linkinfo.EventLinkInfo(
            type=LinkType.PERF_EVENT, id=1, prog_id=0, perf_type=PerfEventType.EVENT,
            event_type=PerfType.SOFTWARE, config=5, cookie=0,
        ),
        {"event_type": "software", "event_config": "minor-faults", "cookie": 0},
    ),
    (
        linkinfo.EventLinkInfo(
            type=LinkType.PERF_EVENT, id=1, prog_id=0, perf_type=PerfEventType.EVENT,
            event_type=PerfType.HW_CACHE, config=0x10002, cookie=0,
        ),
        {"event_type": "hw-cache", "event_config": 0x10002, "cookie": 0},
    ),
    (
        linkinfo.EventLinkInfo(
            type=LinkType.PERF_EVENT, id=1, prog_id=0, perf_type=PerfEventType.EVENT,
            event_type=PerfType(77), config=0, cookie=0,
        ),
        {"event_type": 77, "event_config": 0, "cookie": 0},
    ),
    (
        linkinfo.KprobeLinkInfo(
            type=LinkType.PERF_EVENT, id=1, prog_id=0, perf_type=PerfEventType.KRETPROBE,
            func_name="f", offset=4, addr=8, missed=2, cookie=3,
        ),
        {"retprobe": True, "func": "f", "offset": 4, "addr": 8, "missed": 2, "cookie": 3},
    ),
    (
        linkinfo.UprobeLinkInfo(
            type=LinkType.PERF_EVENT, id=1, prog_id=0, perf_type=PerfEventType.UPROBE,
            file_name="/bin/sh", offset=4, ref_ctr_offset=6, cookie=3,
        ),
        {"retprobe": False, "file": "/bin/sh", "offset": 4, "ref_ctr_offset": 6, "cookie": 3},
    ),
    (
        linkinfo.TracepointLinkInfo(
            type=LinkType.PERF_EVENT, id=1, prog_id=0, perf_type=PerfEventType.TRACEPOINT,
            tp_name="sched_switch", cookie=3,
        ),
        {"tracepoint": "sched_switch", "cookie": 3},
    ),
    (
        linkinfo.TracingLinkInfo(
            type=LinkType.TRACING, id=1, prog_id=0, attach_type=AttachType.TRACE_FEXIT,
            target_obj_id=1, target_btf_id=9, cookie=3,
        ),
        {
            "prog_type": "", "attach_type": "trace_fexit", "target_obj_id": 1,
            "target_btf_id": 9, "cookie": 3,
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("told", "keys"), OF_LINKS)
def test_links_of_kinds_with_the_keys_of_bpftool(fake, told, keys):
    """Those of bpftool 7.8; tests/live asks it about links that this kernel can make."""
    fake.files["/proc/kallsyms"] = b"1000 T first\n2000 t second\t[veth]\n3000 T third\n"
    made = link.record(SimpleNamespace(info=lambda: told))
    assert made.pop("place") == told.place
    common = {"id": 1, "type": told.type.name.lower(), "prog_id": 0, "name": ""}
    assert made == {**common, **keys}


def test_holders_and_fdinfo(fake):
    assert pybpfload.holders() == {
        ("prog", fake.prog): [(7, "tracer")],
        ("link", 1): [(7, "tracer")],
    }
    assert pybpfload.pins() == []
    number = fake.obj.maps["counts"].fileno()
    fake.files[f"/proc/self/fdinfo/{number}"] = b"map_type:\t2\nmemlock:\t320\n"
    assert fake.obj.maps["counts"].fdinfo()["memlock"] == "320"


def test_pins_are_found_by_mounts(fake):
    fake.files["/proc/self/mounts"] = b"bpf /sys/fs/bpf bpf rw 0 0\nproc /proc proc rw 0 0\n"
    fake.obj.maps["counts"].pin("/sys/fs/bpf/sub/counts")
    fake.on("OBJ_GET", lambda call: said(call))

    def said(call):
        number = fake.open_object(fake.pins[call.text])
        fake.files[f"/proc/self/fdinfo/{number}"] = b"map_type:\t2\nmap_id:\t1\n"
        return number

    assert pybpfload.pins() == [("/sys/fs/bpf/sub/counts", "map", 1)]
    fake.obj.maps["counts"].unpin()


def test_no_id_is_cut_in_two(capsys):
    """What is left of it would look like another one."""
    records = [{"id": 1, "map_ids": list(range(128700, 128700 + count))} for count in (7, 8, 900)]
    print_list(records, {"ID": "id", "MAPS": "map_ids"}, "no programs", json=False)
    _, whole, *cut = capsys.readouterr().out.splitlines()
    assert whole.split(maxsplit=1)[1] == "128700, 128701, 128702, 128703, 128704, 128705, 128706"
    assert [line.split(maxsplit=1)[1] for line in cut] == [
        "128700, 128701, 128702, 128703, 128704, 128705 and 2 more",
        "128700, 128701, 128702, 128703, 128704, 128705 and 894 more",
    ]


def test_a_link_without_a_program(capsys):
    print_list([{"id": 3, "prog_id": 0}, {"id": 4, "prog_id": 7}], {"ID": "id", "PROG": "prog_id"},
               "no links", json=False)  # fmt: skip
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["3", "-"],
        ["4", "7"],
    ]


def test_groups_say_what_they_have(capsys):
    assert (
        refused(capsys, "link", "detachh")
        == "link has no command 'detachh', did you mean 'detach'?"
    )
    assert main(["map"]) == 2
    shown = capsys.readouterr().err
    assert re.search(r"^  dump +show all elements$", shown, re.MULTILINE)
    examples = re.findall(r"^  pybpfload map (\w+)", shown, re.MULTILINE)
    assert examples == [*dict.fromkeys(examples)]
    assert {"list", "show", "get", "set", "del", "pop", "watch"} <= {*examples}
    called = []
    commands = {"do": Command(lambda words: called.append(words) or 0, "does")}
    assert run_group("x", "", commands, ["-v", "do", "this"]) == 0
    assert called == [["-v", "this"]]


@pytest.mark.parametrize("group", ["prog", "map", "link", "net", "cgroup", "iter"])
def test_the_manual_has_every_command_and_option_of_a_group(group, capsys):
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {group}\n")[2].partition("\n## ")[0]
    for name in import_module(f"pybpfload.cli.{group}").COMMANDS:
        assert f"`{name} " in section or f"`{name}`" in section or f"`{group} {name} " in section
        assert main([group, name, "--help"]) == 0
        for option in set(re.findall(r"--[a-z]+", capsys.readouterr().out)):
            assert f"`{option}" in page, option


NOTHING = b"CapEff:\t0000000000000000\nSeccomp:\t2\n"
FEW = b"CapEff:\t000000c000000000\nSeccomp:\t0\n"  # CAP_BPF and CAP_PERFMON


@pytest.mark.parametrize(
    ("topic", "files", "state", "says"),
    [
        ("capabilities", {"/proc/self/status": NOTHING}, "bad", "CAP_BPF (for anything)"),
        ("capabilities", {"/proc/self/status": FEW}, "limited", "CAP_NET_ADMIN"),
        ("capabilities", {}, "ok", "all that BPF asks for"),
        ("seccomp", {"/proc/self/status": NOTHING}, "limited", "--security-opt"),
        ("user namespace", {"/proc/self/uid_map": b"0 1000 1\n"}, "bad", "rootless"),
        ("capabilities", {"/proc/self/uid_map": b"0 1000 1\n"}, "limited", "user namespace"),
        (
            "perf events",
            {"/proc/self/uid_map": b"0 9 1\n", "/proc/sys/kernel/perf_event_paranoid": b"2\n"},
            "limited",
            "CAP_PERFMON",
        ),
        (
            "unprivileged BPF",
            {"/proc/self/uid_map": b"0 9 1", "/proc/sys/kernel/unprivileged_bpf_disabled": b"2"},
            "limited",
            "CAP_BPF",
        ),
        ("trampolines", {}, "limited", "no BTF"),
        ("lockdown", {"/sys/kernel/security/lockdown": b"none [integrity] x"}, "limited", "integ"),
        ("lockdown", {"/sys/kernel/security/lockdown": b"[none] integrity"}, "ok", "off"),
        ("BTF", {}, "limited", "CONFIG_DEBUG_INFO_BTF"),
        ("BTF", {"/sys/kernel/btf/vmlinux": b""}, "ok", "vmlinux"),
        ("tracefs", {}, "limited", "mount -t tracefs"),
        ("tracefs", {"/sys/kernel/tracing/events/x": b""}, "ok", "/sys/kernel/tracing"),
        ("LSM", {"/sys/kernel/security/lsm": b"capability,yama\n"}, "limited", "yama,bpf"),
        ("LSM", {"/sys/kernel/security/lsm": b"capability,bpf"}, "ok", "capability,bpf"),
        ("JIT", {"/proc/sys/net/core/bpf_jit_enable": b"0\n"}, "limited", "bpf_jit_enable=1"),
        ("perf events", {"/proc/sys/kernel/perf_event_paranoid": b"4\n"}, "ok", "may be opened"),
        ("kernel symbols", {"/proc/kallsyms": b"0000 T a\n0000 T b\n"}, "limited", "hidden"),
        ("kernel symbols", {"/proc/kallsyms": b"0000 T a\nff00 T b\n"}, "ok", "addresses"),
        ("kernel config", {}, "limited", "CONFIG_IKCONFIG_PROC"),
        ("bpffs", {}, "ok", "/sys/fs/bpf"),
    ],
)
def test_the_doctor_finds(topic, files, state, says):
    with FakeKernel(files=files):
        found = {finding.topic: finding for finding in pybpfload.diagnose()}[topic]
    assert found.state == state
    assert says in f"{found.found} {found.remedy}"
    assert found.remedy or state == "ok"


@pytest.mark.parametrize(
    ("refusal", "state", "says"),
    [(0, "ok", "was loaded"), (errno.EPERM, "limited", "EPERM"), (524, "limited", "ENOTSUPP")],
)
def test_the_doctor_tries_trampolines(refusal, state, says):
    btf = BtfBuilder()
    btf.add_func("bpf_fentry_test1", btf.add_func_proto(0, []))
    with FakeKernel(files={"/sys/kernel/btf/vmlinux": btf.build()}) as fake:
        tracing = int(ProgType.TRACING)
        refused = {tracing: -refusal} if refusal else {}
        fake.on("PROG_LOAD", lambda call: refused.get(call.fields["prog_type"]))
        found = {finding.topic: finding for finding in pybpfload.diagnose()}
    assert found["trampolines"].state == state
    assert says in found["trampolines"].found
    assert found["programs"].state == "ok"
    assert fake.leaked() == []


def test_the_doctor_in_a_container_with_a_token():
    files = {"/proc/self/uid_map": b"0 1000 1\n"}
    shown = SimpleNamespace(path="/sys/fs/bpf", fileno=lambda: 3)
    with FakeKernel(files=files), token.shown(shown):
        found = {finding.topic: finding for finding in pybpfload.diagnose()}
    assert found["user namespace"].state == "limited"
    assert "/sys/fs/bpf delegates" in found["user namespace"].found


def test_the_doctor_on_an_old_kernel():
    with FakeKernel.like("5.4") as fake:
        found = {finding.topic: finding for finding in pybpfload.diagnose()}
    assert found["memlock"].state == "limited"
    assert "64 KiB" in found["memlock"].found
    assert found["bpf(2)"].state == "ok"
    assert fake.leaked() == []


def test_the_doctor_says_whether_nothing_can_be_loaded(capsys):
    refusing = {"MAP_CREATE": errno.ENOSYS, "PROG_LOAD": errno.ENOSYS}
    with FakeKernel(refuses=refusing):
        found = json.loads(printed(capsys, "doctor", "--json", status=1))
    assert [each for each in found if each["topic"] == "bpf(2)"] == [
        {
            "topic": "bpf(2)",
            "state": "bad",
            "found": "making a map failed: ENOSYS",
            "remedy": "use a kernel with CONFIG_BPF_SYSCALL",
        }
    ]
    with FakeKernel():
        lines = printed(capsys, "doctor").splitlines()
    assert lines[0].startswith("ok       kernel ")
    assert any(line.strip().startswith("-> ") for line in lines)


def test_programs_of_devices_and_groups_with_the_keys_of_bpftool(fake):
    lo = (1, "lo")
    found = [
        (*lo, Attachment("xdp", "native", fake.prog)),
        (*lo, Attachment("tcx", "ingress", fake.prog, 5)),
        (*lo, Attachment("tc", "egress", fake.prog, priority=7, handle=1, name="mine")),
    ]
    veth = (2, "veth")
    found += [(*veth, Attachment("xdp", mode, fake.prog)) for mode in ("offload", "generic")]
    common = {"type": LinkType.NETFILTER, "id": 9, "prog_id": fake.prog, "flags": 0}
    hook = {"pf": NetfilterFamily.IPV6, "hooknum": NetfilterHook.INPUT, "priority": -1}
    itself = [Attachment("netns", "flow_dissector", fake.prog)]
    filters = [NetfilterLinkInfo(**common, **hook)]
    shown = net._document(net._Found(found, itself), filters)
    device = {"devname": "lo", "ifindex": 1}
    name = {"name": "count_syscalls"}
    no_flags = {"prog_flags": [], "link_flags": []}
    of_filter = {"prog_name": "count_syscalls", "priority": 7, "handle": 1}
    assert shown == {
        "xdp": [
            {**device, "mode": "driver", "id": fake.prog},
            {
                "devname": "veth",
                "ifindex": 2,
                "multi_attachments": [
                    {"mode": mode, "id": fake.prog} for mode in ("generic", "offload")
                ],
            },
        ],
        "tc": [
            {
                **device,
                "kind": "tcx/ingress",
                **name,
                "prog_id": fake.prog,
                "link_id": 5,
                **no_flags,
            },
            {**device, "kind": "clsact/egress", "name": "mine", "id": fake.prog, **of_filter},
        ],
        "flow_dissector": [{"id": fake.prog}],
        "netfilter": [{"id": fake.prog, "link_id": 9, "pf": 10, "hook": 1, "prio": -1, "flags": 0}],
        "sk_lookup": [],
    }
    here = Attachment("cgroup", "cgroup_inet_egress", fake.prog, flags=AttachFlag.ALLOW_MULTI)
    no_lsm = {"attach_btf_name": "", "attach_btf_obj_id": 0, "attach_btf_id": 0}
    told = {"id": fake.prog, "attach_type": "cgroup_inet_egress", **name, **no_lsm}
    assert cgroup._record(here, effective=False) == {**told, "attach_flags": "multi"}
    assert cgroup._record(here, effective=True) == told


@pytest.mark.parametrize(
    ("target", "there", "attach_type"),
    [
        (None, ("netns", "flow_dissector"), AttachType.FLOW_DISSECTOR),
        ("/run/netns/blue", ("netns", "sk_lookup"), AttachType.SK_LOOKUP),
        ("/sys/fs/cgroup/a", ("cgroup", "cgroup_inet_egress"), AttachType.CGROUP_INET_EGRESS),
        ("lo", ("tcx", "egress"), AttachType.TCX_EGRESS),
        ("lo", ("netkit", "peer"), AttachType.NETKIT_PEER),
    ],
)
def test_detaching_what_has_no_link(fake, target, there, attach_type):
    for path in ("/proc/thread-self/ns/net", "/run/netns/blue", "/sys/fs/cgroup/a"):
        fake.files[path] = b""
    asked = []

    def answer(call):
        number = call.fields["target_fd"]
        asked.append((fake.fds[number]["path"] if target != "lo" else number, call.fields))
        return 0

    fake.on("PROG_DETACH", answer)
    pybpfload.detach(target, Attachment(*there, fake.prog))
    ((where, fields),) = asked
    assert where == {None: "/proc/thread-self/ns/net", "lo": 1}.get(target, target)
    assert fields["attach_type"] == attach_type
    fake.on("PROG_DETACH", lambda call: -errno.ENOENT)
    with pytest.raises(pybpfload.KernelError, match=r"have to be detached: 1$") as caught:
        pybpfload.detach(target, Attachment(*there, fake.prog))
    assert caught.value.target == {"lo": "network device lo"}.get(target, where)


def test_other_network_namespaces(fake, capsys):
    for path in ("/proc/7/ns/net", "/run/netns/blue", "/run/netns/12", "/proc/12/ns/net", "/a/b"):
        fake.files[path] = b""
    entered = []

    def setns(fd, kind):
        entered.append((threading.get_ident(), fake.fds[fd]["path"], kind))
        return 0

    fake.setns = setns
    here = threading.get_ident()
    for where in ("blue", "7", 7, "12", "/a/b"):
        there = pybpfload.in_network_namespace(where, threading.get_ident)
        assert there == entered[-1][0] != here
    named = [path for _, path, _ in entered]
    assert named == ["/run/netns/blue", *["/proc/7/ns/net"] * 2, "/run/netns/12", "/a/b"]
    assert {kind for _, _, kind in entered} == {0x40000000}  # CLONE_NEWNET
    with pytest.raises(ZeroDivisionError):
        pybpfload.in_network_namespace("blue", lambda: 1 // 0)
    fake.setns = lambda fd, kind: -errno.EINVAL
    with pytest.raises(pybpfload.KernelError, match="it is no network namespace"):
        pybpfload.in_network_namespace("blue", dict)
    assert "a name as of `ip netns`" in refused(capsys, "net", "list", "--netns", "x", status=1)


def test_groups_and_those_below_them(fake, capsys, monkeypatch):
    fake.files["/proc/self/mounts"] = b"cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
    root = "/sys/fs/cgroup/unified"
    for group in ("", "/b", "/a", "/a/in.side", "/gone"):
        fake.files[f"{root}{group}/cgroup.procs"] = b""
        fake.files[f"{root}{group}/memory.max"] = b"max"
    groups = [f"{root}{group}" for group in ("", "/a", "/a/in.side", "/b", "/gone")]
    assert list(pybpfload.cgroups()) == groups
    assert list(pybpfload.cgroups(f"{root}/a")) == groups[1:3]

    def attached_to(group, effective):
        if group.endswith("gone"):
            raise kernel_error(errno.ENODEV, "BPF_PROG_QUERY", group)
        flags = AttachFlag.ALLOW_MULTI | AttachFlag.PREORDER
        here = Attachment("cgroup", "cgroup_inet_egress", fake.prog, flags=flags)
        return [] if group == root else [here]

    monkeypatch.setattr("pybpfload.runtime.attached.attached", attached_to)
    shown = json.loads(printed(capsys, "cgroup", "tree", "--json"))
    assert [each["cgroup"] for each in shown] == groups[1:4]
    assert {len(each["programs"]) for each in shown} == {1}
    lines = printed(capsys, "cgroup", "tree", f"{root}/a").splitlines()
    assert [line.split()[0] for line in lines[1:]] == groups[1:3]
    assert lines[1].split()[3] == "multi,preorder"
    assert "attach_flags" not in printed(capsys, "cgroup", "list", "--effective", f"{root}/a")
    del fake.files["/proc/self/mounts"]
    assert "cgroup2 is not mounted" in refused(capsys, "cgroup", "tree", status=4)


@pytest.mark.parametrize("order", "<>")
def test_captures(order):
    head = struct.pack(order + "IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1)
    packet = struct.pack(order + "IIII", 1, 2, 3, 60) + b"abc"
    assert read_pcap(head) == (1, [])
    assert read_pcap(head + packet * 2) == (1, [b"abc", b"abc"])
    for cut in range(1, len(packet)):
        with pytest.raises(pybpfload.FormatError, match="cut short"):
            read_pcap(head + packet[:-cut])
    for cut in range(len(head)):
        with pytest.raises(pybpfload.FormatError, match="no capture"):
            read_pcap(head[:cut])
    with pytest.raises(pybpfload.FormatError, match="editcap"):
        read_pcap(b"\n\r\r\n" + head)


def test_trace_shows_the_streams_of_programs(fake, capsys):
    streams = {1: b"number 1\nnumber 2\n", 2: b"trouble\n"}

    def read(call):
        text = streams.pop(call.fields["stream_id"], b"")
        store(call.fields["stream_buf"], text)
        return len(text)

    fake.on("PROG_STREAM_READ_BY_FD", read)
    words = ("trace", "count_syscalls", "--duration", "0", "--json")
    lines = [json.loads(line) for line in printed(capsys, *words).splitlines()]
    assert [(line["stream"], line["line"]) for line in lines] == [
        ("stdout", "number 1"),
        ("stdout", "number 2"),
        ("stderr", "trouble"),
    ]
    assert {line["program"] for line in lines} == {"count_syscalls"}
