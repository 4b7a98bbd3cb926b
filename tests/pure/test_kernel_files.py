"""What the kernel tells in files: version, symbols, configuration, tracefs, bpffs, CPUs, events."""

from __future__ import annotations

import contextlib
import errno
import gzip
import struct
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpfload.errors import FormatError, KernelError, NotSupportedError, RelocationError
from pybpfload.kernel import bpffs, cpus, kallsyms, kconfig, perf, tracefs, version
from pybpfload.kernel.kconfig import parse_kconfig
from pybpfload.testing.fakekernel import FakeKernel
from pybpfload.uapi import PerfSample, PerfType

# Version


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("6.18.44-fc-v657", 6 << 16 | 18 << 8 | 44),
        ("5.4.300", 5 << 16 | 4 << 8 | 255),
        ("4.19.0+", 4 << 16 | 19 << 8),
        ("6.1", None),
        ("", None),
    ],
)
def test_parse_version(text: str, number: int | None) -> None:
    assert version.parse_version(text) == number


def test_where_the_version_is_from() -> None:
    ubuntu = {"/proc/version_signature": b"Ubuntu 5.15.0-1.1-generic 5.15.39\n"}
    with FakeKernel(release="5.15.0-1-generic", files=ubuntu):
        assert version.version_text(version.kernel_version()) == "5.15.39"

    class Debian(FakeKernel):
        def uname(self) -> object:
            return SimpleNamespace(version="#1 SMP Debian 6.1.85-1 (2024)", release="6.1.0-20")

    with Debian():
        assert version.version_text(version.kernel_version()) == "6.1.85"
    with FakeKernel(release="6.12.3", files={"/proc/version_signature": b"odd"}):
        assert version.version_text(version.kernel_version()) == "6.12.3"
    with FakeKernel(release="unheard of"):
        assert version.kernel_version() == 0


# Symbols

SYMBOLS = (
    b"ffffffff81000010 T bpf_prog_load\n"
    b"ffffffff81000020 t twice\nffffffff81000030 t twice\n"
    b"ffffffff81000040 d counter.llvm.1234\n"
    b"ffffffff81000050 t func.llvm.1234\n"
    b"ffffffff81000060 t again\t[mod]\nffffffff81000060 t again\t[mod]\n"
    b"ffffffffc0000000 t in_module\t[nf_tables]\n"
    b"0000000000000000 T hidden\n"
    b"ffffffff81000070 T bpf_prog_load_more\n"
    b"ffffffff81000080 T last"
)


def test_symbols() -> None:
    names = "bpf_prog_load counter func again in_module hidden last prog_load".split()  # noqa: SIM905
    assert kallsyms.find_symbols(SYMBOLS, names) == {
        "bpf_prog_load": 0xFFFFFFFF81000010,
        "counter": 0xFFFFFFFF81000040,
        "again": 0xFFFFFFFF81000060,
        "in_module": 0xFFFFFFFFC0000000,
        "hidden": 0,
        "last": 0xFFFFFFFF81000080,
    }
    with pytest.raises(RelocationError, match="'twice' is ambiguous"):
        kallsyms.find_symbols(SYMBOLS, ["twice"])


def test_symbols_that_cannot_be_read() -> None:
    with FakeKernel(lacks={"SYSCALL_WRAPPER"}), pytest.raises(KernelError, match="/proc/kallsyms"):
        kallsyms.lookup(["x"])


@given(st.binary(), st.lists(st.text(max_size=3), max_size=3))
def test_any_symbols(data: bytes, names: list[str]) -> None:
    try:
        found = kallsyms.find_symbols(data, names)
    except RelocationError:
        return
    assert set(found) <= set(names)


# Configuration


def extern(name: str, kind: str, size: int, **more: object) -> SimpleNamespace:
    values = {"weak": False, "offset": 0, "signed": False, **more}
    return SimpleNamespace(name=name, kconfig_type=kind, size=size, **values)


def native(number: int, size: int) -> bytes:
    return number.to_bytes(size, sys.byteorder, signed=number < 0)


