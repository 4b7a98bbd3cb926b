"""Loading on kernels that lack things, by the scripted kernel of a certain age.

What libbpf does there is told in section 7 of the project's reference; this is where each of its
rules is shown. ``tests/kernel/test_old_kernel.py`` shows on a real 5.10 what that kernel lacks. It
is long because it is one table and what the table names.

====================================================  ==============================================
rule                                                  shown by
====================================================  ==============================================
7.1  the order of the steps                           test_the_order_of_the_steps
7.1  a trial program, of either of two types          test_the_trial_program
7.1  helpers of 5.5 become those of 4.1 and 4.11      test_probe_read_before_5_5
7.1  another byte order                               test_load_fake::test_a_foreign_byte_order_has_its_own_sentence
7.1  what fails leaves nothing behind                 test_load_fake::test_a_failure_at_any_call_leaves_nothing_behind
7.2  RLIMIT_MEMLOCK is lifted, once, before all       test_memlock_is_lifted_before_5_11
7.2  a failure of that is ignored                     test_memlock_that_cannot_be_lifted
7.3  where the version is from                        test_kernel_files::test_where_the_version_is_from
7.3  it is given to every program                     test_every_program_is_given_the_version
7.4  BTF of the kernel only if something needs it     test_btf_of_the_kernel_only_if_needed
7.4  where it is looked for                           test_kernel_btf::test_a_kernel_without_btf
7.4  what sysfs shows is final                        test_kernel_btf::test_vmlinux_exists_but
7.4  modules only if needed, only since 5.11          test_modules_are_looked_at_only_if_needed
7.4  ids that vanish, may not be listed or opened     test_kernel_btf::test_other_errors_are_errors
7.4  modules with broken BTF                          test_a_broken_module_is_a_note
7.5  no BTF of the object where there is none         test_every_version_takes_the_btf
7.5  hidden functions become static                   test_hidden_functions_become_static
7.5  sanitising, rule by rule                         test_sanitize::test_the_result_needs_nothing_that_is_lacking
7.5  sanitising, version by version                   test_every_version_takes_the_btf
7.5  the original goes on being used                  test_the_objects_own_btf_stays
7.5  refused BTF is no failure                        test_btf_that_is_refused_all_the_same
7.6  each feature is found where it is                test_every_version_is_recognised
7.6  remembered, unless it could not be tried         test_kernel_probe::test_not_permitted_is_not_absent
7.6  nothing leaks from a probe                       test_kernel_probe::test_nothing_leaks_wherever_a_probe_fails
7.7  names of 15 bytes, from 4.15 on                  test_names_before_4_15
7.7  expected_attach_type only from 4.17 on           test_expected_attach_type_before_4_17
7.7  flags of sections                                test_flags_of_sections
7.7  no func_info without it                          test_func_info_before_5_0
7.7  EAGAIN is tried five times                       test_eagain
7.7  shorter records of func_info and line_info       test_records_that_are_too_long
7.7  without a log first, then with one               test_a_refused_program_is_submitted_twice
7.7  the log grows, within the kernel's limit         test_the_log_grows_within_the_limit
7.7  poison is explained in the log                   test_global_data_before_5_2
7.7  descriptors are 3 or higher                      test_kernel_door::test_low_numbers_are_moved
7.8  modules by prefix, kernel first                  test_modules_by_prefix
7.8  a function of a broken module                    test_a_function_of_a_broken_module
7.8  no BTF of the kernel                             test_tracing_without_btf_of_the_kernel
7.9  global data: maps left out, users poisoned       test_global_data_before_5_2
7.9  a map whose BTF is refused                       test_a_map_whose_btf_is_refused
7.9  MMAPABLE dropped; variables work all the same    test_variables_before_5_5
7.9  frozen maps, from 5.2 on                         test_freezing_that_is_refused
7.9  perf event links: ioctl before 5.15              test_perf_events_before_5_15
7.9  tracing links: raw tracepoints before 5.7        test_tracing_before_5_7
7.9  binding maps, from 5.10 on                       test_binding_before_5_10
7.9  context arguments, before 6.8                    test_load_fake::test_two_context_arguments_of_a_function
====================================================  ==============================================

Not built: BPF tokens (7.10). Not here: struct_ops (7.1, 7.5) and what kprobes, uprobes and USDT do
on old kernels (7.9), whose tests are those of attaching.
"""  # noqa: E501

from __future__ import annotations

import errno
import pickle
import re
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

