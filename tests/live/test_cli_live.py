"""Commands on programs, maps and links of the running kernel, on objects that the test made.

What else there is on the machine, the tests neither know nor touch.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from bpftool import bpftool, needs_bpftool
from mounts import in_own_mounts

import pybpfload
from pybpfload.cli import main

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb")


@pytest.fixture
def obj():
    """The object ``minimal``, which counts nobody's system calls, loaded and attached."""
    spec = pybpfload.open(FIXTURES / "minimal.bpf.o")
    spec.variables["target_tgid"].value = 0
    with spec.load() as loaded:
        loaded.attach()
        yield loaded


def printed(capsys, *words, status=0):
    assert main(list(map(str, words))) == status
    return capsys.readouterr().out


def document(capsys, *words):
    return json.loads(printed(capsys, *words, "--json"))


def test_a_program_and_who_holds_it(obj, capsys):
    info = obj.programs["count_syscalls"].info()
    shown = document(capsys, "prog", "show", info.id)
    assert (shown["id"], shown["tag"], shown["name"]) == (info.id, info.tag, "count_syscalls")
    assert shown["map_ids"] == info.map_ids
    assert shown["bytes_xlated"] == 56
    assert os.getpid() in [process["pid"] for process in shown["pids"]]
    assert info.id in [each["id"] for each in document(capsys, "prog", "list")]
    assert abs(shown["loaded_at"] - time.time()) < 60


def test_elements_by_btf(obj, capsys):
    number = obj.maps["counts"].info().id
    printed(capsys, "map", "set", number, 0, "0x2a")
    assert obj.maps["counts"][0] == 42
    assert printed(capsys, "map", "get", number, 0) == "0: 42\n"
    assert printed(capsys, "map", "dump", number) == "0: 42\n"
    assert "from 0 to" in refused(capsys, "map", "set", number, 0, -1)
    assert document(capsys, "map", "show", number)["frozen"] == 0


def refused(capsys, *words):
    assert main(list(map(str, words))) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_variables_of_a_section(obj, capsys):
    number = obj.maps["minimal.rodata"].info().id
    (element,) = document(capsys, "map", "dump", number)
    assert element["formatted"]["value"] == {".rodata": [{"target_tgid": 0}]}
    assert printed(capsys, "map", "dump", number) == "0: target_tgid=0\n"


def test_single_variables(capsys):
    with pybpfload.open(FIXTURES / "globals.bpf.o").load() as obj:
        data, constants = (obj.maps[name].info().id for name in ("globals.data", "globals.rodata"))
        before = obj.maps["globals.data"].lookup_bytes(bytes(4))
        for name, text, shown in (
            ("data_u32", "0x10", "16"),
            ("data_text", "good bye", '"good bye"'),
            ("data_color", "RED", "RED"),
            ("data_point.y", "-7", "-7"),
            ("data_points[1].x", "9", "9"),
            ("data_matrix[1][2]", "5", "5"),
            ("data_bytes[4]", "0xff", "255"),
            ("data_record.low", "3", "3"),  # a bit field
        ):
            printed(capsys, "map", "set", data, name, text)
            assert printed(capsys, "map", "get", data, name) == f"{name}: {shown}\n"
        assert document(capsys, "map", "get", data, "data_point") == {
            "name": "data_point", "value": {"x": 3, "y": -7},
        }  # fmt: skip
        live = obj.variables
        assert (live["data_u32"].value, live["data_points"].value[1].x) == (16, 9)
        assert live["data_record"].value.low == 3
        assert live["data_record"].value.high == -3
        after = obj.maps["globals.data"].lookup_bytes(bytes(4))
        assert 6 <= sum(old != new for old, new in zip(before, after, strict=True)) <= 30
        assert "run --set rodata_u32=5" in refused(capsys, "map", "set", constants, "rodata_u32", 5)
        assert printed(capsys, "map", "get", constants, "rodata_array[1]") == (
            "rodata_array[1]: 4294967296\n"
        )
        printed(capsys, "map", "set", data, "data_record.corners[0]", '{"y": 6}')
        assert [tuple(corner) for corner in live["data_record"].value.corners] == [(0, 6), (9, 9)]
        printed(capsys, "map", "set", data, "data_points", '[{"x": 1, "y": 2}, {"x": 3, "y": 4}]')
        assert [tuple(point) for point in live["data_points"].value] == [(1, 2), (3, 4)]
        assert "expected" in refused(capsys, "map", "set", data, "data_point", 1)
        assert "did you mean 'data_u32'" in refused(capsys, "map", "get", data, "data_u3")
        assert "no member 'z'" in refused(capsys, "map", "get", data, "data_point.z")
        assert "2 elements, so no [2]" in refused(capsys, "map", "set", data, "data_points[2].x", 1)
        assert obj.maps["globals.data"].variables().keys() >= {"data_u8", "weak_data"}
        assert obj.maps["globals.rodata"].variables()["rodata_u32"].read_only


