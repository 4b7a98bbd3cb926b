"""Programs of the fixtures on the interpreter, over made-up memory; and what it refuses."""

import re
import struct
from pathlib import Path
from random import Random

import pytest

import pybpfload
from pybpfload.errors import BpfError
from pybpfload.isa import insn as isa
from pybpfload.isa import table
from pybpfload.isa.insn import Insn
from pybpfload.object.spec import MapSpec
from pybpfload.testing import Environment, FaultError, Interpreter, InterpreterError, Memory
from pybpfload.testing.interpreter.contexts import PACKET_TYPES
from pybpfload.uapi import Helper, MapType, ProgType

FIXTURES = Path(__file__).parents[2] / "fixtures"
PACKET = bytes(range(64))

both_orders = pytest.mark.parametrize("order", ["bpfel", "bpfeb"])


def opened(order, name, **variables):
    spec = pybpfload.open(FIXTURES / order / f"{name}.bpf.o")
    for variable, value in variables.items():
        spec.variables[variable].value = value
    return spec


def interpreter(order, name, *, given=None, **options):
    """An interpreter of a fixture, relocated against its own types."""
    spec = opened(order, name, **(given or {}))
    return Interpreter(spec.relocate(spec.btf, everything=True), **options)


def values(found, *names):
    return tuple(found.variables[name].value for name in names)


# Fixtures


@both_orders
def test_subprograms(order):
    found = interpreter(order, "subprogs")
    expected = {
        "no_calls": 42,
        "call_forward": 46,
        "call_backward": 12,
        "call_weak_hidden": 1107,
        "call_twice": 20,
        "call_data": 1000,
        "call_core": 4,
        "off_by_default": 7,
    }
    for name, value in expected.items():
        assert found.run(name, PACKET).retval == value, name
    assert found.run("raw_nested", ctx=[0, 0]).value == 23
    assert found.run("call_data", PACKET).value == 2000
    assert dict(found.maps["calls"]) == {0: 0, 1: 2, 2: 0, 3: 0}
    assert found.variables["total"].value == 2000


@both_orders
def test_callbacks(order):
    found = interpreter(order, "callbacks")
    found.maps["numbers"].update(enumerate(range(0, 80, 10)))
    names = ("sum_elements", "loop_sum", "loop_hidden", "loop_both", "loop_nested")
    assert [found.run(name, PACKET).value for name in names] == [280, 45, 20, 65, 28]


@both_orders
def test_globals_of_every_kind(order):
    found = interpreter(order, "globals", given={"target_tgid": 77})
    found.environment.tgid = 77
    assert found.run("touch", ctx=[0, 0]).value == 0
    kinds = ("u8", "s16", "u64", "u128", "bool", "array", "wide", "point", "record", "text")
    for kind in kinds:
        assert values(found, f"bss_{kind}") == values(found, f"data_{kind}"), kind
    assert values(found, "runs", "custom_bss", "hidden_bss", "static_only") == (1, 1, 3, 100)
    assert found.variables["sum"].value == -2000000000 + 40 + 20 + 30 + 50 + 60 + 70
    assert found.run("peek", ctx=[0, 0]).value == 2
    assert found.relocation.object.variables["runs"].value == 0  # the spec is not touched


@both_orders
def test_contexts_are_those_of_test_run(order):
    found = interpreter(order, "test_run")
    swapped = found.run("swap_addresses", PACKET)
    assert swapped.value == 3
    assert swapped.data_out == PACKET[6:12] + PACKET[:6] + PACKET[12:]
    assert found.run("sum_bytes", PACKET).value == sum(range(8))
    assert found.run("sum_bytes", b"1234567").retval == 0xFFFFFFFF
    assert found.run("measure", PACKET).value == 64
    assert found.run("accept_some", PACKET).value == 14  # what comes after the Ethernet header
    assert found.run("even_length", PACKET).value == 1
    assert found.run("even_length", PACKET[:-1]).value == 0
    assert found.run("add_arguments", ctx=[1 << 40, 2]).value == 2  # int
    end = "<" if order == "bpfel" else ">"
    computed = found.run("compute", ctx=struct.pack(f"{end}4Q", 5, 1 << 40, 0, 0))
    assert computed.value == 5
    assert struct.unpack(f"{end}4Q", computed.ctx_out)[2:] == (5 + (1 << 40), 5 << 40)
    assert found.variables["runs"].value == 9


