"""Map definitions: the rules of libbpf for BTF-defined maps and for maps made of data sections."""

from __future__ import annotations

import pytest
from insns import EXIT, mov, sole, wide

from pybpfload.errors import FormatError
from pybpfload.object import open_object
from pybpfload.object.maps import data_map_name, ring_buffer_size
from pybpfload.object.spec import MapKind
from pybpfload.testing.objects import GLOBAL, HIDDEN, NOBITS, OBJECT, ObjectBuilder
from pybpfload.uapi import MapFlag, MapType

HASH, ARRAY, PROG_ARRAY, ARRAY_OF_MAPS, HASH_OF_MAPS, RINGBUF = 1, 2, 3, 12, 13, 27


class Maps(ObjectBuilder):
    """An object whose ``.maps`` section holds definitions given as lists of members."""

    def __init__(self, order: str = "<") -> None:
        super().__init__(order)
        self.int = self.btf.add_int("int", 4, 1)
        self.u64 = self.btf.add_int("unsigned long long", 8)
        self.entries: list[tuple[int, int, int]] = []
        self.offset = 0
        self.program("tc", [mov(0, dst=0), EXIT])

    def uint(self, value: int) -> int:
        return self.btf.add_ptr(self.btf.add_array(self.int, value, self.int))

    def definition(self, *members: tuple[str, int]) -> int:
        return self.btf.add_struct(
            "", 8 * len(members), [(name, kind, 64 * i) for i, (name, kind) in enumerate(members)]
        )

    def define(self, name: str, *members: tuple[str, int], linkage: int = 1, size: int = 0) -> int:
        definition = self.definition(*members)
        size = size or 8 * len(members)
        variable = self.btf.add_var(name, definition, linkage)
        self.entries.append((variable, 0, size))
        self.symbols = getattr(self, "symbols", [])
        self.symbols.append((name, self.offset, size))
        self.offset += size
        return definition

    def build(self, **options: bool) -> bytes:
        if self.entries:
            section = self.section(".maps", bytes(self.offset), flags=3)
            for name, offset, size in self.symbols:
                self.symbol(name, section, offset, size, kind=OBJECT)
            self.btf.add_datasec(".maps", 0, self.entries)
            self.entries = []
        return super().build(**options)


def one(*members: tuple[str, int], made: Maps | None = None):
    made = made or Maps()
    made.define("map", *members)
    return open_object(made.build()).maps["map"]


def refused(made: Maps) -> str:
    with pytest.raises(FormatError) as caught:
        open_object(made.build())
    return str(caught.value)


@pytest.mark.parametrize("order", "<>")
def test_all_attributes(order):
    made = Maps(order)
    spec = one(
        ("type", made.uint(HASH)),
        ("key", made.btf.add_ptr(made.int)),
        ("value", made.btf.add_ptr(made.u64)),
        ("max_entries", made.uint(1000)),
        ("map_flags", made.uint(1)),
        ("numa_node", made.uint(2)),
        ("map_extra", made.uint(3)),
        ("pinning", made.uint(1)),
        made=made,
    )
    assert (spec.type, spec.key_size, spec.value_size, spec.max_entries) == (
        MapType.HASH,
        4,
        8,
        1000,
    )
    assert (spec.flags, spec.numa_node, spec.map_extra, spec.pinning) == (1, 2, 3, 1)
    assert (spec.key_type_id, spec.value_type_id) == (made.int, made.u64)
    assert spec.contents is None
    assert not spec.is_internal


def test_order_of_maps_is_that_of_their_offsets():
    made = Maps()
    for name in ("zebra", "ant", "mule"):
        made.define(name, ("type", made.uint(ARRAY)))
    made.entries.reverse()
    assert list(open_object(made.build()).maps) == ["zebra", "ant", "mule"]


@pytest.mark.parametrize(
    ("members", "size"),
    [
        ([("key_size", 4), ("key", 4)], 4),
        ([("key_size", 0), ("key", 4)], 4),
        ([("key_size", 0), ("key_size", 8)], 8),
        ([("key", 4), ("key_size", 4)], 4),
        ([("key", 4), ("key_size", 0)], None),
        ([("key", 4), ("key_size", 8)], None),
        ([("key_size", 8), ("key", 4)], None),
        ([("key_size", 3), ("key_size", 5)], None),
    ],
)
def test_sizes_given_twice(members, size):
    """Only an earlier size of 0 gives way."""
    made = Maps()
    listed = [("type", made.uint(HASH))]
    for name, value in members:
        listed.append((name, made.btf.add_ptr(made.int) if name == "key" else made.uint(value)))
    made.define("map", *listed)
    if size is None:
        assert "says" in refused(made)
    else:
        assert open_object(made.build()).maps["map"].key_size == size


