"""The interpreter does what this machine's kernel does."""

from __future__ import annotations

import errno
import os
import struct
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from random_programs import CONTEXT_SIZE, MAP_SIZE, random_program

import pybpfload
from pybpfload.errors import KernelError, VerifierError
from pybpfload.isa import insn as isa
from pybpfload.isa.disasm import disassemble
from pybpfload.kernel import bpf, progload
from pybpfload.kernel.btf import vmlinux
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.object.spec import MapSpec, ProgramSpec
from pybpfload.relocate import Reference, ReferenceKind, RelocatedProgram
from pybpfload.testing import Environment, Interpreter, InterpreterError, Memory
from pybpfload.uapi import Helper, MapFlag, MapType, ProgFlag, ProgType

pytestmark = pytest.mark.live

ORDER = "<" if sys.byteorder == "little" else ">"
FIXTURES = Path(__file__).parents[2] / "fixtures" / ("bpfel" if ORDER == "<" else "bpfeb")

PROGRAMS = int(os.environ.get("PYBPFLOAD_RANDOM_PROGRAMS", "2000"))
CALL_PROGRAMS = PROGRAMS // 12
SEED = int(os.environ.get("PYBPFLOAD_RANDOM_SEED", "1"))

PACKET = bytes.fromhex("000000000000 020304050607 0800") + bytes(range(60))


# Random programs


@pytest.fixture(scope="module")
def scratch():
    """The map whose value random programs play with, in the kernel."""
    with FileDescriptor(bpf.map_create(MapType.ARRAY, 4, MAP_SIZE, 1), "map scratch") as fd:
        yield fd.fileno()


def in_kernel(insns, map_values, scratch, content):
    """Run a program here: r0, context and map value afterwards."""
    insns = list(insns)
    for at in map_values:
        insns[at] = insns[at]._replace(imm=scratch)
    bpf.map_update_elem(scratch, bytes(4), content)
    loaded, _ = progload.load_program(
        ProgType.SYSCALL, isa.encode(insns, ORDER), prog_flags=ProgFlag.SLEEPABLE
    )
    with FileDescriptor(loaded, "program") as fd:
        run = bpf.prog_test_run(fd.fileno(), ctx_in=bytes(CONTEXT_SIZE))
    return run.retval, run.ctx_out, bpf.map_lookup_elem(scratch, bytes(4), MAP_SIZE)


def interpreted(insns, map_values, content):
    """The same by the interpreter."""
    spec = ProgramSpec("random", "syscall", insns, prog_type=ProgType.SYSCALL)
    references = [Reference(at, ReferenceKind.MAP_VALUE, "scratch") for at in map_values]
    interpreter = Interpreter(
        memory=Memory(ORDER), maps={"scratch": MapSpec("scratch", MapType.ARRAY, 4, MAP_SIZE, 1)}
    )
    interpreter.maps["scratch"][0] = content
    run = interpreter.run(RelocatedProgram(spec, insns, references), ctx=bytes(CONTEXT_SIZE))
    return run.retval, run.ctx_out, interpreter.maps["scratch"][0]


def what_differs(here, there, insns):
    """Both outcomes, as numbers with names, and the program."""
    names = [f"r{n}" for n in range(10)] + [f"stack {n}" for n in range(-72, -8, 8)]
    pairs = zip(
        names,
        struct.unpack(f"{ORDER}18Q", here[1]),
        struct.unpack(f"{ORDER}18Q", there[1]),
        strict=True,
    )
    lines = [f"{name}: kernel {a:#x}, interpreter {b:#x}" for name, a, b in pairs if a != b]
    lines += [f"map: kernel {here[2].hex()}, interpreter {there[2].hex()}"]
    return "\n".join([*lines, *map(str, disassemble(insns))])