@both_orders
def test_given_fields_of_a_packet_context(order):
    found = interpreter(order, "test_run")
    end = "<" if order == "bpfel" else ">"
    skb = bytearray(192)
    struct.pack_into(f"{end}I", skb, 8, 21)  # mark
    struct.pack_into(f"{end}I", skb, 48, 6)  # cb[0]
    after = found.run("measure", PACKET, ctx=skb).ctx_out
    assert struct.unpack_from(f"{end}I", after, 8) == (42,)
    assert struct.unpack_from(f"{end}I", after, 52) == (7,)


@both_orders
def test_tail_calls(order):
    for slot, expected in enumerate([100, 101, 9, 103, 9, 9]):
        found = interpreter(order, "tailcall", given={"slot": slot})
        assert found.run("entry", PACKET).value == expected
        assert found.run("entry_from_subprog", PACKET).value == expected
        assert found.run("entry_empty", PACKET).value == 9
    assert found.run("loop", PACKET).value == 34
    found.maps["empty"][1] = "target_one"
    found.variables["slot"].value = 1
    assert found.run("entry_empty", PACKET).value == 101


@both_orders
def test_exceptions(order):
    found = interpreter(order, "exceptions")
    assert found.run("divide", PACKET).value == 250
    found.variables["divisor"].value = 0
    assert found.run("divide", PACKET).value == 107
    thrown = found.run("divide_plain", PACKET)
    assert (thrown.value, thrown.calls) == (7, [("bpf_throw", (7,), None)])


@both_orders
def test_jump_tables(order):
    found = interpreter(order, "jump_tables")
    expected = [3, 14, 159, 26, 535, 89, 7932, 384, 1]
    for name in ("choose", "choose_again"):
        for choice, result in enumerate(expected):
            found.variables["choice"].value = choice
            found.run(name)
            assert found.variables["result"].value == result, (name, choice)


@both_orders
def test_maps(order):
    found = interpreter(order, "maps", given={"target_tgid": 5}, environment=Environment(tgid=5))
    found.run("store", ctx=[0, 0])
    assert dict(found.maps["hash"]) == {7: 70}
    ((flow, stats),) = found.maps["flows"].items()
    assert (flow.port, stats.bytes, stats.name) == (53, 1500, "flow")
    assert found.maps["array"][1].packets == 1
    assert found.maps["percpu_hash"][7] == [70, 0]
    assert found.maps["percpu_array"][1] == [(1, 2, 3), (0, 0, 0)]
    assert [value.name for value in found.maps["lru"].values()] == ["STATE_GONE"]
    assert found.maps["lru_percpu"][7] == [70, 0]
    assert len(found.maps["untyped"]) == len(found.maps["lpm"]) == 1
    assert (found.maps["queue"].pop(), found.maps["stack"].pop()) == (77, 77)


@both_orders
def test_inner_maps(order):
    found = interpreter(order, "maps_inner")
    for number, name in enumerate(("first", "second", "third", "fourth")):
        found.maps[name][0] = 10**number
    by_array, by_hash = (found.run(name, ctx=[0, 0]).value for name in ("sum_inner", "sum_hash"))
    declared = {
        name: found.relocation.object.maps[name].values for name in ("outer_array", "outer_hash")
    }
    numbers = {name: found.maps[name][0] for name in ("first", "second", "third", "fourth")}
    assert by_array == sum(numbers[name] for name in declared["outer_array"] if name)
    assert by_hash == sum(numbers[name] for name in declared["outer_hash"] if name)
    assert by_array != by_hash