GOOD = [
    ("y", extern("CONFIG_A", "bool", 1), b"\x01"),
    ("yes", extern("CONFIG_A", "bool", 1), b"\x01"),
    ("n", extern("CONFIG_A", "bool", 1), b"\0"),
    ("m", extern("CONFIG_A", "tristate", 4), native(2, 4)),
    ("y", extern("CONFIG_A", "tristate", 4), native(1, 4)),
    ("m", extern("CONFIG_A", "char", 1), b"m"),
    ("300", extern("CONFIG_A", "int", 4), native(300, 4)),
    ("0x10", extern("CONFIG_A", "int", 8), native(16, 8)),
    ("017", extern("CONFIG_A", "int", 2), native(15, 2)),
    ("0", extern("CONFIG_A", "int", 2), native(0, 2)),
    ("-5", extern("CONFIG_A", "int", 4, signed=True), native(-5, 4)),
    ("-1", extern("CONFIG_A", "int", 8), b"\xff" * 8),
    ("65", extern("CONFIG_A", "char", 1), b"A"),
    ("-128", extern("CONFIG_A", "int", 1, signed=True), b"\x80"),
    ('"abc"', extern("CONFIG_A", "string", 8), b"abc\0\0\0\0\0"),
    ('"abcdefghij"', extern("CONFIG_A", "string", 4), b"abc\0"),
    ('""', extern("CONFIG_A", "string", 2), b"\0\0"),
    ('"a"b"', extern("CONFIG_A", "string", 4), b'a"b\0'),
]


@pytest.mark.parametrize(("text", "wanted", "value"), GOOD)
def test_settings(text: str, wanted: SimpleNamespace, value: bytes) -> None:
    data = f"# CONFIG_A is not set\n CONFIG_A=9\n\nCONFIG_B=whatever\nCONFIG_A={text}\nCONFIG_A=x"
    assert parse_kconfig(data.encode(), {"CONFIG_A": wanted}) == {"CONFIG_A": value}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("CONFIG_A", extern("CONFIG_A", "bool", 1)),
        ("CONFIG_A=", extern("CONFIG_A", "bool", 1)),
        ("CONFIG_OTHER", extern("CONFIG_A", "bool", 1)),
        ("CONFIG_A=m", extern("CONFIG_A", "bool", 1)),
        ("CONFIG_A=1", extern("CONFIG_A", "bool", 1)),
        ("CONFIG_A=1", extern("CONFIG_A", "tristate", 4)),
        ("CONFIG_A=y", extern("CONFIG_A", "int", 4)),
        ("CONFIG_A=y", extern("CONFIG_A", "string", 4)),
        ('CONFIG_A="x"', extern("CONFIG_A", "int", 4)),
        ('CONFIG_A="x', extern("CONFIG_A", "string", 4)),
        ('CONFIG_A="', extern("CONFIG_A", "string", 4)),
        ("CONFIG_A=300", extern("CONFIG_A", "int", 1)),
        ("CONFIG_A=128", extern("CONFIG_A", "int", 1, signed=True)),
        ("CONFIG_A=-1", extern("CONFIG_A", "int", 4)),
        ("CONFIG_A=08", extern("CONFIG_A", "int", 4)),
        ("CONFIG_A=5 ", extern("CONFIG_A", "int", 4)),
        ("CONFIG_A=0x10000000000000000", extern("CONFIG_A", "int", 8)),
        ("CONFIG_A=1_000", extern("CONFIG_A", "int", 8)),
        ("CONFIG_A=" + "9" * 5000, extern("CONFIG_A", "int", 8)),
    ],
)
def test_bad_settings(text: str, wanted: SimpleNamespace) -> None:
    with pytest.raises(FormatError, match="kconfig text, offset"):
        parse_kconfig(text.encode(), {"CONFIG_A": wanted}, (), "kconfig text")


def test_long_lines_are_read_in_pieces() -> None:
    wanted = {"CONFIG_A": extern("CONFIG_A", "bool", 1)}
    text = ("#" * 4095 + "CONFIG_A=y").encode()
    assert parse_kconfig(text, wanted) == {"CONFIG_A": b"\x01"}


@given(st.binary(), st.sampled_from([wanted for _, wanted, _ in GOOD]))
def test_any_configuration(data: bytes, wanted: SimpleNamespace) -> None:
    for text in (data, b"CONFIG_A=" + data):
        try:
            found = parse_kconfig(text, {"CONFIG_A": wanted})
        except FormatError:
            continue
        assert all(len(value) == wanted.size for value in found.values())


