"""struct_ops maps against the kernel's structs: what fits where, and what does not."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

import pybpfload
from pybpfload.btf import Btf
from pybpfload.btf.build import BtfBuilder
from pybpfload.errors import RelocationError
from pybpfload.object import ObjectSpec, open_object
from pybpfload.relocate import Target, match_struct_ops
from pybpfload.testing.fakekernel import FakeKernel
from pybpfload.uapi import AttachType, MapFlag, MapType, ProgType

FIXTURE = Path(__file__).parents[2] / "fixtures" / "bpfel" / "struct_ops.bpf.o"
MEMBERS = ("undo_cwnd", "owner", "ssthresh", "cong_avoid", "init", "release", "flags", "name")
VALUE_SIZE, DATA = 192, 64


class Kernel(BtfBuilder):
    """A kernel with struct_ops that has the members given, each of 8 bytes, ``name`` of 16.

    Args:
        members: Names.
        name: Of the struct.
        base: Makes it a module over that.
        other: The types of some members: ``data``, ``u64`` or ``bits``.
    """

    def __init__(self, *members: str, name="tcp_congestion_ops", base=None, **other: str) -> None:
        super().__init__(base=base)
        self.base = base
        u32 = self.add_int("unsigned int", 4)
        types = {
            "function": self.add_ptr(self.add_func_proto(u32, [])),
            "data": self.add_ptr(u32),
            "u64": self.add_int("unsigned long", 8),
            "flags": u32,
            "bits": u32,
            "name": self.add_array(self.add_int("char", 1), 16, u32),
        }
        made, self.offsets = [], {}
        for member in members:
            self.offsets[member] = DATA + 8 * len(made)
            kind = other.get(member, member if member in types else "function")
            bits = (3,) if kind == "bits" else ()
            made.append((member, types[kind], 64 * len(made), *bits))
        self.struct = self.add_struct(name, VALUE_SIZE - DATA, made)
        inside = [("common", u32, 0), ("data", self.struct, 8 * DATA)]
        self.value = self.add_struct(f"bpf_struct_ops_{name}", VALUE_SIZE, inside)

    @property
    def btf(self) -> Btf:
        return Btf.from_bytes(self.build(), base=self.base)


def opened() -> ObjectSpec:
    """The fixture with one of its maps on."""
    spec = open_object(FIXTURE)
    for each in spec.struct_ops:
        each.map.autocreate = each.map.name == "plain"
    return spec


def refused(spec: ObjectSpec) -> str:
    with pytest.raises(RelocationError) as caught:
        match_struct_ops(spec, Target(Kernel(*MEMBERS).btf))
    return str(caught.value)


def test_members_go_where_the_kernel_has_them():
    kernel = Kernel(*MEMBERS)
    (made,) = match_struct_ops(opened(), Target(kernel.btf))
    assert (made.map.name, made.type_id, len(made.contents)) == ("plain", kernel.value, VALUE_SIZE)
    at = kernel.offsets["name"]
    assert made.contents == bytes(at) + b"pybpf_cc".ljust(VALUE_SIZE - at, b"\0")
    places = {m.program.name: (m.type_id, m.index, m.offset) for m in made.members}
    assert places == {
        f"cc_{name}": (kernel.struct, MEMBERS.index(name), kernel.offsets[name])
        for name in ("ssthresh", "cong_avoid", "undo_cwnd", "init")
    }


def test_maps_that_are_not_created_are_left_out():
    spec = opened()
    spec.maps["plain"].autocreate = False
    spec.maps["off"].autocreate = True
    (made,) = match_struct_ops(spec, Target(Kernel(*MEMBERS).btf))
    assert made.map.name == "off"
    spec.maps["off"].autocreate = False
    assert match_struct_ops(spec, Target(None)) == []


def test_programs_are_shared_by_maps_that_use_them_alike():
    spec = opened()
    spec.maps["off"].autocreate = True
    first, second = match_struct_ops(spec, Target(Kernel(*MEMBERS).btf))
    shared = {m.program.name for m in first.members} & {m.program.name for m in second.members}
    assert shared == {"cc_ssthresh", "cc_cong_avoid", "cc_undo_cwnd"}
    off = next(each for each in spec.struct_ops if each.map.name == "off")
    off.programs["init"] = off.programs["ssthresh"]
    off.programs["ssthresh"] = None
    assert "cc_ssthresh: map off has it as another member" in refused(spec)


def test_programs_without_a_place_are_not_loaded():
    """As libbpf: a program goes with the maps that name it, not by its own switch."""
    spec = opened()
    names = {"cc_ssthresh", "cc_cong_avoid", "cc_undo_cwnd"}
    assert set(spec.loaded_programs) == names | {"cc_init"}
    plain = next(each for each in spec.struct_ops if each.map.name == "plain")
    plain.programs["init"] = None
    assert spec.programs["cc_init"].autoload
    assert set(spec.loaded_programs) == names
    plain.programs["undo_cwnd"] = plain.programs["ssthresh"] = spec.programs["cc_unused"]
    assert set(spec.loaded_programs) == {"cc_cong_avoid", "cc_unused"}
    spec.maps["plain"].autocreate = False
    assert set(spec.loaded_programs) == set()
    spec.maps["off"].autocreate = True
    assert set(spec.loaded_programs) == names


def test_modules_have_structs_of_their_own():
    base = Kernel("other", name="other_ops").btf
    kernel = Kernel(*MEMBERS, base=base)
    module = kernel.btf
    (made,) = match_struct_ops(opened(), Target(base, [module]))
    assert made.btf is module
    assert (made.type_id, made.members[0].type_id) == (kernel.value, kernel.struct)


def test_flavors_do_not_count():
    spec = opened()
    local = Kernel(*MEMBERS, name="tcp_congestion_ops___mine")
    spec.btf = local.btf
    (ours,) = [each for each in spec.struct_ops if each.map.name == "plain"]
    ours.type_id = local.struct
    ours.map.contents = bytearray(VALUE_SIZE - DATA)
    spec.struct_ops[:] = [ours]
    (made,) = match_struct_ops(spec, Target(Kernel(*MEMBERS).btf))
    assert len(made.members) == 4


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (None, "the kernel has no struct_ops called tcp_congestion_ops"),
        (Kernel(*MEMBERS, name="other_ops"), "the kernel has no struct_ops called tcp_cong"),
        (Kernel("ssthresh", "undo_cwnd"), "has no member 'cong_avoid'"),
        (Kernel("ssthresh", "undo_cwnd", "cong_avoid", "init"), "has no member 'name'"),
        (Kernel(*MEMBERS, flags="u64"), "member 'flags' has 4 bytes, in the kernel 8"),
        (Kernel(*MEMBERS, flags="bits"), "member 'flags' is a bit field"),
        (Kernel(*MEMBERS, init="u64"), "member 'init' is .*, in the kernel .*unsigned long"),
        (Kernel(*MEMBERS, init="data"), "member 'init' is no pointer to a function in the kernel"),
    ],
)
def test_what_does_not_fit(kernel, said):
    with pytest.raises(RelocationError, match=said) as caught:
        match_struct_ops(opened(), Target(kernel and kernel.btf))
    assert (caught.value.section, caught.value.symbol) == (".struct_ops", "plain")


def test_a_kernel_that_has_no_such_struct():
    with pytest.raises(pybpfload.NotSupportedError, match=r"it needs Linux 5\.6, or") as caught:
        match_struct_ops(opened(), Target(Kernel(*MEMBERS, name="other_ops").btf))
    assert isinstance(caught.value, RelocationError)
    assert (caught.value.feature, caught.value.since) == ("tcp_congestion_ops", "5.6")
    assert "symbol plain" in str(caught.value)


def test_what_is_not_a_struct_ops_program():
    spec = opened()
    spec.programs["cc_init"].prog_type = 1
    assert "'init' is set to cc_init, which is no struct_ops program" in refused(spec)


def test_a_value_without_the_struct():
    kernel = BtfBuilder()
    u32 = kernel.add_int("unsigned int", 4)
    kernel.add_struct("tcp_congestion_ops", 4, [("flags", u32, 0)])
    kernel.add_struct("bpf_struct_ops_tcp_congestion_ops", 4, [("common", u32, 0)])
    with pytest.raises(RelocationError, match="holds no struct tcp_congestion_ops"):
        match_struct_ops(opened(), Target(Btf.from_bytes(kernel.build())))


class TestLoading:
    """What the kernel is asked for, and what is undone."""

    @pytest.fixture
    def kernel(self):
        return Kernel(*MEMBERS)

    @pytest.fixture
    def fake(self, kernel):
        files = {"/sys/kernel/btf/vmlinux": kernel.build()}
        with FakeKernel(files=files) as fake:
            yield fake
            assert fake.leaked() == []

    def test_programs_and_map(self, fake, kernel):
        with opened().load():
            loads = {
                c.fields["expected_attach_type"]: c.fields
                for c in fake.calls
                if c.command == "PROG_LOAD" and c.fields["prog_type"] == ProgType.STRUCT_OPS
            }
            names = ("ssthresh", "cong_avoid", "undo_cwnd", "init")
            assert set(loads) == {MEMBERS.index(name) for name in names}
            assert {c["attach_btf_id"] for c in loads.values()} == {kernel.struct}
            (made,) = [
                c.fields
                for c in fake.calls
                if c.command == "MAP_CREATE" and c.fields["map_type"] == MapType.STRUCT_OPS
            ]
            assert made["btf_vmlinux_value_type_id"] == kernel.value
            assert (made["key_size"], made["value_size"]) == (4, VALUE_SIZE)
            assert (made["btf_key_type_id"], made["btf_value_type_id"]) == (0, 0)

    def test_value_has_descriptors_of_programs(self, fake, kernel):
        with opened().load() as obj:
            at = kernel.offsets["undo_cwnd"]
            written = obj.maps["plain"].contents[at : at + 8]
            assert int.from_bytes(written, "little") == obj.programs["cc_undo_cwnd"].fileno()
            (link,) = obj.attach()
            assert fake.calls[-1].command == "MAP_UPDATE_ELEM"
            link.close()
            assert fake.calls[-1].command == "MAP_DELETE_ELEM"
            link.close()
            assert obj.links == []

    def test_a_table_of_a_link_section(self, fake):
        spec = opened()
        spec.maps["plain"].flags = MapFlag.LINK
        with spec.load() as obj:
            obj.attach()
            assert fake.calls[-1].command == "LINK_CREATE"
            assert fake.calls[-1].fields["attach_type"] == AttachType.STRUCT_OPS
            assert fake.calls[-1].fields["prog_fd"] == obj.maps["plain"].fileno()

    def test_a_refused_registration(self, fake):
        with opened().load() as obj:
            fake.on("MAP_UPDATE_ELEM", lambda _: -errno.EEXIST)
            with pytest.raises(pybpfload.KernelError, match="of that name is registered already"):
                obj.attach()
            assert obj.links == []

    def test_a_member_set_to_none(self, fake, kernel):
        spec = opened()
        next(e for e in spec.struct_ops if e.map.name == "plain").programs["init"] = None
        with spec.load() as obj:
            at = kernel.offsets["init"]
            assert obj.maps["plain"].contents[at : at + 8] == bytes(8)
            assert "cc_init" not in obj.programs

    def test_a_kernel_without_links(self, fake):
        spec = opened()
        spec.maps["plain"].flags = MapFlag.LINK

        def too_old(call):
            return -errno.EINVAL if call.fields["map_flags"] & MapFlag.LINK else None

        fake.on("MAP_CREATE", too_old)
        with pytest.raises(pybpfload.NotSupportedError, match="no links of struct_ops") as caught:
            spec.load()
        assert caught.value.since == "6.4"
        is_table = MapType.STRUCT_OPS.__eq__
        fake.on("MAP_CREATE", lambda c: -errno.EINVAL if is_table(c.fields["map_type"]) else None)
        with pytest.raises(pybpfload.KernelError, match="map plain"):
            spec.load()

    def test_any_call_may_fail(self, fake, kernel):
        with opened().load() as obj:
            obj.attach()
        count = len(fake.calls)
        assert count > 10
        for after in range(count):
            files = {"/sys/kernel/btf/vmlinux": kernel.build()}
            with FakeKernel(files=files) as failing:
                failing.fail(after)
                try:
                    with opened().load() as obj:
                        obj.attach()
                except pybpfload.BpfError:
                    pass
            assert failing.leaked() == [], f"call {after}"