import pybpfload
from pybpfload import lowlevel, uapi
from pybpfload.btf import Btf, Kind
from pybpfload.btf import types as t
from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.edit import BtfEditor
from pybpfload.isa.insn import Insn, decode, encode
from pybpfload.kernel import memlock, probe, progload
from pybpfload.kernel.probe import Feature
from pybpfload.kernel.since import version_pair
from pybpfload.testing.fakekernel import Call, FakeKernel, memory
from pybpfload.uapi import AttachType, MapFlag, ProgFlag, ProgType

ORDER: Any = "<" if sys.byteorder == "little" else ">"
OBJECTS = Path(__file__).parents[2] / "fixtures" / ("bpfel" if ORDER == "<" else "bpfeb")
VMLINUX = "/sys/kernel/btf/vmlinux"
RETURN_0 = encode([Insn(0xB7), Insn(0x95)], ORDER)

# The versions that brought a feature, and what came just before.
VERSIONS = [
    *("4.14", "4.15", "4.17", "4.18", "4.20", "5.0", "5.1", "5.2", "5.4", "5.5", "5.6", "5.9"),
    *("5.10", "5.11", "5.12", "5.13", "5.15", "5.16", "5.17", "5.19", "6.0", "6.5", "6.6", "6.7"),
    *("6.8", "6.9", "6.12", "7.0", "7.1"),
]


def fixture(name: str) -> pybpfload.ObjectSpec:
    return pybpfload.open(OBJECTS / f"{name}.bpf.o")


def kernel(version: str, spec: pybpfload.ObjectSpec, **options: Any) -> FakeKernel:
    """A kernel of a version whose types are those of the object itself."""
    files = {VMLINUX: spec.btf.to_bytes()} if spec.btf else {}
    return FakeKernel.like(version, files={**files, **options.pop("files", {})}, **options)


def only(spec: pybpfload.ObjectSpec, *names: str) -> pybpfload.ObjectSpec:
    """Load only these programs."""
    for program in spec:
        program.autoload = program.name in names
    return spec


def loads(fake: FakeKernel, at_least: int = 10) -> list[Call]:
    """Successful loads of programs that are no probes."""
    calls = [c for c in fake.calls if c.command == "PROG_LOAD" and c.result >= 0]
    return [c for c in calls if c.fields["insn_cnt"] >= at_least]


def uploaded(fake: FakeKernel) -> Btf:
    """The BTF that was uploaded last."""
    return Btf.from_bytes([o for (kind, _), o in fake.objects.items() if kind == "btf"][-1]["data"])


def creations(fake: FakeKernel, *names: str) -> list[Call]:
    """Creations of maps with these names."""
    wanted = {name.encode() for name in names}
    calls = [c for c in fake.calls if c.command == "MAP_CREATE"]
    return [c for c in calls if c.fields["map_name"].rstrip(b"\0") in wanted]


# The kernel of a certain age itself


def test_every_rule_has_its_test() -> None:
    assert __doc__ is not None
    table = __doc__.split("===\n")[2]
    named = [line.split()[-1] for line in table.splitlines() if line.startswith("7.")]
    assert len(named) > 40
    for name in named:
        module, _, test = name.rpartition("::")
        file = Path(__file__).with_name(f"{module}.py") if module else Path(__file__)
        assert re.search(rf"^ *def {test}\(", file.read_text(), re.MULTILINE), name


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_is_recognised(version: str) -> None:
    expected = {f for f in Feature if version_pair(f.since) <= version_pair(version)}
    with FakeKernel.like(version) as fake:
        assert {f for f in Feature if probe.has(f)} == expected
        assert not fake.leaked()
        # The same by what the calls need, for the features that are numbers of the UAPI.
        fake.lacks = frozenset({"ARG_CTX_TAG", "LDIMM64_FULL_RANGE_OFF", "UPROBE_MULTI_LINK"})
        probe.clear_cache()
        by_calls = {f for f in Feature if probe.has(f)}
        assert {f.name for f in by_calls - expected} <= {
            *(f.name for f in Feature if f.name.startswith("BTF_")),
            "MODULE_BTF",
        }


def test_what_an_old_kernel_answers() -> None:
    with FakeKernel.like("4.14"):
        for number, call in (
            (errno.EINVAL, lambda: lowlevel.map_create(uapi.MapType.RINGBUF, 0, 0, 4096)),
            (errno.EINVAL, lambda: lowlevel.map_create(1, 4, 4, 1, map_name="x")),
            (errno.E2BIG, lambda: lowlevel.prog_load(1, bytes(8), prog_name="x")),
            (errno.EINVAL, lambda: lowlevel.map_create(1, 4, 4, 1, map_flags=MapFlag.RDONLY_PROG)),
            (errno.EINVAL, lambda: lowlevel.link_create(3, 0, AttachType.TRACE_FENTRY)),
            (errno.EINVAL, lambda: lowlevel.btf_load(b"")),
            (errno.EINVAL, lambda: lowlevel.prog_load(ProgType.TRACING, bytes(8))),
            (errno.E2BIG, lambda: lowlevel.prog_load(1, bytes(8) * 4097)),
        ):
            with pytest.raises(pybpfload.KernelError) as caught:
                call()
            assert caught.value.errno == number, str(caught.value)


