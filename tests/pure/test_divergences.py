"""Where aya, cilium/ebpf and libbpf differ: what pybpfload does, one named test each.

Each docstring says what the others do. pybpfload does as libbpf does unless it says otherwise.
"""

from __future__ import annotations

import errno
import struct
import sys
from pathlib import Path

import pytest
from core_case import ENUM_VALUE, TARGET_ID, Types, decide, run

import pybpfload
from pybpfload import RelocationError
from pybpfload.btf import Btf, Kind
from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.sanitize import sanitize
from pybpfload.isa.insn import Insn, decode
from pybpfload.kernel import kallsyms
from pybpfload.object.sections import find_section
from pybpfload.relocate import relocate
from pybpfload.relocate.core.candidates import essential_name
from pybpfload.relocate.core.patch import CORE_POISON
from pybpfload.testing.fakekernel import Call, FakeKernel
from pybpfload.uapi import MapFlag, MapType, ProgType

FIXTURES = Path(__file__).parents[2] / "fixtures"
OBJECTS = FIXTURES / ("bpfel" if sys.byteorder == "little" else "bpfeb")
ORDER = "<" if sys.byteorder == "little" else ">"


def fixture(name: str) -> pybpfload.ObjectSpec:
    return pybpfload.open(OBJECTS / f"{name}.bpf.o")


def core_target() -> Btf:
    return fixture("core_target").btf


def kernel_types(*functions: str, base: Btf | None = None) -> BtfBuilder:
    """Functions without parameters; vmlinux has the raw tracepoint that fixtures sit on, too."""
    made = BtfBuilder(ORDER, base=base)
    proto = made.add_func_proto(0, [])
    if base is None:
        made.add_typedef("btf_trace_sys_enter", made.add_ptr(proto))
    for name in functions:
        made.add_func(name, proto, 1)
    return made


def kernel(types: BtfBuilder | None = None, **options) -> FakeKernel:
    """A scripted kernel with a BTF of its own."""
    files = options.pop("files", {})
    data = (types or kernel_types()).build()
    return FakeKernel(files={"/sys/kernel/btf/vmlinux": data, **files}, **options)


def loads(fake: FakeKernel, name: str) -> list[Call]:
    """Attempts to load the program of a name; probes have other names."""
    wanted = name.encode()[:15]
    return [
        call
        for call in fake.calls
        if call.command == "PROG_LOAD" and call.fields["prog_name"].rstrip(b"\0") == wanted
    ]


def created(fake: FakeKernel, name: str) -> Call:
    """The call that made the map of a name."""
    wanted = name.encode()[:15]
    [found] = [
        call
        for call in fake.calls
        if call.command == "MAP_CREATE" and call.fields["map_name"].rstrip(b"\0") == wanted
    ]
    return found


@pytest.mark.parametrize(
    ("name", "essential"),
    [
        ("a___b___c", "a___b"),
        ("___x", "___x"),
        ("x___", "x___"),
        ("a____b", "a____b"),
        ("a_____b", "a_____b"),
        ("", ""),
        ("__x___", "__x___"),
        ("__x___y", "__x"),
        ("a___b", "a"),
    ],
)
def test_01_essential_name(name, essential):
    """libbpf: the last three underscores with something else on both sides. cilium: the last three
    underscores. aya: the first.
    """
    assert essential_name(name) == essential


def test_02_sections_are_matched_exactly():
    """libbpf: a row matches whole unless it ends in ``+`` or ``/``. cilium: rows match as prefixes,
    so ``xdp_foo`` and ``classifier/x`` are programs. aya: what is in front of the first ``/``
    decides.
    """
    assert find_section("xdp").prog_type == ProgType.XDP
    assert find_section("tracepoint/syscalls/sys_enter_getpid").prog_type == ProgType.TRACEPOINT
    for unknown in (
        "xdp_foo",
        "xdp/foo",
        "classifier_x",
        "kprobefoo",
        "raw_tpx",
        "tc/in",
        "classifier/x",
    ):
        found = find_section(unknown)
        assert found is None, unknown
    # A row that ends in "+" goes on after a slash.
    assert find_section("kprobe/x").prog_type == ProgType.KPROBE