def test_repeated_attribute_overwrites():
    made = Maps()
    spec = one(
        ("type", made.uint(HASH)), ("max_entries", made.uint(5)), ("type", made.uint(ARRAY)),
        ("max_entries", made.uint(6)), made=made,
    )  # fmt: skip
    assert (spec.type, spec.max_entries) == (MapType.ARRAY, 6)


def test_numbers_may_be_behind_modifiers_and_typedefs_but_not_their_array():
    made = Maps()
    pointer = made.btf.add_typedef("t", made.btf.add_const(made.uint(7)))
    assert one(("type", made.uint(ARRAY)), ("max_entries", pointer), made=made).max_entries == 7
    made = Maps()
    array = made.btf.add_typedef("t", made.btf.add_array(made.int, 7, made.int))
    made.define("map", ("type", made.uint(ARRAY)), ("max_entries", made.btf.add_ptr(array)))
    assert "attribute 'max_entries' is not a pointer to an array" in refused(made)


def test_types_are_not_stripped():
    made = Maps()
    pointer = made.btf.add_const(made.btf.add_ptr(made.int))
    made.define("map", ("type", made.uint(HASH)), ("key", pointer))
    assert "attribute 'key' is not a pointer to a type" in refused(made)


def test_type_without_size():
    made = Maps()
    made.define("map", ("type", made.uint(HASH)), ("key", made.btf.add_ptr(0)))
    assert "attribute 'key' has an unfit type: void has no size" in refused(made)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(5, 5), (1 << 40, 1 << 40), (-1, (1 << 64) - 1), ((1 << 63) + 7, (1 << 63) + 7)],
)
def test_map_extra_as_enum(value, expected):
    made = Maps()
    enum = made.btf.add_enum64("", 8, [("x", value)])
    assert one(("type", made.uint(ARRAY)), ("map_extra", enum), made=made).map_extra == expected


def test_map_extra_as_small_enum_is_sign_extended():
    made = Maps()
    enum = made.btf.add_enum("", 4, [("x", 0x80000001)])
    spec = one(("type", made.uint(ARRAY)), ("map_extra", enum), made=made)
    assert spec.map_extra == 0xFFFFFFFF80000001
    made = Maps()
    made.define(
        "map", ("type", made.uint(2)), ("map_extra", made.btf.add_enum("", 4, [("a", 1), ("b", 2)]))
    )
    assert "attribute 'map_extra' is an enum of 2 values, expected one" in refused(made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"linkage": 0}, "symbol map: maps cannot be static"),
        ({"linkage": 2}, "symbol map: maps cannot be static"),
        ({"size": 4}, "symbol map: the map is cut short"),
    ],
)
def test_variables_that_are_refused(change, message):
    made = Maps()
    made.define("map", ("type", made.uint(ARRAY)), **change)
    assert message in refused(made)


def test_map_beyond_its_section():
    made = Maps()
    made.define("map", ("type", made.uint(ARRAY)))
    section = made.section(".maps", bytes(4), flags=3)
    made.symbol("map", section, 0, 8, kind=OBJECT)
    made.btf.add_datasec(".maps", 0, made.entries)
    made.entries = []
    assert "symbol map: the map lies beyond its section" in refused(made)


def test_maps_section_without_description():
    made = Maps()
    made.section(".maps", bytes(8), flags=3)
    assert "section .maps: BTF does not describe this section" in refused(made)


# Inner maps and programs


def array_of(made: Maps, of: int, nelems: int = 0) -> int:
    return made.btf.add_array(made.btf.add_ptr(of), nelems, made.int)


def outer(made: Maps, kind: int = ARRAY_OF_MAPS, **options) -> Maps:
    inner = made.definition(("type", made.uint(ARRAY)), ("max_entries", made.uint(9)))
    made.define(
        "outer",
        ("type", made.uint(kind)),
        ("key_size", made.uint(options.get("key_size", 4))),
        ("max_entries", made.uint(2)),
        ("values", array_of(made, inner)),
    )
    return made