@both_orders
def test_records(order):
    found = interpreter(order, "ringbuf", given={"target_tgid": 5, "burst_count": 300})
    found.environment.tgid = 5
    for _ in range(8):
        found.run("send_next", ctx=[0, 60])
    events = found.maps["events"].events()
    assert [type(event).__name__ for event in events] == ["number", "text", "pair"] * 2
    assert [event.sequence for event in events[::3]] == [0, 4]
    assert (events[0].syscall, events[4].text, events[5].left) == (60, "0", 6)
    assert found.variables["discarded"].value == 2
    found.run("burst", ctx=[0, 0])
    # 16 bytes and a header of 8 each; a ring is never filled to the last byte
    assert len(found.maps["small"].take()) == 170
    assert found.variables["dropped"].value == 130
    found.run("burst", ctx=[0, 0])
    assert len(found.maps["small"].records) == 170


@both_orders
def test_perf_records(order):
    world = Environment(tgid=5, comm="a name of 16 char", time_ns=99, cpu=1)
    found = interpreter(order, "perfbuf", given={"target_tgid": 5}, environment=world)
    found.run("send_sample", ctx=[0, 3])
    (sample,) = found.maps["events"].events()
    assert (sample.time_ns, sample.syscall, sample.cpu) == (99, 3, 1)
    assert sample.comm == "a name of 16 ch"


@both_orders
def test_printed_lines(order):
    found = interpreter(order, "printk", given={"target_tgid": 5}, environment=Environment(tgid=5))
    assert found.run("print_syscall", ctx=[0, 231]).printk == ["pybpfload: 5 syscall 231"]
    assert found.run("print_syscall", ctx=[0, -1]).printk == ["pybpfload: 5 syscall -1"]


@both_orders
def test_kconfig(order):
    config = {
        "LINUX_KERNEL_VERSION": 0x060612,
        "LINUX_HAS_BPF_COOKIE": True,
        "CONFIG_BPF_SYSCALL": True,
        "CONFIG_INET": "TRI_YES",
        "CONFIG_NET": ord("y"),
        "CONFIG_HZ": 250,
        "CONFIG_LOG_BUF_SHIFT": 17,
        "CONFIG_INIT_ENV_ARG_LIMIT": 32,
        "CONFIG_DEFAULT_HOSTNAME": "(none)",
    }
    world = Environment(tgid=5)
    found = interpreter(
        order, "kconfig", given={"target_tgid": 5}, kconfig=config, environment=world
    )
    found.run("report", ctx=[0, 0])
    assert values(found, "kernel_version", "hz", "hostname", "missing", "missing_text") == (
        0x060612,
        250,
        "(none)",
        False,
        "",
    )
    del config["CONFIG_HZ"]
    found = interpreter(
        order, "kconfig", given={"target_tgid": 5}, kconfig=config, environment=world
    )
    with pytest.raises(InterpreterError, match="kconfig CONFIG_HZ has no value"):
        found.run("report", ctx=[0, 0])


@both_orders
def test_ksyms(order):
    world = Environment(tgid=5)
    addresses = {"vfs_unlink": 0xFFFFFFFF81000000, "bpf_prog_put": 0xFFFFFFFF81000010}
    found = interpreter(
        order, "ksyms", given={"target_tgid": 5}, ksyms=addresses, environment=world
    )
    found.run("report", ctx=[0, 0])
    assert values(found, "unlink_address", "init_task_address", "missing") == (
        0xFFFFFFFF81000000,
        0,
        0,
    )
    found = interpreter(order, "ksyms", given={"target_tgid": 5}, environment=world)
    with pytest.raises(InterpreterError, match=r"ksym .* has no address; give it one by ksyms"):
        found.run("report", ctx=[0, 0])