def test_queues_and_stacks_and_deleting_all(capsys):
    with pybpfload.open(FIXTURES / "maps.bpf.o").load() as obj:
        for name, first in (("queue", 7), ("stack", 8)):
            number = obj.maps[name].info().id
            printed(capsys, "map", "push", number, 7)
            printed(capsys, "map", "push", number, 8)
            assert printed(capsys, "map", "peek", number) == f"{first}\n"
            assert document(capsys, "map", "pop", number)["formatted"] == {"value": first}
            assert printed(capsys, "map", "pop", number) == f"{15 - first}\n"
            assert main(["map", "pop", str(number)]) == 1
            assert f"the {name} is empty" in capsys.readouterr().err
        number = obj.maps["hash"].info().id
        obj.maps["hash"].update({1: 10, 2: 20})
        assert "say a KEY, or --all" in refused(capsys, "map", "del", number)
        printed(capsys, "map", "del", number, "--all")
        assert len(obj.maps["hash"]) == 0
        assert "no push()" in refused(capsys, "map", "push", number, 1)


def test_values_of_all_kinds_read_back_as_they_are_shown(capsys):
    """What ``get`` shows, ``set`` takes: structs as JSON, per-CPU values as an array."""
    with pybpfload.open(FIXTURES / "maps_types.bpf.o").load() as obj:
        tried = 0
        for each in obj.maps.values():
            if each.type.name not in ("HASH", "ARRAY", "PERCPU_HASH", "PERCPU_ARRAY", "LRU_HASH"):
                continue
            if each.info().map_flags & 0x80:  # read-only for programs, frozen
                continue
            number = each.info().id
            key = each.key_codec.decode(bytes(each.key_size))
            each[key] = each.value_codec.decode(bytes(each.value_size))
            (first, *_) = document(capsys, "map", "dump", number)
            shown = first["formatted"]
            words = [w if isinstance(w, str) else json.dumps(w) for w in (shown["key"],)]
            values = shown.get("values")
            value = shown["value"] if values is None else [v["value"] for v in values]
            words.append(value if isinstance(value, str) else json.dumps(value))
            printed(capsys, "map", "set", number, *words)
            assert document(capsys, "map", "get", number, words[0]) == first
            tried += 1
        assert tried >= 3


def test_an_array_is_set_on_all_cpus_or_on_each(capsys):
    with pybpfload.open(FIXTURES / "maps.bpf.o").load() as obj:
        arrays = obj.maps["percpu_array"]
        number = arrays.info().id
        printed(capsys, "map", "set", number, 1, "7,8,9")
        count = len(arrays[1])
        assert arrays[1] == [(7, 8, 9)] * count
        each = [[cpu, 0, 0] for cpu in range(count)]
        printed(capsys, "map", "set", number, 1, json.dumps(each))
        assert arrays[1] == [*map(tuple, each)]
        assert f"the {count} possible CPUs" in refused(
            capsys, "map", "set", number, 1, json.dumps([*each, [0, 0, 0]])
        )


