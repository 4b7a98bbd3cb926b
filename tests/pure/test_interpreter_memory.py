"""Memory of the interpreter: regions, their bounds, objects laid out by BTF; and maps in it."""

import errno
from pathlib import Path

import pytest

import pybpfload
from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.codecs import ValueMismatchError
from pybpfload.errors import BpfError
from pybpfload.isa import insn as isa
from pybpfload.object.spec import MapSpec
from pybpfload.testing import Environment, FaultError, Interpreter, InterpreterError, Memory
from pybpfload.uapi import ElemFlag, Helper, MapFlag, MapType

FIXTURES = Path(__file__).parents[2] / "fixtures"
T = MapType
orders = pytest.mark.parametrize("order", ["<", ">"])


# Regions


def test_regions_have_bounds():
    memory = Memory()
    region = memory.allocate(b"12345678", "thing")
    assert memory.read(region.base, 8) == b"12345678"
    assert memory.read(region.base + 8, 0) == b""
    memory.write(region.base + 6, b"ab")
    assert bytes(region.data) == b"123456ab"
    for address, size, problem in [
        (region.base + 7, 2, "byte 7 of thing, which has 8"),
        (region.base - 1, 2, "1 bytes before thing"),
        (region.base + 8, 1, "byte 8 of thing, which has 8"),
        (8, 1, "a null pointer"),
        (1 << 62, 1, "where nothing is"),
    ]:
        with pytest.raises(FaultError, match=problem):
            memory.read(address, size)
        with pytest.raises(FaultError, match=problem):
            memory.write(address, bytes(size))
        with pytest.raises(FaultError, match=problem):
            memory.reader(8)(address)
        with pytest.raises(FaultError, match=problem):
            memory.writer(8)(address, 0)


def test_read_only_regions():
    memory = Memory()
    region = memory.allocate(8, "constant", writable=False)
    with pytest.raises(FaultError, match="of constant, which is read-only"):
        memory.write(region.base, b"1")
    with pytest.raises(FaultError, match="of constant, which is read-only"):
        memory.writer(4)(region.base + 4, 1)
    assert not any(region.data)


def test_large_regions():
    memory = Memory()
    large = memory.allocate(5 << 20, "large")
    after = memory.allocate(1, "after")
    memory.write(large.base + (3 << 20) - 1, b"ab")
    assert memory.read(large.base + (3 << 20), 1) == b"b"
    assert memory.find(large.base + (5 << 20)) is large
    assert memory.find(large.base + (5 << 20) + 1) is None
    memory.release(large)
    assert memory.find(large.base + (2 << 20)) is None
    assert memory.find(after.base) is after


def test_memory_is_bounded():
    memory = Memory(limit=10_000)
    kept = [memory.allocate(2_000, "part") for _ in range(4)]
    with pytest.raises(FaultError, match="part: 2128 bytes exceed the 10000 bytes"):
        memory.allocate(2_000, "part")
    memory.release(kept.pop())
    memory.allocate(2_000, "part")
    many = Memory(limit=10_000)
    with pytest.raises(FaultError):  # empty ones count too
        for _ in range(1_000):
            many.allocate(0, "nothing")


def test_freed_addresses_are_not_used_again():
    memory = Memory()
    first = memory.allocate(8, "first")
    memory.release(first)
    assert memory.allocate(8, "second").base != first.base
    with pytest.raises(FaultError):
        memory.read(first.base, 1)


def test_packets_have_addresses_of_32_bits():
    memory = Memory()
    for _ in range(5_000):
        packet = memory.allocate(64, "packet", space="packet")
        assert packet.base + 64 < 1 << 32
        memory.release(packet)


def test_texts():
    memory = Memory()
    region = memory.allocate(b"ab\0cd", "letters")
    assert memory.text(region.base) == b"ab"
    assert memory.text(region.base + 3, 2) == b"cd"
    with pytest.raises(FaultError, match="has no end in letters"):
        memory.text(region.base + 3)


def test_arguments():
    with pytest.raises(ValueError, match='expected "<" or ">"'):
        Memory("=")
    with pytest.raises(ValueError, match='expected "error" or "zero"'):
        Memory(unmapped_reads="maybe")


# Objects