@both_orders
def test_kernel_objects_made_up(order):
    spec = opened(order, "core_fields", target_tgid=4)
    memory = Memory(spec.byteorder)
    leader = {"pid": 4, "tgid": 4}
    exe = {"f_path": {"dentry": {"d_name": {"name": b"program\0", "len": 7}}}, "f_flags": 0x8000}
    task = memory.place(
        spec.btf,
        "task_struct",
        {
            "pid": 5,
            "tgid": 4,
            "comm": "made up",
            "real_parent": {"tgid": 1},
            "group_leader": leader,
            "thread_pid": {"level": 1, "numbers": [{"nr": 55}, {"nr": 3}]},
            "cred": {"uid": {"val": 1000}, "euid": {"val": 7}, "user_ns": {"level": 2}},
            "mm": {"exe_file": exe},
            "files": {"fdt": {"max_fds": 64, "fd": [{"f_flags": 2}]}},
            "signal": {"rlim": [{}] * 7 + [{"rlim_cur": 1024}]},
        },
    )
    expected = {
        "seen_pid": 5,
        "seen_tgid": 4,
        "seen_parent": 1,
        "seen_leader": 4,
        "seen_pid_level": 1,
        "seen_uid": 1000,
        "seen_euid": 7,
        "seen_user_ns_level": 2,
        "seen_comm": "made up",
        "seen_exe": "program",
        "seen_nofile": 1024,
        "seen_max_fds": 64,
    }
    for program, more in (("chain", {"seen_pid_nr": 55, "seen_fd_0_flags": 2}), ("typed", {})):
        found = Interpreter(
            spec.relocate(spec.btf), memory=memory, environment=Environment(tgid=4, task=task)
        )
        found.run(program, ctx=[task, 0])
        wanted = expected | more
        assert {name: found.variables[name].value for name in wanted} == wanted


@both_orders
def test_unmapped_kernel_memory(order):
    # The task has no credentials. bpf_probe_read_kernel gives zeros; a load through a typed pointer
    # does so too, if memory is told to be like the kernel.
    spec = opened(order, "core_fields", target_tgid=4)
    for unmapped in ("zero", "error"):
        memory = Memory(spec.byteorder, unmapped_reads=unmapped)
        task = memory.place(spec.btf, "task_struct", {"pid": 9, "tgid": 4})
        world = Environment(tgid=4, task=task)
        found = Interpreter(spec.relocate(spec.btf), memory=memory, environment=world)
        found.variables["seen_uid"].value = 3
        found.run("chain", ctx=[task, 0])
        assert values(found, "seen_pid", "seen_uid", "seen_exe") == (9, 0, "")
        if unmapped == "zero":
            found.run("typed", ctx=[task, 0])
            assert values(found, "seen_pid", "seen_uid") == (9, 0)
        else:
            with pytest.raises(InterpreterError, match="a null pointer"):
                found.run("typed", ctx=[task, 0])


# What is given from outside


def test_helpers_of_users():
    seen = []

    def redirect(machine, interface, flags):
        seen.append((interface, flags))
        return -1

    code = [
        isa.mov64_imm(1, 3),
        isa.mov64_imm(2, 0),
        isa.call(Helper.REDIRECT),
        isa.exit_(),
    ]
    for key in ("bpf_redirect", 23):
        found = Interpreter(helpers={key: redirect}).run(code)
        assert found.value == (1 << 64) - 1
        assert found.calls == [("bpf_redirect", (3, 0), -1)]
    assert seen == [(3, 0), (3, 0)]


def test_helpers_of_users_take_what_they_name():
    found = Interpreter(helpers={9999: lambda machine: 7, "bpf_ktime_get_ns": lambda machine: 8})
    assert found.run([isa.call(9999), isa.exit_()]).value == 7
    assert found.run([isa.call(Helper.KTIME_GET_NS), isa.exit_()]).value == 8
    optional = Interpreter(helpers={9999: lambda machine, first, second=5: first + second})
    assert optional.run([isa.mov64_imm(1, 1), isa.call(9999), isa.exit_()]).value == 6
    with pytest.raises(InterpreterError, match="gives helper 9999 r1, but nothing"):
        optional.run([isa.mov64_imm(1, 1), isa.call(9999), isa.call(9999), isa.exit_()])
    anything = Interpreter(helpers={9999: lambda machine, *rest: len(rest)})
    assert anything.run([isa.call(9999), isa.exit_()]).value == 1