def test_names_longer_than_the_kernel_keeps_come_from_btf(capsys):
    with pybpfload.open(FIXTURES / "subprogs.bpf.o").load() as obj:
        long = next(p for name, p in obj.programs.items() if len(name) > 15)
        shown = document(capsys, "prog", "show", long.info().id)
        assert shown["name"] == long.name != long.info().name


IN_A_BPFFS = """
import os, sys
import pybpfload
from pybpfload.cli import main
mount(b"bpf", b"/sys/fs/bpf")
with pybpfload.open(OBJECT).load() as obj:
    number = obj.maps["counts"].info().id
    assert main(["map", "pin", str(number), "/sys/fs/bpf/pybpfload-test"]) == 0
    assert main(["map", "set", "/sys/fs/bpf/pybpfload-test", "0", "5"]) == 0
    assert obj.maps["counts"][0] == 5
    (pin,) = [pin for pin in pybpfload.pins() if pin.path == "/sys/fs/bpf/pybpfload-test"]
    assert (pin.kind, pin.id) == ("map", number), pin
    assert main(["map", "show", str(number), "--json"]) == 0
    assert main(["map", "unpin", "/sys/fs/bpf/pybpfload-test"]) == 0
    assert not os.path.exists("/sys/fs/bpf/pybpfload-test")
"""


def test_pins_in_a_bpffs_of_its_own():
    code = IN_A_BPFFS.replace("OBJECT", repr(str(FIXTURES / "minimal.bpf.o")))
    shown = json.loads(in_own_mounts(code))
    assert shown["pinned"] == ["/sys/fs/bpf/pybpfload-test"]


IN_A_TRACEFS = """
from pybpfload.cli import main
from pybpfload.kernel import tracefs
mount(b"tracefs", b"/sys/kernel/tracing")
assert main(["--json", "probes", "tp"]) == 0
for category in tracefs.tracepoints():
    assert os.path.isdir("/sys/kernel/tracing/events/" + category), category
"""


def test_tracepoints_in_a_tracefs_of_its_own():
    found = [each["section"] for each in json.loads(in_own_mounts(IN_A_TRACEFS))]
    assert {"tp/sched/sched_process_exec", "tp/timer/timer_start"} <= {*found}
    assert not [section for section in found if section.startswith("tp/ftrace/")]


def test_links(obj, capsys):
    (link,) = obj.links
    number = link.info().id
    shown = document(capsys, "link", "show", number)
    assert (shown["type"], shown["tp_name"]) == ("raw_tracepoint", "sys_enter")
    assert shown["prog_id"] == obj.programs["count_syscalls"].info().id
    assert shown["name"] == "count_syscalls"
    assert main(["link", "detach", str(number)]) == 4  # raw tracepoints cannot be
    assert "detach when they are closed" in capsys.readouterr().err


def test_holders_tells_of_this_process(obj):
    here = pybpfload.holders()
    for kind, each in (("map", obj.maps["counts"]), ("link", obj.links[0])):
        assert os.getpid() in [process.pid for process in here[kind, each.info().id]]


