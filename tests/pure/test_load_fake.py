"""Loading against a scripted kernel: what is asked of it, and that a refusal leaves nothing."""

from __future__ import annotations

import contextlib
import errno
import pickle
import sys
from array import array
from pathlib import Path

import pytest

import pybpfload
from pybpfload.btf import Kind
from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.edit import BtfEditor
from pybpfload.kernel.errors import BatchError
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.relocate import RelocatedProgram, Target
from pybpfload.relocate.ctx_arg import rewrite_context_arguments
from pybpfload.runtime import externs
from pybpfload.runtime.attach.iter import iter_info
from pybpfload.runtime.target import AttachTarget
from pybpfload.testing.fakekernel import FakeKernel
from pybpfload.uapi import AttachType, MapFlag, ProgType

OBJECTS = (
    Path(__file__).parents[2] / "fixtures" / f"bpf{'el' if sys.byteorder == 'little' else 'eb'}"
)
FOREIGN = OBJECTS.parent / ("bpfeb" if OBJECTS.name == "bpfel" else "bpfel")
LOADABLE = ["minimal", "maps", "maps_inner", "pinned", "globals", "tailcall", "rawtp", "subprogs"]


def kernel(name: str, **options) -> FakeKernel:
    """A kernel whose types are those of the object itself."""
    spec = pybpfload.open(OBJECTS / f"{name}.bpf.o")
    files = {"/sys/kernel/btf/vmlinux": spec.btf.to_bytes()} if spec.btf else {}
    return FakeKernel(files=files, **options)


def load_and_attach(name: str) -> None:
    spec = pybpfload.open(OBJECTS / f"{name}.bpf.o")
    for program in spec:
        # Tracepoints and functions of the kernel are not in the object's own BTF.
        if program.sec is not None and program.sec.needs_btf_id:
            program.autoload = False
    with spec.load() as obj:
        obj.attach()


@pytest.mark.parametrize("name", LOADABLE)
def test_everything_is_closed_again(name):
    with kernel(name) as fake:
        load_and_attach(name)
    assert fake.leaked() == []
    assert len(fake.calls) > 3


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("minimal", errno.EPERM),
        ("maps_inner", errno.EINVAL),
        ("pinned", errno.EPERM),
        ("tailcall", errno.ENOMEM),
    ],
)
def test_a_failure_at_any_call_leaves_nothing_behind(name, number):
    with kernel(name) as fake:
        load_and_attach(name)
    pinned = set(fake.pins)
    for after in range(len(fake.calls)):
        with kernel(name) as failing:
            failing.fail(after, number)
            spec = pybpfload.open(OBJECTS / f"{name}.bpf.o")
            try:
                obj = spec.load()
            except pybpfload.BpfError:
                assert failing.pins == {}, f"call {after}: a pin is left"
            else:
                assert set(failing.pins) == pinned
                with contextlib.suppress(pybpfload.BpfError), obj:
                    obj.attach()
        assert failing.leaked() == [], f"call {after} of {len(fake.calls)}"