def test_random_programs_end_as_in_the_kernel(scratch):
    steps = 0
    for seed in range(SEED, SEED + PROGRAMS):
        random = Random(seed)
        insns, map_values = random_program(random, random.randint(2, 32))
        content = random.randbytes(MAP_SIZE)
        try:
            here = in_kernel(insns, map_values, scratch, content)
        except KernelError as error:
            pytest.fail(f"seed {seed}: {error}\n{getattr(error, 'log', '')[-2000:]}")
        there = interpreted(insns, map_values, content)
        assert here == there, f"seed {seed}\n{what_differs(here, there, insns)}"
        steps += len(insns)
    assert steps > 50 * PROGRAMS


# Random calls of helpers

MAPS = {
    "hash": MapSpec("hash", MapType.HASH, 4, 8, 3),
    "percpu_hash": MapSpec("percpu_hash", MapType.PERCPU_HASH, 4, 8, 3),
    "array": MapSpec("array", MapType.ARRAY, 4, 8, 3),
    "percpu_array": MapSpec("percpu_array", MapType.PERCPU_ARRAY, 4, 8, 3),
    "lpm": MapSpec("lpm", MapType.LPM_TRIE, 8, 8, 2, int(MapFlag.NO_PREALLOC)),
    "queue": MapSpec("queue", MapType.QUEUE, 0, 8, 2),
    "stack": MapSpec("stack", MapType.STACK, 0, 8, 2),
}
CALLS = 30
OUT = MapSpec("out", MapType.ARRAY, 4, 16 * CALLS, 1)
KEYED = (Helper.MAP_LOOKUP_ELEM, Helper.MAP_UPDATE_ELEM, Helper.MAP_DELETE_ELEM)
KEYLESS = (Helper.MAP_PUSH_ELEM, Helper.MAP_POP_ELEM, Helper.MAP_PEEK_ELEM)
KEY, VALUE = -8, -16  # on the stack


def map_calls(random):
    """Random calls of map helpers; what each gives goes to two slots of the map ``out``."""
    code, references = [], []
    for number in range(CALLS):
        name = random.choice(list(MAPS))
        helper = random.choice(KEYED if MAPS[name].key_size else KEYLESS)
        if name.startswith("percpu_array") and helper == Helper.MAP_DELETE_ELEM:
            helper = Helper.MAP_LOOKUP_ELEM
        if name == "lpm":
            key = random.choice((0, 8, 9, 16, 24, 32, 33)), random.choice((1, 0x101, 0x0A000001))
        else:
            key = random.randrange(5), 0
        code += [
            isa.st(isa.SIZE_W, 10, KEY, key[0]),
            isa.st(isa.SIZE_W, 10, KEY + 4, key[1]),
            *isa.ld_imm64(2, random.getrandbits(64)),
            isa.stx(isa.SIZE_DW, 10, 2, VALUE),
        ]
        references.append(Reference(len(code), ReferenceKind.MAP, name))
        code += isa.ld_imm64(1, 0, src=isa.PSEUDO_MAP_FD)
        pointers = [KEY, VALUE] if MAPS[name].key_size else [VALUE]
        for register, place in enumerate(pointers, 2):
            code += [isa.mov64_reg(register, 10), isa.alu64_imm(isa.ALU_ADD, register, place)]
        code.append(isa.mov64_imm(2 + len(pointers), random.choice((0, 0, 1, 2, 3, 4))))
        code.append(isa.call(helper))
        references.append(Reference(len(code), ReferenceKind.MAP_VALUE, "out"))
        code += isa.ld_imm64(1, 0, src=isa.PSEUDO_MAP_VALUE)
        if helper == Helper.MAP_LOOKUP_ELEM:
            # 0, or 1 and the value, which is changed
            code += [
                isa.jmp_imm(isa.JMP_JEQ, 0, 0, 5),
                isa.ldx(isa.SIZE_DW, 2, 0, 0),
                isa.stx(isa.SIZE_DW, 1, 2, 16 * number + 8),
                isa.alu64_imm(isa.ALU_XOR, 2, 0x55),
                isa.stx(isa.SIZE_DW, 0, 2, 0),
                isa.mov64_imm(0, 1),
            ]
        code += [isa.stx(isa.SIZE_DW, 1, 0, 16 * number)]
        if helper in KEYLESS:
            code += [
                isa.ldx(isa.SIZE_DW, 2, 10, VALUE),
                isa.stx(isa.SIZE_DW, 1, 2, 16 * number + 8),
            ]
    return [*code, isa.mov64_imm(0, 0), isa.exit_()], references