def test_resolving() -> None:
    externs = [
        extern("LINUX_KERNEL_VERSION", "int", 4),
        extern("LINUX_HAS_BPF_COOKIE", "bool", 1, offset=4),
        extern("LINUX_HAS_SYSCALL_WRAPPER", "int", 1, offset=5),
        extern("LINUX_FUTURE", "int", 2, offset=6, weak=True),
        extern("CONFIG_HZ", "int", 4, offset=8),
        extern("CONFIG_GONE", "int", 4, offset=12, weak=True),
    ]
    files = {"/proc/config.gz": gzip.compress(b"CONFIG_HZ=250\nCONFIG_MORE=y\n")}
    with FakeKernel(files=files, lacks={"BPF_COOKIE"}):
        expected = native(6 << 16 | 18 << 8, 4) + b"\0\1\0\0"
        assert kconfig.resolve(externs) == expected + native(250, 4) + bytes(4)
        assert kconfig.resolve(externs, "CONFIG_HZ=100\n") == expected + native(100, 4) + bytes(4)
    with FakeKernel(files={**files, "/boot/config-6.18.0": b"CONFIG_HZ=300"}):
        assert kconfig.resolve(externs)[8:12] == native(300, 4)
        with pytest.raises(RelocationError, match="CONFIG_GONE is not set"):
            kconfig.resolve([extern("CONFIG_GONE", "int", 4)])
        with pytest.raises(RelocationError, match="FOO is no kernel setting"):
            kconfig.resolve([extern("FOO", "int", 4, weak=True)])
        with pytest.raises(RelocationError, match="LINUX_NEW"):
            kconfig.resolve([extern("LINUX_NEW", "int", 4)])
        with pytest.raises(FormatError, match="does not fit"):
            kconfig.resolve([extern("LINUX_KERNEL_VERSION", "int", 2)])
        with pytest.raises(FormatError, match="type string"):
            kconfig.resolve([extern("LINUX_KERNEL_VERSION", "string", 8)])
        assert kconfig.resolve([]) == b""


def test_no_configuration() -> None:
    """An unreadable configuration is an error even if only weak variables need it, as in libbpf."""
    with FakeKernel():
        with pytest.raises(NotSupportedError, match="configuration cannot be read"):
            kconfig.resolve([extern("CONFIG_A", "int", 4, weak=True)])
        assert kconfig.resolve([extern("CONFIG_A", "int", 4)], "CONFIG_A=7") == native(7, 4)
        assert len(kconfig.resolve([extern("LINUX_KERNEL_VERSION", "int", 4)])) == 4
    cut = {"/proc/config.gz": gzip.compress(b"CONFIG_A=1")[:-6]}
    with FakeKernel(files=cut), pytest.raises(FormatError, match="gzip"):
        kconfig.resolve([extern("CONFIG_A", "int", 4)])


# CPUs


def test_cpu_lists() -> None:
    assert cpus.parse_cpu_list("0-3,8\n") == [0, 1, 2, 3, 8]
    assert cpus.parse_cpu_list("0\n") == [0]
    for text in ("", "\n", "3-1", "a", "1-", "-1", "0-99999999", "0x1", "²"):
        with pytest.raises(FormatError):
            cpus.parse_cpu_list(text)


@given(st.text())
def test_any_cpu_list(text: str) -> None:
    with contextlib.suppress(FormatError):
        cpus.parse_cpu_list(text)


def test_cpus() -> None:
    with FakeKernel(files={"/sys/devices/system/cpu/online": b"0,2-3\n"}) as fake:
        assert cpus.possible_cpus() == 4
        assert cpus.online_cpus() == [0, 2, 3]
        fake.files["/sys/devices/system/cpu/possible"] = b"0\n"
        assert cpus.possible_cpus() == 4  # cannot change while the kernel runs
    with FakeKernel() as fake:
        del fake.files["/sys/devices/system/cpu/possible"]
        with pytest.raises(KernelError, match="cpu/possible"):
            cpus.possible_cpus()


# The BPF filesystem