@pytest.mark.parametrize(
    ("version", "make", "words"),
    [
        ("5.10", {"map_type": 29}, "the map type TASK_STORAGE came with Linux 5.11, this is 5.10"),
        ("5.4", {"map_flags": 0x1001}, "the flag INNER_MAP of map_flags came with Linux 5.10"),
        ("4.14", {"map_name": "x"}, "the field map_name came with Linux 4.15"),
        ("5.10", {"map_extra": 1}, "the field map_extra came with Linux 5.16"),
        ("5.10", {"max_entries": 0}, None),
        ("4.14", {"map_type": 999}, None),
    ],
)
def test_refusals_say_what_is_too_young(
    version: str, make: dict[str, Any], words: str | None
) -> None:
    arguments = {"map_type": 2, "key_size": 4, "value_size": 4, "max_entries": 1, **make}
    with FakeKernel.like(version), pytest.raises(pybpfload.KernelError) as caught:
        lowlevel.map_create(**arguments)
    if words is None:
        assert "came with" not in str(caught.value)
    else:
        assert words in str(caught.value)


def test_what_is_too_young_is_not_supported() -> None:
    with FakeKernel.like("6.8"), pytest.raises(pybpfload.NotSupportedError) as caught:
        lowlevel.map_create(uapi.MapType.ARENA, 0, 0, 1, map_flags=1 << 10)
    error = caught.value
    assert isinstance(error, pybpfload.KernelError)
    assert (error.errno, error.feature, error.since) == (22, "the map type ARENA", "6.9")
    with FakeKernel.like("5.4"), pytest.raises(pybpfload.NotSupportedError, match="ARENA"):
        lowlevel.map_create(uapi.MapType.ARENA, 0, 0, 1, map_extra=1 << 44)  # a field of 5.16
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.since) == (str(error), "6.9")


def test_a_helper_that_is_too_young() -> None:
    code = encode([Insn(0x85, imm=174), Insn(0x95)], ORDER)
    with FakeKernel.like("5.15") as fake:
        fd, _ = progload.load_program(ProgType.TRACEPOINT, code)
        fake.close(fd)
    with FakeKernel.like("5.14"), pytest.raises(pybpfload.VerifierError) as caught:
        progload.load_program(ProgType.TRACEPOINT, code)
    words = "the helper GET_ATTACH_COOKIE came with Linux 5.15, this is 5.14"
    assert str(caught.value).endswith(words)


def test_a_program_type_that_is_too_young() -> None:
    spec = fixture("minimal")
    with kernel("4.16", spec) as fake, pytest.raises(pybpfload.KernelError) as caught:
        spec.load()
    assert "the prog type RAW_TRACEPOINT came with Linux 4.17, this is 4.16" in str(caught.value)
    assert not fake.leaked()


# 7.1 to 7.3


def test_the_order_of_the_steps() -> None:
    spec = fixture("globals")
    with kernel("7.1", spec) as fake, spec.load():
        done = fake.commands()
    whole = max(range(len(done)), key=lambda i: fake.calls[i].fields.get("btf_size", 0))
    first_map = fake.calls.index(creations(fake, "globals.bss")[0])
    first_program = fake.calls.index(loads(fake)[0])
    assert done[:2] == ["TOKEN_CREATE", "PROG_LOAD"]
    assert whole < first_map < first_program
    assert "PROG_BIND_MAP" in done[done.index("MAP_FREEZE") :]


def test_the_trial_program() -> None:
    spec = fixture("maps_inner")

    def no_filters(call: Call) -> int | None:
        return -errno.EPERM if call.fields["prog_type"] == ProgType.SOCKET_FILTER else None

    def no_programs(call: Call) -> int:
        return -errno.EPERM if call.fields["prog_type"] == ProgType.SOCKET_FILTER else -errno.EIO

    with kernel("5.4", spec) as fake:
        fake.on("PROG_LOAD", no_filters)
        only(spec).load().close()
        fake.on("PROG_LOAD", no_programs)
        with pytest.raises(pybpfload.KernelError, match="a trial program") as caught:
            spec.load()
        assert caught.value.errno == errno.EIO
        assert not fake.leaked()