def calls_in_kernel(insns, references):
    """Run calls of map helpers here, on new maps: what is in ``out`` afterwards."""
    code = list(insns)
    with ExitStack() as stack:
        fds = {}
        for name, spec in (MAPS | {"out": OUT}).items():
            sizes = spec.key_size, spec.value_size, spec.max_entries
            fd = FileDescriptor(bpf.map_create(spec.type, *sizes, map_flags=spec.flags), name)
            fds[name] = stack.enter_context(fd).fileno()
        for reference in references:
            code[reference.insn] = code[reference.insn]._replace(imm=fds[reference.name])
        loaded, _ = progload.load_program(ProgType.RAW_TRACEPOINT, isa.encode(code, ORDER))
        program = stack.enter_context(FileDescriptor(loaded, "program"))
        bpf.prog_test_run(program.fileno())
        return bpf.map_lookup_elem(fds["out"], bytes(4), OUT.value_size)


def test_random_calls_of_map_helpers():
    seen = set()
    for seed in range(SEED, SEED + CALL_PROGRAMS):
        insns, references = map_calls(Random(seed))
        here = calls_in_kernel(insns, references)
        spec = ProgramSpec("calls", "raw_tp", insns, prog_type=ProgType.RAW_TRACEPOINT)
        interpreter = Interpreter(memory=Memory(ORDER), maps=MAPS | {"out": OUT})
        run = interpreter.run(RelocatedProgram(spec, insns, references))
        there = interpreter.maps["out"][0]
        names = [reference.name for reference in references if reference.name != "out"]
        pairs = [struct.unpack(f"{ORDER}{2 * CALLS}q", each) for each in (here, there)]
        for number, (helper, *_) in enumerate(run.calls):
            kernel, ours = (each[2 * number : 2 * number + 2] for each in pairs)
            assert kernel == ours, f"seed {seed}, call {number}: {helper} on {names[number]}"
            seen.add((helper, names[number], kernel[0]))
    results = {result for _, _, result in seen}
    assert {-errno.EEXIST, -errno.ENOENT, -errno.E2BIG, -errno.EINVAL, -errno.ENOSPC} <= results
    assert len(seen) > 50


# Random packets


def classic_loads(random):
    """LD_ABS and LD_IND at random offsets: one beyond the packet ends the program."""
    code = [isa.mov64_reg(6, 1), isa.mov64_imm(7, 0)]
    for _ in range(random.randint(1, 5)):
        size = random.choice((isa.SIZE_B, isa.SIZE_H, isa.SIZE_W))
        offset = random.choice((random.randrange(64), random.randrange(-3, 90)))
        if random.getrandbits(1):
            register = random.randrange(64)
            code += [isa.mov64_imm(8, register), isa.alu64_imm(isa.ALU_XOR, 8, 0)]
            code.append(isa.Insn(isa.LD | isa.MODE_IND | size, 0, 8, 0, offset - register))
        else:
            code.append(isa.Insn(isa.LD | isa.MODE_ABS | size, 0, 0, 0, abs(offset)))
        code += [isa.alu64_imm(isa.ALU_MUL, 7, 31), isa.alu64_reg(isa.ALU_XOR, 7, 0)]
    return [*code, isa.mov64_reg(0, 7), isa.exit_()]


def direct_access(random):
    """Loads and stores in the first 32 bytes of an XDP packet, if there are so many."""
    code = [
        isa.ldx(isa.SIZE_W, 2, 1, 0),
        isa.ldx(isa.SIZE_W, 3, 1, 4),
        isa.mov64_imm(0, 7),
        isa.mov64_reg(4, 2),
        isa.alu64_imm(isa.ALU_ADD, 4, 32),
        isa.jmp_reg(isa.JMP_JLE, 4, 3, 1),
        isa.exit_(),
    ]
    for _ in range(random.randint(1, 12)):
        size = random.choice((isa.SIZE_B, isa.SIZE_H, isa.SIZE_W, isa.SIZE_DW))
        offset = random.randrange(33 - isa.Insn(size).size_bytes)
        access = random.choice(
            (
                isa.ldx(size, 5, 2, offset),
                isa.stx(size, 2, 0, offset),
                isa.st(size, 2, offset, random.getrandbits(31)),
            )
        )
        code.append(access)
        if access.is_load:
            code += [isa.alu64_imm(isa.ALU_MUL, 0, 31), isa.alu64_reg(isa.ALU_ADD, 0, 5)]
    return [*code, isa.exit_()]