def make_btf(order="<"):
    """Types: struct outer with everything that a kernel struct has."""
    builder = BtfBuilder(order)
    u8 = builder.add_int("unsigned char", 1)
    char = builder.add_int("char", 1, encoding=1)
    u32 = builder.add_int("unsigned int", 4)
    s32 = builder.add_int("int", 4, encoding=1)
    u64 = builder.add_int("long", 8)
    inner = builder.add_struct("inner", 8, [("x", u32, 0), ("y", s32, 32)])
    anonymous = builder.add_union("", 8, [("number", u64, 0), ("half", u32, 0)])
    bits = [("low", u32, 256, 4), ("high", s32, 260, 12)]
    members = [
        ("id", u32, 0),
        ("name", builder.add_array(char, 4, u32), 32),
        ("", anonymous, 64),
        ("one", builder.add_ptr(inner), 128),
        ("text", builder.add_ptr(builder.add_const(char)), 192),
        *bits,
        ("pair", builder.add_array(inner, 2, u32), 320),
        ("any", builder.add_ptr(0), 448),
        ("tail", builder.add_array(u8, 0, u32), 576),
    ]
    builder.add_typedef("outer_t", builder.add_struct("outer", 72, members))
    return builder.btf()


@orders
def test_objects(order):
    btf = make_btf(order)
    memory = Memory(order)
    address = memory.place(
        btf,
        "outer",
        {
            "id": 7,
            "name": "abc",
            "half": 5,
            "one": {"y": -3},
            "text": "words",
            "low": 9,
            "high": -2,
            "pair": [{"x": 1}, {"y": 2}],
        },
    )
    outer = memory.get(btf, "outer", address)
    assert (outer.id, outer.name, outer.half, outer.low, outer.high) == (7, "abc", 5, 9, -2)
    assert [tuple(each) for each in outer.pair] == [(1, 0), (0, 2)]
    assert tuple(memory.get(btf, "inner", outer.one)) == (0, -3)
    assert memory.text(outer.text) == b"words"
    assert outer.any == 0
    memory.set(btf, "struct outer", address, {"high": 5, "any": b"raw", "pair": [{"y": 9}]})
    outer = memory.get(btf, "outer_t", address)
    assert (outer.id, outer.low, outer.high, outer.pair[0].x, outer.pair[0].y) == (7, 9, 5, 1, 9)
    assert memory.read(outer.any, 3) == b"raw"


def test_objects_that_point_to_each_other():
    btf, memory = make_btf(), Memory()
    first = memory.place(btf, "outer", {"id": 1})
    second = memory.place(btf, "outer", {"id": 2, "any": first})
    memory.set(btf, "outer", first, {"any": second})
    assert memory.get(btf, "outer", memory.get(btf, "outer", first).any).id == 2
    several = memory.place(btf, "outer", {"one": [{"x": 1}, {"x": 2}]})
    pointer = memory.get(btf, "outer", several).one
    assert [memory.get(btf, "inner", pointer + 8 * n).x for n in range(2)] == [1, 2]


def test_flexible_arrays_grow():
    btf, memory = make_btf(), Memory()
    address = memory.place(btf, "outer", {"tail": [1, 2, 3]})
    assert memory.read(address + 72, 3) == bytes([1, 2, 3])


def test_user_memory_is_apart():
    btf, memory = make_btf(), Memory()
    address = memory.place(btf, "outer", {"one": {"x": 3}}, space="user")
    assert address < 1 << 47
    assert memory.get(btf, "outer", address).one < 1 << 47


def test_objects_that_do_not_fit():
    btf, memory = make_btf(), Memory()
    with pytest.raises(ValueMismatchError, match=r"^outer\.id: expected int from 0"):
        memory.place(btf, "outer", {"id": -1})
    with pytest.raises(ValueMismatchError, match=r"^outer: expected outer record, dict or bytes"):
        memory.place(btf, "struct outer", 1)
    for value, path in [
        ({"one": {"y": "text"}}, r"outer\.one->y"),
        ({"pair": [{}, {"x": -1}]}, r"outer\.pair\[1\]\.x"),
        ({"half": -1}, r"outer\.half"),
        ({"low": 16}, r"outer\.low"),
        ({"name": "too long"}, r"outer\.name"),
    ]:
        with pytest.raises(ValueMismatchError, match=f"^{path}: expected"):
            memory.set(btf, "outer", memory.place(btf, "outer"), value)
    with pytest.raises(BpfError, match=r"struct outer .* has no member nothing"):
        memory.place(btf, "outer", {"nothing": 1})
    with pytest.raises(BpfError, match="too many elements for an array of 2"):
        memory.place(btf, "outer", {"pair": [{}, {}, {}]})
    with pytest.raises(BpfError, match="has no type nothing"):
        memory.place(btf, "nothing", {})
    with pytest.raises(BpfError, match="has byte order <, memory >"):
        Memory(">").place(btf, "outer", {})
    with pytest.raises(BpfError, match="void pointer takes an address or bytes"):
        memory.place(btf, "outer", {"any": {"x": 1}})
    inner = memory.place(btf, "inner")
    with pytest.raises(FaultError, match="of inner, which has 8"):
        memory.set(btf, "outer", inner, {"id": 1})