def test_errors_of_users_helpers():
    def fails(machine, first):
        raise FaultError("no such device")

    def is_wrong(machine):
        return None + 1

    code = [isa.call(9999), isa.exit_()]
    with pytest.raises(InterpreterError, match="instruction 0: call 0x270f: no such device"):
        Interpreter(helpers={9999: fails}).run(code)
    with pytest.raises(TypeError):  # a mistake in Python is not the program's
        Interpreter(helpers={9999: is_wrong}).run(code)


@both_orders
def test_kfuncs(order):
    spec = opened(order, "kfuncs", target_tgid=4)
    memory = Memory(spec.byteorder)
    task = memory.place(spec.btf, "task_struct", {"pid": 9, "tgid": 4})
    relocation, world = spec.relocate(spec.btf), Environment(tgid=4)
    found = Interpreter(relocation, memory=memory, environment=world)
    for program in ("acquire", "acquire_flavour", "call_missing"):
        found.run(program, ctx=[task, 0])
    assert values(found, "child_pid", "acquired", "locked", "missing_called") == (9, 1, 1, 0)
    ours = {"pybpfload_missing": lambda machine, number, where: number}
    found = Interpreter(relocation, memory=memory, environment=world, helpers=ours)
    run = found.run("call_missing", ctx=[task, 0])
    assert run.calls[-1][::2] == ("pybpfload_missing", 1)
    assert found.variables["missing_called"].value == 1
    found = Interpreter(
        relocation, memory=memory, environment=world, ksyms={"pybpfload_missing": 8}
    )
    with pytest.raises(InterpreterError, match="calls kfunc pybpfload_missing, which the interp"):
        found.run("call_missing", ctx=[task, 0])


def test_a_world_of_ones_own():
    world = Environment(time_ns=5, tick_ns=2, pid=1, tgid=2, uid=3, gid=4, cpu=1, cookie=6)
    numbers = [Helper.KTIME_GET_NS, Helper.KTIME_GET_NS, Helper.GET_CURRENT_PID_TGID]
    numbers += [Helper.GET_CURRENT_UID_GID, Helper.GET_SMP_PROCESSOR_ID]
    found = Interpreter(environment=world)
    values = [found.run([isa.call(number), isa.exit_()]).value for number in numbers]
    assert values == [5, 7, 2 << 32 | 1, 4 << 32 | 3, 1]
    random = [isa.call(Helper.GET_PRANDOM_U32), isa.exit_()]
    again = Interpreter(environment=Environment())
    assert Interpreter().run(random).value == again.run(random).value != again.run(random).value


# What is refused


def refused(*insns, **options):
    with pytest.raises(InterpreterError) as caught:
        Interpreter(**options).run([*insns, isa.exit_()])
    return caught.value