@pytest.mark.parametrize(
    ("make", "prog_type"),
    [
        (classic_loads, ProgType.SCHED_CLS),
        (classic_loads, ProgType.SOCKET_FILTER),
        (direct_access, ProgType.XDP),
    ],
)
def test_random_packets(make, prog_type):
    results = set()
    for seed in range(SEED, SEED + CALL_PROGRAMS):
        random = Random(seed)
        insns = make(random)
        packet = random.randbytes(random.choice((14, 30, 64, 100)))
        loaded, _ = progload.load_program(prog_type, isa.encode(insns, ORDER))
        with FileDescriptor(loaded, "program") as fd:
            here = bpf.prog_test_run(fd.fileno(), data_in=packet, repeat=1)
        there = Interpreter(memory=Memory(ORDER)).run(insns, packet, prog_type=prog_type)
        assert (here.retval, here.data_out) == (there.retval, there.data_out), f"seed {seed}"
        results.add(here.retval)
    assert len(results) > CALL_PROGRAMS // 8


FORMATS = ["%d", "%i", "%u", "%x", "%X", "%lld", "%llu", "%llx", "%ld", "%lu", "%#x", "%08x", "%5d"]
FORMATS += ["%-6u|", "%+d", "% d", "%%", "%hd", "%hhu", "%c", "%px", "%#llx", "%016llx", "%zu"]
FORMATS += ["%.3d", "%-+5d|", "%05d", "%q", "%3c|", "%+u", "% x", "%20px", "%h"]


@pytest.mark.parametrize("text", FORMATS)
def test_formats_as_in_the_kernel(text):
    """``bpf_snprintf`` with every conversion, of numbers of all sizes."""
    template = f"<{text}>\0".encode()
    size = 0 if text == "%%" else 8
    for value in (0, 1, -1, 65, -(1 << 31), 0x1234567890):
        found = Interpreter(memory=Memory(ORDER))
        place = found.memory.place_bytes(bytes(32))
        code = [
            *isa.ld_imm64(1, place),
            isa.mov64_imm(2, 32),
            *isa.ld_imm64(3, found.memory.place_bytes(template)),
            *isa.ld_imm64(4, found.memory.place_bytes(struct.pack(f"{ORDER}q", value))),
            isa.mov64_imm(5, size),
            isa.call(Helper.SNPRINTF),
            isa.exit_(),
        ]
        here = snprintf_here(template, value, size)
        if here is None:
            with pytest.raises(InterpreterError, match="the kernel does not take"):
                found.run(code)
        else:
            assert (found.run(code).value, found.memory.read(place, 32)) == here, value