def test_parents() -> None:
    with FakeKernel() as fake:
        bpffs.prepare_parent("/sys/fs/bpf/x")
        bpffs.prepare_parent("/sys/fs/bpf/dir/x")
        assert "/sys/fs/bpf/dir" in fake.dirs
        bpffs.prepare_parent("/sys/fs/bpf/dir/y")
        with pytest.raises(KernelError, match="mkdir of /sys/fs/bpf/a/b"):
            bpffs.prepare_parent("/sys/fs/bpf/a/b/x")
        for path in ("/tmp/x", "/tmp/new/x"):
            with pytest.raises(KernelError, match="not in a BPF filesystem; pin below") as caught:
                bpffs.prepare_parent(path)
            assert caught.value.errno == errno.EINVAL
        assert "/tmp/new" not in fake.dirs
        assert not bpffs.is_bpffs("/tmp")
        with pytest.raises(KernelError, match="statfs of /nowhere"):
            bpffs.is_bpffs("/nowhere")


def test_bpffs_is_not_mounted() -> None:
    class Bare(FakeKernel):
        def filesystem_type(self, path: str) -> int:
            return 0x62656572

    with Bare(), pytest.raises(KernelError, match="mount -t bpf bpf /sys/fs/bpf"):
        bpffs.prepare_parent("/sys/fs/bpf/x")


# tracefs

FORMAT = """name: sched_process_exec
ID: 314
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:__data_loc char[] filename;\toffset:8;\tsize:4;\tsigned:0;
\tfield:pid_t pid;\toffset:12;\tsize:4;\tsigned:1;
\tfield:char comm[16];\toffset:16;\tsize:16;\tsigned:0;

print fmt: "filename=%s pid=%d", __get_str(filename), REC->pid
"""
EVENTS = "/sys/kernel/tracing/events"
TRACEFS = {
    f"{EVENTS}/enable": b"0\n",
    f"{EVENTS}/sched/enable": b"0\n",
    f"{EVENTS}/sched/sched_process_exec/id": b"314\n",
    f"{EVENTS}/sched/sched_process_exec/format": FORMAT.encode(),
    f"{EVENTS}/sched/sched_switch/id": b"what\n",
    "/sys/kernel/tracing/trace_pipe": b"one\ntwo\npart",
}


def test_tracepoints() -> None:
    with FakeKernel(files=TRACEFS):
        assert tracefs.root() == "/sys/kernel/tracing"
        assert tracefs.tracepoint_id("sched", "sched_process_exec") == 314
        assert tracefs.tracepoints() == ["sched"]
        assert tracefs.tracepoints("sched") == ["sched_process_exec", "sched_switch"]
        with pytest.raises(FormatError, match="'what' is no number"):
            tracefs.tracepoint_id("sched", "sched_switch")
        with pytest.raises(
            KernelError, match="no tracepoint sched_swich; did you mean sched_switch"
        ):
            tracefs.tracepoint_id("sched", "sched_swich")
        with pytest.raises(KernelError, match="no tracepoint category sced; did you mean sched"):
            tracefs.tracepoint_id("sced", "sched_switch")
        for word in ("..", "a/b", "", "a b"):
            with pytest.raises(FormatError, match="no name"):
                tracefs.tracepoint_id("sched", word)


def test_formats() -> None:
    with FakeKernel(files=TRACEFS):
        found = tracefs.tracepoint_format("sched", "sched_process_exec")
    assert (found.name, found.id) == ("sched_process_exec", 314)
    fields = {f.name: f for f in found.fields}
    assert list(fields) == ["common_type", "common_pid", "filename", "pid", "comm"]
    assert fields["filename"].data_loc
    assert (fields["comm"].type, fields["comm"].size) == ("char[16]", 16)
    assert (fields["pid"].type, fields["pid"].offset, fields["pid"].signed) == ("pid_t", 12, True)
    assert found.print_fmt.startswith('"filename=%s')
    with pytest.raises(FormatError):
        tracefs.parse_format("")


@given(st.text())
def test_any_format(text: str) -> None:
    for candidate in (text, FORMAT + text, text + FORMAT):
        with contextlib.suppress(FormatError):
            tracefs.parse_format(candidate)


def test_where_tracefs_is() -> None:
    with FakeKernel(), pytest.raises(KernelError, match="mount -t tracefs tracefs") as caught:
        tracefs.root()
    assert caught.value.errno == errno.ENOENT
    with FakeKernel(files={"/sys/kernel/debug/tracing/events/enable": b""}):
        assert tracefs.root() == "/sys/kernel/debug/tracing"
    mounts = {"/proc/self/mounts": b"proc /proc proc rw 0 0\nnone /my\\040trace tracefs rw 0 0\n"}
    with FakeKernel(files={**mounts, "/my trace/events/enable": b""}):
        assert tracefs.root() == "/my trace"
    with FakeKernel(files=mounts), pytest.raises(PermissionError, match="only root"):
        tracefs.root()