@pytest.mark.parametrize(("version", "expected"), [("5.4", {4, 45}), ("5.5", {112, 113, 114, 115})])
def test_probe_read_before_5_5(version: str, expected: set[int]) -> None:
    spec = fixture("rawtp")
    only(spec, *(p.name for p in spec if p.prog_type == ProgType.RAW_TRACEPOINT))
    with kernel(version, spec) as fake, spec.load():
        code = b"".join(call.insns for call in loads(fake))
    called = {i.imm for i in decode(code, ORDER) if i.is_helper_call}
    assert called & {4, 45, 112, 113, 114, 115} <= expected
    assert called & expected


def test_memlock_is_lifted_before_5_11() -> None:
    spec = fixture("maps")
    with kernel("5.4", spec) as fake:
        assert fake.memlock == 65536
        with spec.load():
            assert fake.memlock == -1
    with kernel("5.11", spec, memlock=65536) as fake, spec.load():
        assert fake.memlock == 65536


def test_memlock_that_cannot_be_lifted() -> None:
    spec = fixture("maps")
    with kernel("5.4", spec, refuses={"setrlimit": errno.EPERM}) as fake:
        with pytest.raises(pybpfload.NotPermittedError, match="memory lock limit of 64 KiB"):
            spec.load()
        assert not fake.leaked()
        assert memlock.charged_limit() == 65536


def test_every_program_is_given_the_version() -> None:
    spec = only(fixture("ctx_arg"), "kprobe_program")
    with kernel("4.19", spec) as fake, spec.load():
        assert [c.fields["kern_version"] for c in loads(fake, 3)] == [4 << 16 | 19 << 8]
    spec.kernel_version = 4 << 16 | 20 << 8
    with kernel("4.19", spec) as fake:
        with pytest.raises(pybpfload.KernelError):
            spec.load()
        assert not fake.leaked()


# 7.4


def test_btf_of_the_kernel_only_if_needed() -> None:
    spec = fixture("tailcall")
    assert not any(function.core_relos for function in spec.functions)
    with FakeKernel.like("5.4") as fake, spec.load():
        assert "vmlinux" not in fake.cache
    core = fixture("execsnoop")
    with FakeKernel.like("5.8") as fake:
        with pytest.raises(pybpfload.NotSupportedError, match="CONFIG_DEBUG_INFO_BTF"):
            core.load()
        assert "MAP_CREATE" not in fake.commands()


def with_modules(fake: FakeKernel, **modules: bytes) -> FakeKernel:
    for name, data in modules.items():
        fake.pins[name] = fake.make("btf", data=data, name=name, kernel=1)
    return fake


def module_with(base: Btf, function: str) -> bytes:
    b = BtfBuilder(base.byteorder, base=base)
    b.add_func(function, b.add_func_proto(0, []))
    return b.build()


@pytest.mark.parametrize("version", ["5.10", "5.11"])
def test_modules_are_looked_at_only_if_needed(version: str) -> None:
    spec = fixture("minimal")
    with with_modules(kernel(version, spec), broken=b"") as fake, spec.load() as obj:
        assert "BTF_GET_NEXT_ID" not in fake.commands()
        assert obj.notes == []
    typed = only(fixture("ksyms_typed"))
    for extern in typed.externs.values():
        extern.weak = True
    with with_modules(kernel(version, spec), broken=b"") as fake, typed.load() as obj:
        assert "BTF_GET_NEXT_ID" in fake.commands()
        broken = [note for note in obj.notes if isinstance(note, pybpfload.FormatError)]
        assert len(broken) == (version == "5.11")


def test_a_broken_module_is_a_note() -> None:
    spec = only(fixture("kfuncs"))
    for extern in spec.externs.values():
        extern.weak = True
    with with_modules(kernel("6.1", fixture("minimal")), broken=b"") as fake:
        for _ in range(2):  # every load has the note, though the module is read once
            with spec.load() as obj:
                (note,) = [n for n in obj.notes if isinstance(n, pybpfload.FormatError)]
                assert "broken" in str(note)
        for extern in spec.externs.values():
            extern.weak = False
        with pytest.raises(pybpfload.RelocationError, match="nor in its modules' BTF") as caught:
            spec.load()
        assert note in caught.value.swallowed
        assert not fake.leaked()


# 7.5