def snprintf_here(template, value, size):
    """What the kernel returns and writes; ``None`` if the verifier does not take the format."""
    flags = int(MapFlag.RDONLY_PROG)
    with FileDescriptor(bpf.map_create(MapType.ARRAY, 4, 32, 1, map_flags=flags), "format") as fd:
        bpf.map_update_elem(fd.fileno(), bytes(4), template.ljust(32, b"\0"))
        bpf.map_freeze(fd.fileno())
        code = [
            isa.stx(isa.SIZE_DW, 10, 1, -8),
            *isa.ld_imm64(2, value),
            isa.stx(isa.SIZE_DW, 10, 2, -16),
            *(isa.st(isa.SIZE_DW, 10, place, 0) for place in range(-48, -16, 8)),
            isa.mov64_reg(1, 10),
            isa.alu64_imm(isa.ALU_ADD, 1, -48),
            isa.mov64_imm(2, 32),
            *isa.ld_imm64(3, fd.fileno(), src=isa.PSEUDO_MAP_VALUE),
            isa.mov64_reg(4, 10),
            isa.alu64_imm(isa.ALU_ADD, 4, -16),
            isa.mov64_imm(5, size),
            isa.call(Helper.SNPRINTF),
            isa.ldx(isa.SIZE_DW, 1, 10, -8),
        ]
        for place in range(0, 32, 8):
            code.append(isa.ldx(isa.SIZE_DW, 2, 10, place - 48))
            code.append(isa.stx(isa.SIZE_DW, 1, 2, place))
        try:
            loaded, _ = progload.load_program(
                ProgType.SYSCALL,
                isa.encode([*code, isa.exit_()], ORDER),
                prog_flags=ProgFlag.SLEEPABLE,
            )
        except VerifierError as error:
            if "Invalid format string" not in error.log:
                raise
            return None
        with FileDescriptor(loaded, "program") as program:
            run = bpf.prog_test_run(program.fileno(), ctx_in=bytes(32))
        return run.retval, run.ctx_out


# Fixtures: the same program on the same input, here and there


@pytest.fixture
def both(request):
    """A function that loads a fixture here, and makes an interpreter of it."""

    def opened(name, **variables):
        spec = pybpfload.open(FIXTURES / f"{name}.bpf.o")
        for program in spec.programs.values():
            program.autoload = True
            program.autoattach = False
        for variable, value in variables.items():
            spec.variables[variable].value = value
        loaded = spec.load()
        request.addfinalizer(loaded.close)
        environment = Environment(pid=threading.get_native_id(), tgid=os.getpid())
        interpreter = Interpreter(spec.relocate(vmlinux()), environment=environment)
        return loaded, interpreter

    return opened


def run_both(loaded, interpreter, program, data=b"", ctx=b""):
    """Run a program here and there; what it returns and leaves must be the same."""
    here = loaded.programs[program].test_run(data, ctx=ctx)
    there = interpreter.run(program, data, ctx=ctx)
    assert (here.retval, here.data_out) == (there.retval, there.data_out)
    if loaded.programs[program].type == ProgType.SYSCALL:
        assert here.ctx_out == there.ctx_out
    values = {name: variable.value for name, variable in loaded.variables.items()}
    assert values == {name: variable.value for name, variable in interpreter.variables.items()}
    return there


ARGUMENTS = struct.pack("=2Q", 1 << 40 | 5, 7)
SHORT = bytes(14)
PROGRAMS_OF_FIXTURES = [
    ("test_run", "sum_bytes", PACKET, b""),
    ("test_run", "sum_bytes", SHORT, b""),
    ("test_run", "swap_addresses", PACKET, b""),
    ("test_run", "measure", PACKET, b""),
    ("test_run", "accept_some", PACKET, b""),
    ("test_run", "even_length", PACKET, b""),
    ("test_run", "even_length", PACKET[:-1], b""),
    ("test_run", "add_arguments", b"", ARGUMENTS),
    ("test_run", "compute", b"", struct.pack("=4Q", 1 << 40, 3, 0, 0)),
    ("subprogs", "no_calls", PACKET, b""),
    ("subprogs", "call_forward", PACKET, b""),
    ("subprogs", "call_backward", PACKET, b""),
    ("subprogs", "call_weak_hidden", PACKET, b""),
    ("subprogs", "call_twice", PACKET, b""),
    ("subprogs", "call_data", PACKET, b""),
    ("subprogs", "call_core", PACKET, b""),
    ("subprogs", "off_by_default", PACKET, b""),
    ("subprogs", "raw_nested", b"", ARGUMENTS),
    ("callbacks", "loop_sum", PACKET, b""),
    ("callbacks", "loop_hidden", PACKET, b""),
    ("callbacks", "loop_both", PACKET, b""),
    ("callbacks", "loop_nested", PACKET, b""),
    ("exceptions", "divide", PACKET, b""),
    ("exceptions", "divide_plain", PACKET, b""),
    ("maps_inner", "sum_inner", b"", ARGUMENTS),
    ("maps_inner", "sum_hash", b"", ARGUMENTS),
    ("tailcall", "entry", PACKET, b""),
    ("tailcall", "entry_from_subprog", PACKET, b""),
    ("tailcall", "entry_empty", PACKET, b""),
    ("tailcall", "loop", PACKET, b""),
]