REFUSED = [
    ((isa.mov64_reg(0, 3),), 0, "r3 is read, but nothing was put there"),
    ((isa.mov64_imm(0, 1), isa.alu64_reg(isa.ALU_DIV, 0, 4)), 1, "r4 is read"),
    ((isa.jmp_imm(isa.JMP_JEQ, 0, 0, 0),), 0, "r0 is read"),
    ((isa.mov64_imm(0, 0), isa.jmp_reg(isa.JMP_JNE, 0, 8, 0)), 1, "r8 is read"),
    ((isa.stx(isa.SIZE_W, 10, 7, -4),), 0, "r7 is read"),
    ((isa.st(isa.SIZE_W, 10, -4, 0), isa.atomic(isa.SIZE_W, 0xF1, 10, 1, -4)), 1, "r0 is read"),
    ((isa.mov64_imm(10, 1),), 0, "writes to r10, which is read-only"),
    ((isa.ldx(isa.SIZE_W, 10, 10, -4),), 0, "writes to r10"),
    ((isa.ldx(isa.SIZE_W, 0, 10, 0),), 0, "reads 4 bytes at .*, byte 512 of stack of frame 0"),
    ((isa.ldx(isa.SIZE_W, 0, 10, -2),), 0, "byte 510 of stack of frame 0, which has 512"),
    ((isa.st(isa.SIZE_B, 10, -513, 0),), 0, "writes 1 byte at .*, 1 bytes before stack of frame 0"),
    ((isa.mov64_imm(2, 0), isa.ldx(isa.SIZE_B, 0, 2, 8)), 1, "at 0x8, a null pointer"),
    ((isa.mov64_imm(2, -1), isa.ldx(isa.SIZE_B, 0, 2, 0)), 1, "where nothing is"),
    ((isa.ldx(isa.SIZE_B, 0, 1, 0),), 0, "byte 0 of context, which has 0"),
    ((isa.ja(5),), 0, "jumps out of the program"),
    ((isa.ja(-9),), 0, "jumps out of the program"),
    ((isa.ja(1), *isa.ld_imm64(0, 1)), 2, "jumps into a 64-bit constant"),
    ((isa.call(77, src=isa.PSEUDO_CALL),), 0, "calls a function outside of the program"),
    ((isa.mov64_imm(0, 0), Insn(0xFF)), 1, "there is no such instruction"),
    ((Insn(isa.ALU64 | isa.ALU_ADD, 0, 3, 0, 1),), 0, "src is 0x3, must be 0"),
    ((Insn(isa.ALU64 | isa.ALU_MOV, 12),), 0, "register r12 does not exist"),
    ((isa.call(Helper.SKB_ECN_SET_CE),), 0, "calls bpf_skb_ecn_set_ce, which the interp"),
    ((isa.call(98765),), 0, r"calls helper 98765, .*helpers=\{98765: ...\}"),
    ((isa.call(-1),), 0, "calls helper -1"),
    ((isa.call(0, src=isa.PSEUDO_KFUNC_CALL),), 0, "which nobody provides"),
    (isa.ld_imm64(0, 0, src=isa.PSEUDO_MAP_FD), 0, "nothing says to what"),
    ((isa.call(Helper.GET_CURRENT_COMM),), 0, "gives bpf_get_current_comm r2"),
    ((isa.mov64_imm(2, 0), isa.call(Helper.MAP_DELETE_ELEM)), 1, "0x.* is no map"),
    ((isa.ja(-1),), 0, "takes more than 1000000 instructions"),
]


@pytest.mark.parametrize(("insns", "at", "message"), REFUSED)
def test_refused(insns, at, message):
    error = refused(*insns)
    assert isinstance(error, BpfError)
    assert error.insn == at
    assert re.search(message, error.message), error.message
    assert str(error).startswith(f"instruction {at}: {error.text}: ")


def test_an_error_knows_the_registers():
    error = refused(isa.mov64_imm(0, 7), isa.mov64_imm(3, -1), isa.ldx(isa.SIZE_DW, 4, 3, 1))
    assert error.registers[0] == 7
    assert error.registers[3] == (1 << 64) - 1
    assert error.registers[4] is None
    assert "r0=0x7" in str(error)


def test_r0_without_a_value():
    assert str(refused()) == "ends without a value in r0"
    found = interpreter("bpfel", "struct_ops")  # functions that return nothing
    assert found.run("cc_cong_avoid", ctx=[0, 0, 0]).value == 0


def test_arguments_in_registers():
    found = interpreter("bpfel", "freplace_new")
    assert found.run("new_two", args=[3, 4]).value == 304
    with pytest.raises(BpfError, match="6 arguments, at most 5"):
        found.run("new_two", args=range(6))