def test_interrupting_leaves_nothing_behind():
    with kernel("maps") as fake:

        def interrupt(call):
            raise KeyboardInterrupt

        fake.on("PROG_LOAD", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load_and_attach("maps")
    assert fake.leaked() == []


def test_a_foreign_byte_order_has_its_own_sentence():
    spec = pybpfload.open(FOREIGN / "minimal.bpf.o")
    with FakeKernel() as fake:
        with pytest.raises(pybpfload.NotSupportedError, match=r"endian.*-target bpf"):
            spec.load()
    assert fake.calls == []


def test_a_missing_privilege_has_its_own_sentence():
    status = b"CapEff:\t0000000000000000\nSeccomp:\t0\n"
    with FakeKernel(refuses={"PROG_LOAD": errno.EPERM}, files={"/proc/self/status": status}):
        with pytest.raises(pybpfload.NotPermittedError, match="CAP_BPF"):
            pybpfload.load(OBJECTS / "minimal.bpf.o")


def test_a_kernel_without_btf_has_its_own_sentence():
    with FakeKernel():
        with pytest.raises(pybpfload.NotSupportedError, match="BTF"):
            pybpfload.load(OBJECTS / "execsnoop.bpf.o")


class TestOldKernels:
    def calls(self, name: str, *lacks: str):
        with kernel(name, lacks=lacks) as fake:
            load_and_attach(name)
        assert fake.leaked() == []
        return fake.calls

    def test_without_names(self):
        for call in self.calls("minimal", "PROG_NAME"):
            if call.command == "MAP_CREATE" and call.fields["max_entries"] == 1:
                assert not call.fields.get("map_name", b"").strip(b"\0")

    def test_without_mmap_of_arrays(self):
        for call in self.calls("globals", "ARRAY_MMAP"):
            if call.command == "MAP_CREATE" and call.result > 0:
                assert not call.fields["map_flags"] & MapFlag.MMAPABLE

    def test_without_btf(self):
        calls = self.calls(
            "minimal", "BTF", "BTF_FUNC", "BTF_GLOBAL_FUNC", "BTF_DATASEC", "BTF_FLOAT"
        )
        programs = [c for c in calls if c.command == "PROG_LOAD" and c.fields["insn_cnt"] > 10]
        assert programs
        assert all(not c.fields["prog_btf_fd"] for c in programs)
        assert all(not c.fields["func_info"] for c in programs)

    def test_without_probe_read_kernel(self):
        old = {4, 45}
        new = {112, 113, 114, 115}
        calls = self.calls("rawtp", "PROBE_READ_KERN")
        helpers = set()
        for call in calls:
            if call.command == "PROG_LOAD" and call.fields["insn_cnt"] > 20:
                from pybpfload.isa.insn import decode

                order = "<" if sys.byteorder == "little" else ">"
                helpers |= {i.imm for i in decode(call.insns, order) if i.is_helper_call}
        assert helpers & old
        assert not helpers & new


def test_maps_are_pinned_by_name_and_shared():
    with kernel("pinned") as fake:
        first = pybpfload.load(OBJECTS / "pinned.bpf.o")
        second = pybpfload.load(OBJECTS / "pinned.bpf.o")
        shared = [name for name, m in first.maps.items() if m.pin_path]
        assert shared
        for name in shared:
            mine = fake.fds[first.maps[name].fileno()]
            assert mine is fake.fds[second.maps[name].fileno()]
        first.close()
        second.close()
        assert set(fake.pins) == {f"/sys/fs/bpf/{name}" for name in shared}
    assert fake.leaked() == []


def test_a_pinned_map_of_another_shape_is_refused():
    with kernel("pinned") as fake:
        with pybpfload.load(OBJECTS / "pinned.bpf.o"):
            pass
        pinned = set(fake.pins)
        spec = pybpfload.open(OBJECTS / "pinned.bpf.o")
        changed = next(m for m in spec.maps.values() if m.pinning)
        changed.max_entries += 1
        with pytest.raises(pybpfload.BpfError, match="max_entries is"):
            spec.load()
        assert set(fake.pins) == pinned
    assert fake.leaked() == []


def test_probe_calls_are_made_only_for_what_an_object_needs():
    with kernel("minimal") as fake:
        load_and_attach("minimal")
    # One map of its own, two data maps, one program: the rest is probing, and must stay small.
    assert len(fake.calls) < 60


class TestAllOrNothing:
    def test_memory_that_cannot_be_mapped(self):
        class Unmappable(FakeKernel):
            def mmap(self, fd, length, offset, write):
                raise OSError(errno.ENOMEM, "no memory")

        with Unmappable(files={"/sys/kernel/btf/vmlinux": b""}) as fake:
            spec = pybpfload.open(OBJECTS / "globals.bpf.o")
            spec.maps["globals.bss"].pinning = 1
            with pytest.raises(pybpfload.KernelError, match="mmap"):
                spec.load()
            assert fake.pins == {}
        assert fake.leaked() == []

    def test_what_was_swallowed_is_told_when_a_map_is_refused(self):
        answers = iter([-errno.E2BIG, -errno.ENOMEM])

        def refuse(call):
            return next(answers) if b"counts" in call.fields["map_name"] else None

        with kernel("minimal") as fake:
            fake.on("MAP_CREATE", refuse)
            with pytest.raises(pybpfload.KernelError, match="ENOMEM") as caught:
                pybpfload.load(OBJECTS / "minimal.bpf.o")
        assert [e.errno for e in caught.value.swallowed] == [errno.E2BIG]
        assert all(e.__traceback__ is None for e in caught.value.swallowed)

    def test_a_pin_that_comes_and_goes(self):
        with kernel("pinned") as fake:
            fake.on("OBJ_PIN", lambda call: -errno.EEXIST)
            with pytest.raises(pybpfload.BpfError, match="made and removed"):
                pybpfload.load(OBJECTS / "pinned.bpf.o")
            assert fake.pins == {}
        assert fake.leaked() == []

    def test_closing_goes_on_after_an_interrupt(self, monkeypatch):
        with kernel("minimal") as fake:
            obj = pybpfload.load(OBJECTS / "minimal.bpf.o")
            first, second = (obj.programs["count_syscalls"].attach() for _ in range(2))
            close = first.close
            monkeypatch.setattr(first, "close", lambda: (close(), _interrupt()))
            with pytest.raises(KeyboardInterrupt):
                obj.close()
            assert fake.leaked() == []
            assert second.closed
            obj.close()


def _interrupt():
    raise KeyboardInterrupt


class TestSpecsAndObjectsAreIndependent:
    def test_editing_the_spec_later_changes_nothing(self):
        with kernel("minimal"):
            spec = pybpfload.open(OBJECTS / "minimal.bpf.o")
            with spec.load() as obj:
                spec.programs["count_syscalls"].attach_function = "other"
                spec.programs["count_syscalls"].autoattach = False
                (link,) = obj.attach()
                assert link.target == "sys_enter"

    def test_a_copy_shares_what_is_loaded(self):
        with kernel("minimal") as fake:
            spec = pybpfload.open(OBJECTS / "minimal.bpf.o")
            with spec.load() as obj:
                program = obj.programs["count_syscalls"]
                spec.programs["count_syscalls"].set_attach_target(program, "f")
                spec.maps["counts"].reuse = obj.maps["counts"]
                copied = spec.copy()
                assert copied.programs["count_syscalls"].attach_program is program
                assert copied.maps["counts"].reuse is obj.maps["counts"]
                assert copied.maps["counts"] is not spec.maps["counts"]
                copied.programs["count_syscalls"].attach_program = None
                with copied.load() as other:
                    shared = fake.fds[obj.maps["counts"].fileno()]
                    assert fake.fds[other.maps["counts"].fileno()] is shared
        assert fake.leaked() == []

    def test_maps_cannot_be_taken_out(self):
        spec = pybpfload.open(OBJECTS / "minimal.bpf.o")
        with pytest.raises(TypeError, match="autocreate to False"):
            del spec.maps["counts"]
        with pytest.raises(TypeError, match="autocreate to False"):
            spec.copy().maps.pop("counts")

    def test_contents_of_another_length(self):
        spec = pybpfload.open(OBJECTS / "globals.bpf.o")
        size = spec.maps["globals.data"].value_size
        with kernel("globals") as fake:
            spec.maps["globals.data"].contents = bytearray(b"\1")
            with spec.load() as obj:
                assert obj.maps["globals.data"].lookup_bytes(bytes(4)) == b"\1".ljust(size, b"\0")
            spec.maps["globals.data"].contents = bytearray(size + 1)
            with pytest.raises(pybpfload.BpfError, match=f"its value has {size}"):
                spec.load()
        assert fake.leaked() == []


class TestLinks:
    TRACEPOINT = "/sys/kernel/tracing/events/sched/sched_process_exec/id"

    @contextlib.contextmanager
    def traced(self, **options):
        with kernel("tracepoint", **options) as fake:
            fake.files[self.TRACEPOINT] = b"7\n"
            with pybpfload.load(OBJECTS / "tracepoint.bpf.o") as obj:
                yield fake, obj.programs["on_exec"]
        assert fake.leaked() == []

    @staticmethod
    def events(fake):
        return [made for made in fake.fds.values() if made.kind == "perf_event"]

    def test_a_pinned_link_goes_on_when_it_is_closed(self):
        with self.traced() as (fake, program):
            link = program.attach()
            (event,) = self.events(fake)
            before = len(event.ioctls)
            link.pin("/sys/fs/bpf/link")
            link.close()
            assert len(event.ioctls) == before, "the event of a pinned link is disabled"
            other = program.attach()
            (event,) = self.events(fake)
            other.close()
            assert len(event.ioctls) == before + 1

    def test_an_attachment_by_ioctl_cannot_be_pinned(self):
        with self.traced(lacks=["PERF_LINK"]) as (fake, program):
            with pytest.raises(pybpfload.NotSupportedError, match=r"needs Linux 5\.15"):
                program.attach().pin("/sys/fs/bpf/link")
            assert fake.pins == {}

    def test_an_unknown_tracepoint(self):
        with self.traced() as (_, program):
            with pytest.raises(pybpfload.AttachError, match=r"on_exec.*sched_process_exec\?"):
                program.attach("sched/sched_process_exe")
            with pytest.raises(pybpfload.AttachError, match="is no name"):
                program.attach("sched/../x")

    def test_an_event_that_cannot_be_enabled(self):
        with self.traced() as (fake, program):
            fake.refuses["ioctl"] = errno.EIO
            with pytest.raises(pybpfload.KernelError, match="PERF_EVENT_IOC_ENABLE"):
                program.attach()
            assert self.events(fake) == []

    def test_what_was_closed_can_be_attached_again(self):
        with kernel("minimal"), pybpfload.load(OBJECTS / "minimal.bpf.o") as obj:
            (link,) = obj.attach()
            assert obj.attach() == []
            link.close()
            (again,) = obj.attach()
            assert obj.links == [again]

    def test_a_pin_that_is_gone(self):
        with kernel("minimal") as fake, pybpfload.load(OBJECTS / "minimal.bpf.o") as obj:
            link = obj.programs["count_syscalls"].attach()
            link.pin(Path("/sys/fs/bpf/link"))
            fake.pins.clear()
            with pytest.raises(pybpfload.KernelError, match="ENOENT"):
                link.unpin()

    def test_what_a_link_cannot_do(self):
        with kernel("minimal") as fake, pybpfload.load(OBJECTS / "minimal.bpf.o") as obj:
            (link,) = obj.attach()
            fake.refuses |= {
                "LINK_DETACH": errno.EOPNOTSUPP,
                "LINK_UPDATE": errno.EINVAL,
                "ITER_CREATE": errno.EINVAL,
            }
            with pytest.raises(pybpfload.KernelError, match=r"count_syscalls.*when they are close"):
                link.detach()
            with pytest.raises(pybpfload.KernelError, match="cannot be updated"):
                link.update(obj.programs["count_syscalls"])
            with pytest.raises(pybpfload.KernelError, match="only links of iterators"):
                link.iter()

    @pytest.mark.parametrize("parameters", [{"pid": -1}, {"tid": 1 << 32}])
    def test_numbers_that_are_no_process(self, parameters):
        with pytest.raises(pybpfload.AttachError, match="is no number"):
            iter_info(**parameters)


class TestOpening:
    def test_programs_by_pin_and_id(self):
        with kernel("minimal") as fake, pybpfload.load(OBJECTS / "minimal.bpf.o") as obj:
            program = obj.programs["count_syscalls"]
            program.pin("/sys/fs/bpf/program")
            with (
                pybpfload.Program.from_pin(Path("/sys/fs/bpf/program")) as pinned,
                pybpfload.Program.from_id(program.info().id) as by_id,
            ):
                assert fake.fds[pinned.fileno()] is fake.fds[program.fileno()]
                assert pinned.type == by_id.type == program.type
                with pytest.raises(pybpfload.AttachError, match="does not say where"):
                    by_id.attach()
                pinned.unpin()
                assert fake.pins == {}
                with pytest.raises(pybpfload.BpfError, match="not pinned"):
                    by_id.unpin()
        assert fake.leaked() == []

    def test_maps_by_pin_id_and_descriptor(self):
        with kernel("minimal") as fake, pybpfload.load(OBJECTS / "minimal.bpf.o") as obj:
            counts = obj.maps["counts"]
            counts.pin(Path("/sys/fs/bpf/counts"))
            assert counts.pin_path == "/sys/fs/bpf/counts"
            with (
                pybpfload.Map.from_pin(Path("/sys/fs/bpf/counts")) as pinned,
                pybpfload.Map.from_id(counts.info().id) as by_id,
                pybpfload.Map.from_fd(counts) as by_object,
                pybpfload.Map.from_fd(counts.fileno()) as by_number,
            ):
                for other in (pinned, by_id, by_object, by_number):
                    assert fake.fds[other.fileno()] is fake.fds[counts.fileno()]
                assert pinned.pin_path == counts.pin_path
                pinned.unpin(Path("/sys/fs/bpf/counts"))
                assert pinned.pin_path is None
            assert fake.pins == {}
            fake.files["/tmp/file"] = b"not ours"
            with pytest.raises(pybpfload.KernelError, match="not in a BPF filesystem"):
                counts.unpin(Path("/tmp/file"))
            assert "/tmp/file" in fake.files
        assert fake.leaked() == []

    def test_something_of_another_kind(self):
        class WithProc(FakeKernel):
            def read_file(self, path, limit):
                start, _, fd = path.rpartition("/")
                if start == "/proc/self/fdinfo":
                    return f"{self.fds[int(fd)].kind}_type:\t1\n".encode()
                return super().read_file(path, limit)

        with WithProc() as fake, pybpfload.load(OBJECTS / "minimal.bpf.o") as obj:
            obj.maps["counts"].pin("/sys/fs/bpf/counts")
            for kind in (pybpfload.Program, pybpfload.Link):
                with pytest.raises(pybpfload.BpfError, match="it is a map"):
                    kind.from_pin("/sys/fs/bpf/counts")
            with pytest.raises(pybpfload.BpfError, match="is not a BPF map, it is a program"):
                pybpfload.Map.from_fd(obj.programs["count_syscalls"])
            spec = pybpfload.open(OBJECTS / "minimal.bpf.o")
            spec.maps["counts"].reuse = obj.programs["count_syscalls"]
            with pytest.raises(pybpfload.BpfError, match="it is a program"):
                spec.load()
        assert fake.leaked() == []

    def test_a_descriptor_that_is_not_open(self):
        class Stale:
            def fileno(self):
                return 12345

        with kernel("minimal") as fake:
            spec = pybpfload.open(OBJECTS / "minimal.bpf.o")
            spec.maps["counts"].reuse = Stale()
            with pytest.raises(pybpfload.KernelError, match="EBADF"):
                spec.load()
        assert fake.leaked() == []


class TestTargets:
    def test_a_function_is_not_the_path_of_a_pin(self):
        program = pybpfload.open(OBJECTS / "minimal.bpf.o").programs["count_syscalls"]
        with pytest.raises(pybpfload.BpfError, match="function='vfs_read'"):
            program.set_attach_target("vfs_read")

    def test_programs_that_have_no_target_program(self):
        with kernel("minimal") as fake:
            spec = pybpfload.open(OBJECTS / "minimal.bpf.o")
            spec.programs["count_syscalls"].set_attach_target(1)
            with pytest.raises(pybpfload.AttachError, match="only fentry"):
                spec.load()
        assert fake.leaked() == []

    def test_a_target_set_for_a_section_that_says_nothing(self):
        with kernel("minimal") as fake:
            spec = pybpfload.open(OBJECTS / "minimal.bpf.o")
            program = spec.programs["count_syscalls"]
            program.prog_type, program.expected_attach_type = ProgType.TRACING, AttachType(24)
            program.set_attach_target(function="count_syscalls")  # in the object's own BTF
            with spec.load() as obj:
                link = obj.programs["count_syscalls"].attach()
                assert link.target == "count_syscalls"
            loads = [c for c in fake.calls if c.command == "PROG_LOAD"]
            assert spec.btf.find("count_syscalls") in [c.fields["attach_btf_id"] for c in loads]
        assert fake.leaked() == []

    def test_freplace_programs_take_no_cookie(self):
        with FakeKernel() as fake:
            fd = fake.open_object(fake.make("prog"))
            spec = pybpfload.ProgramSpec("new", "freplace", [], prog_type=ProgType.EXT)
            target = AttachTarget("old", 1)
            with pybpfload.Program(FileDescriptor(fd, "new"), spec, target=target) as program:
                with pytest.raises(pybpfload.AttachError, match="cookie"):
                    program.attach(cookie=1)
        assert fake.leaked() == []

    def test_struct_ops_programs_have_their_own_sentence(self):
        with kernel("minimal") as fake:
            spec = pybpfload.open(OBJECTS / "minimal.bpf.o")
            spec.programs["count_syscalls"].prog_type = ProgType.STRUCT_OPS
            with pytest.raises(pybpfload.BpfError, match="no struct_ops map that is created"):
                spec.load()
        assert fake.leaked() == []


def test_an_iterator_link_can_be_read_again_and_again():
    with FakeKernel() as fake:
        made = fake.make("link")
        made.output = b"one\ntwo\n"
        fd = FileDescriptor(fake.open_object(made), "link")
        with pybpfload.Link(fd, kind="iter", target="task", program="p") as link:
            assert list(link.iter()) == ["one", "two"]
            with link.open_iter() as stream:
                assert stream.read() == b"one\ntwo\n"
    assert fake.leaked() == []


def test_weak_externs_that_are_missing_are_noted():
    spec = pybpfload.open(OBJECTS / "ksyms.bpf.o")
    for extern in spec.externs.values():
        extern.weak = True
    with FakeKernel(files={"/proc/kallsyms": b""}):
        found = externs.resolve(spec, Target(pybpfload.Btf.from_bytes(spec.btf.to_bytes())))
    missing = [key for key, symbol in found.symbols.items() if symbol is None]
    assert missing
    assert len(found.notes) == len(missing)


def test_errors_survive_a_worker_process():
    for error in (
        pybpfload.VerifierError(errno.EACCES, "p", "the log", summary="why", insn=3),
        pybpfload.NotPermittedError(errno.EPERM, "BPF_PROG_LOAD", "program p", hint="be root"),
        pybpfload.FormatError("damaged", file="x.o", offset=3),
        pybpfload.AttachError("nowhere", program="p"),
        BatchError(errno.ENOSPC, "BPF_MAP_LOOKUP_BATCH", "map m", count=3),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))
        assert vars(again) == vars(error)


