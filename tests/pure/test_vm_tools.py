"""The tools for kernels and virtual machines, as far as they need no kernel and no network."""

from __future__ import annotations

import io
import itertools
import json
import os
import stat
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpfload.testing import plugin
from pybpfload.testing.vm import (
    KERNELS,
    VirtualMachineError,
    apt,
    cache,
    cache_folder,
    cli,
    find_kernel,
    machine,
    matrix,
    modules,
    payload,
    userland,
)
from pybpfload.testing.vm.cpio import CpioWriter
from pybpfload.testing.vm.kernels import Kernel
from pybpfload.testing.vm.machine import Result

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="virtual machines run on Linux"
)


def entries(archive: bytes) -> dict[str, tuple[int, bytes, tuple[int, ...]]]:
    """What is in cpio archives, one after the other: name to mode, data and other fields."""
    found = {}
    position = 0
    while position < len(archive):
        if archive[position] == 0:
            position += 1
            continue
        assert position % 4 == 0
        assert archive[position : position + 6] == b"070701"
        header = archive[position + 6 : position + 110].decode()
        fields = [int(header[i : i + 8], 16) for i in range(0, 104, 8)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = archive[position + 110 : position + 110 + length - 1].decode()
        position += 110 + length
        position += -position % 4
        if name != "TRAILER!!!":
            assert name not in found
            found[name] = mode, archive[position : position + size], tuple(fields)
        position += size
        position += -position % 4
    return found


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("PYBPFLOAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class TestCpio:
    def test_kinds_of_files(self):
        file = io.BytesIO()
        with CpioWriter(file) as cpio:
            cpio.file("/etc/a/text", "grüße", mtime=12345.9)
            cpio.file("etc/a/run", b"\0\1", mode=0o755)
            cpio.symlink("/bin", "usr/bin")
            cpio.device("/dev/console", 5, 1)
            cpio.folder("/etc/a")
            cpio.folder("/tmp", 0o1777)
        found = entries(file.getvalue())
        assert list(found) == [
            "etc", "etc/a", "etc/a/text", "etc/a/run", "bin", "dev", "dev/console", "tmp"
        ]  # fmt: skip
        assert found["etc"][0] == stat.S_IFDIR | 0o755
        assert found["tmp"][0] == stat.S_IFDIR | 0o1777
        mode, data, fields = found["etc/a/text"]
        assert (mode, data.decode()) == (stat.S_IFREG | 0o644, "grüße")
        assert fields[2:6] == (0, 0, 1, 12345)
        assert found["etc/a/run"][0] == stat.S_IFREG | 0o755
        assert found["bin"][:2] == (stat.S_IFLNK | 0o777, b"usr/bin")
        assert found["dev/console"][0] == stat.S_IFCHR | 0o600
        assert found["dev/console"][2][9:11] == (5, 1)

    @given(
        files=st.dictionaries(
            st.from_regex(r"[a-z]{1,9}", fullmatch=True), st.binary(max_size=50), max_size=9
        )
    )
    def test_archives_can_be_joined(self, files):
        one, two = io.BytesIO(), io.BytesIO()
        with CpioWriter(one) as cpio:
            for name, data in files.items():
                cpio.file(f"one/{name}", data)
        with CpioWriter(two) as cpio:
            cpio.file("two", b"2")
        found = entries(one.getvalue() + two.getvalue())
        assert {name: found[f"one/{name}"][1] for name in files} == files
        assert found["two"][1] == b"2"

    def test_same_files_same_bytes(self):
        archives = []
        for _ in range(2):
            file = io.BytesIO()
            with CpioWriter(file) as cpio:
                cpio.file("a/b", b"c")
            archives.append(file.getvalue())
        assert archives[0] == archives[1]

    def test_tree(self, tmp_path):
        (tmp_path / "sub/inner").mkdir(parents=True)
        (tmp_path / "sub/inner/file").write_text("x")
        (tmp_path / "sub/left-out").write_text("y")
        (tmp_path / "link").symlink_to("sub")
        (tmp_path / "dangling").symlink_to("nowhere")
        os.mkfifo(tmp_path / "fifo")
        file = io.BytesIO()
        with CpioWriter(file) as cpio:
            cpio.tree(tmp_path, "/usr", lambda path: path != "sub/left-out")
        found = entries(file.getvalue())
        assert set(found) == {
            "usr", "usr/sub", "usr/sub/inner", "usr/sub/inner/file", "usr/link", "usr/dangling"
        }  # fmt: skip
        assert found["usr/link"][1] == b"sub"

    def test_a_file_that_is_gone_is_left_out(self, tmp_path):
        file = io.BytesIO()
        with CpioWriter(file) as cpio:
            cpio.copy(tmp_path / "gone", "gone")
        assert entries(file.getvalue()) == {}

    def test_a_path_may_not_go_up(self):
        with pytest.raises(ValueError, match="go up"), CpioWriter(io.BytesIO()) as cpio:
            cpio.file("../etc/passwd", b"")


class TestKernels:
    def test_the_table(self):
        assert ",".join(KERNELS) == "5.10,6.1,6.12,sid,6.12-arm64,6.12-s390x,6.12-riscv64"
        for name, kernel in KERNELS.items():
            assert kernel.name == name
            assert kernel.package.startswith("linux-image-")
            assert kernel.bootable == (kernel.architecture in machine._ARCHITECTURES)

    def test_unknown_names_list_the_known_ones(self):
        with pytest.raises(VirtualMachineError, match=r"no kernel is called '4\.4'.*5\.10"):
            find_kernel("4.4")

    def test_what_is_fetched(self, cached):
        kernel = KERNELS["6.12"]
        assert not kernel.fetched
        kernel.folder.mkdir(parents=True)
        (kernel.folder / "release").write_text("6.12.107+deb13-cloud-amd64\n")
        assert kernel.fetched
        assert kernel.folder == cached / "kernels" / "6.12"
        assert kernel.version == (6, 12)

    @pytest.mark.parametrize(
        ("unpacked", "image"),
        [
            (["boot/vmlinuz-6.1.0", "boot/config-6.1.0", "usr/lib/modules/6.1.0/kernel/a.ko"],) * 2,
            (
                [
                    "usr/lib/modules/6.1.0/vmlinuz",
                    "usr/lib/modules/6.1.0/config",
                    "usr/lib/modules/6.1.0/kernel/a.ko",
                ],
                None,
            ),
        ],
        ids=["one package", "split packages"],
    )
    def test_the_layout_of_the_cache(self, tmp_path, unpacked, image):
        from pybpfload.testing.vm.kernels import _arrange

        for name in unpacked:
            path = tmp_path / "unpacked" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        _arrange(tmp_path)
        assert (tmp_path / "release").read_text() == "6.1.0\n"
        assert (tmp_path / "vmlinuz").read_text() == unpacked[0]
        assert (tmp_path / "config").read_text() == unpacked[1]
        assert (tmp_path / "modules/kernel/a.ko").exists()
        assert not (tmp_path / "unpacked").exists()


class TestCache:
    def test_where(self, monkeypatch):
        for name in ("PYBPFLOAD_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", "/home/me")
        assert cache_folder() == Path("/home/me/.cache/pybpfload")
        monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
        assert cache_folder() == Path("/caches/pybpfload")
        monkeypatch.setenv("PYBPFLOAD_CACHE", "/mine")
        assert cache_folder() == Path("/mine")

    def test_made_once(self, tmp_path):
        calls = []

        def make(path):
            calls.append(path)
            path.mkdir()
            (path / "x").write_text("12345")

        target = tmp_path / "a" / "b"
        for _ in range(2):
            assert cache.build(target, make) == target
        assert len(calls) == 1
        assert cache.size_of(target) == 5
        cache.build(target, make, replace=True)
        assert len(calls) == 2

    def test_nothing_is_left_of_a_failure(self, tmp_path):
        def make(path):
            path.mkdir()
            raise RuntimeError("half way")

        with pytest.raises(RuntimeError):
            cache.build(tmp_path / "b", make)
        assert [path.name for path in tmp_path.iterdir()] == [".b.lock"]


class TestApt:
    @pytest.fixture
    def programs(self, tmp_path, monkeypatch):
        """A folder of programs that are the only ones."""
        folder = tmp_path / "bin"
        folder.mkdir()
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        monkeypatch.delenv("PYBPFLOAD_DEBIAN_ARCHIVE", raising=False)

        def add(name, script):
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)

        return add

    def test_the_archive_is_the_machines_own(self, programs):
        lines = [
            "http://third.party/debian/ nodistro main",
            "http://own/security/ trixie-security main",
            "http://own/debian/ trixie contrib",
            "http://own/debian/ trixie main",
        ]
        programs("apt-get", "cat <<END\n" + "\n".join(lines) + "\nEND")
        assert apt.archive_address() == "http://own/debian/"

    def test_or_the_one_that_is_told(self, monkeypatch):
        monkeypatch.setenv("PYBPFLOAD_DEBIAN_ARCHIVE", "http://told/debian")
        assert apt.archive_address() == "http://told/debian"

    def test_no_debian(self, programs):
        programs("apt-get", "echo http://archive.other/ubuntu/ noble main")
        with pytest.raises(VirtualMachineError, match="PYBPFLOAD_DEBIAN_ARCHIVE"):
            apt.archive_address()

    def test_no_apt(self, monkeypatch, tmp_path):
        monkeypatch.delenv("PYBPFLOAD_DEBIAN_ARCHIVE", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(VirtualMachineError, match="apt-get is missing"):
            apt.archive_address()

    def test_a_failure_is_shown(self, programs):
        programs("apt-get", "echo 'E: no route' >&2; exit 100")
        with pytest.raises(VirtualMachineError, match=r"exit status 100\nE: no route"):
            apt.archive_address()

    def test_merging_usr(self, tmp_path):
        package, folder = tmp_path / "package", tmp_path / "folder"
        for name in (
            "lib/x86_64-linux-gnu/libc.so.6",
            "usr/lib/x86_64-linux-gnu/libz.so",
            "bin/sh",
        ):
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text("")
        folder.mkdir()
        apt._move(package, folder)
        assert sorted(path.name for path in folder.iterdir()) == ["usr"]
        assert apt.library_path(folder) == str(folder / "usr/lib/x86_64-linux-gnu")
        assert (folder / "usr/bin/sh").exists()

    def test_running_unpacked_programs(self, tmp_path):
        with pytest.raises(VirtualMachineError, match="no dynamic loader"):
            apt.foreign_command(tmp_path, "usr/bin/qemu")
        (tmp_path / "usr/lib64").mkdir(parents=True)
        (tmp_path / "usr/lib64/ld-linux-x86-64.so.2").touch()
        command = apt.foreign_command(tmp_path, "usr/bin/qemu")
        assert command[0] == f"{tmp_path}/usr/lib64/ld-linux-x86-64.so.2"
        assert command[-1] == f"{tmp_path}/usr/bin/qemu"


def module(depends: str = "", alias: str = "") -> bytes:
    """A kernel module of nothing but its .modinfo."""
    info = f"license=GPL\0depends={depends}\0".encode()
    if alias:
        info += f"alias={alias}\0".encode()
    names = b"\0.modinfo\0.shstrtab\0"
    header = struct.Struct("<IIQQQQIIQQ")
    start = 64 + len(info) + len(names)
    top = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, start, 0, 64, 0, 0, 64, 3, 2
    )
    headers = bytes(64) + header.pack(1, 1, 0, 0, 64, len(info), 0, 0, 1, 0)
    headers += header.pack(10, 3, 0, 0, 64 + len(info), len(names), 0, 0, 1, 0)
    return top + info + names + headers


class TestModules:
    @pytest.fixture
    def kernel(self, cached):
        import lzma

        kernel = Kernel("6.1", "amd64", "bookworm", "linux-image-cloud-amd64")
        files = {
            "net/nf_tables.ko.xz": lzma.compress(module("nfnetlink,libcrc32c")),
            "net/nfnetlink.ko": module(),
            "lib/libcrc32c.ko": module(),
            "lib/crc32c_generic.ko": module(alias="crypto-crc32c"),
            "drivers/virtio_pci.ko": module("virtio,virtio-ring"),
            "drivers/virtio.ko": module("virtio_ring"),
            "drivers/virtio-ring.ko": module(),
            "drivers/other.ko": module(),
        }
        for name, data in files.items():
            path = kernel.modules / "kernel" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (kernel.folder / "release").write_text("6.1.0\n")
        (kernel.folder / "config").write_text("CONFIG_BPF=y\n")
        return kernel

    def test_the_archive(self, kernel):
        found = entries(modules.modules_archive(kernel).read_bytes())
        top = "usr/lib/modules/6.1.0"
        order = found["etc/pybpfload/modules"][1].decode().split()
        names = [Path(path).stem for path in order]
        assert set(names) == {
            "virtio-ring", "virtio", "virtio_pci", "nfnetlink", "libcrc32c", "nf_tables"
        }  # fmt: skip
        for first, then in [("virtio-ring", "virtio"), ("virtio", "virtio_pci")]:
            assert names.index(first) < names.index(then)
        for path in order:
            assert found[path.lstrip("/")][1].startswith(b"\x7fELF")
        assert f"{top}/kernel/drivers/other.ko" not in found
        lines = dict(
            line.split(":") for line in found[f"{top}/modules.dep"][1].decode().splitlines()
        )
        needed = lines["kernel/net/nf_tables.ko"].split()
        assert set(needed) == {"kernel/net/nfnetlink.ko", "kernel/lib/libcrc32c.ko"}
        assert found[f"{top}/modules.alias"][1] == b"alias crypto-crc32c crc32c_generic\n"
        assert found["boot/config-6.1.0"][1] == b"CONFIG_BPF=y\n"

    def test_finding_one(self, kernel):
        assert modules.find_module(kernel, "virtio_ring").name == "virtio-ring.ko"
        with pytest.raises(VirtualMachineError, match=r"kernel 6\.1 has no module zfs"):
            modules.find_module(kernel, "zfs")


class TestPayload:
    def test_a_checkout(self, tmp_path):
        git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y"]
        subprocess.run([*git, "init", "-q"], check=True)
        (tmp_path / ".gitignore").write_text("ignored\n")
        for name in ("tracked", "gone", "untracked", "ignored"):
            (tmp_path / name).write_text(name)
        subprocess.run([*git, "add", ".gitignore", "tracked", "gone"], check=True)
        (tmp_path / "gone").unlink()
        (tmp_path / "sub").mkdir()
        assert payload.checkout_of(tmp_path / "sub") == tmp_path
        names = [str(path) for path in payload.checkout_files(tmp_path)]
        assert names == [".gitignore", "tracked", "untracked"]

    def test_a_folder_without_git(self, tmp_path, monkeypatch):
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        for name in ("a.py", ".hidden/b", "__pycache__/a.pyc", "sub/c"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("")
        assert payload.checkout_of(tmp_path) == tmp_path
        assert [str(path) for path in payload.checkout_files(tmp_path)] == ["a.py", "sub/c"]

    def test_a_home_folder_is_too_large(self, tmp_path, monkeypatch):
        monkeypatch.setattr(payload, "LIMIT", 1 << 20)
        (tmp_path / "big").write_bytes(bytes(2 << 20))
        with pytest.raises(VirtualMachineError, match="git checkout"):
            payload.add_checkout(CpioWriter(io.BytesIO()), tmp_path)

    def test_distributions_and_what_they_require(self, tmp_path):
        def install(name, files, *requires):
            info = tmp_path / f"{name}-1.0.dist-info"
            info.mkdir()
            lines = [f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {r}" for r in requires)]
            (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")
            for file in files:
                (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / file).write_text("")
            listed = [*files, f"{name}-1.0.dist-info/METADATA", "../../bin/script", "not/there.py"]
            (info / "RECORD").write_text("".join(f"{file},,\n" for file in listed))

        install("My_Tests", ["tests.py", "fast.so"], "Some.Lib>=2", 'other; extra == "docs"')
        install("some-lib", ["lib/__init__.py", "lib/__pycache__/__init__.cpython-311.pyc"])
        install("other", ["other.py"])
        found = payload.package_files([tmp_path], ["my-tests", "not-installed"])
        assert {str(path) for path in found[tmp_path] if ".dist-info" not in path.parts[0]} == {
            "tests.py", "lib/__init__.py"
        }  # fmt: skip

    def test_the_command(self, tmp_path):
        script = payload.command_script(
            ["printf", "%s|", "a b", "$HOME", "c'd", ""], tmp_path, {"X": "y; z", "PWD_": "1"}
        )
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "a b|$HOME|c'd||")
        assert "export X='y; z'" in script

    def test_the_status_of_a_command_that_cannot_run(self, tmp_path):
        statuses = [
            subprocess.run(["sh", "-c", script], stderr=subprocess.DEVNULL, check=False).returncode
            for script in (
                payload.command_script(["not-a-program"], tmp_path, {}),
                payload.command_script(["true"], tmp_path / "missing", {}),
            )
        ]
        assert statuses == [127, 126]

    def test_no_command(self, tmp_path):
        with pytest.raises(VirtualMachineError, match="no command"):
            payload.command_script([], tmp_path, {})


END = b"\0pybpfload:0123456789abcdef\0"


def result(**changes) -> Result:
    fields = {
        "kernel": "6.1",
        "release": "6.1.0-50-cloud-amd64",
        "outcome": "exited",
        "status": 0,
        "stdout": b"",
        "stderr": b"",
        "events": (),
        "console": "",
        "boot_seconds": 3.0,
        "seconds": 9.0,
    }
    return Result(**{**fields, **changes})


class TestConversation:
    @given(
        text=st.lists(st.sampled_from([b"a", b"\0", b"\0pyb", b"\0pybpfload:0", b"\n"])).map(
            b"".join
        ),
        cuts=st.lists(st.integers(0, 80), max_size=8),
        more=st.booleans(),
    )
    def test_the_end_is_found_and_not_told(self, text, cuts, more):
        """However data is cut into pieces, listeners get all of it, at once, and nothing else."""
        told: list[bytes] = []
        talk = machine._Conversation(END, {"stdout": told.append})
        data = text + END + (b"left by another process" if more else b"")
        bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        for start, stop in itertools.pairwise(bounds):
            talk._take("stdout", data[start:stop])
        assert b"".join(told) == text
        assert bytes(talk.received["stdout"]) == text
        assert "stdout" not in talk._open

    def test_nothing_is_held_back_needlessly(self):
        told: list[bytes] = []
        talk = machine._Conversation(END, {"stdout": told.append})
        talk._take("stdout", b"Password: ")
        assert told == [b"Password: "]

    def test_status(self):
        talk = machine._Conversation(END, {})
        talk._take("status", b"rea")
        assert talk.boot_seconds is None
        talk._take("status", b"dy\n12")
        assert talk.boot_seconds is not None
        assert talk.status is None
        talk._take("status", b"7\n")
        assert talk.status == 127

    def test_lines(self):
        lines: list[str] = []
        take = machine._lines(lines.append)
        for piece in (b"on", b"e\ntwo\nth", b"ree", b"\n"):
            take(piece)
        assert lines == ["one", "two", "three"]


class TestResult:
    def test_exit_status(self):
        assert result(status=7).exit_status == 7
        assert result(outcome="timeout", status=None).exit_status == cli.TIMED_OUT == 124
        assert result(outcome="died", status=None).exit_status == cli.DIED == 125

    def test_why(self):
        console = "[ 1.0] hello\n[ 2.0] Kernel panic - not syncing: sysrq\n[ 2.1] Call Trace:\n"
        died = result(outcome="died", status=None, console=console)
        assert "the guest died: [ 2.0] Kernel panic" in died.explain()
        assert died.explain().endswith("  | [ 2.1] Call Trace:")
        assert died.trouble == ["[ 2.0] Kernel panic - not syncing: sysrq"]
        late = result(outcome="timeout", status=None, boot_seconds=None, seconds=60.2)
        assert late.explain() == (
            "6.1 (6.1.0-50-cloud-amd64): no end after 60 s (before the command started)"
        )
        assert result().explain() == ""

    @pytest.mark.parametrize(
        "line",
        [
            "BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "WARNING: CPU: 0 PID: 1 at kernel/bpf/core.c:100",
            "Oops: 0002 [#1] PREEMPT SMP NOPTI",
            "watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
            "Unable to handle kernel paging request at virtual address 0",
            "python3 invoked oom-killer: gfp_mask=0x0",
        ],
    )
    def test_what_is_trouble(self, line):
        assert result(console=f"[ 1.0] {line}\n[ 1.1] mtrr: fine\n").trouble == [f"[ 1.0] {line}"]


class TestResultsFromTheGuest:
    def archive(self, *members):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, content in members:
                info = tarfile.TarInfo(name)
                if isinstance(content, str):
                    info.type, info.linkname = tarfile.SYMTYPE, content
                    tar.addfile(info)
                else:
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        return bytearray(file.getvalue())

    def test_files(self, tmp_path):
        machine._extract(self.archive(("./a/b.xml", b"<x/>"), ("c", b"")), tmp_path / "out")
        assert (tmp_path / "out/a/b.xml").read_bytes() == b"<x/>"
        assert (tmp_path / "out/c").exists()

    def test_nothing(self, tmp_path):
        machine._extract(bytearray(), tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []

    def test_nothing_outside_the_folder(self, tmp_path):
        bad = self.archive(("../up", b"x"), ("/abs", b"x"), ("link", "/etc"), ("link/passwd", b"x"))
        machine._extract(bad, tmp_path / "out")
        assert not (tmp_path / "up").exists()
        assert (tmp_path / "out/link/passwd").read_bytes() == b"x"
        assert not (tmp_path / "out/link").is_symlink()

    def test_cut_off(self, tmp_path):
        with pytest.raises(VirtualMachineError, match="did not arrive whole"):
            machine._extract(self.archive(("a", bytes(9000)))[:3000], tmp_path / "out")


def events(*items: object) -> list[str]:
    return [json.dumps(item) for item in items]


def outcome(test: str, outcome: str, detail: str = "") -> dict[str, object]:
    return {"test": test, "outcome": outcome, "seconds": 0.5, "detail": detail}


class TestMatrix:
    def run(self, *items: object, kernel: str = "6.1", **changes) -> matrix.KernelRun:
        run = matrix.KernelRun(kernel, result=result(kernel=kernel, **changes))
        return matrix.read_events(run, events(*items))

    @pytest.fixture
    def runs(self):
        good = self.run(
            {"collected": ["t.py::a", "t.py::b"]},
            {"started": "t.py::a"},
            outcome("t.py::a", "passed"),
            outcome("t.py::b", "skipped", "needs Linux 6.6; this is 6.1.0-50-cloud-amd64"),
        )
        bad = self.run(
            {"collected": ["t.py::a", "t.py::b", "t.py::c"]},
            outcome("t.py::a", "failed", "assert 1 == \x1b2"),
            {"started": "t.py::b"},
            kernel="sid",
            outcome="died",
            status=None,
            console="[ 9.9] BUG: unable to handle page fault\n",
        )
        return [good, bad]

    def test_outcomes(self, runs):
        good, bad = runs
        assert good.good
        assert not bad.good
        assert {name: test.outcome for name, test in bad.tests.items()} == {
            "t.py::a": "failed", "t.py::b": "died", "t.py::c": "not run"
        }  # fmt: skip
        assert "BUG: unable to handle page fault" in bad.tests["t.py::b"].detail

    def test_table(self, runs):
        assert matrix.table(runs).splitlines() == [
            "         6.1    sid",
            "t.py::a  pass   FAIL",
            "t.py::b  skip   DIED",
            "t.py::c         -",
        ]

    def test_details(self, runs):
        text = matrix.details(runs)
        assert "skipped t.py::b on 6.1: needs Linux 6.6\n" in text
        assert "FAILED on sid (6.1.0-50-cloud-amd64): t.py::a\nassert 1 == " in text
        assert "PROBLEM on sid" in text

    def test_junit(self, runs):
        top = ElementTree.fromstring(matrix.junit_xml(runs))
        assert [suite.attrib["name"] for suite in top] == ["6.1", "sid"]
        assert [suite.attrib["failures"] for suite in top] == ["0", "3"]
        assert (
            top.find("testsuite/testcase/skipped").attrib["message"].startswith("needs Linux 6.6")
        )

    def test_a_test_and_its_teardown_can_both_fail(self):
        run = self.run(outcome("t.py::a", "failed", "one"), outcome("t.py::a", "error", "two"))
        assert run.tests["t.py::a"].detail == "one\n\ntwo"

    def test_a_line_cut_off(self):
        run = matrix.KernelRun("6.1", result=result(outcome="died", status=None))
        matrix.read_events(run, [*events({"started": "t.py::a"}), '{"test": "t.py::a", "outc'])
        assert run.tests["t.py::a"].outcome == "died"

    @pytest.mark.parametrize(
        ("status", "problem"), [(5, "no test ran"), (4, "pytest: exit status 4")]
    )
    def test_runs_without_tests_are_no_success(self, status, problem):
        run = self.run(status=status, stdout=b"ERROR: file not found\n")
        assert run.problem == f"{problem}\n  | ERROR: file not found"
        assert not run.good

    def test_failed_tests_are_no_problem_of_the_run(self):
        assert self.run(outcome("t.py::a", "failed"), status=1).problem == ""

    def test_arguments(self):
        assert matrix.kernel_names("5.10,6.1") == ["5.10", "6.1"]
        assert matrix.kernel_names("all") == [*KERNELS][:-1]  # all but 6.12-riscv64
        words = ["-v", "--kernels", "6.1", "--kernel-jobs=3", "tests", "--kernels=sid", "-k", "x"]
        kept = matrix.without_options(words, "--kernels", "--kernel-jobs")
        assert kept == ["-v", "tests", "-k", "x"]

    def test_unknown_kernels_are_told_before_any_boots(self):
        with pytest.raises(VirtualMachineError, match="no kernel is called"):
            matrix.run_tests(["6.1", "4.4"], [])

    def test_a_kernel_of_btf_only_is_not_booted(self):
        with pytest.raises(VirtualMachineError, match="riscv64 cannot be booted"):
            machine.VirtualMachine("6.12-riscv64")


class TestCommandLines:
    def test_run(self):
        parse = cli._run_parser().parse_args
        options = parse(["--kernel", "6.1", "-k", "sid", "--", "sh", "-c", "exit 3", "--jobs"])
        assert options.kernel == ["6.1", "sid"]
        assert options.command == ["sh", "-c", "exit 3", "--jobs"]
        assert (options.jobs, options.timeout, options.cpus, options.memory) == (1, 600, 2, 1024)

    @pytest.mark.parametrize("words", [[], ["--", "true"], ["--kernel", "6.1"]])
    def test_run_needs_a_kernel_and_a_command(self, words, capsys):
        with pytest.raises(SystemExit) as caught:
            cli.run_main(words)
        assert caught.value.code == 2
        assert "--kernel NAME" in capsys.readouterr().err

    def test_architecture(self):
        assert cli._with_architecture("6.12", "s390x") == "6.12-s390x"
        assert cli._with_architecture("6.12", "amd64") == "6.12"
        assert cli._with_architecture("6.12", None) == "6.12"

    def test_unknown_kernel(self, capfd):
        assert cli.run_main(["--kernel", "1.0", "--", "true"]) == cli.UNAVAILABLE
        assert "vm: no kernel is called '1.0'" in capfd.readouterr().err

    def test_list_and_path(self, cached, capsys):
        assert cli.kernels_main(["list"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 1 + len(KERNELS)
        assert cli.kernels_main(["path"]) == 0
        assert capsys.readouterr().out == f"{cached}\n"

    def test_clean(self, cached, capsys):
        current = [userland.tools_folder(), userland.root_archive_file("s390x")]
        old = [
            cached / "tools/0123",
            cached / "userland/amd64-0123.cpio",
            cached / "modules/x.cpio",
        ]
        for path in [*current, *old, cached / "kernels/mine", cached / "tools/.x.lock"]:
            path.mkdir(parents=True)
        assert cli.kernels_main(["clean"]) == 0
        assert [path for path in [*current, *old] if path.exists()] == current
        assert (cached / "kernels/mine").exists()
        assert (cached / "tools/.x.lock").exists()
        assert len(capsys.readouterr().out.splitlines()) == 3

    def test_output_of_several_machines(self, capfdbinary):
        shared = cli._Output(prefixed=True)
        stream = sys.stdout.buffer
        shared.write("6.1", stream, b"one\ntw")
        shared.write("sid", stream, b"other\n")
        shared.write("6.1", stream, b"o\nlast")
        shared.finish("6.1")
        assert capfdbinary.readouterr().out == b"6.1: one\nsid: other\n6.1: two\n6.1: last\n"

    def test_output_of_one(self, capfdbinary):
        shared = cli._Output(prefixed=False)
        shared.write("6.1", sys.stdout.buffer, b"Password: ")
        shared.finish("6.1")
        assert capfdbinary.readouterr().out == b"Password: "

    @pytest.mark.parametrize("tool", ["vm", "kernels", "test-kernels"])
    def test_tools(self, tool):
        path = Path(__file__).parents[2] / "tools" / tool
        done = subprocess.run([path, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "6.12" in done.stdout


class TestPlugin:
    @pytest.mark.parametrize(
        ("release", "arguments", "reason"),
        [
            ("6.1.0-50-cloud-amd64", {"at_least": "6.1"}, None),
            ("6.1.0-50-cloud-amd64", {"at_least": "6.2"}, "needs Linux 6.2; this is 6.1.0-"),
            ("5.10.0-32-cloud-amd64", {"at_least": "5.9"}, None),
            ("7.2.13+deb14", {"at_least": "6.12"}, None),
            ("6.1.0", {"below": "6.1"}, "needs a Linux below 6.1"),
            ("6.1.0", {"at_least": "5.10", "below": "6.2"}, None),
        ],
    )
    def test_versions(self, monkeypatch, release, arguments, reason):
        monkeypatch.setattr("platform.release", lambda: release)
        found = plugin._wrong_version(**arguments)
        assert found is None if reason is None else found.startswith(reason)

    def test_unknown_features_list_the_known_ones(self):
        with pytest.raises(ValueError, match=r"no feature is called 'fentri'.*module_btf"):
            plugin.missing_feature("fentri")

    @pytest.mark.slow
    def test_in_a_test_run(self, tmp_path):
        """Marks are declared, tests skipped with a reason, and the host is told of it."""
        (tmp_path / "test_x.py").write_text(
            "import pytest\n"
            "@pytest.mark.kernel('99.0')\n"
            "def test_future(): assert 0\n"
            "@pytest.mark.kernel('1.0')\n"
            "@pytest.mark.vm\n"
            "def test_past(): pass\n"
            "@pytest.mark.needs_feature('module:there_is_none')\n"
            "def test_module(): assert 0\n"
            "def test_fails(): assert 1 == 2\n"
            "@pytest.mark.xfail(reason='known')\n"
            "def test_known(): assert 0\n"
        )
        reports = tmp_path / "events"
        reports.touch()
        words = ["-m", "pytest", "-p", "pybpfload.testing.plugin", "--strict-markers", "-q"]
        done = subprocess.run(
            [sys.executable, *words, "-c", os.devnull, f"--rootdir={tmp_path}", str(tmp_path)],
            env={
                **os.environ,
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                "PYBPFLOAD_VM_EVENTS": str(reports),
            },
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1, done.stdout + done.stderr
        run = matrix.KernelRun("6.1", result=result(status=1))
        matrix.read_events(run, reports.read_text().splitlines())
        outcomes = {name.partition("::")[2]: test for name, test in run.tests.items()}
        assert {name: test.outcome for name, test in outcomes.items()} == {
            "test_future": "skipped",
            "test_past": "passed",
            "test_module": "skipped",
            "test_fails": "failed",
            "test_known": "xfailed",
        }
        assert outcomes["test_future"].detail.startswith("needs Linux 99.0; this is ")
        assert outcomes["test_module"].detail == "the kernel module there_is_none is not loaded"
        assert "assert 1 == 2" in outcomes["test_fails"].detail
        assert outcomes["test_known"].detail == "known"