def with_all_kinds(spec: pybpfload.ObjectSpec) -> pybpfload.ObjectSpec:
    """Add one of each kind of BTF type that some kernel does not know."""
    editor = BtfEditor(spec.require_btf("the test"))
    number = editor.add_int("all_int", 4)
    variable = editor.add_var("all_variable", number)
    function = editor.add_func_proto(number, [("x", number)])
    editor.add_func("all_global", function, 1)
    editor.add_func("all_static", function, 0)
    editor.add_datasec(".all.data", 4, [(variable, 0, 4)])
    editor.add_datasec("?.all", 4, [(variable, 0, 4)])
    editor.add_datasec(".all.empty", 40, [])
    editor.add_float("all_float", 8)
    editor.add_decl_tag("all_decl_tag", variable)
    editor.add_ptr(editor.add_type_tag("all_type_tag", number))
    editor.add_enum("all_enum", 4, [("ALL_MINUS", -1)])
    editor.add_enum64("all_enum64", 8, [("ALL_BIG", 1 << 40)])
    editor.add_layout()
    spec.btf = editor.finish()
    assert spec.btf.has_layout
    return spec


@pytest.mark.parametrize("version", [v for v in VERSIONS if version_pair(v) >= (4, 17)])
def test_every_version_takes_the_btf(version: str) -> None:
    """What is uploaded has what the kernel has, no more and no less, and the program is told."""
    age = version_pair(version)
    spec = only(with_all_kinds(fixture("rawtp")))
    with kernel(version, spec) as fake, spec.load() as obj:
        if age < (4, 18):
            assert not any(kind == "btf" for kind, _ in fake.objects)
            return
        assert not any("BTF_LOAD" in str(note) for note in obj.notes)
        btf = uploaded(fake)
    own = spec.require_btf("the test")
    for feature, name, kind in (
        (Feature.BTF_FUNC, "all_global", Kind.FUNC),
        (Feature.BTF_DATASEC, "all_variable", Kind.VAR),
        (Feature.BTF_DATASEC, ".all.data", Kind.DATASEC),
        (Feature.BTF_EMPTY_DATASEC, ".all.empty", Kind.DATASEC),
        (Feature.BTF_QMARK_DATASEC, "?.all", Kind.DATASEC),
        (Feature.BTF_FLOAT, "all_float", Kind.FLOAT),
        (Feature.BTF_DECL_TAG, "all_decl_tag", Kind.DECL_TAG),
        (Feature.BTF_TYPE_TAG, "all_type_tag", Kind.TYPE_TAG),
        (Feature.BTF_ENUM64, "all_enum64", Kind.ENUM64),
    ):
        number = own.find(name, kind)
        assert number, name
        kept = (btf.kind(number), btf.type_name(number)) == (kind, name)
        assert kept == (age >= version_pair(feature.since)), name
    described = btf[own.find("all_global", Kind.FUNC)]
    if isinstance(described, t.Func):
        assert described.linkage == (age >= version_pair(Feature.BTF_GLOBAL_FUNC.since))
    assert btf.has_layout == (age >= (7, 1))


def test_hidden_functions_become_static() -> None:
    spec = fixture("subprogs")
    hidden = {f.name for f in spec.subprograms if f.is_hidden}
    assert hidden
    with kernel("6.12", spec) as fake, spec.load() as obj:
        btf = uploaded(fake)
        assert obj.btf is not None
        for program in spec.subprograms:
            told = btf[btf.find(program.name, Kind.FUNC)]
            ours = obj.btf[obj.btf.find(program.name, Kind.FUNC)]
            assert isinstance(told, t.Func)
            assert isinstance(ours, t.Func)
            assert told.linkage == (0 if program.name in hidden else ours.linkage)


def test_the_objects_own_btf_stays() -> None:
    spec = fixture("minimal")
    before = spec.require_btf("the test").to_bytes()
    with kernel("4.20", spec), only(spec).load() as obj:
        assert obj.btf is not None
        assert obj.btf.to_bytes() == before
        assert obj.btf.find(".rodata", Kind.DATASEC)


def test_btf_that_is_refused_all_the_same() -> None:
    spec = fixture("minimal")

    def refuse(call: Call) -> int | None:
        return -errno.EINVAL if call.fields["btf_size"] > 200 else None

    with kernel("6.12", spec) as fake:
        fake.on("BTF_LOAD", refuse)
        with spec.load() as obj:
            assert ["BPF_BTF_LOAD of the object's BTF" in str(note) for note in obj.notes] == [True]
            (call,) = loads(fake)
            assert not call.fields["prog_btf_fd"]
            assert not any(c.fields["btf_fd"] for c in creations(fake, "counts"))
        assert not fake.leaked()


# 7.7