def test_uninitialised_stack_shows():
    code = [isa.ldx(isa.SIZE_DW, 0, 10, -8), isa.exit_()]
    assert Interpreter().run(code).value == 0
    assert Interpreter(stack_fill=0xA5).run(code).value == 0xA5A5A5A5A5A5A5A5


@pytest.mark.slow
def test_every_program_of_every_fixture_ends():
    ended, refusals = 0, []
    for path in sorted((FIXTURES / "bpfeb").glob("*.o")):
        try:
            spec = pybpfload.open(path)
            relocation = spec.relocate(spec.btf, everything=True)
        except BpfError:
            continue  # those that are meant to be refused
        found = Interpreter(relocation, max_steps=10_000)
        for name, program in relocation.programs.items():
            on_packets = program.spec.prog_type in PACKET_TYPES
            given = {"data": PACKET} if on_packets else {"ctx": [0] * 16}
            try:
                found.run(name, **given)
                ended += 1
            except InterpreterError as error:
                refusals.append((name, error))
    assert ended > 400
    assert 10 < len(refusals) < 60
    assert all(error.program == name and error.message for name, error in refusals)


def test_running_off_the_end():
    with pytest.raises(InterpreterError, match="runs past the last instruction"):
        Interpreter().run([isa.mov64_imm(0, 0)])
    with pytest.raises(InterpreterError, match="runs past the last instruction"):
        Interpreter().run([])


def test_steps_are_bounded_in_callbacks_too():
    found = interpreter("bpfel", "callbacks", max_steps=100)
    with pytest.raises(InterpreterError, match="takes more than 100 instructions"):
        found.run("loop_both", PACKET)
    found.max_steps = 200
    assert found.run("loop_both", PACKET).steps < 200


def test_memory_is_bounded():
    spec = opened("bpfel", "maps")
    with pytest.raises(FaultError, match="exceed the 1000 bytes of memory"):
        Interpreter(spec.relocate(), memory=Memory(limit=1000))


def test_an_error_knows_the_source_line():
    found = interpreter("bpfel", "core_fields", given={"target_tgid": 4})
    found.environment.tgid = 4
    with pytest.raises(InterpreterError, match="there is no task") as caught:
        found.run("chain", ctx=[0, 0])
    error = caught.value
    assert error.program == "chain"
    assert "core_fields.bpf.c:" in error.source
    assert "bpf_get_current_task()" in error.source
    assert str(error).startswith(
        f"program chain, instruction {error.insn}: call bpf_get_current_task, "
    )


def test_poison_names_the_relocation():
    spec = opened("bpfel", "core_fields", target_tgid=4)
    relocation = spec.relocate(spec.btf)
    program = relocation.programs["chain"]
    found = Interpreter(relocation, environment=Environment(tgid=4))
    program.poisons[0] = "field_byte_offset of struct nothing: no candidate"
    program.insns[0] = isa.call(0xBAD2310)
    with pytest.raises(InterpreterError, match="is poisoned: field_byte_offset of struct nothing"):
        found.run(program, ctx=[0, 0])


def test_a_map_that_was_not_made():
    spec = opened("bpfel", "callbacks")
    spec.maps["numbers"].autocreate = False
    with pytest.raises(InterpreterError, match="map numbers was not created"):
        Interpreter(spec.relocate()).run("sum_elements", PACKET)


def test_constants_stay():
    found = interpreter("bpfel", "globals", given={"target_tgid": 1})
    address = found.variables["rodata_u32"].address
    code = [*isa.ld_imm64(1, address), isa.st(isa.SIZE_W, 1, 0, 5), isa.exit_()]
    with pytest.raises(InterpreterError, match=r"of section \.rodata, which is read-only"):
        found.run(code)


