"""Relocated code does what its C says: return values of test runs, externs, maps of every type."""

from __future__ import annotations

import errno
import os
import platform

import pytest

import pybpfload

pytestmark = pytest.mark.vm

PACKET = bytes(range(64))


def run(program: pybpfload.Program) -> int:
    """Return what a program for packets returns, as a signed number."""
    value = program.test_run(PACKET).retval
    return value - (1 << 32) if value >> 31 else value


class TestLinking:
    def test_subprograms(self, opened):
        expected = {
            "no_calls": [42],
            "call_forward": [46],
            "call_backward": [12],
            "call_weak_hidden": [1107],
            "call_twice": [20],
            "call_data": [1000, 2000],
            "call_core": [4],
            "off_by_default": [7],
            "raw_nested": [23],
        }
        spec = opened("subprogs")
        spec.programs["off_by_default"].autoload = True
        with spec.load() as obj:
            for name, values in expected.items():
                program = obj.programs[name]
                if program.type.name == "RAW_TRACEPOINT":
                    if name == "raw_nested" and os.uname().release.startswith("5.10"):
                        assert program.test_run(ctx=bytes(8)).retval == values[0]
                    continue
                assert [run(program) for _ in values] == values, name

    @pytest.mark.kernel("5.17")
    def test_callbacks(self, opened, jit):
        with opened("callbacks").load() as obj:
            for name, value in {
                "loop_sum": 45,
                "loop_hidden": 20,
                "loop_both": 65,
                "loop_nested": 28,
            }.items():
                assert run(obj.programs[name]) == value, name

    def test_static_linked_object(self, opened):
        with opened("linked").load(kconfig="CONFIG_HZ=250\n") as obj:
            for name, value in {
                "call_across": 1020,
                "call_weak": 1,
                "call_static": 101,
                "call_back": 31,
                "call_static_second": 201,
                "call_core": 4,
            }.items():
                assert run(obj.programs[name]) == value, name

    def test_tail_calls_through_a_declared_program_array(self, opened):
        with opened("tailcall").load() as obj:
            for slot, value in {0: 100, 1: 101, 3: 103}.items():
                obj.variables["slot"].value = slot
                assert run(obj.programs["entry"]) == value
            assert run(obj.programs["entry_empty"]) == 9
            assert run(obj.programs["loop"]) in (33, 34)

    @pytest.mark.kernel("6.9")
    @pytest.mark.parametrize("address", [0, 1 << 44])
    def test_variables_in_an_arena(self, opened, address):
        if platform.machine() not in ("x86_64", "aarch64"):
            pytest.skip("this architecture's JIT has no arenas")
        spec = opened("arena")
        spec.maps["arena"].map_extra = address
        spec.variables["counter"].value = 1000
        with spec.load() as obj:
            assert [obj.programs["push"].test_run().retval for _ in range(2)] == [1001, 1002]
            assert obj.variables["counter"].value == 1002
            assert obj.variables["history"].value[:3] == (1001, 1002, 0)
            obj.variables["counter"].value = 7
            assert obj.programs["push"].test_run().retval == 8

    @pytest.mark.kernel("6.7")
    def test_exceptions(self, opened):
        if platform.machine() not in ("x86_64", "aarch64"):
            pytest.skip("this architecture's JIT has no exceptions")
        with opened("exceptions").load() as obj:
            assert run(obj.programs["divide"]) == 250
            assert run(obj.programs["divide_plain"]) == 250

    def test_context_arguments_of_global_functions(self, opened):
        """Kernels before 6.8 do not know the tag; their BTF is rewritten for them."""
        spec = opened("ctx_arg")
        for name in ("kprobe_program", "perf_event_program"):
            spec.programs[name].autoload = False
        with spec.load() as obj:
            assert run(obj.programs["tc_program"]) == 11