def test_tracing_that_is_switched_off_is_told() -> None:
    """Reading would wait for ever then; a kernel that has oopsed switches it off."""
    files = {**TRACEFS, "/sys/kernel/tracing/tracing_on": b"0\n"}
    with FakeKernel(files=files), pytest.raises(KernelError, match="echo 1 > ") as caught:
        tracefs.TracePipe()
    assert caught.value.errno == errno.ENODATA


def test_trace_pipe() -> None:
    with FakeKernel(files=TRACEFS) as fake:
        with tracefs.TracePipe() as pipe:
            assert pipe.read_lines() == ["one", "two"]
            fake.fds[pipe.fileno()].output = b"ial\nlast\n"
            assert pipe.read_lines() == ["partial", "last"]
            assert pipe.read_lines() == []
        assert not fake.leaked()


# Perf events


@pytest.mark.parametrize(("byteorder", "mark"), [("little", "<"), ("big", ">")])
def test_event_attr(byteorder: str, mark: str) -> None:
    attr = perf.event_attr(
        byteorder,
        type=PerfType.TRACEPOINT,
        config=314,
        sample_type=PerfSample.RAW,
        disabled=1,
        watermark=1,
        inherit=0,
        wakeup_events=3,
        config1=5,
        clockid=-1,
    )
    assert len(attr) == 112
    assert struct.unpack_from(mark + "IIQ", attr) == (2, 112, 314)
    flags = struct.unpack_from(mark + "Q", attr, 40)[0]
    # Bit fields count from the most significant bit on big endian.
    assert flags == (1 | 1 << 14 if byteorder == "little" else 1 << 63 | 1 << 49)
    assert struct.unpack_from(mark + "I", attr, 48)[0] == 3
    assert struct.unpack_from(mark + "Q", attr, 56)[0] == 5
    assert struct.unpack_from(mark + "i", attr, 92)[0] == -1


def test_bad_event_attr() -> None:
    with pytest.raises(TypeError, match="colour"):
        perf.event_attr(colour=1)
    with pytest.raises(ValueError, match="config"):
        perf.event_attr(config=1 << 64)


@pytest.mark.parametrize(
    ("machine", "numbers"),
    [
        ("x86_64", [(0x2400, 0), (0x2401, 0), (0x40042408, 7)]),
        ("s390x", [(0x2400, 0), (0x2401, 0), (0x40042408, 7)]),
        ("ppc64le", [(0x20002400, 0), (0x20002401, 0), (0x80042408, 7)]),
    ],
)
def test_controlling(machine: str, numbers: list[tuple[int, int]]) -> None:
    with FakeKernel(machine=machine) as fake:
        fd = perf.open_tracepoint(314)
        perf.enable(fd)
        perf.disable(fd)
        perf.set_bpf(fd, 7)
        assert fake.fds[fd].ioctls == numbers
        assert (fake.fds[fd]["pid"], fake.fds[fd]["cpu"]) == (-1, 0)
        with pytest.raises(KernelError, match="PERF_EVENT_IOC_ENABLE of perf event fd 99"):
            perf.enable(99)


def test_opening() -> None:
    with FakeKernel() as fake:
        fd = perf.open_tracepoint(314, pid=42)
        assert (fake.fds[fd]["pid"], fake.fds[fd]["cpu"]) == (42, -1)
        fd = perf.open_bpf_output(3)
        assert (fake.fds[fd]["pid"], fake.fds[fd]["cpu"]) == (-1, 3)
    with FakeKernel(refuses={"perf_event_open": errno.ENODEV}), pytest.raises(KernelError):
        perf.open_bpf_output(3)


def test_pmu_numbers() -> None:
    place = "/sys/bus/event_source/devices/kprobe/"
    files = {place + "type": b"8\n", place + "format/retprobe": b"config:0\n", place + "x": b""}
    with FakeKernel(files=files):
        assert perf.pmu_number("kprobe") == 8
        assert perf.pmu_number("kprobe", "format/retprobe") == 0
        with pytest.raises(KernelError) as caught:
            perf.pmu_number("kprobe", "x")
        assert caught.value.errno == errno.EIO
        with pytest.raises(KernelError) as caught:
            perf.pmu_number("uprobe")
        assert caught.value.errno == errno.ENOENT