def test_a_record_must_be_submitted():
    found = interpreter("bpfel", "ringbuf")
    events = found.maps["events"]
    code = [
        *isa.ld_imm64(1, events.address),
        isa.mov64_imm(2, 8),
        isa.mov64_imm(3, 0),
        isa.call(Helper.RINGBUF_RESERVE),
        isa.mov64_imm(0, 0),
        isa.exit_(),
    ]
    with pytest.raises(InterpreterError, match="record of map events neither submitted nor"):
        found.run(code)
    assert events.pending == 0
    submitted_twice = [
        *code[:5],
        isa.mov64_reg(6, 0),
        isa.mov64_reg(1, 6),
        isa.mov64_imm(2, 0),
        isa.call(Helper.RINGBUF_SUBMIT),
        isa.mov64_reg(1, 6),
        isa.mov64_imm(2, 0),
        isa.call(Helper.RINGBUF_SUBMIT),
        isa.exit_(),
    ]
    with pytest.raises(InterpreterError, match="is no record that was reserved"):
        found.run(submitted_twice)


def test_what_is_given_must_fit():
    found = interpreter("bpfel", "test_run")
    with pytest.raises(BpfError, match="no program 'nothing'; there are: sum_bytes"):
        found.run("nothing")
    with pytest.raises(BpfError, match="does not work on packets"):
        found.run("add_arguments", PACKET)
    with pytest.raises(BpfError, match="5 bytes is no Ethernet frame"):
        found.run("measure", b"short")
    with pytest.raises(BpfError, match="has byte order >, memory <"):
        Interpreter(opened("bpfeb", "test_run").relocate(), memory=Memory("<"))


def test_the_cpu_must_be_one_of_them():
    found = Interpreter(environment=Environment(cpu=2, cpus=2))
    with pytest.raises(BpfError, match="CPUs 0 to 1, cpu is 2"):
        found.run([isa.mov64_imm(0, 0), isa.exit_()])


def random_insns(random):
    """Two slots of an instruction of the table, or one, with any operands."""
    form = random.choice(table.FORMS[random.choice(list(table.FORMS))])
    fields = {
        "dst": random.randrange(11),
        "src": random.randrange(11),
        "off": random.choice((0, 1, -8, random.randrange(-20, 20))),
        "imm": random.choice((0, 1, -1, 64, int(random.choice(list(Helper))))),
    }
    fields |= dict.fromkeys((name for name in form.reserved if name != "next"), 0)
    insn = Insn(form.code, **(fields | form.fixed))
    return [insn, Insn(0, imm=insn.imm)] if insn.is_ldimm64 else [insn]


def test_random_instructions_end_in_one_error():
    """No code makes anything but a result or an InterpreterError, or takes long."""
    random = Random(1)
    map_specs = {"m": MapSpec("m", MapType.HASH, 4, 8, 3)}
    messages = set()
    for _ in range(500):
        found = Interpreter(maps=map_specs, max_steps=500, memory=Memory(limit=1 << 20))
        addresses = [found.maps["m"].address, found.memory.place_bytes(bytes(64)), 0, 1 << 63, 8]
        code = [
            *isa.ld_imm64(2, random.choice(addresses)),
            *isa.ld_imm64(3, random.choice(addresses)),
            isa.mov64_imm(4, random.choice((0, 4, 8, -1))),
            isa.mov64_reg(5, 10),
        ]
        for _ in range(random.randrange(1, 10)):
            code += random_insns(random)
        try:
            found.run([*code, isa.exit_()], PACKET, prog_type=ProgType.XDP)
        except InterpreterError as error:
            messages.add(re.sub(r"0x[0-9a-f]+|\d+", "N", error.message))
    assert len(messages) > 20


def test_bare_instructions_leave_nothing_behind():
    found = Interpreter()
    found.run([isa.mov64_imm(0, 0), isa.exit_()])  # makes the stack
    used = found.memory.used
    for number in range(3000):  # more than there are addresses for packets
        code = [isa.mov64_imm(0, number), isa.exit_()]
        assert found.run(code, PACKET, prog_type=ProgType.XDP).value == number
    assert found.memory.used == used