@pytest.mark.parametrize("version", ["4.14", "4.15", "5.1"])
def test_names_before_4_15(version: str) -> None:
    spec = only(fixture("maps_inner"))
    with kernel(version, spec) as fake, spec.load():
        names = {
            c.fields["map_name"].rstrip(b"\0")
            for c in fake.calls
            if c.command == "MAP_CREATE" and c.result >= 0 and c.fields["max_entries"] > 1
        }
    if version == "4.14":
        assert names == {b""}
    else:
        assert b"outer_array_inn" in names  # dots, and all of its 17 bytes, are too much
        assert not any(b"." in name for name in names)


@pytest.mark.parametrize(("version", "sent"), [("4.16", 0), ("4.17", 2)])
def test_expected_attach_type_before_4_17(version: str, sent: int) -> None:
    spec = only(fixture("sections"), "p_cgroup_sock")
    with kernel(version, spec) as fake, spec.load():
        (call,) = [c for c in loads(fake, 1) if c.text and c.fields["insn_cnt"] > 0][-1:]
        assert call.fields["prog_type"] == ProgType.CGROUP_SOCK
        assert call.fields["expected_attach_type"] == sent


@pytest.mark.parametrize(
    ("name", "flags"), [("p_xdp_frags", ProgFlag.XDP_HAS_FRAGS), ("p_syscall", ProgFlag.SLEEPABLE)]
)
def test_flags_of_sections(name: str, flags: int) -> None:
    spec = only(fixture("sections"), name)
    with kernel("5.18", spec) as fake, spec.load():
        assert loads(fake, 1)[-1].fields["prog_flags"] == flags
    with kernel("5.9", spec), pytest.raises(pybpfload.KernelError, match="came with Linux"):
        spec.load()


@pytest.mark.parametrize("version", ["4.20", "5.0"])
def test_func_info_before_5_0(version: str) -> None:
    spec = only(fixture("ctx_arg"), "kprobe_program")
    with kernel(version, spec) as fake, spec.load() as obj:
        (call,) = loads(fake, 3)
        given = [call.fields[n] for n in ("prog_btf_fd", "func_info_cnt", "line_info_cnt")]
        assert [bool(n) for n in given] == [version == "5.0"] * 3
        assert obj.notes == []


@pytest.mark.parametrize(("failures", "works"), [(4, True), (5, False)])
def test_eagain(failures: int, works: bool) -> None:
    left = [failures]

    def busy(call: Call) -> int | None:
        if call.fields["insn_cnt"] < 10 or not left[0]:
            return None
        left[0] -= 1
        return -errno.EAGAIN

    spec = fixture("minimal")
    with kernel("6.1", spec) as fake:
        fake.on("PROG_LOAD", busy)
        with spec.load() as obj:
            assert obj.programs
        tries = [c for c in fake.calls if c.command == "PROG_LOAD" and c.fields["insn_cnt"] >= 10]
        # After five the program is submitted a second time, with a log, as after any failure.
        assert len(tries) == failures + 1
        assert bool(tries[-1].fields["log_level"]) is not works


def test_records_that_are_too_long() -> None:
    """A newer compiler's records have more to say than the kernel knows."""
    code = RETURN_0
    known, extra = struct.pack("=II", 0, 2), b"\1\2\3\4"
    line = struct.pack("=IIII", 0, 1, 1, 1 << 10 | 1)
    b = BtfBuilder(ORDER)
    b.add_func("f", b.add_func_proto(b.add_int("int", 4), []))
    seen: list[tuple[bytes, bytes]] = []

    def look(call: Call) -> None:
        fields = call.fields
        if fields["func_info"]:
            seen.append((memory(fields["func_info"], 12), memory(fields["line_info"], 20)))

    with FakeKernel.like("5.4") as fake:
        fake.on("PROG_LOAD", look)
        btf_fd = lowlevel.btf_load(sanitized(b.btf()))
        fd, log = progload.load_program(
            ProgType.SOCKET_FILTER,
            code,
            prog_btf_fd=btf_fd,
            func_info=known + extra,
            func_info_rec_size=12,
            line_info=line + extra,
            line_info_rec_size=20,
        )
        assert fd > 0
        assert log == ""
        call = fake.calls[-1]
        assert (call.fields["func_info_rec_size"], call.fields["line_info_rec_size"]) == (12, 20)
        assert seen[0] == (known + extra, line + extra)
        assert seen[-1] == (known + bytes(4), line + bytes(4))
        fake.close(fd)
        fake.close(btf_fd)
        assert not fake.leaked()


def sanitized(btf: Btf) -> bytes:
    from pybpfload.btf.sanitize import sanitize

    return sanitize(btf, {"BTF_GLOBAL_FUNC"}).to_bytes()


