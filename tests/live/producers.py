"""Small programs, assembled here, that put things into buffers when they are run by test_run."""

from __future__ import annotations

import platform
import sys

from pybpfload.isa import insn as i
from pybpfload.kernel import bpf, memlock, progload
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime.map import Map
from pybpfload.uapi import Helper, MapType, ProgType

ORDER = "<" if sys.byteorder == "little" else ">"
PASS = bytes(14)  # the smallest packet
KERNEL = tuple(int(part) for part in platform.release().split(".")[:2])


def make_map(kind, key_size, value_size, entries, *, name="t", flags=0, **options):
    """A new map with what the kernel makes of the numbers."""
    memlock.ensure()
    made = {n: options.pop(n) for n in ("inner_map_fd", "map_extra") if n in options}
    fd = bpf.map_create(kind, key_size, value_size, entries, map_name=name, map_flags=flags, **made)
    return Map(
        FileDescriptor(fd, f"map {name}"),
        name=name,
        type=MapType(kind),
        key_size=key_size,
        value_size=value_size,
        max_entries=entries,
        flags=flags,
        **options,
    )


def assemble(parts):
    """Instructions, pairs of them, labels (strings) and ``(jump, label)``, as code."""
    flat, labels, jumps = [], {}, []
    for part in parts:
        if isinstance(part, str):
            labels[part] = len(flat)
        elif isinstance(part, i.Insn):
            flat.append(part)
        elif isinstance(part[1], str):
            jumps.append((len(flat), part[1]))
            flat.append(part[0])
        else:
            flat.extend(part)
    for at, label in jumps:
        flat[at] = flat[at]._replace(off=labels[label] - at - 1)
    return i.encode(flat, ORDER)


def load(parts, prog_type=ProgType.SOCKET_FILTER):
    fd, _ = progload.load_program(prog_type, assemble(parts))
    return FileDescriptor(fd, "program")


def run(program, times=1):
    """Run a socket filter."""
    return bpf.prog_test_run(program.fileno(), data_in=PASS, repeat=times).retval


def element(counter, index):
    """r0: address of a 64-bit number in an array map; jumps to ``out`` if there is none."""
    return [
        i.st(i.SIZE_W, 10, -4, index),
        i.ld_imm64(1, counter.fileno(), i.PSEUDO_MAP_FD),
        i.mov64_reg(2, 10),
        i.alu64_imm(i.ALU_ADD, 2, -4),
        i.call(Helper.MAP_LOOKUP_ELEM),
        (i.jmp_imm(i.JMP_JEQ, 0, 0, 0), "out"),
    ]


def record(counter, length):
    """r10 - 256: a number from element 0 of ``counter``, which goes up, the CPU, then 2, 3..."""
    count = [i.atomic(i.SIZE_DW, i.ATOMIC_ADD | i.ATOMIC_FETCH, 0, 1)]
    if KERNEL < (5, 12):  # good for one CPU at a time
        count = [
            i.ldx(i.SIZE_DW, 2, 0),
            i.atomic(i.SIZE_DW, i.ATOMIC_ADD, 0, 1),
            i.mov64_reg(1, 2),
        ]
    return [
        *element(counter, 0),
        i.mov64_imm(1, 1),
        *count,
        i.stx(i.SIZE_DW, 10, 1, -256),
        i.call(Helper.GET_SMP_PROCESSOR_ID),
        i.stx(i.SIZE_DW, 10, 0, -248),
        *[i.st(i.SIZE_DW, 10, -256 + 8 * n, n) for n in range(2, (length + 7) // 8)],
    ]


def count_failure(counter):
    """Adds 1 to element 1 of ``counter`` unless r0 is 0; ends the program."""
    return [
        (i.jmp_imm(i.JMP_JEQ, 0, 0, 0), "out"),
        *element(counter, 1),
        i.mov64_imm(1, 1),
        i.atomic(i.SIZE_DW, i.ATOMIC_ADD, 0, 1),
        "out",
        i.mov64_imm(0, 0),
        i.exit_(),
    ]


def ringbuf_output(ring, counter, length=16, flags=0):
    """Sends a record of ``length`` bytes; failures are counted."""
    return load(
        [
            *record(counter, length),
            i.ld_imm64(1, ring.fileno(), i.PSEUDO_MAP_FD),
            i.mov64_reg(2, 10),
            i.alu64_imm(i.ALU_ADD, 2, -256),
            i.mov64_imm(3, length),
            i.mov64_imm(4, flags),
            i.call(Helper.RINGBUF_OUTPUT),
            *count_failure(counter),
        ]
    )


def ringbuf_discard(ring, length=24):
    """Reserves a record and throws it away."""
    return load(
        [
            i.ld_imm64(1, ring.fileno(), i.PSEUDO_MAP_FD),
            i.mov64_imm(2, length),
            i.mov64_imm(3, 0),
            i.call(Helper.RINGBUF_RESERVE),
            (i.jmp_imm(i.JMP_JEQ, 0, 0, 0), "out"),
            i.mov64_reg(1, 0),
            i.mov64_imm(2, 0),
            i.call(Helper.RINGBUF_DISCARD),
            "out",
            i.mov64_imm(0, 0),
            i.exit_(),
        ]
    )


def perf_output(array, counter, length=16):
    """Sends a record to the buffer of its CPU; failures are counted."""
    return load(
        [
            i.mov64_reg(6, 1),
            *record(counter, length),
            i.mov64_reg(1, 6),
            i.ld_imm64(2, array.fileno(), i.PSEUDO_MAP_FD),
            (i.Insn(0xB4, 3, 0, 0, -1)),  # w3 = BPF_F_CURRENT_CPU
            i.mov64_reg(4, 10),
            i.alu64_imm(i.ALU_ADD, 4, -256),
            i.mov64_imm(5, length),
            i.call(Helper.PERF_EVENT_OUTPUT),
            *count_failure(counter),
        ]
    )