def test_inner_map():
    spec = open_object(outer(Maps()).build()).maps["outer"]
    assert (spec.value_size, spec.inner.name, spec.inner.type) == (4, "outer.inner", MapType.ARRAY)
    assert spec.inner.max_entries == 9
    assert spec.values == []


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ([("type", 0)], "symbol outer.inner: attribute 'type' is missing"),
        ([("type", 2), ("nothing", 1)], "symbol outer.inner: attribute 'nothing' is not known"),
        ([("type", 2), ("pinning", 1)], "attribute 'pinning' is given, but an inner map cannot be"),
        (
            [("type", 12), ("values", 1)],
            "attribute 'values' is given, but an inner map cannot have",
        ),
    ],
)
def test_inner_maps_that_are_refused(inner, message):
    made = Maps()
    definition = made.definition(*((name, made.uint(value)) for name, value in inner))
    made.define("outer", ("type", made.uint(12)), ("values", array_of(made, definition)))
    assert message in refused(made)


def test_values_rules():
    def define(*members) -> str:
        made = Maps()
        struct = made.definition(("type", made.uint(ARRAY)))
        proto = made.btf.add_func_proto(made.int)
        kinds = {
            "maps": array_of(made, struct),
            "functions": array_of(made, proto),
            "integers": array_of(made, made.int),
            "known length": array_of(made, struct, 1),
            "no pointers": made.btf.add_array(made.int, 0, made.int),
            "no array": made.btf.add_ptr(struct),
        }
        made.define(
            "map", *((n, kinds[v] if isinstance(v, str) else made.uint(v)) for n, v in members)
        )
        return refused(made)

    last = "attribute 'values' "
    assert last + "is not the last" in define(("type", 12), ("values", "maps"), ("key_size", 4))
    assert last + "needs a map of maps" in define(("values", "maps"))
    assert last + "needs a map of maps" in define(("type", HASH), ("values", "maps"))
    assert last + "needs a value size of 4 bytes, not 8" in define(
        ("type", 12), ("value_size", 8), ("values", "maps")
    )
    for kind in ("known length", "no array"):
        assert last + "is not an array of unknown length" in define(("type", 12), ("values", kind))
    for kind in ("functions", "integers", "no pointers"):
        assert last + "does not hold pointers to map" in define(("type", 12), ("values", kind))
    for kind in ("maps", "integers"):
        assert last + "does not hold pointers to func" in define(("type", 3), ("values", kind))


def slotted(made: Maps, offsets: list[tuple[int, str]]) -> Maps:
    """Finish the sections, then point slots at symbols by name."""
    made.section(".maps", bytes(made.offset), flags=3)
    section = len(made._sections) - 1
    symbols = {
        name: made.symbol(name, section, offset, size, kind=OBJECT)
        for name, offset, size in made.symbols
    }
    symbols["program"] = 1
    symbols["absent"] = made.symbol("absent", section, 0, 8, kind=OBJECT)
    made.btf.add_datasec(".maps", 0, made.entries)
    made.entries = []
    for offset, name in offsets:
        made.rel(section, offset, symbols[name])
    return made


def test_declared_inner_maps():
    # first takes 8 bytes, outer 32 of which the last member (0 bytes) starts at 24.
    made = Maps()
    made.define("first", ("type", made.uint(ARRAY)))
    inner = made.definition(("type", made.uint(ARRAY)))
    made.define(
        "outer",
        ("type", made.uint(ARRAY_OF_MAPS)),
        ("values", array_of(made, inner)),
        size=8 + 8 + 24,
    )
    at = 8 + 8
    spec = open_object(slotted(made, [(at + 16, "first"), (at, "first")]).build())
    assert spec.maps["outer"].values == ["first", None, "first"]


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ([(99, "first")], "offset 0x63, symbol first: lies in no map definition"),
        ([(4, "first")], "lies in no map definition"),
        ([(0, "first")], "first is a ARRAY, which cannot have declared values"),
        ([(8, "first")], "is not at a slot of 'values'"),
        ([(20, "first")], "is not at a slot of 'values'"),
        ([(16, "absent")], "there is no map 'absent'"),
        ([(16, "program")], "outer wants maps, 'program' is none"),
    ],
)
def test_declared_values_that_are_refused(slots, message):
    made = Maps()
    made.define("first", ("type", made.uint(ARRAY)))
    inner = made.definition(("type", made.uint(ARRAY)))
    made.define(
        "outer", ("type", made.uint(ARRAY_OF_MAPS)), ("values", array_of(made, inner)), size=32
    )
    told = refused(slotted(made, slots))
    assert message in told
    assert "section .rel.maps" in told