@pytest.mark.parametrize(
    ("name", "program", "data", "ctx"),
    [
        pytest.param(*each, id=f"{each[0]}-{each[1]}-{len(each[2])}")
        for each in PROGRAMS_OF_FIXTURES
    ],
)
def test_fixture_runs_as_in_the_kernel(both, name, program, data, ctx):
    loaded, interpreter = both(name)
    for _ in range(2):  # the second run finds what the first has left
        run_both(loaded, interpreter, program, data, ctx)


@pytest.mark.parametrize("slot", range(6))
def test_tail_call_by_slot(both, slot):
    loaded, interpreter = both("tailcall", slot=slot)
    run_both(loaded, interpreter, "entry", PACKET)
    run_both(loaded, interpreter, "entry_from_subprog", PACKET)


@pytest.mark.parametrize("program", ["divide", "divide_plain"])
def test_exception(both, program):
    loaded, interpreter = both("exceptions", divisor=0)
    there = run_both(loaded, interpreter, program, PACKET)
    assert there.calls == [("bpf_throw", (7,), None)]


def test_walk_over_a_map(both):
    loaded, interpreter = both("callbacks")
    for maps in (loaded.maps, interpreter.maps):
        maps["numbers"].update({index: index * index for index in range(8)})
    assert run_both(loaded, interpreter, "sum_elements", PACKET).value == 140


def test_inner_maps(both):
    loaded, interpreter = both("maps_inner")
    for maps in (loaded.maps, interpreter.maps):
        for number, name in enumerate(("first", "second", "third", "fourth")):
            maps[name][0] = 10**number
    assert run_both(loaded, interpreter, "sum_inner", ctx=ARGUMENTS).value
    assert run_both(loaded, interpreter, "sum_hash", ctx=ARGUMENTS).value


def test_globals(both):
    loaded, interpreter = both("globals", target_tgid=os.getpid())
    run_both(loaded, interpreter, "touch", ctx=ARGUMENTS)
    assert run_both(loaded, interpreter, "peek", ctx=ARGUMENTS).value == 2
    assert interpreter.variables["runs"].value == 1


def test_maps(both):
    loaded, interpreter = both("maps", target_tgid=os.getpid())
    run_both(loaded, interpreter, "store", ctx=ARGUMENTS)
    for name in ("hash", "flows", "array", "lru", "untyped", "lpm"):
        here = dict(loaded.maps[name].items())
        assert here
        assert here == dict(interpreter.maps[name].items())
    for name in ("percpu_hash", "percpu_array", "lru_percpu"):
        # One CPU has a value, which one is chance; all others have zeros.
        here = {key: max(values) for key, values in loaded.maps[name].items()}
        assert here == {key: max(values) for key, values in interpreter.maps[name].items()}
    for name in ("queue", "stack"):
        assert loaded.maps[name].pop() == interpreter.maps[name].pop() == 77


def test_fields_of_kernel_structs(both):
    loaded, interpreter = both("core_fields", target_tgid=os.getpid())
    run_both(loaded, interpreter, "numbers", ctx=ARGUMENTS)
    assert interpreter.variables["rlim_offset"].value > 0


def test_records(both):
    loaded, interpreter = both("ringbuf", target_tgid=os.getpid(), burst_count=300)
    for _ in range(9):
        run_both(loaded, interpreter, "send_next", ctx=ARGUMENTS)
    run_both(loaded, interpreter, "burst", ctx=ARGUMENTS)
    assert interpreter.variables["dropped"].value > 0
    for name in ("events", "small"):
        with pybpfload.RingBuffer(loaded.maps[name]) as ring:
            here = ring.consume()
        assert here
        assert here == interpreter.maps[name].events()