# Maps, as Python sees them


def make(kind, key=4, value=8, entries=2, *, order="<", **options):
    spec = MapSpec("m", kind, key, value, entries, **options)
    return Interpreter(maps={"m": spec}, memory=Memory(order))


@orders
def test_hash_maps(order):
    found = make(T.HASH, order=order).maps["m"]
    found.update({1: 10, 2: 20})
    assert dict(found) == {1: 10, 2: 20}
    assert len(found) == 2
    with pytest.raises(BpfError, match="map m refuses key 3: E2BIG"):
        found[3] = 30
    del found[1]
    with pytest.raises(KeyError):
        del found[1]
    with pytest.raises(KeyError):
        found[1]
    assert found.get(1) is None
    found[3] = -1
    assert found[3] == (1 << 64) - 1


@orders
def test_array_maps(order):
    found = make(T.ARRAY, order=order).maps["m"]
    found[1] = 5
    assert dict(found) == {0: 0, 1: 5}
    for wrong in (2, -1, 1 << 40):
        with pytest.raises(KeyError):
            found[wrong]
    with pytest.raises(BpfError, match="E2BIG"):
        found[2] = 1
    with pytest.raises(KeyError):
        del found[1]


def test_lru_maps_make_room():
    found = make(T.LRU_HASH).maps["m"]
    found.update({1: 10, 2: 20})
    assert found[1] == 10  # used
    found[3] = 30
    assert dict(found) == {1: 10, 3: 30}


def test_per_cpu_maps():
    interpreter = make(T.PERCPU_ARRAY)
    found = interpreter.maps["m"]
    found[0] = [1, 2]
    found[1] = 7
    assert dict(found) == {0: [1, 2], 1: [7, 7]}
    interpreter.environment.cpu = 1
    assert interpreter.memory.reader(8)(found.address_of(0)) == 2
    with pytest.raises(BpfError, match="3 values for 2 CPUs"):
        found[0] = [1, 2, 3]


@orders
def test_longest_prefix_match(order):
    found = make(T.LPM_TRIE, 8, 4, 4, order=order).maps["m"]

    def key(bits, *address):
        return found.number_key(bits) + bytes(address)

    found[key(0, 0, 0, 0, 0)] = 1
    found[key(8, 10, 9, 9, 9)] = 2
    found[key(24, 10, 1, 2, 0)] = 3
    assert [found[key(32, *a)] for a in ((1, 1, 1, 1), (10, 1, 3, 1), (10, 1, 2, 7))] == [1, 2, 3]
    assert found[key(16, 10, 1, 2, 7)] == 2
    del found[key(8, 10, 0, 0, 0)]
    assert found[key(32, 10, 1, 3, 1)] == 1
    with pytest.raises(BpfError, match="EINVAL"):
        found[key(33, 1, 1, 1, 1)] = 1


def test_queues_and_stacks():
    for kind, order in ((T.QUEUE, [1, 2]), (T.STACK, [2, 1])):
        found = make(kind, 0).maps["m"]
        found.push(1)
        found.push(2)
        with pytest.raises(BpfError, match="full"):
            found.push(3)
        assert [found.pop(), found.pop()] == order
        with pytest.raises(BpfError, match="empty"):
            found.pop()


def test_maps_that_are_not_there():
    found = make(T.DEVMAP).maps["m"]
    assert repr(found) == "<MapModel m: DEVMAP>"
    with pytest.raises(FaultError, match="map m of type DEVMAP cannot be looked up"):
        found.lookup_elem(bytes(4))


# Maps, as programs see them