def test_declared_values_want_small_keys():
    made = Maps()
    made.define("first", ("type", made.uint(ARRAY)))
    inner = made.definition(("type", made.uint(ARRAY)))
    made.define(
        "outer", ("type", made.uint(HASH_OF_MAPS)), ("key_size", made.uint(8)),
        ("values", array_of(made, inner)), size=32,
    )  # fmt: skip
    assert "declared values need a key of 4 bytes, outer has 8" in refused(
        slotted(made, [(24, "first")])
    )


# Ring buffers


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, 0), (1, 4096), (4095, 4096), (4096, 4096), (4097, 8192), (8192, 8192), (12288, 16384),
        (100000, 131072), (1 << 31, 1 << 31), ((1 << 31) + 1, (1 << 31) + 1),
    ],
)  # fmt: skip
def test_ring_buffer_size(size, expected):
    assert ring_buffer_size(MapType.RINGBUF, size, 4096) == expected
    assert ring_buffer_size(MapType.USER_RINGBUF, size, 4096) == expected
    assert ring_buffer_size(MapType.ARRAY, size, 4096) == size
    made = Maps()
    spec = one(("type", made.uint(RINGBUF)), ("max_entries", made.uint(size)), made=made)
    assert spec.max_entries == expected


def test_ring_buffer_size_of_large_pages():
    assert ring_buffer_size(MapType.RINGBUF, 4096, 65536) == 65536
    assert ring_buffer_size(MapType.RINGBUF, 65537, 65536) == 131072


# Data sections


@pytest.mark.parametrize(
    ("name", "section", "expected"),
    [
        ("my_object_name", ".rodata", "my_objec.rodata"),
        ("my_object_name", ".data", "my_objec.data"),
        ("my_object_name", ".bss", "my_objec.bss"),
        ("my_object_name", ".kconfig", "my_obje.kconfig"),
        ("any", ".rodata", "any.rodata"),
        ("any", ".rodata.abracadabra", ".rodata.abracad"),
        ("any", ".data.foo", ".data.foo"),
        ("a-b c", ".bss", "a_b_c.bss"),
        ("", ".bss", ".bss"),
        ("my.object.name.", ".rodata", "my.objec.rodata"),
    ],
)
def test_data_map_name(name, section, expected):
    assert data_map_name(name, section) == expected


def test_data_maps():
    made = ObjectBuilder()
    made.program("tc", [mov(0, dst=0), EXIT])
    made.section(".bss.with_a_long_name", kind=NOBITS, size=16)
    made.section(".data", b"12345678")
    made.section(".rodata.str1.1", b"text\0")
    made.section(".data.with_a_long_name", b"1234")
    made.section(".bss", kind=NOBITS, size=1 << 20)
    spec = open_object(made.build(), name="object")
    told = [(m.name, m.section, m.kind, m.value_size, m.flags) for m in spec.maps.values()]
    read_only = MapFlag.RDONLY_PROG
    assert told == [
        (".bss.with_a_lon", ".bss.with_a_long_name", MapKind.BSS, 16, 0),
        ("object.data", ".data", MapKind.DATA, 8, 0),
        (".rodata.str1.1", ".rodata.str1.1", MapKind.RODATA, 5, read_only),
        (".data.with_a_long_name", ".data.with_a_long_name", MapKind.DATA, 4, 0),
        ("object.bss", ".bss", MapKind.BSS, 1 << 20, 0),
    ]
    for each in spec.maps.values():
        assert (each.type, each.key_size, each.max_entries) == (MapType.ARRAY, 4, 1)
        assert each.is_internal
        assert len(each.contents) == each.value_size
    assert spec.maps["object.data"].contents == b"12345678"
    assert spec.maps["object.bss"].contents == bytes(1 << 20)