def test_03_missing_license_is_empty():
    """libbpf: an empty string. aya: "GPL". cilium: what the section has, which is nothing."""
    spec = fixture("nolicense")
    assert spec.license == ""
    with kernel() as fake, spec.load():
        [call] = loads(fake, "count")
        assert call.text == ""


def test_04_question_mark_switches_off():
    """libbpf: autoload is off. cilium: strips the mark and loads it. aya: an unknown section."""
    spec = fixture("tailcall")
    program = spec.programs["entry_from_subprog"]
    assert program.section_name == "?tc"
    assert (program.section, program.prog_type) == ("tc", ProgType.SCHED_CLS)
    assert not program.autoload
    with kernel() as fake, spec.load() as obj:
        assert "entry_from_subprog" not in obj.programs
        assert loads(fake, "entry_from_subprog") == []
        assert loads(fake, "entry")


def one_program(fixture_name: str, name: str) -> pybpfload.ObjectSpec:
    spec = fixture(fixture_name)
    for program in spec.programs.values():
        program.autoload = program.name == name
    return spec


def test_05_ambiguous_candidates_are_refused():
    """libbpf: an error if the results of the candidates differ. cilium: takes the group with the
    best score, an error for a tie. aya: may mix the layouts of several candidates.
    """
    for name in ("offset_twin", "size_of_twin", "id_of_twin"):
        with pytest.raises(RelocationError, match="ambiguous"):
            relocate(one_program("core_ambiguous", name), core_target())
    [decision] = relocate(one_program("core_ambiguous", "offset_same"), core_target()).decisions
    assert decision.value == 0
    assert len(decision.candidates) == 2


@pytest.mark.parametrize("value", [7, -7, 0x7FFFFFFF, -0x80000000])
def test_06_enumerators_in_32_bit_constants(value):
    """libbpf: the low 32 bits are written into a 32-bit constant, whatever the value; 32-bit
    enumerators count as signed. cilium and aya: differ on values that do not fit and on signs.
    """
    local, target = Types(), Types()
    wanted = local.add_enum("e", 4, [("A", 1)])
    target.add_enum("e", 4, [("A", value)], signed=True)
    decision = decide(local, target, wanted, "0", ENUM_VALUE, 1)
    assert decision.value == value & 0xFFFFFFFFFFFFFFFF
    assert decision.after[0].imm == value
    # A 64-bit one that does not fit is cut, as libbpf cuts it.
    target = Types()
    target.add_enum64("e", 8, [("A", 0x500000001)])
    decision = decide(local, target, wanted, "0", ENUM_VALUE, 1)
    assert (decision.value, decision.after[0].imm) == (0x500000001, 1)


def test_07_target_type_ids_of_modules():
    """libbpf: writes the id in the BTF where the type was found, and does not say which.
    cilium: only ids of vmlinux, an error for a match in a module.
    """
    local, vmlinux = Types(), Types()
    wanted = local.plain("module_struct", ("a", local.int))
    base = vmlinux.btf("vmlinux")
    module = Types(base=base)
    in_module = module.plain("module_struct", ("a", vmlinux.int))
    insns, [decision] = run(
        local,
        vmlinux,
        [(0, wanted, "0", TARGET_ID)],
        [Insn(0xB7, dst=1, imm=wanted)],
        modules=[module.btf("module")],
    )
    assert in_module >= len(base)
    assert (decision.value, insns[0].imm) == (in_module, in_module)


def test_08_missing_field_is_poison_dead_or_alive():
    """All three replace the instruction by a call that no kernel has; only the helper's number
    differs. pybpfload's is libbpf's, so that its messages and libbpf's log fix-up are the same.
    """
    assert CORE_POISON == 195896080
    dead = relocate(one_program("core_poison", "dead_load"), core_target()).programs["dead_load"]
    live = relocate(one_program("core_poison", "live_load"), core_target()).programs["live_load"]
    for program in (dead, live):
        poisoned = [i for i, insn in enumerate(program.insns) if insn.imm == CORE_POISON]
        assert poisoned
        assert poisoned == sorted(program.poisons)


