"""Attaching to executables and libraries on scripted kernels of all ages: what is asked of them."""

from __future__ import annotations

import errno
import struct
import sys
from pathlib import Path

import pytest
from user_binary import CODE_AT, UserBinaryBuilder

import pybpfload
from pybpfload import uapi
from pybpfload.errors import AttachError, BpfError, KernelError, NotSupportedError
from pybpfload.runtime.attach import uprobe_multi
from pybpfload.testing.fakekernel import FakeKernel, memory, string

FIXTURE = Path(__file__).parents[2] / "fixtures" / "bpfel" / "uprobe.bpf.o"
UNIT = "/sys/bus/event_source/devices/uprobe"
TRACEFS = "/sys/kernel/tracing"
PATH = "/opt/libx.so"

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the objects are little endian")


class Kernel(FakeKernel):
    """A scripted kernel whose tracefs makes events of the lines that are written to it."""

    def write_file(self, path: str, data: bytes, append: bool) -> None:
        super().write_file(path, data, append)
        line = data.decode()
        if path == f"{TRACEFS}/uprobe_events" and line[0] in "pr":
            self.files[f"{TRACEFS}/events/{line[2:].split()[0]}/id"] = b"77\n"
        elif path == f"{TRACEFS}/uprobe_events":
            del self.files[f"{TRACEFS}/events/{line[2:]}/id"]


def kernel(version: str = "", *, unit: bool = True, tracefs: bool = False) -> Kernel:
    files = {PATH: binary()}
    if unit:
        files |= {f"{UNIT}/type": b"8\n", f"{UNIT}/format/retprobe": b"config:3\n"}
        files[f"{UNIT}/format/ref_ctr_offset"] = b"config:32-63\n"
    if tracefs:
        files |= {f"{TRACEFS}/uprobe_events": b"", f"{TRACEFS}/events/enable": b"0\n"}
    return Kernel.like(version, files=files) if version else Kernel(files=files)


def binary() -> bytes:
    builder = UserBinaryBuilder()
    builder.symbol("run", 0x20, table=".dynsym")
    builder.symbol("stop", 0x40, table=".dynsym")
    return builder.build()


def load(name: str = "on_any"):
    spec = pybpfload.open(FIXTURE)
    spec.programs[name].autoload = True
    spec.variables["with_cookie"].value = False
    return spec.load()


def code_for_all(fake: Kernel) -> Kernel:
    """The script does not see that the helper of newer kernels is never called."""

    def load_program(call):
        if len(call.insns) < 160:
            return None
        return fake.open_object(fake.make("prog", **call.fields, insns_=call.insns))

    fake.on("PROG_LOAD", load_program)
    return fake


def event_of(fake: FakeKernel) -> dict[str, int | str]:
    """What the last perf event was opened with."""
    event = [o for o in fake.fds.values() if o.kind == "perf_event"][-1]
    kind, config = struct.unpack_from("=I4xQ", event["attr"])
    config1, config2 = struct.unpack_from("=QQ", event["attr"], 56)
    return {
        "type": kind, "config": config, "config1": config1, "config2": config2,
        "pid": event["pid"], "cpu": event["cpu"],
    }  # fmt: skip


@pytest.mark.parametrize("version", ["", "5.15", "5.10", "4.20"])
def test_event_of_the_unit(version, monkeypatch):
    paths = []
    fake = code_for_all(kernel(version))
    opened = fake.perf_event_open
    monkeypatch.setattr(
        fake,
        "perf_event_open",
        lambda attr, *rest: (
            paths.append(string(struct.unpack_from("=Q", attr, 56)[0])) or opened(attr, *rest)
        ),
    )
    with fake:
        with load("on_any_return") as obj:
            link = obj.programs["on_any_return"].attach(f"{PATH}:run", ref_ctr_offset=0x6)
            told = event_of(fake)
            assert (told["type"], told["config"]) == (8, 1 << 3 | 6 << 32)
            assert told["config2"] == CODE_AT + 0x20
            assert (told["pid"], told["cpu"]) == (-1, 0)
            assert paths == [PATH]
            link.close()
            obj.programs["on_any_return"].attach(PATH, symbol="run", offset=0, pid=42)
            told = event_of(fake)
            assert (told["config"], told["pid"], told["cpu"]) == (1 << 3, 42, -1)
        assert not fake.leaked()