def test_a_refused_program_is_submitted_twice() -> None:
    spec = fixture("minimal")

    def refuse(call: Call) -> int | None:
        return -errno.EACCES if call.fields["insn_cnt"] > 10 else None

    with kernel("5.4", spec) as fake:
        fake.on("PROG_LOAD", refuse)
        with pytest.raises(pybpfload.KernelError):
            spec.load()
        tries = [c for c in fake.calls if c.command == "PROG_LOAD" and c.fields["insn_cnt"] > 10]
        assert [c.fields["log_level"] for c in tries] == [0, 1]
        assert [bool(c.fields["log_buf"]) for c in tries] == [False, True]


@pytest.mark.parametrize(("version", "limit"), [("5.1", 0xFFFFFF), ("5.2", 0x3FFFFFFF)])
def test_the_log_grows_within_the_limit(
    version: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def endless(call: Call) -> int | None:
        if not call.fields["log_level"]:
            return -errno.EINVAL
        sizes.append(call.fields["log_size"])
        if call.fields["log_size"] > (0xFFFFFF if version == "5.1" else 0x3FFFFFFF):
            return -errno.EINVAL
        return -errno.ENOSPC if len(sizes) < 10 else -errno.EACCES

    monkeypatch.setattr(progload, "FIRST_LOG_SIZE", 4 << 20)
    monkeypatch.setattr(progload, "LOG_LIMIT", 0x3FFFFFF)
    with FakeKernel.like(version) as fake:
        fake.on("PROG_LOAD", endless)
        with pytest.raises(pybpfload.KernelError):
            progload.load_program(ProgType.SOCKET_FILTER, RETURN_0)
    assert sizes == sorted(sizes)
    assert max(s for s in sizes if s <= limit) >= 0xFFFFFF


# 7.8


def tracing(target: str) -> pybpfload.ObjectSpec:
    """The fixture's program as fentry of something."""
    spec = fixture("minimal")
    program = spec.programs["count_syscalls"]
    program.prog_type, program.expected_attach_type = ProgType.TRACING, AttachType.TRACE_FENTRY
    program.set_attach_target(function=target)
    return spec


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("count_syscalls", "count_syscalls"),  # the fixture's own types are the kernel's
        ("vm:count_syscalls", "vm:count_syscalls"),
        (":count_syscalls", ":count_syscalls"),
        ("only_here", "nf_tables:only_here"),
        ("nf:only_here", "nf_tables:only_here"),
        ("nf_t:only_here", "nf_tables:only_here"),
        ("veth:only_here", None),
        ("vm:only_here", None),
    ],
)
def test_modules_by_prefix(target: str, found: str | None) -> None:
    spec = tracing(target)
    base = spec.require_btf("the test")
    fake = kernel("6.1", spec)
    with with_modules(fake, nf_tables=module_with(base, "only_here"), veth=module_with(base, "x")):
        if found is None:
            with pytest.raises(pybpfload.AttachError, match="only_here"):
                spec.load()
        else:
            with spec.load() as obj:
                assert obj.programs["count_syscalls"].attach_target == found
                (call,) = loads(fake)
                assert bool(call.fields["attach_prog_fd"]) == (found.startswith("nf"))
    assert not fake.leaked()


def test_a_function_of_a_broken_module() -> None:
    spec = tracing("nf_tables:f")
    with with_modules(kernel("6.1", spec), nf_tables=b"", other=b"") as fake:
        with pytest.raises(pybpfload.AttachError, match=r"nf_tables.*left out.*0 bytes") as caught:
            spec.load()
        assert any("nf_tables" in str(error) for error in caught.value.swallowed)
        assert not any("other" in str(error) for error in caught.value.swallowed)
        assert not fake.leaked()


def test_tracing_without_btf_of_the_kernel() -> None:
    spec = tracing("vfs_read")
    with FakeKernel.like("5.10") as fake:
        with pytest.raises(pybpfload.NotSupportedError, match="CONFIG_DEBUG_INFO_BTF"):
            spec.load()
        assert not fake.leaked()


# 7.9


@pytest.mark.parametrize("version", ["4.17", "5.1"])
def test_global_data_before_5_2(version: str) -> None:
    spec = fixture("minimal")
    with kernel(version, spec) as fake:
        with pytest.raises(pybpfload.VerifierError) as caught:
            spec.load()
        assert re.search(r"map minimal\.\w+ was not created", str(caught.value))
        assert ["global variables" in str(e) for e in caught.value.swallowed] == [True, True]
        assert not any("Linux 5.2" not in str(error) for error in caught.value.swallowed)
        assert creations(fake, "minimal.bss", "minimal.rodata", "minimal_bss") == []
        with only(spec).load() as obj:  # whoever does not use them
            assert list(obj.maps) == ["counts"]
            assert list(obj.variables) == []
        assert not fake.leaked()


