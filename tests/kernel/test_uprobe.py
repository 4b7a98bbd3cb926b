"""uprobe, uretprobe, uprobe.multi and sessions: each proved by what it sees of this process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import zipfile

import pytest
from conftest import OBJECTS
from user_binary import CODE_AT, MACHINES, UserBinaryBuilder, mapped

import pybpfload
from pybpfload import AttachError, KernelError, NotSupportedError

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(
        os.uname().machine not in MACHINES, reason="no machine code for this machine"
    ),
]
# enum probe of the fixture
UPROBE, URETPROBE, UPROBE_SLEEPABLE, UPROBE_MULTI, URETPROBE_MULTI, UPROBE_SESSION = range(6)
BARE, BARE_RETURN = 7, 8
COOKIE = 0x1234567890ABCDEF
EACH = 64  # bytes from one function of the library to the next


class Library:
    """A library with functions that add: `first`, `second`, `third` and `hidden`."""

    def __init__(self, folder) -> None:
        self.builder = UserBinaryBuilder(MACHINES[os.uname().machine].elf, _order())
        machine = MACHINES[os.uname().machine]
        for place, name in enumerate(("first", "second", "third", "hidden")):
            table = ".symtab" if name == "hidden" else ".dynsym"
            self.builder.symbol(name, place * EACH, table=table)
        code = (machine.nop + machine.add).ljust(EACH, b"\0")
        self.builder.code += code * 4
        self.path = folder / "libadd.so"
        self.path.write_bytes(self.builder.build())

    def call(self, name: str) -> None:
        place = ("first", "second", "third", "hidden").index(name)
        with mapped(self.path) as memory:
            assert memory.call(place * EACH, 20, 22) == 42


def _order() -> str:
    return "<" if sys.byteorder == "little" else ">"


@pytest.fixture
def library(tmp_path):
    return Library(tmp_path)


@pytest.fixture
def loaded(opened):
    """Load the fixture with one of its programs."""
    with contextlib.ExitStack() as stack:

        def load(name: str, with_cookie: bool = False, tgid: int = os.getpid()):
            spec = opened("uprobe")
            spec.programs[name].autoload = True
            spec.variables["target_tgid"].value = tgid
            spec.variables["with_cookie"].value = with_cookie
            obj = stack.enter_context(spec.load())
            return obj, obj.programs[name]

        yield load


def hits(obj, probe: int) -> int:
    return obj.variables["hits"].value[probe]


def cookie(obj, probe: int) -> int:
    return obj.variables["cookies"].value[probe]


def test_a_function_of_the_c_library_by_its_section_name(loaded):
    obj, _ = loaded("on_uprobe")
    (link,) = obj.attach()
    assert link.target == "libc.so.6:getppid"
    os.getppid()
    assert hits(obj, UPROBE) == 1
    link.close()
    os.getppid()
    assert hits(obj, UPROBE) == 1


def test_return_probe_by_its_section_name(loaded):
    obj, _ = loaded("on_uretprobe")
    obj.attach()
    os.getppid()
    assert hits(obj, URETPROBE) == 1


@pytest.mark.kernel("6.0")
def test_sleepable(loaded):
    obj, _ = loaded("on_uprobe_sleepable")
    obj.attach()
    os.getppid()
    assert hits(obj, UPROBE_SLEEPABLE) == 1


class TestPlaces:
    def seen(self, loaded, library, call, target, **options) -> int:
        obj, program = loaded("on_any")
        with program.attach(target, **options):
            library.call(call)
        library.call(call)
        return hits(obj, BARE)

    def test_function(self, loaded, library):
        assert self.seen(loaded, library, "second", f"{library.path}:second") == 1

    def test_not_another_function(self, loaded, library):
        assert self.seen(loaded, library, "first", f"{library.path}:second") == 0

    def test_function_and_offset(self, loaded, library):
        behind = len(MACHINES[os.uname().machine].nop)
        assert self.seen(loaded, library, "third", f"{library.path}:third+{behind:#x}") == 1
        assert self.seen(loaded, library, "third", f"{library.path}:first+{2 * EACH}") == 1

    def test_function_as_an_option(self, loaded, library):
        assert self.seen(loaded, library, "second", library.path, symbol="second") == 1
        where = str(library.path)
        assert self.seen(loaded, library, "second", where, symbol="first", offset=EACH) == 1

    def test_offset_in_a_stripped_file(self, loaded, library):
        library.path.write_bytes(library.builder.build(sections=False))
        where = str(library.path)
        assert self.seen(loaded, library, "second", where, offset=CODE_AT + EACH) == 1
        with pytest.raises(AttachError, match="no function second; it is stripped"):
            self.seen(loaded, library, "second", f"{library.path}:second")

    def test_exported_function_of_a_stripped_file(self, loaded, library):
        library.path.write_bytes(library.builder.build(symtab=False))
        assert self.seen(loaded, library, "second", f"{library.path}:second") == 1
        with pytest.raises(AttachError, match="stripped to 3 exported functions"):
            self.seen(loaded, library, "hidden", f"{library.path}:hidden")

    def test_executable_at_a_fixed_address(self, loaded, library):
        machine = MACHINES[os.uname().machine]
        builder = UserBinaryBuilder(machine.elf, _order(), kind=2, base=0x400000)
        builder.code += bytes(EACH) + machine.nop + machine.add
        builder.symbol("second", EACH)
        library.path.write_bytes(builder.build())
        assert self.seen(loaded, library, "second", f"{library.path}:second") == 1

    def test_version(self, loaded, library):
        builder = UserBinaryBuilder(library.builder.machine, _order())
        builder.code += library.builder.code
        builder.symbol("f", 0, table=".dynsym", version="V1", hidden=True)
        builder.symbol("f", EACH, table=".dynsym", version="V2")
        library.path.write_bytes(builder.build())
        assert self.seen(loaded, library, "first", f"{library.path}:f@V1") == 1
        assert self.seen(loaded, library, "second", f"{library.path}:f@@V2") == 1
        assert self.seen(loaded, library, "second", f"{library.path}:f") == 1
        with pytest.raises(AttachError, match="no function f@V3, but one without that version"):
            self.seen(loaded, library, "second", f"{library.path}:f@V3")

    def test_library_in_an_archive(self, loaded, library, tmp_path):
        """Android wants it uncompressed, at a multiple of the page size."""
        archive, names = tmp_path / "app.apk", ("padding", "lib/libadd.so")
        start = 0x10000
        with zipfile.ZipFile(archive, "w") as made:
            made.writestr(names[0], bytes(start - 2 * 30 - sum(map(len, names))))
            made.writestr(names[1], library.path.read_bytes())
        obj, program = loaded("on_any")
        with mapped(archive, start) as memory:
            with program.attach(f"{archive}!/lib/libadd.so:second") as link:
                assert link.target == f"{archive}!/lib/libadd.so:second"
                assert memory.call(EACH, 1, 2) == 3
            with program.attach(f"{archive}!/lib/libadd.so", offset=CODE_AT):
                assert memory.call(0, 1, 2) == 3
            memory.call(EACH, 1, 2)
        assert hits(obj, BARE) == 2
        with pytest.raises(AttachError, match=r"has no member lib/no\.so"):
            program.attach(f"{archive}!/lib/no.so:second")

    def test_program_found_in_path(self, loaded, library, monkeypatch):
        os.chmod(library.path, 0o755)
        tool = library.path.with_name("addtool")
        library.path.rename(tool)
        library.path = tool
        monkeypatch.setenv("PATH", str(tool.parent))
        assert self.seen(loaded, library, "second", "addtool:second") == 1

    def test_library_found_in_library_path(self, loaded, library, monkeypatch):
        monkeypatch.setenv("LD_LIBRARY_PATH", f":{library.path.parent}")
        assert self.seen(loaded, library, "second", "libadd.so:second") == 1

    def test_return_by_option(self, loaded, library):
        assert self.seen(loaded, library, "second", f"{library.path}:second", on_return=True) == 1
        with pytest.raises(AttachError, match="return of a function has no offset"):
            self.seen(loaded, library, "second", f"{library.path}:second+4", on_return=True)


class TestHow:
    """By which event and link."""

    @pytest.mark.kernel("5.15")
    @pytest.mark.parametrize("via", ["perf", None])
    def test_cookie(self, loaded, library, via):
        obj, program = loaded("on_any", with_cookie=True)
        program.attach(f"{library.path}:second", cookie=COOKIE, via=via)
        library.call("second")
        assert cookie(obj, BARE) == COOKIE

    @pytest.mark.kernel(below="5.15")
    def test_no_cookie(self, loaded, library):
        _, program = loaded("on_any")
        with pytest.raises(NotSupportedError, match=r"cookies.*needs Linux 5\.15"):
            program.attach(f"{library.path}:second", cookie=COOKIE)

    def test_ioctl(self, loaded, library):
        obj, program = loaded("on_any")
        link = program.attach(f"{library.path}:second", link=False)
        library.call("second")
        link.close()
        library.call("second")
        assert hits(obj, BARE) == 1

    @pytest.mark.parametrize("name", ["on_any", "on_any_return"])
    def test_event_in_tracefs(self, loaded, library, tracefs, name):
        obj, program = loaded(name)
        try:
            link = program.attach(f"{library.path}:second", via="tracefs")
        except pybpfload.NotPermittedError as error:
            pytest.skip(f"this kernel takes no events in tracefs: {error}")
        library.call("second")
        with open(f"{tracefs}/uprobe_events") as events:
            assert f"pybpfload_{os.getpid()}_" in events.read()
        link.close()
        library.call("second")
        assert hits(obj, BARE if name == "on_any" else BARE_RETURN) == 1
        with open(f"{tracefs}/uprobe_events") as events:
            assert f"pybpfload_{os.getpid()}_" not in events.read()

    def test_this_process(self, loaded, library):
        obj, program = loaded("on_any")
        program.attach(f"{library.path}:second", pid=0)
        library.call("second")
        assert hits(obj, BARE) == 1

    def test_another_process(self, loaded, library):
        """The program would count this process, but it is attached to another one."""
        obj, program = loaded("on_any")
        with subprocess.Popen(["sleep", "60"]) as child:
            try:
                program.attach(f"{library.path}:second", pid=child.pid)
                library.call("second")
                assert hits(obj, BARE) == 0
            finally:
                child.kill()

    def test_a_process_that_starts_later(self, loaded, library):
        obj, program = loaded("on_any", tgid=0)
        program.attach(f"{library.path}:second")
        code = (
            "import os, sys; sys.path.insert(0, sys.argv[2]); sys.path.insert(0, sys.argv[3]);"
            "from user_binary import mapped; sys.stdin.readline();\n"
            "with mapped(sys.argv[1]) as m: print(m.call(64, 1, 2))"
        )
        folders = [
            os.path.dirname(os.path.dirname(__file__)),
            os.path.dirname(pybpfload.__path__[0]),
        ]
        command = [sys.executable, "-c", code, str(library.path), *folders]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            obj.variables["target_tgid"].value = child.pid
            assert child.communicate("go\n")[0] == "3\n"
        assert hits(obj, BARE) == 1

    @pytest.mark.kernel("4.20")
    def test_reference_counter(self, loaded, library):
        _, program = loaded("on_any")
        counter = 0x20000 + 6
        with mapped(library.path) as memory:
            assert memory.counter(6) == 0
            with program.attach(f"{library.path}:second", ref_ctr_offset=counter):
                assert memory.counter(6) == 1
            assert memory.counter(6) == 0


@pytest.mark.kernel("4.20")
def test_a_killed_process_leaves_nothing(library):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import pybpfload\n"
        "spec = pybpfload.open(sys.argv[2]); spec.programs['on_any'].autoload = True\n"
        "obj = spec.load()\n"
        "program = obj.programs['on_any']\n"
        "program.attach(sys.argv[3], symbol='first', ref_ctr_offset=0x20000)\n"
        "print('attached', flush=True); sys.stdin.read()"
    )
    checkout = os.path.dirname(pybpfload.__path__[0])
    command = [sys.executable, "-c", code, checkout, OBJECTS / "uprobe.bpf.o", library.path]
    with (
        mapped(library.path) as memory,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child,
    ):
        assert child.stdout is not None
        assert child.stdout.readline() == b"attached\n"
        assert memory.counter(0) == 1
        child.kill()
        child.wait()
        deadline = time.monotonic() + 10  # the kernel cleans up when it has time
        while memory.counter(0) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert memory.counter(0) == 0


@pytest.mark.needs_feature("uprobe_multi_link")
class TestMulti:
    @pytest.mark.parametrize(
        ("name", "probe"),
        [("on_uprobe_multi", UPROBE_MULTI), ("on_uretprobe_multi", URETPROBE_MULTI)],
    )
    def test_by_section_name(self, loaded, name, probe):
        obj, _ = loaded(name)
        (link,) = obj.attach()
        os.getppid()
        assert hits(obj, probe) == 1
        link.close()
        os.getppid()
        assert hits(obj, probe) == 1

    @pytest.mark.kernel("6.13")
    def test_session_fires_twice(self, loaded):
        obj, _ = loaded("on_uprobe_session")
        obj.attach()
        os.getppid()
        assert hits(obj, UPROBE_SESSION) == 2

    @pytest.mark.kernel(below="6.13")
    def test_session_is_too_young(self, loaded):
        _, program = loaded("on_uprobe_session")
        with pytest.raises(NotSupportedError, match=r"needs Linux 6\.13"):
            program.attach()

    def call_all(self, library) -> None:
        for name in ("first", "second", "third", "hidden"):
            library.call(name)

    @pytest.mark.parametrize(
        ("pattern", "count"), [("*ir*", 2), ("?????", 2), ("second", 1), ("*", 3), ("hidd*", 1)]
    )
    def test_pattern(self, loaded, library, pattern, count):
        """`first`, `third` and `second` are exported; `hidden` alone is in the other table."""
        obj, program = loaded("on_uprobe_multi")
        if count > 1 or pattern == "second":
            library.path.write_bytes(library.builder.build(symtab=False))
        link = program.attach(f"{library.path}:{pattern}")
        assert len(link.info().details["offsets"]) == count
        self.call_all(library)
        assert hits(obj, UPROBE_MULTI) == count

    def test_list_of_functions_of_a_stripped_file(self, loaded, library):
        """libbpf fails here."""
        library.path.write_bytes(library.builder.build(symtab=False))
        obj, program = loaded("on_uprobe_multi", with_cookie=True)
        program.attach(library.path, symbols=["third", "first"], cookies=[3, COOKIE], pid=0)
        library.call("third")
        assert cookie(obj, UPROBE_MULTI) == 3
        library.call("first")
        assert cookie(obj, UPROBE_MULTI) == COOKIE
        assert hits(obj, UPROBE_MULTI) == 2

    def test_offsets_and_reference_counters(self, loaded, library):
        obj, program = loaded("on_uprobe_multi")
        offsets = [CODE_AT, CODE_AT + 2 * EACH]
        with mapped(library.path) as memory:
            with program.attach(library.path, offsets=offsets, ref_ctr_offsets=[0x20000, 0x20002]):
                assert [memory.counter(0), memory.counter(2)] == [1, 1]
                for place in range(3):
                    assert memory.call(place * EACH, 1, 2) == 3
            assert [memory.counter(0), memory.counter(2)] == [0, 0]
        assert hits(obj, UPROBE_MULTI) == 2

    def test_another_process(self, loaded, library):
        obj, program = loaded("on_uprobe_multi")
        with subprocess.Popen(["sleep", "60"]) as child:
            try:
                link = program.attach(f"{library.path}:*", pid=child.pid)
                assert link.info().details["pid"] == child.pid
                self.call_all(library)
                assert hits(obj, UPROBE_MULTI) == 0
            finally:
                child.kill()

    def test_refusals(self, loaded, library):
        _, program = loaded("on_uprobe_multi")
        for options, text in (
            ({"target": f"{library.path}:no*"}, r"no function of .*libadd.so matches 'no\*'"),
            ({"target": f"{library.path}:secnd"}, "did you mean second"),
            ({"target": library.path, "symbols": ["first", "nosuch"]}, "no function nosuch"),
            ({"target": library.path}, "name a pattern, symbols or offsets"),
        ):
            with pytest.raises(AttachError, match=text):
                program.attach(**options)
        for options in (
            {"symbols": ["first"], "offsets": [1]},
            {"symbols": ["first"], "cookies": [1, 2]},
            {"cookies": [1]},
        ):
            with pytest.raises(ValueError):
                program.attach(library.path, **options)
        with pytest.raises(KernelError, match=r"ESRCH.*there is no such process"):
            program.attach(f"{library.path}:*", pid=0x3FFFFFF0)


@pytest.mark.kernel(below="6.6")
def test_multi_is_too_young(loaded, library):
    _, program = loaded("on_uprobe_multi")
    with pytest.raises(NotSupportedError, match=r"uprobe\.multi links.*needs Linux 6\.6"):
        program.attach(f"{library.path}:*")


class TestRefusals:
    @pytest.mark.parametrize(
        ("target", "text"),
        [
            (None, "names no file"),
            ("libnosuch.so.1:f", r"no library libnosuch\.so\.1 in LD_LIBRARY_PATH, /usr/lib64"),
            ("nosuchprogram:f", "no program nosuchprogram in PATH"),
            ("/nosuch/file:f", "there is no file /nosuch/file"),
            ("libc.so.6", "name a function or an offset"),
            ("libc.so.6:getpidd", "has no function getpidd; did you mean getpid or"),
        ],
    )
    def test_target(self, loaded, target, text):
        _, program = loaded("on_any")
        with pytest.raises(AttachError, match=text):
            program.attach(target)
        assert not program.links

    def test_ifunc(self, loaded):
        _, program = loaded("on_any")
        if os.uname().machine != "x86_64":
            pytest.skip("memset of the C library is an ifunc on x86-64")
        with pytest.raises(AttachError, match=r"memset of .* is chosen when a program starts"):
            program.attach("libc.so.6:memset")

    def test_no_elf_file(self, loaded, tmp_path):
        _, program = loaded("on_any")
        (tmp_path / "script").write_text("#!/bin/sh\n")
        with pytest.raises(pybpfload.FormatError, match=r"not an ELF file.*probe its interpreter"):
            program.attach(f"{tmp_path}/script:f")
        with pytest.raises(KernelError, match="EISDIR"):
            program.attach(f"{tmp_path}:f")

    def test_offset_beyond_the_end(self, loaded, library):
        _, program = loaded("on_any")
        with pytest.raises(KernelError, match=r"EINVAL.*beyond its end") as caught:
            program.attach(library.path, offset=1 << 40)
        assert "on_any" in str(caught.value)

    def test_no_such_process(self, loaded, library):
        _, program = loaded("on_any")
        with pytest.raises(KernelError, match=r"ESRCH.*no such process"):
            program.attach(f"{library.path}:second", pid=0x3FFFFFF0)

    def test_numbers(self, loaded, library):
        _, program = loaded("on_any")
        for options in ({"offset": -1}, {"ref_ctr_offset": 1 << 32}, {"via": "magic"}):
            with pytest.raises(ValueError):
                program.attach(library.path, **{"symbol": "second", **options})