def call(interpreter, helper, *arguments, then=()):
    """r0 of a helper, called with numbers, maps by name, and bytes for pointers to them."""
    code = []
    for register, argument in enumerate(arguments, 1):
        if isinstance(argument, str):
            argument = interpreter.maps[argument].address
        elif isinstance(argument, bytes):
            argument = interpreter.memory.place_bytes(argument, "argument")
        code += isa.ld_imm64(register, argument)
    value = interpreter.run([*code, isa.call(helper), *then, isa.exit_()]).value
    return value - (1 << 64) if value >> 63 and value > (1 << 64) - 4096 else value


def number(value, size=8):
    return value.to_bytes(size, "little")


ANY, NOEXIST, EXIST = 0, 1, 2


@pytest.mark.parametrize("kind", [T.HASH, T.LRU_HASH, T.PERCPU_HASH])
def test_update_of_hash_maps(kind):
    found = make(kind)

    def update(key, flags):
        return call(found, Helper.MAP_UPDATE_ELEM, "m", number(key, 4), number(5), flags)

    assert update(1, EXIST) == -errno.ENOENT
    assert update(1, NOEXIST) == 0
    assert update(1, NOEXIST) == -errno.EEXIST
    assert update(1, EXIST) == 0
    assert update(1, 3) == -errno.EINVAL
    assert update(2, ANY) == 0
    assert update(3, ANY) == (0 if kind == T.LRU_HASH else -errno.E2BIG)
    assert call(found, Helper.MAP_DELETE_ELEM, "m", number(2, 4)) == 0
    assert call(found, Helper.MAP_DELETE_ELEM, "m", number(2, 4)) == -errno.ENOENT


def test_update_of_arrays():
    found = make(T.ARRAY)

    def update(key, flags):
        return call(found, Helper.MAP_UPDATE_ELEM, "m", number(key, 4), number(5), flags)

    assert update(1, ANY) == update(1, EXIST) == 0
    assert update(1, NOEXIST) == -errno.EEXIST
    assert update(2, ANY) == -errno.E2BIG
    assert update(1, 8) == -errno.EINVAL
    assert call(found, Helper.MAP_DELETE_ELEM, "m", number(1, 4)) == -errno.EINVAL
    assert found.maps["m"][1] == 5


def test_update_under_a_lock():
    spec = pybpfload.open(FIXTURES / "bpfel" / "maps_special.bpf.o")
    found = Interpreter(spec.relocate(spec.btf)).maps
    assert found["locks"].update_elem(number(0, 4), number(5), ElemFlag.LOCK) == 0
    assert found["timers"].update_elem(number(0, 4), bytes(24), ElemFlag.LOCK) == -errno.EINVAL
    assert found["timers"].update_elem(number(1, 4), bytes(24), ElemFlag.LOCK) == -errno.E2BIG


def test_maps_that_programs_may_only_read_or_write():
    found = make(T.ARRAY, flags=int(MapFlag.RDONLY_PROG))
    found.maps["m"][1] = 5  # Python may
    then = (isa.st(isa.SIZE_B, 0, 0, 1),)
    assert call(found, Helper.MAP_LOOKUP_ELEM, "m", number(1, 4)) == found.maps["m"].address_of(1)
    with pytest.raises(InterpreterError, match="value of map m, which is read-only"):
        call(found, Helper.MAP_LOOKUP_ELEM, "m", number(1, 4), then=then)
    with pytest.raises(InterpreterError, match="cannot be written by programs"):
        call(found, Helper.MAP_UPDATE_ELEM, "m", number(1, 4), number(1), 0)
    found = make(T.HASH, flags=int(MapFlag.WRONLY_PROG))
    assert call(found, Helper.MAP_UPDATE_ELEM, "m", number(1, 4), number(1), 0) == 0
    with pytest.raises(InterpreterError, match="cannot be read by programs"):
        call(found, Helper.MAP_LOOKUP_ELEM, "m", number(1, 4))


def test_lookup_gives_the_value_itself():
    found = make(T.HASH)
    found.maps["m"][1] = 10
    then = (isa.st(isa.SIZE_DW, 0, 0, 77), isa.mov64_imm(0, 0))
    assert call(found, Helper.MAP_LOOKUP_ELEM, "m", number(1, 4), then=then) == 0
    assert found.maps["m"][1] == 77
    assert call(found, Helper.MAP_LOOKUP_ELEM, "m", number(2, 4)) == 0
    over = (isa.ldx(isa.SIZE_B, 0, 0, 8),)
    with pytest.raises(InterpreterError, match="byte 8 of value of map m, which has 8"):
        call(found, Helper.MAP_LOOKUP_ELEM, "m", number(1, 4), then=over)