def test_09_functions_of_one_name():
    """libbpf: fentry takes the first function of the name in BTF. cilium: an error, ambiguous."""
    types = kernel_types("other", "do_unlinkat", "do_unlinkat")
    btf = Btf.from_bytes(types.build())
    first, second = btf.find_all("do_unlinkat", Kind.FUNC)
    assert first < second
    spec = fixture("minimal")
    [program] = spec.programs.values()
    program.prog_type, program.expected_attach_type = ProgType.TRACING, 24
    program.set_attach_target(function="do_unlinkat")
    with kernel(types) as fake, spec.load():
        [call] = loads(fake, program.name)
        assert call.fields["attach_btf_id"] == first


def test_10_symbols_of_one_name():
    """libbpf: an error if the addresses of a ksym differ; kprobes leave it to the kernel. cilium:
    refuses both.
    """
    twice = b"ffffffff81000010 T once\nffffffff81000020 t twice\nffffffff81000030 t twice\n"
    same = b"ffffffff81000040 t same\nffffffff81000040 T same\n"
    with FakeKernel(files={"/proc/kallsyms": twice + same}):
        assert kallsyms.lookup(["once", "same"]) == {
            "once": 0xFFFFFFFF81000010,
            "same": 0xFFFFFFFF81000040,
        }
        with pytest.raises(RelocationError, match="'twice' is ambiguous"):
            kallsyms.lookup(["twice"])


@pytest.mark.parametrize(("asked", "made"), [(0, 6), (2, 2), (100, 100)])
def test_11_perf_event_arrays_are_not_clamped(asked, made):
    """libbpf: 0 becomes the number of possible CPUs, all else is as asked. cilium: more than the
    number of CPUs becomes that number, which then differs from a pinned map.
    """
    spec = fixture("perfbuf")
    name = next(m.name for m in spec.maps.values() if m.type == MapType.PERF_EVENT_ARRAY)
    spec.maps[name].max_entries = asked
    possible = {"/sys/devices/system/cpu/possible": b"0-5\n"}
    with kernel(files=possible, cpus=6) as fake, spec.load():
        assert created(fake, name).fields["max_entries"] == made


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("ring_1", 4096),
        ("ring_4096", 4096),
        ("ring_12288", 16384),
        ("ring_100000", 131072),
        ("perf_0", 4),
    ],
)
def test_12_sizes_that_nobody_gave(name, size):
    """libbpf and aya: ring buffers become a power of two of pages, perf event arrays one entry for
    each possible CPU. cilium: perf event arrays only; the size of a ring buffer must be right.
    """
    spec = fixture("maps_attrs")
    spec.maps["ring_0"].max_entries = 4096
    with kernel(cpus=4) as fake, spec.load():
        assert created(fake, name).fields["max_entries"] == size


def test_13_btf_for_old_kernels():
    """libbpf and aya: ENUM64 becomes a union, a declaration tag an int, a function a typedef, so
    that no id moves. cilium: drops or replaces types while writing.
    """
    made = BtfBuilder(ORDER)
    number = made.add_int("int", 4, 1)
    wide = made.add_enum64("wide", 8, [("A", 1 << 40)])
    proto = made.add_func_proto(number, [("n", number)])
    function = made.add_func("f", proto, 1)
    tag = made.add_decl_tag("tag", function)
    btf = Btf.from_bytes(made.build())
    old = sanitize(btf, {"BTF_ENUM64", "BTF_DECL_TAG", "BTF_FUNC"})
    assert len(old) >= len(btf)
    assert old.kind(wide) == Kind.UNION
    assert old.kind(tag) == Kind.INT
    assert old.kind(function) == Kind.TYPEDEF
    assert old.type_name(wide) == "wide"
    assert old.type_name(function) == "f"