def test_a_map_whose_btf_is_refused() -> None:
    spec = fixture("minimal")

    def refuse(call: Call) -> int | None:
        return -524 if call.fields["btf_key_type_id"] else None

    with kernel("5.4", spec) as fake:
        fake.on("MAP_CREATE", refuse)
        with spec.load() as obj:
            first, second = creations(fake, "counts")
            names = ("btf_fd", "btf_key_type_id", "btf_value_type_id")
            assert all(first.fields[name] for name in names)
            assert not any(second.fields[name] for name in names)
            assert ["map counts" in str(note) for note in obj.notes] == [True]


@pytest.mark.parametrize("version", ["5.2", "5.4", "5.5"])
def test_variables_before_5_5(version: str) -> None:
    spec = fixture("globals")
    initial = {name: variable.value for name, variable in spec.variables.items()}
    with kernel(version, spec) as fake, spec.load() as obj:
        flags = [c.fields["map_flags"] for c in creations(fake, "globals.data", "globals.bss")]
        assert [bool(f & MapFlag.MMAPABLE) for f in flags] == [version == "5.5"] * 2
        assert {name: v.value for name, v in obj.variables.items()} == initial
        name = next(n for n, v in obj.variables.items() if v.map.name == "globals.bss")
        old = obj.variables[name].value
        if isinstance(old, int):
            obj.variables[name].value = old + 1
            assert obj.variables[name].value == old + 1
    assert not fake.leaked()


def test_freezing_that_is_refused() -> None:
    spec = fixture("globals")
    with kernel("5.2", spec, refuses={"MAP_FREEZE": errno.EPERM}), spec.load() as obj:
        assert any("BPF_MAP_FREEZE" in str(note) for note in obj.notes)
    with kernel("5.2", spec, refuses={"MAP_FREEZE": errno.EIO}) as fake:
        with pytest.raises(pybpfload.KernelError, match="BPF_MAP_FREEZE"):
            spec.load()
        assert not fake.leaked()


@pytest.mark.parametrize("version", ["5.14", "5.15"])
def test_perf_events_before_5_15(version: str) -> None:
    spec = only(fixture("tracepoint"), "on_exec")
    files = {"/sys/kernel/tracing/events/sched/sched_process_exec/id": b"7\n"}
    with kernel(version, spec, files=files) as fake, spec.load() as obj:
        program = obj.programs["on_exec"]
        with program.attach():
            (event,) = [made for made in fake.fds.values() if made.kind == "perf_event"]
            requests = [request & 0xFF for request, _ in event.ioctls]
            links = [c for c in fake.calls if c.command == "LINK_CREATE" and c.result >= 0]
            if version == "5.15":
                assert (requests, len(links)) == ([0], 1)
            else:
                assert (requests, len(links)) == ([8, 0], 0)  # SET_BPF, ENABLE
                assert event.ioctls[0][1] == program.fileno()
        if version == "5.14":
            with pytest.raises(pybpfload.NotSupportedError, match="cookies"):
                program.attach(cookie=1)
    assert not fake.leaked()


@pytest.mark.parametrize(
    ("version", "command"), [("5.5", "RAW_TRACEPOINT_OPEN"), ("5.10", "LINK_CREATE")]
)
def test_tracing_before_5_7(version: str, command: str) -> None:
    spec = tracing("count_syscalls")
    with kernel(version, spec) as fake, spec.load() as obj:
        with obj.programs["count_syscalls"].attach():
            assert fake.commands()[-1] == command
            if command == "RAW_TRACEPOINT_OPEN":
                assert fake.calls[-1].fields["name"] == 0
        with pytest.raises(pybpfload.NotSupportedError, match=r"5\.19"):
            obj.programs["count_syscalls"].attach(cookie=1)
    assert not fake.leaked()


@pytest.mark.parametrize("version", ["5.9", "5.10"])
def test_binding_before_5_10(version: str) -> None:
    spec = fixture("minimal")
    with kernel(version, spec) as fake, spec.load() as obj:
        bound = [c for c in fake.calls if c.command == "PROG_BIND_MAP" and c.result == 0]
        ours = [c for c in bound if c.fields["prog_fd"] == obj.programs["count_syscalls"].fileno()]
        assert len(ours) == (version == "5.10")
        assert obj.notes == []
    with kernel("5.10", spec, refuses={"PROG_BIND_MAP": errno.EPERM}), spec.load() as obj:
        assert obj.programs  # then the feature counts as missing
    assert not fake.leaked()