class TestTestRun:
    @pytest.mark.kernel("6.1")  # 5.10 takes any length
    def test_a_packet_that_is_too_short(self, opened):
        with opened("test_run").load() as obj:
            with pytest.raises(pybpfload.KernelError, match=r"swap_addresses.*at least 14 bytes"):
                obj.programs["swap_addresses"].test_run(b"short")

    def test_packets(self, opened):
        with opened("test_run").load() as obj:
            assert run(obj.programs["sum_bytes"]) == sum(PACKET[:8])
            result = obj.programs["swap_addresses"].test_run(PACKET, data_size_out=128)
            assert result.retval == 3
            assert result.data_out == PACKET[6:12] + PACKET[:6] + PACKET[12:]
            assert run(obj.programs["measure"]) == len(PACKET)
            repeated = obj.programs["sum_bytes"].test_run(PACKET, repeat=100)
            assert repeated.duration > 0
            assert obj.variables["runs"].value == 103

    def test_arguments_of_a_raw_tracepoint(self, opened):
        with opened("test_run").load() as obj:
            context = (20).to_bytes(8, os.sys.byteorder) + (22).to_bytes(8, os.sys.byteorder)
            assert obj.programs["add_arguments"].test_run(ctx=context).retval == 42

    @pytest.mark.kernel("5.14")
    def test_syscall_program(self, opened):
        spec = opened("test_run")
        spec.programs["compute"].autoload = True
        with spec.load() as obj:
            numbers = obj.types["numbers"]
            context = numbers(left=6, right=7).to_bytes()
            result = obj.programs["compute"].test_run(ctx=context)
            assert result.retval == 6
            answer = numbers.from_buffer(result.ctx_out)
            assert (answer.sum, answer.product) == (13, 42)

    def test_a_program_that_cannot_be_tested_says_so(self, opened):
        with opened("minimal").load() as obj:
            with pytest.raises(pybpfload.KernelError):
                obj.programs["count_syscalls"].test_run(PACKET)


class TestExterns:
    def test_kconfig(self, opened):
        settings = (
            "CONFIG_BPF_SYSCALL=y\nCONFIG_INET=y\nCONFIG_BTRFS_FS=m\nCONFIG_NET=y\n"
            "CONFIG_HZ=250\nCONFIG_LOG_BUF_SHIFT=0x11\nCONFIG_INIT_ENV_ARG_LIMIT=32\n"
            'CONFIG_PHYSICAL_START=0x1000000\nCONFIG_DEFAULT_HOSTNAME="(none)"\n'
            "CONFIG_RCU_CPU_STALL_TIMEOUT=21\n"
            'CONFIG_CC_VERSION_TEXT="gcc (Debian) 14"\n'
            "CONFIG_PYBPFLOAD_MISSING=n\nCONFIG_PYBPFLOAD_MISSING_NUMBER=0\n"
            'CONFIG_PYBPFLOAD_MISSING_TEXT=""\n'
        )
        spec = opened("kconfig")
        spec.variables["target_tgid"].value = os.getpid()
        with spec.load(kconfig=settings) as obj:
            obj.attach()
            os.getpgid(0)
            values = {name: variable.value for name, variable in obj.variables.items()}
        assert values["bpf_syscall"] is True
        assert values["inet"].name == "TRI_YES"
        assert values["btrfs"].name == "TRI_MODULE"
        assert values["hz"] == 250
        assert values["log_buf_shift"] == 17
        assert values["init_env_arg_limit"] == 32
        assert values["physical_start"] == 0x1000000
        assert values["hostname"] == "(none)"
        assert values["cc_version"] == "gcc (De"
        assert values["of_the_future"] == 0
        assert values["missing"] is False
        major, minor = (int(n) for n in os.uname().release.split(".")[:2])
        assert values["kernel_version"] >> 16 == major
        assert values["kernel_version"] >> 8 & 0xFF == minor

    @pytest.mark.kernel("6.3")
    def test_kfuncs(self, opened, jit):
        with opened("kfuncs").load() as obj:
            assert set(obj.programs) == {"acquire", "acquire_flavour", "call_missing"}
            assert len(obj.attach()) == 3

    def test_a_missing_strong_symbol_is_named(self, opened):
        with pytest.raises(pybpfload.RelocationError, match="__weak"):
            opened("bad_ksym_typeless").load()