def test_14_linked_objects():
    """libbpf: static functions of one name stay apart, of weak ones the first definition is called.
    cilium: since PR 1942 the same.
    """
    spec = fixture("linked")
    names = [function.name for function in spec.subprograms]
    assert names.count("same_function") == 2
    programs = relocate(spec, core_target(), everything=True).programs
    first, second = programs["call_static"], programs["call_static_second"]
    [(_, _), (one, _)], [(_, _), (other, _)] = first.functions, second.functions
    assert (one.name, other.name) == ("same_function", "same_function")
    assert one is not other
    [(_, _), (weak, start)] = programs["call_weak"].functions
    assert (weak.name, len([n for n in names if n == "weak_in_both"])) == ("weak_in_both", 1)
    assert not any(i.imm == 1000000 for i in programs["call_weak"].insns[start:])


def test_15_names_that_the_kernel_sees():
    """libbpf: the first 15 bytes of a program's name as they are; names of data maps have what is
    no letter, digit, ``_`` or ``.`` replaced by ``_``. cilium: drops them.
    """
    data = (OBJECTS / "globals.bpf.o").read_bytes()
    spec = pybpfload.open(data, name="a-name+with.x")
    names = {map_spec.name for map_spec in spec.maps.values()}
    assert {"a_name_w.rodata", "a_name_w.data"} <= names
    spec = one_program("linked", "call_static_second")
    with kernel() as fake:
        spec.load(kconfig="CONFIG_BPF_SYSCALL=y\n").close()
    [call] = loads(fake, "call_static_second")
    assert call.fields["prog_name"] == b"call_static_sec\0"


def test_16_data_maps():
    """libbpf (and bpftool, which finds them by name): ``.rodata`` is read-only for programs and
    frozen, sections with global variables can be mapped, names are 15 bytes with the section whole.
    """
    spec = fixture("globals")
    with kernel() as fake, spec.load():
        frozen = {
            fake.fds[c.fields["map_fd"]].name for c in fake.calls if c.command == "MAP_FREEZE"
        }
        assert frozen == {"globals.rodata", ".rodata.custom"}
        read_only = MapFlag.RDONLY_PROG
        assert created(fake, "globals.rodata").fields["map_flags"] == read_only | MapFlag.MMAPABLE
        assert created(fake, "globals.data").fields["map_flags"] == MapFlag.MMAPABLE
        assert created(fake, ".data.static").fields["map_flags"] == 0


def test_17_typeless_symbols():
    """libbpf: a weak one that is missing is 0, a strong one an error; without privilege all
    addresses are 0 (kptr_restrict), which counts as found. cilium and aya: no such externs or only
    some.
    """
    spec = fixture("ksyms")
    symbols = b"ffffffff81234560 T vfs_unlink\nffffffff81234570 T bpf_prog_put\n"
    with kernel(files={"/proc/kallsyms": symbols}) as fake, spec.load():
        [call] = loads(fake, "report")
        constants = {
            (a.imm & 0xFFFFFFFF) | (b.imm & 0xFFFFFFFF) << 32
            for a, b in wide_constants(call)
            if a.src == 0
        }
        assert {0xFFFFFFFF81234560, 0xFFFFFFFF81234570, 0} <= constants
    with kernel(files={"/proc/kallsyms": symbols.splitlines()[0] + b"\n"}):
        with pytest.raises(RelocationError, match="'bpf_prog_put' does not exist"):
            fixture("ksyms").load()


def wide_constants(call: Call) -> list[tuple[Insn, Insn]]:
    insns = decode(call.insns, ORDER)
    return [(insn, insns[at + 1]) for at, insn in enumerate(insns[:-1]) if insn.code == 0x18]