class TestTracefs:
    """Kernels before 4.17, and who asks for it."""

    @pytest.mark.parametrize("version", ["", "5.10", "4.14"])
    def test_made_and_removed(self, version):
        fake = code_for_all(kernel(version, unit=False, tracefs=True))
        with fake:
            with load() as obj:
                link = obj.programs["on_any"].attach(f"{PATH}:stop")
                line = fake.files[f"{TRACEFS}/uprobe_events"].decode()
                assert line.startswith("p:uprobes/pybpfload_")
                assert line.endswith(f"_libx_so_0x10040 {PATH}:0x10040")
                assert event_of(fake)["config"] == 77
                link.close()
                link.close()
                assert not [name for name in fake.files if name.endswith("/id")]
            assert not fake.leaked()

    def test_return(self):
        fake = code_for_all(kernel(unit=True, tracefs=True))
        with fake, load("on_any_return") as obj:
            with obj.programs["on_any_return"].attach(f"{PATH}:stop", via="tracefs", pid=5):
                line = fake.files[f"{TRACEFS}/uprobe_events"].decode()
                assert line.startswith("r:uretprobes/pybpfload_")
                assert event_of(fake)["pid"] == 5

    @pytest.mark.parametrize("what", ["perf_event_open", "LINK_CREATE"])
    def test_removed_when_something_fails(self, what):
        fake = code_for_all(kernel(unit=False, tracefs=True))
        with fake:
            with load() as obj:
                obj.programs["on_any"].attach(f"{PATH}:stop").close()
                fake.refuses[what] = errno.EMFILE
                before = len(fake.leaked())
                with pytest.raises(KernelError, match="EMFILE"):
                    obj.programs["on_any"].attach(f"{PATH}:stop")
                assert len(fake.leaked()) == before
                assert not [name for name in fake.files if name.endswith("/id")]

    def test_no_reference_counters(self):
        with code_for_all(kernel(tracefs=True)) as fake, load() as obj:
            with pytest.raises(ValueError, match="tracefs have no ref_ctr_offset"):
                obj.programs["on_any"].attach(f"{PATH}:run", via="tracefs", ref_ctr_offset=2)
            assert not [name for name in fake.files if name.endswith("/id")]

    def test_kernel_without_uprobes(self):
        fake = code_for_all(kernel(unit=False, tracefs=True))
        del fake.files[f"{TRACEFS}/uprobe_events"]
        with fake, load() as obj:
            with pytest.raises(NotSupportedError, match="CONFIG_UPROBE_EVENTS"):
                obj.programs["on_any"].attach(f"{PATH}:run")

    def test_tracefs_is_not_mounted(self):
        with code_for_all(kernel(unit=False)), load() as obj:
            with pytest.raises(KernelError, match="mount -t tracefs"):
                obj.programs["on_any"].attach(f"{PATH}:run")


class TestAge:
    @pytest.mark.parametrize(
        ("version", "name", "options", "since"),
        [
            ("5.10", "on_any", {"cookie": 5}, "5.15"),
            ("5.10", "on_any", {"link": True}, "5.15"),
            ("6.1", "on_uprobe_multi", {}, "6.6"),
            ("6.6", "on_uprobe_session", {}, "6.13"),
        ],
    )
    def test_too_old(self, version, name, options, since):
        with code_for_all(kernel(version)) as fake:
            with load(name) as obj:
                before = len(fake.leaked())
                with pytest.raises(NotSupportedError) as caught:
                    obj.programs[name].attach(f"{PATH}:run", **options)
                assert caught.value.since == since
                assert len(fake.leaked()) == before
            assert not fake.leaked()

    def test_perf_events(self):
        with code_for_all(kernel("4.14", unit=False, tracefs=True)), load() as obj:
            with pytest.raises(NotSupportedError, match=r"perf events for uprobes.*Linux 4\.17"):
                obj.programs["on_any"].attach(f"{PATH}:run", via="perf")

    def test_reference_counters(self):
        fake = code_for_all(kernel("4.20"))
        del fake.files[f"{UNIT}/format/ref_ctr_offset"]
        with fake, load() as obj:
            with pytest.raises(NotSupportedError, match=r"reference counters.*Linux 4\.20"):
                obj.programs["on_any"].attach(f"{PATH}:run", ref_ctr_offset=2)