def test_sections_with_the_same_short_name():
    made = ObjectBuilder()
    first = made.section(".bss.with_a_long_name_1", kind=NOBITS, size=8)
    second = made.section(".bss.with_a_long_name_2", kind=NOBITS, size=8)
    third = made.section(".bss.with_a_long_name_2", kind=NOBITS, size=8)
    code = sole(made, "tc", [*wide(0), *wide(0), *wide(0), EXIT])
    for at, section in enumerate((third, second, first)):
        made.rel(code, 16 * at, made.symbol("", section, kind=3, binding=0))
    spec = open_object(made.build())
    assert list(spec.maps) == [
        ".bss.with_a_lon",
        ".bss.with_a_lon@.bss.with_a_long_name_2",
        ".bss.with_a_lon@.bss.with_a_long_name_2#2",
    ]
    assert [reloc.index for reloc in spec.programs["program"].relocs] == [2, 1, 0]


def data_object(linkage: int, visibility: int = 0, size: int = 0):
    made = ObjectBuilder()
    made.program("tc", [mov(0, dst=0), EXIT])
    data = made.section(".data", bytes(16))
    made.symbol("variable", data, 8, 4, kind=OBJECT, binding=GLOBAL, visibility=visibility)
    of = made.btf.add_int("int", 4, 1)
    made.btf.add_datasec(".data", size, [(made.btf.add_var("variable", of, linkage), 0, 4)])
    return open_object(made.build(), name="object")


def test_variables_get_their_offsets_from_symbols():
    spec = data_object(linkage=1)
    data = spec.maps["object.data"]
    assert data.flags == MapFlag.MMAPABLE
    assert spec.variables["variable"].offset == 8
    assert spec.btf.describe(data.value_type_id).startswith("datasec .data")
    assert spec.btf[data.value_type_id].size == 16


def test_hidden_variables_become_static_and_their_map_not_mappable():
    spec = data_object(linkage=1, visibility=HIDDEN)
    assert spec.maps["object.data"].flags == 0
    assert spec.variables["variable"].linkage == 0


def test_static_variables_keep_their_offsets():
    spec = data_object(linkage=0)
    assert spec.maps["object.data"].flags == 0
    assert spec.variables["variable"].offset == 0


def test_offsets_of_linked_objects_stay():
    assert data_object(linkage=1, size=16).variables["variable"].offset == 0


@pytest.mark.parametrize(
    ("section", "size", "name", "message"),
    [
        (".data.missing", 0, "variable", "section .data.missing: BTF describes variables"),
        (".data.missing", 8, "variable", None),
        (".data", 0, "other", "section .data, symbol other: the variable has BTF but no symbol"),
        (".data", 16, "other", "section .data, symbol other: the variable has BTF but no symbol"),
    ],
)
def test_described_but_missing(section, size, name, message):
    made = ObjectBuilder()
    made.program("tc", [mov(0, dst=0), EXIT])
    made.symbol("variable", made.section(".data", bytes(16)), 8, 4, kind=OBJECT)
    of = made.btf.add_int("int", 4, 1)
    made.btf.add_datasec(section, size, [(made.btf.add_var(name, of), 0, 4)])
    if message is None:
        open_object(made.build())
        return
    with pytest.raises(FormatError) as caught:
        open_object(made.build())
    assert message in str(caught.value)


def test_two_variables_of_one_name():
    made = ObjectBuilder()
    made.program("tc", [mov(0, dst=0), EXIT])
    made.section(".bss", kind=NOBITS, size=12)
    of = made.btf.add_int("int", 4, 1)
    variables = [(made.btf.add_var("same", of, 0), 4 * at, 4) for at in range(3)]
    made.btf.add_datasec(".bss", 12, variables)
    spec = open_object(made.build())
    assert [(n, v.offset) for n, v in spec.variables.items()] == [
        ("same", 0), ("same@.bss", 4), ("same@.bss#2", 8),
    ]  # fmt: skip


# Arenas


def arena(pages: int, size: int) -> Maps:
    made = Maps()
    made.define("arena", ("type", made.uint(33)), ("max_entries", made.uint(pages)))
    made.section(".addr_space.1", bytes(size), flags=3)
    return made


def test_arena():
    spec = open_object(arena(2, 4097).build())
    assert spec.maps["arena"].contents == bytes(4097)
    assert "needs 2 pages, the arena has 1" in refused(arena(1, 4097))
    made = Maps()
    made.define("map", ("type", made.uint(ARRAY)))
    made.section(".addr_space.1", bytes(8), flags=3)
    assert "section .addr_space.1: holds arena variables but the object has no arena" in refused(
        made
    )
    made = Maps()
    made.section(".addr_space.1", bytes(8), flags=3)
    open_object(made.build())  # only looked at when there are maps