def test_18_kfuncs_of_vmlinux_and_of_modules():
    """libbpf: ``off`` of the call is 0 for vmlinux, else the place of the module's BTF in fd_array,
    whose first is left for vmlinux. cilium: has the same array, filled in another order.
    """
    spec = fixture("bad_kfunc")  # calls pybpfload_missing()
    [extern] = spec.externs.values()
    vmlinux = kernel_types()
    in_kernel = kernel_function(vmlinux, spec, extern)
    with kernel(vmlinux) as fake, spec.load():
        [call] = loads(fake, next(iter(spec.programs)))
        [insn] = kfunc_calls(call)
        assert (insn.off, insn.imm) == (0, in_kernel)
        assert call.fields["fd_array"] == 0

    base = kernel_types()
    module = kernel_types(base=Btf.from_bytes(base.build(), name="vmlinux"))
    in_module = kernel_function(module, spec, extern)
    with kernel(base) as fake:
        fake.pins["vmlinux"] = fake.make("btf", data=base.build(), name="vmlinux", kernel=1)
        fake.pins["module"] = fake.make("btf", data=module.build(), name="module", kernel=1)
        fds = []
        fake.on("PROG_LOAD", lambda c: fds.append(fd_array(c)))
        with spec.load():
            [call] = loads(fake, next(iter(spec.programs)))
            [insn] = kfunc_calls(call)
            assert (insn.off, insn.imm) == (1, in_module)
            assert fds[-1][0] == 0
            assert fds[-1][1] > 0


def kernel_function(made: BtfBuilder, spec, extern) -> int:
    """The function that an extern wants: int (*)(int, ...), with its own number of parameters."""
    number = made.add_int("int", 4, 1)
    proto = spec.btf[extern.type_id]
    params = [(f"p{i}", number) for i in range(len(proto.params))]
    return made.add_func(extern.name, made.add_func_proto(number, params), 1)


def kfunc_calls(call: Call) -> list[Insn]:
    return [insn for insn in decode(call.insns, ORDER) if insn.code == 0x85 and insn.src == 2]


def fd_array(call: Call) -> list[int]:
    from pybpfload.testing.fakekernel import memory

    pointer = call.fields["fd_array"]
    return list(struct.unpack("=2i", memory(pointer, 8))) if pointer else []


def test_19_the_log_is_asked_for_when_loading_failed():
    """libbpf and pybpfload: log level 0, and once more with a log if that was refused. aya: the
    same, over and over with a larger buffer. cilium: the same, in other steps.
    """
    spec = fixture("minimal")
    with kernel() as fake, spec.load():
        [call] = loads(fake, "count_syscalls")
        assert (call.fields["log_level"], call.fields["log_buf"]) == (0, 0)
    refused = {"count": 0}

    def refuse(call: Call) -> int | None:
        if call.fields["prog_name"].startswith(b"count_syscalls"):
            refused["count"] += 1
            return -errno.EACCES
        return None

    with kernel() as fake:
        fake.on("PROG_LOAD", refuse)
        with pytest.raises(pybpfload.KernelError):
            fixture("minimal").load()
        levels = [call.fields["log_level"] for call in loads(fake, "count_syscalls")]
    assert levels == [0, 1]


def test_20_btf_that_the_kernel_refuses():
    """libbpf: a warning; programs and maps are loaded without it, unless something needs it, as
    struct_ops does. cilium: an error unless the kernel has no BTF at all. aya: a warning.
    """

    def refuse(call: Call) -> int | None:
        return -errno.EINVAL if call.fields["btf_size"] > 500 else None  # not the probes

    with kernel() as fake:
        fake.on("BTF_LOAD", refuse)
        with fixture("maps").load() as obj:
            assert [note for note in obj.notes if "BPF_BTF_LOAD" in str(note)]
        [call] = loads(fake, "store")
        assert call.fields["prog_btf_fd"] == 0
        assert created(fake, next(iter(fixture("maps").maps))).fields["btf_fd"] == 0
    with kernel(lacks={"BTF"}) as fake, fixture("minimal").load():
        assert loads(fake, "count_syscalls")[0].fields["prog_btf_fd"] == 0