def test_a_deleted_value_stays_until_the_end_of_the_run():
    found = make(T.HASH)
    found.maps["m"][1] = 10
    found.run([isa.mov64_imm(0, 0), isa.exit_()])  # makes the stack
    used = found.memory.used
    key = found.memory.place_bytes(number(1, 4))
    map_ = found.maps["m"].address
    code = [
        *isa.ld_imm64(1, map_),
        *isa.ld_imm64(2, key),
        isa.call(Helper.MAP_LOOKUP_ELEM),
        isa.mov64_reg(6, 0),
        *isa.ld_imm64(1, map_),
        *isa.ld_imm64(2, key),
        isa.call(Helper.MAP_DELETE_ELEM),
        isa.ldx(isa.SIZE_DW, 0, 6, 0),
        isa.exit_(),
    ]
    assert found.run(code).value == 10
    assert found.memory.used < used


def test_push_and_pop():
    found = make(T.QUEUE, 0)
    place = found.memory.place_bytes(number(99))
    assert call(found, Helper.MAP_PUSH_ELEM, "m", number(1), 0) == 0
    assert call(found, Helper.MAP_PUSH_ELEM, "m", number(2), 0) == 0
    assert call(found, Helper.MAP_PUSH_ELEM, "m", number(3), 0) == -errno.E2BIG
    assert call(found, Helper.MAP_PUSH_ELEM, "m", number(3), EXIST) == 0  # the oldest goes
    assert call(found, Helper.MAP_PUSH_ELEM, "m", number(3), NOEXIST) == -errno.EINVAL
    assert call(found, Helper.MAP_PEEK_ELEM, "m", place) == 0
    assert found.memory.read(place, 8) == number(2)
    assert call(found, Helper.MAP_POP_ELEM, "m", place) == 0
    assert call(found, Helper.MAP_POP_ELEM, "m", place) == 0
    assert found.memory.read(place, 8) == number(3)
    assert call(found, Helper.MAP_POP_ELEM, "m", place) == -errno.ENOENT
    assert found.memory.read(place, 8) == number(0)


def test_bloom_filters():
    found = make(T.BLOOM_FILTER, 0)
    assert call(found, Helper.MAP_PUSH_ELEM, "m", number(5), 0) == 0
    assert call(found, Helper.MAP_PEEK_ELEM, "m", number(5)) == 0
    assert call(found, Helper.MAP_PEEK_ELEM, "m", number(6)) == -errno.ENOENT
    assert 5 in found.maps["m"]


def test_storage_of_objects():
    found = make(T.TASK_STORAGE)
    task = found.memory.place_bytes(bytes(64), "task")
    assert call(found, Helper.TASK_STORAGE_GET, "m", task, 0, 0) == 0
    address = call(found, Helper.TASK_STORAGE_GET, "m", task, number(7), 1)
    assert found.memory.read(address, 8) == number(7)
    assert call(found, Helper.TASK_STORAGE_GET, "m", task, 0, 0) == address
    assert dict(found.maps["m"]) == {task: 7}
    assert call(found, Helper.TASK_STORAGE_DELETE, "m", task) == 0
    assert call(found, Helper.TASK_STORAGE_DELETE, "m", task) == -errno.ENOENT
    assert call(found, Helper.TASK_STORAGE_GET, "m", 0, 0, 1) == 0


def test_ring_buffers():
    found = make(T.RINGBUF, 0, 0, 4096)
    assert call(found, Helper.RINGBUF_OUTPUT, "m", b"record", 6, 0) == 0
    assert call(found, Helper.RINGBUF_OUTPUT, "m", b"record", 6, 4) == -errno.EINVAL
    assert call(found, Helper.RINGBUF_RESERVE, "m", 4096, 0) == 0
    assert call(found, Helper.RINGBUF_OUTPUT, "m", bytes(4080), 4080, 0) == -errno.EAGAIN
    assert found.maps["m"].take() == [b"record"]
    assert call(found, Helper.RINGBUF_OUTPUT, "m", bytes(4080), 4080, 0) == 0
    with pytest.raises(InterpreterError, match="is no record that was reserved"):
        call(found, Helper.RINGBUF_SUBMIT, number(1), 0)