def test_instructions_of_a_loaded_program(capsys):
    with pybpfload.open(FIXTURES / "subprogs.bpf.o").load() as obj:
        program = obj.programs["call_forward"]
        info = program.info()
        lines = program.xlated()
        assert b"".join(each.code for each in lines) == info.xlated_insns
        called = {each.line.comment for each in lines if each.line.text.startswith("call")}
        assert called == {"second", "leaf", "first"}
        starts = {each.function: each.line.index for each in lines if each.function}
        assert list(starts) == ["call_forward", "second", "leaf", "first"]
        for each in lines:
            if each.line.comment in starts:
                assert each.line.target == starts[each.line.comment]
        assert [(f.name, len(f.code)) for f in program.jited()] == [
            *zip(starts, info.jited_func_lens, strict=False)
        ]
        text = printed(capsys, "prog", "dump", info.id)
        assert "\nsecond:\n; " in text
        assert "; return n + leaf(0);" in text.splitlines()
        dumped = document(capsys, "prog", "dump", info.id)
        begin = [each for each in dumped if "function" in each]
        assert [each["function"] for each in begin] == list(starts)
        assert "int second(int n)" in begin[1]["proto"]
        assert bytes.fromhex("".join(each["code"] for each in dumped)) == info.xlated_insns
        machine = document(capsys, "prog", "dump", info.id, "--jited")
        assert bytes.fromhex("".join(each["code"] for each in machine)) == info.jited_insns


def test_instructions_name_helpers_maps_and_variables(obj):
    comments = [each.line.comment for each in obj.programs["count_syscalls"].xlated()]
    assert "&target_tgid" in comments
    with pybpfload.open(FIXTURES / "execsnoop.bpf.o").load() as other:
        named = {each.line.comment for each in other.programs["on_exec"].xlated()}
    assert {"bpf_ringbuf_reserve", "bpf_ktime_get_ns", "map events"} <= named


def test_watching_elements_change(obj, capsys):
    number = obj.maps["counts"].info().id
    obj.maps["counts"][0] = 1
    later = threading.Timer(0.4, obj.maps["counts"].__setitem__, (0, 2))
    later.start()
    words = ("map", "watch", number, "--interval", 0.1, "--duration", 1.5)
    lines = printed(capsys, *words, "--json").splitlines()
    later.join()
    assert [json.loads(line) for line in lines] == [{"change": "changed", "key": 0, "value": 2}]


def test_watching_events_typed_by_the_programs_that_send_them(capsys):
    spec = pybpfload.open(FIXTURES / "ringbuf.bpf.o")
    spec.variables["target_tgid"].value = os.getpid()
    with spec.load() as obj:
        number = obj.maps["events"].info().id
        assert "--consume" in refused(capsys, "map", "watch", number)
        obj.programs["send_next"].attach()
        words = ("map", "watch", number, "--consume", "--duration", 0.3, "--json")
        events = [json.loads(line) for line in printed(capsys, *words).splitlines()]
    assert {"number", "text", "pair"} <= {event["type"] for event in events}


def test_running_a_program_on_packets(capsys, tmp_path):
    packets = [bytes(range(14)), bytes(range(1, 61))]
    capture = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for packet in packets:
        capture += struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet
    (tmp_path / "two.pcap").write_bytes(capture)
    with pybpfload.open(FIXTURES / "test_run.bpf.o").load() as obj:
        number = obj.programs["sum_bytes"].info().id
        one = document(capsys, "test-run", number, "--data", packets[0].hex(), "--repeat", 3)
        assert one["retval"] == sum(packets[0][:8])
        both = document(capsys, "test-run", number, "--pcap", tmp_path / "two.pcap")
        assert [each["retval"] for each in both] == [sum(each[:8]) for each in packets]
        swap = obj.programs["swap_addresses"].info().id
        text = printed(capsys, "test-run", swap, "--data", packets[0].hex())
        assert f"data_out {bytes([*range(6, 12), *range(6), 12, 13]).hex()}" in text
        raw = obj.programs["add_arguments"].info().id
        ctx = struct.pack("=QQ", 40, 2).hex()
        assert document(capsys, "test-run", raw, "--ctx", ctx)["retval"] == 42


def test_bytes_that_are_none(capsys):
    assert "hexadecimal digits" in refused(capsys, "test-run", "1", "--data", "0g")


def test_iterators_of_an_object(capsys):
    path = FIXTURES / "iter_task.bpf.o"
    (line,) = printed(capsys, "iter", "run", path, "--pid", os.getpid()).splitlines()
    assert line.split()[0] == str(os.getpid())
    assert "no iterator programs" in refused(capsys, "iter", "run", FIXTURES / "minimal.bpf.o")