class TestBtfOfTheObject:
    def test_a_layout_part_is_left_out_where_the_kernel_does_not_know_it(self):
        with kernel("minimal", lacks=["BTF_LAYOUT"]) as fake:
            spec = pybpfload.open(OBJECTS / "minimal.bpf.o")
            editor = BtfEditor(spec.btf)
            editor.add_layout()
            spec.btf = editor.finish()
            with spec.load() as obj:
                assert obj.notes == []
            assert fake.calls
        assert fake.leaked() == []

    def test_features_that_the_btf_does_not_use_are_not_probed(self):
        with kernel("minimal") as fake, pybpfload.load(OBJECTS / "minimal.bpf.o"):
            probed = {feature.name for feature in fake.cache["features"]}
        assert "BTF_DATASEC" in probed
        assert not probed & {"BTF_FLOAT", "BTF_LAYOUT", "BTF_EMPTY_DATASEC", "ARG_CTX_TAG"}

    def test_copies_for_context_arguments_are_in_the_order_of_the_tags(self):
        builder = BtfBuilder()
        pointer = builder.add_ptr(0)
        proto = builder.add_func_proto(0, [("ctx", pointer)])
        first, second = builder.add_func("first", proto), builder.add_func("second", proto)
        for function in (second, first):
            builder.add_decl_tag("arg:ctx", function, 0)
        spec = pybpfload.ProgramSpec("p", "tc", [], prog_type=ProgType.SCHED_CLS)
        info = array("I", [0, first, 8, second])
        program = RelocatedProgram(spec, [], func_info=info, func_info_rec_size=8)
        before = builder.btf()
        btf = rewrite_context_arguments(before, [program])
        added = [Kind(btf.kind(i)).name for i in range(len(before), len(btf))]
        one = ["FUNC_PROTO", "FUNC"]
        assert added == [*one, "STRUCT", "PTR", "DECL_TAG", *one, "DECL_TAG"]
        assert info.tolist() == [0, len(before) + 6, 8, len(before) + 1]

    def test_two_context_arguments_of_a_function(self):
        builder = BtfBuilder()
        pointer = builder.add_ptr(0)
        proto = builder.add_func_proto(
            builder.add_int("int", 4), [("a", pointer), ("n", pointer), ("b", pointer)]
        )
        function = builder.add_func("f", proto)
        for component in (0, 2):
            builder.add_decl_tag("arg:ctx", function, component)
        spec = pybpfload.ProgramSpec("p", "tc", [], prog_type=ProgType.SCHED_CLS)
        program = RelocatedProgram(
            spec, [], func_info=array("I", [0, function]), func_info_rec_size=8
        )
        btf = rewrite_context_arguments(builder.btf(), [program])
        clone = program.func_info[1]
        assert clone != function
        contexts = [btf.type_name(btf.strip(btf[p.type].type)) for p in btf[btf[clone].type].params]
        assert contexts == ["__sk_buff", "void", "__sk_buff"]
        tags = [btf[i] for i in btf.find_all("arg:ctx", Kind.DECL_TAG)]
        assert [tag.component for tag in tags if tag.type == clone] == [0, 2]