class TestMulti:
    def test_link(self):
        told = {}

        def look(call):
            if call.text == PATH:
                told.update(call.fields, places=memory(call.fields["offsets"], 16))

        with kernel() as fake:
            fake.on("LINK_CREATE", look)
            with load("on_uretprobe_multi") as obj:
                link = obj.programs["on_uretprobe_multi"].attach(f"{PATH}:*", pid=9)
                assert link.target == f"{PATH}:* (2 functions)"
                assert struct.unpack("=QQ", told["places"]) == (CODE_AT + 0x20, CODE_AT + 0x40)
                assert (told["cnt"], told["uprobe_flags"], told["pid"]) == (2, 1, 9)
                assert not told["cookies"]
            assert not fake.leaked()

    def test_too_many(self, monkeypatch):
        monkeypatch.setattr(uprobe_multi, "LIMIT", 1)
        with kernel(), load("on_uprobe_multi") as obj:
            with pytest.raises(AttachError, match=r"2 functions of .* match '\*'.* takes 1 at"):
                obj.programs["on_uprobe_multi"].attach(f"{PATH}:*")

    def test_a_session_has_no_return(self):
        with kernel(), load("on_uprobe_session") as obj:
            with pytest.raises(ValueError, match="entry and return anyway"):
                obj.programs["on_uprobe_session"].attach(f"{PATH}:*", on_return=True)


class TestSearch:
    @pytest.mark.parametrize(
        ("name", "folder"),
        [
            ("libq.so", "/first"),
            ("libq.so.6", "/second"),
            ("libr.so.1", "/usr/lib64"),
            ("libs.so", "/lib/x86_64-linux-gnu"),
            ("tool", "/bin1"),
            ("tool2", "/usr/sbin"),
        ],
    )
    def test_folders(self, monkeypatch, name, folder):
        monkeypatch.setenv("LD_LIBRARY_PATH", "/first::/second")
        monkeypatch.setenv("PATH", "/bin1:/bin2")
        fake = code_for_all(kernel())
        fake.files[f"{folder}/{name}"] = binary()
        for other in ("/lib/x86_64-linux-gnu/libq.so", "/bin2/tool"):
            fake.files[other] = b"another one"
        with fake, load() as obj:
            link = obj.programs["on_any"].attach(f"{name}:run")
            assert link.target == f"{name}:run"

    def test_sections_name_their_target(self):
        """Those without one are left alone by attach() of the object."""
        with code_for_all(kernel()) as fake:
            fake.files["/usr/lib/libc.so.6"] = binary()
            spec = pybpfload.open(FIXTURE)
            for name in ("on_uprobe", "on_any"):
                spec.programs[name].autoload = True
            with spec.load() as obj:
                with pytest.raises(AttachError, match=r"libc\.so\.6 has no function getppid"):
                    obj.attach()
                assert not obj.links

    @pytest.mark.parametrize("target", ["", ":", ":run", 5, b"x:run"])
    def test_no_path(self, target):
        with code_for_all(kernel()), load() as obj:
            with pytest.raises(AttachError, match="file"):
                obj.programs["on_any"].attach(target)

    @pytest.mark.parametrize(
        ("target", "where"),
        [
            ("run+16", 0x30), ("run+0x10", 0x30), ("run+010", 0x2A), ("stop+0", 0x40),
            ("run+x", None), ("run+-1", None), ("run+", None), ("run+1+2", None),
        ],
    )  # fmt: skip
    def test_offsets(self, target, where):
        with code_for_all(kernel()) as fake, load() as obj:
            if where is None:
                with pytest.raises(AttachError, match="has no function"):
                    obj.programs["on_any"].attach(f"{PATH}:{target}")
                return
            obj.programs["on_any"].attach(f"{PATH}:{target}")
            assert event_of(fake)["config2"] == CODE_AT + where


def test_a_file_that_cannot_be_read():
    fake = code_for_all(kernel())
    fake.files["/opt/secret.so"] = PermissionError(errno.EACCES, "no")
    with fake, load() as obj:
        with pytest.raises(BpfError, match=r"/opt/secret\.so.*EACCES"):
            obj.programs["on_any"].attach("/opt/secret.so:run")


@pytest.mark.parametrize("lists", [{"offsets": [-1]}, {"offsets": [4], "cookies": [1 << 64]}])
def test_numbers_that_do_not_fit(lists):
    with pytest.raises(ValueError, match="does not fit u64"):
        pybpfload.lowlevel.link_create(3, 0, uapi.AttachType.TRACE_UPROBE_MULTI, path="x", **lists)