class TestCoreOnThisKernel:
    @pytest.mark.parametrize("name", ["core_kinds", "core_kinds_v1", "core_kinds_v2", "core_types"])
    def test_loads_and_attaches(self, opened, name):
        with opened(name).load() as obj:
            assert obj.attach()

    def test_reads_what_the_kernel_has(self, opened):
        spec = opened("execsnoop")
        spec.variables["target_ppid"].value = os.getpid()
        with spec.load() as obj:
            obj.attach()
            pid = os.spawnv(os.P_NOWAIT, "/bin/true", ["true"])
            os.waitpid(pid, 0)
            events = []
            while len(events) < 2:
                more = obj.maps["events"].reader().poll(5)
                assert more, events
                events += more
        started, ended = events[:2]
        assert (started.tgid, started.ppid, started.comm) == (pid, os.getpid(), "true")
        assert started.filename == "/bin/true"
        assert started.uid == os.getuid()
        assert (ended.tgid, ended.exit_code) == (pid, 0)
        assert ended.duration_ns > 0


def test_every_map_type_can_be_created(opened):
    """Each definition of the fixture on its own."""
    whole = opened("maps_types")
    created, refused = set(), {}
    for name in whole.maps:
        spec = opened("maps_types")
        for other in spec.maps.values():
            other.autocreate = other.name == name
        try:
            with spec.load() as obj:
                assert obj.maps[name].info().type == spec.maps[name].type
                created.add(name)
        except pybpfload.KernelError as error:
            refused[name] = error
    assert created >= {
        "hash", "array", "prog_array", "perf_event_array", "percpu_hash", "percpu_array",
        "stack_trace", "cgroup_array", "lru_hash", "lru_percpu_hash", "lpm_trie", "array_of_maps",
        "hash_of_maps", "devmap", "sockmap", "cpumap", "sockhash", "reuseport_sockarray", "queue",
        "stack", "sk_storage", "devmap_hash", "ringbuf",
    }  # fmt: skip
    for name, error in refused.items():
        assert name in str(error)
        assert error.errno in (errno.EINVAL, errno.EOPNOTSUPP, 524)
    release = [int(n) for n in os.uname().release.split(".")[:2]]
    for name, since in {
        "task_storage": [5, 11],
        "bloom_filter": [5, 16],
        "user_ringbuf": [6, 1],
        "cgrp_storage": [6, 2],
    }.items():
        assert (name in created) == (release >= since), name


class TestRefusedByTheVerifier:
    def refusal(self, opened, name) -> pybpfload.VerifierError:
        spec = opened("verifier_fail")
        for program in spec:
            program.autoload = program.name == name
        if name == "poisoned_map":
            spec.maps["map"].autocreate = False
        with pytest.raises(pybpfload.VerifierError) as caught:
            spec.load()
        return caught.value

    def test_log_instruction_and_source(self, opened):
        error = self.refusal(opened, "unchecked_pointer")
        assert error.program == "unchecked_pointer"
        assert error.insn is not None
        assert "map_value_or_null" in error.summary
        assert error.summary in error.log.replace("\n", "; ") or len(error.log) > 100
        assert "\n" not in str(error)

    @pytest.mark.kernel("5.11")  # the program calls bpf_get_current_task_btf()
    def test_a_failed_relocation_is_told(self, opened):
        error = self.refusal(opened, "poisoned_load")
        assert error.relocation is not None
        assert str(error).count("byte_off") == 1
        assert f"{error.insn}: <invalid CO-RE relocation>" in error.log
        assert "<invalid CO-RE relocation>" in error.log
        assert "byte_off" in str(error)

    def test_a_map_that_was_not_created_is_told(self, opened):
        error = self.refusal(opened, "poisoned_map")
        assert "was not created" in error.log