def test_perf_events_go_to_the_own_cpu():
    found = make(T.PERF_EVENT_ARRAY)
    for cpu, result in ((0xFFFFFFFF, 0), (0, 0), (1, -errno.EOPNOTSUPP), (7, -errno.E2BIG)):
        assert call(found, Helper.PERF_EVENT_OUTPUT, 0, "m", cpu, b"data", 4) == result
    assert found.maps["m"].records == [b"data"] * 2


@pytest.mark.parametrize(
    ("helper", "arguments"),
    [
        (Helper.TRACE_VPRINTK, (b"x" * 999 + b"\0", 1000, 0, 0)),
        (Helper.SEQ_WRITE, (1, bytes(1000), 1000)),
        (Helper.MAP_PUSH_ELEM, ("q", bytes(1000), 0)),
        (Helper.RINGBUF_OUTPUT, ("m", bytes(1000), 1000, 0)),
    ],
)
def test_what_is_kept_is_bounded(helper, arguments):
    maps = {
        "m": MapSpec("m", T.PERF_EVENT_ARRAY, 4, 4, 2),
        "q": MapSpec("q", T.QUEUE, 0, 1000, 1 << 30),
    }
    found = Interpreter(maps=maps, memory=Memory(limit=100_000))
    again = [isa.mov64_reg(register, register + 5) for register in range(1, 1 + len(arguments))]
    code = []
    for register, argument in enumerate(arguments, 6):
        if isinstance(argument, str):
            argument = found.maps[argument].address
        elif isinstance(argument, bytes):
            argument = found.memory.place_bytes(argument)
        code += isa.ld_imm64(register, argument)
    code += [*again, isa.call(helper), isa.ja(-len(again) - 2)]
    with pytest.raises(InterpreterError, match="exceed the 100000 bytes of memory"):
        found.run(code)


@pytest.mark.parametrize(
    "helper", [Helper.PROBE_READ, Helper.PROBE_READ_KERNEL_STR, Helper.GET_CURRENT_COMM]
)
def test_sizes_from_programs_are_not_believed(helper):
    found = Interpreter()
    to = found.memory.place_bytes(bytes(8))
    with pytest.raises(InterpreterError, match="writes 4294967295 bytes"):
        call(found, helper, to, 0xFFFFFFFF, 0)
    with pytest.raises(InterpreterError, match="the kernel does not take"):
        call(found, Helper.SNPRINTF, to, 8, b"%9999999999d\0", number(1), 8)


# Reading what may not be there


@pytest.mark.parametrize(
    ("helper", "kernel", "user"),
    [
        (Helper.PROBE_READ, True, True),
        (Helper.PROBE_READ_KERNEL, True, False),
        (Helper.PROBE_READ_USER, False, True),
    ],
)
def test_probe_read(helper, kernel, user):
    found = Interpreter()
    to = found.memory.place_bytes(b"????????")
    sources = {
        space: found.memory.place_bytes(b"abcdef", space=space) for space in ("kernel", "user")
    }
    for space, allowed in (("kernel", kernel), ("user", user)):
        found.memory.write(to, b"????????")
        result = call(found, helper, to, 4, sources[space] + 1)
        assert result == (0 if allowed else -errno.EFAULT)
        assert found.memory.read(to, 8) == (b"bcde" if allowed else bytes(4)) + b"????"
    for address in (0, 1 << 63, sources["kernel"] + 3, sources["user"] + 3):
        assert call(found, helper, to, 4, address) == -errno.EFAULT
        assert found.memory.read(to, 4) == bytes(4)
    with pytest.raises(InterpreterError, match="byte 0 of bytes, which has 8"):
        call(found, helper, to, 9, sources["kernel"])


def test_probe_read_str():
    found = Interpreter()
    to = found.memory.place_bytes(b"????????")
    text = found.memory.place_bytes(b"hello\0beyond")
    read = Helper.PROBE_READ_KERNEL_STR
    assert call(found, read, to, 8, text) == 6
    assert found.memory.read(to, 8) == b"hello\0??"
    assert call(found, read, to, 3, text) == 3
    assert found.memory.read(to, 4) == b"he\0l"
    assert call(found, read, to, 8, text + 8) == -errno.EFAULT
    assert found.memory.read(to, 8) == bytes(8)
    assert call(found, read, to, 0, text) == 0


# Text