def test_streams_of_a_program(capsys):
    with pybpfload.open(FIXTURES / "streams.bpf.o").load() as obj:
        program = obj.programs["write_lines"]
        program.test_run()
        if obj.variables["last_error"].value:
            pytest.skip("this kernel has no streams, or gives them no memory")
        words = ("trace", program.info().id, "--duration", 0, "--json")
        lines = [json.loads(line) for line in printed(capsys, *words).splitlines()]
    assert [line["stream"] for line in lines] == ["stdout", "stdout", "stderr"]


CONTAINED = """
import contextlib, ctypes, io, sys
from pybpfload.cli import main
from pybpfload.kernel import door
with contextlib.redirect_stdout(io.StringIO()):
    main(["doctor", "--json"])  # imports what it needs, which the user may not read
door.cache().clear()
libc = ctypes.CDLL(None, use_errno=True)
what = sys.argv[1]
if what == "user namespace":
    assert libc.unshare(0x10000000) == 0, ctypes.get_errno()
else:
    for number in (21, 38, 39):  # CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF
        assert libc.prctl(24, number, 0, 0, 0) == 0  # PR_CAPBSET_DROP
    assert libc.prctl(47, 4, 0, 0, 0) == 0  # PR_CAP_AMBIENT_CLEAR_ALL
    libc.setresgid(65534, 65534, 65534)
    assert libc.setresuid(65534, 65534, 65534) == 0
sys.exit(main(["doctor", "--json"]))
"""


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (
            "user namespace",
            {
                "user namespace": "mount a BPF filesystem that delegates",
                "capabilities": "count only in this process' user namespace",
            },
        ),
        ("another user", {"capabilities": "CAP_BPF (for anything)", "programs": "EPERM"}),
    ],
)
def test_the_doctor_of_those_who_may_not(what, says):
    done = subprocess.run(
        [sys.executable, "-c", CONTAINED, what], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    found = {each["topic"]: each for each in json.loads(done.stdout)}
    assert found["bpf(2)"]["state"] == "bad"
    for topic, text in says.items():
        assert found[topic]["state"] != "ok"
        assert text in f"{found[topic]['found']} {found[topic]['remedy']}"
    assert all(each["remedy"] for each in found.values() if each["state"] in ("bad", "limited"))


NETWORK = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x40000000) == 0, ctypes.get_errno()
import pybpfload
from pybpfload.cli import main
with pybpfload.open(sys.argv[1]) .load() as obj:
    link = obj.programs["sum_bytes"].attach("lo")
    print(obj.programs["sum_bytes"].info().id)
    assert main(["net", "list", "--json"]) == 0
    assert main(["net", "list", "lo"]) == 0
"""


def test_programs_of_devices_of_a_namespace_of_its_own():
    done = subprocess.run(
        [sys.executable, "-c", NETWORK, str(FIXTURES / "test_run.bpf.o")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    number, _, rest = done.stdout.partition("\n")
    shown, _, table = rest.rpartition("]\n")
    assert json.loads(shown + "]")[0]["xdp"] == [
        {"devname": "lo", "ifindex": 1, "mode": "generic", "id": int(number)}
    ]
    assert table.splitlines()[1].split()[:5] == ["lo", "xdp", "generic", number, "sum_bytes"]


@needs_bpftool
def test_a_program_is_described_as_by_bpftool(obj, capsys):
    """Other listings: test_bpftool_json.py."""
    number = obj.programs["count_syscalls"].info().id
    theirs = bpftool("prog", "show", "id", number)
    shown = document(capsys, "prog", "show", number)
    assert {key: value for key, value in shown.items() if key in theirs} == theirs
    assert {*shown} - {*theirs} <= {"pids", "verified_insns"}