@pytest.mark.parametrize(
    ("template", "values", "expected"),
    [
        (b"plain 100%%", [], "plain 100%"),
        (b"%d %i %u", [(1 << 64) - 1, (1 << 32) - 2, (1 << 32) - 1], "-1 -2 4294967295"),
        (b"%lld %llu %ld", [(1 << 64) - 1] * 3, "-1 18446744073709551615 -1"),
        (b"%x %08X %-4x| %+d", [255, 255, 255, 7], "ff 000000FF ff  | +7"),
        (b"%c%c", [104, 105], "hi"),
        (b"%p", [0x1234], "0000000000001234"),
    ],
)
def test_formats(template, values, expected):
    found = Interpreter()
    data = b"".join(map(number, values))
    to = found.memory.place_bytes(bytes(64))
    length = call(found, Helper.SNPRINTF, to, 64, template + b"\0", data, len(data))
    assert length == len(expected) + 1
    assert found.memory.text(to).decode() == expected


def test_addresses_in_formats():
    found = Interpreter()
    to = found.memory.place_bytes(bytes(64))
    four = found.memory.place_bytes(bytes([192, 0, 2, 1]))
    six = found.memory.place_bytes(bytes.fromhex("20010db8000000000000000000000001"))
    data = number(four) * 2 + number(six) * 2
    template = b"%pI4 %pi4\0"
    assert call(found, Helper.SNPRINTF, to, 64, template, data, 16) == 26
    assert found.memory.text(to) == b"192.0.2.1 192.000.002.001"
    assert call(found, Helper.SNPRINTF, to, 64, b"%pI6\0", data[16:], 8) == 40
    assert found.memory.text(to) == b"2001:0db8:0000:0000:0000:0000:0000:0001"


def test_text_in_formats():
    found = Interpreter()
    text = found.memory.place_bytes(b"words\0")
    to = found.memory.place_bytes(bytes(64))
    data = number(text) * 2 + number(12)
    assert call(found, Helper.SNPRINTF, to, 64, b"<%s|%7pks|%s>\0", data, 24) == 17
    assert found.memory.text(to) == b"<words|  words|>"
    assert call(found, Helper.SNPRINTF, to, 4, b"<%s>\0", data, 8) == 8
    assert found.memory.text(to) == b"<wo"
    assert call(found, Helper.SNPRINTF, to, 64, b"%d\0", data, 7) == -errno.EINVAL
    for bad in (b"%n\0", b"%d %d\0", b"%hd\0", b"%#x\0", b"%.3d\0", b"%\0"):
        with pytest.raises(InterpreterError, match="format"):
            call(found, Helper.SNPRINTF, to, 64, bad, data, 8)


def test_printing():
    found = Interpreter()
    made = found.run(
        [
            *isa.ld_imm64(1, found.memory.place_bytes(b"%d and %d\n\0")),
            isa.mov64_imm(2, 11),
            isa.mov64_imm(3, 1),
            isa.mov64_imm(4, 2),
            isa.call(Helper.TRACE_PRINTK),  # r5 is not needed
            isa.exit_(),
        ]
    )
    assert (made.value, made.printk) == (8, ["1 and 2"])
    assert call(found, Helper.TRACE_VPRINTK, b"%d %d\0", 6, number(3) + number(4), 16) == 3


def test_iterator_output():
    found = Interpreter()
    text, data = found.memory.place_bytes(b"%d\n\0"), found.memory.place_bytes(number(5))
    code = [isa.mov64_imm(1, 1), *isa.ld_imm64(2, text), isa.mov64_imm(3, 4)]
    code += [*isa.ld_imm64(4, data), isa.mov64_imm(5, 8), isa.call(Helper.SEQ_PRINTF)]
    code += [isa.mov64_imm(1, 1), *isa.ld_imm64(2, text), isa.mov64_imm(3, 2)]
    assert found.run([*code, isa.call(Helper.SEQ_WRITE), isa.exit_()]).output == b"5\n%d"


def test_comparing_text():
    found = Interpreter()
    for left, right, sign in ((b"abc", b"abc\0", 0), (b"abc", b"abd\0", -1), (b"b\0x", b"ab\0", 1)):
        assert call(found, Helper.STRNCMP, left, 3, right) == sign


def test_name_of_the_task():
    found = Interpreter(environment=Environment(comm="sixteen letters or more"))
    to = found.memory.place_bytes(b"?" * 20)
    assert call(found, Helper.GET_CURRENT_COMM, to, 20) == 0
    assert found.memory.read(to, 20) == b"sixteen letters\0\0\0\0\0"
    assert call(found, Helper.GET_CURRENT_COMM, to, 4) == 0
    assert found.memory.read(to, 4) == b"six\0"
