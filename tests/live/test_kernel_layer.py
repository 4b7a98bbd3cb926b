"""The kernel layer against the machine's own kernel.

Everything here is harmless: maps and programs that belong to this process only and are gone when
it ends; nothing is attached to anything that others use.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from typing import TYPE_CHECKING

import pytest

from pybpfload.errors import KernelError, NotPermittedError, NotSupportedError, VerifierError
from pybpfload.kernel import (
    bpf,
    bpffs,
    btf,
    cpus,
    door,
    kallsyms,
    kconfig,
    perf,
    probe,
    progload,
    tracefs,
    version,
)
from pybpfload.kernel.errors import missing_capabilities
from pybpfload.kernel.probe import Feature
from pybpfload.uapi import (
    AttachType,
    ElemFlag,
    LinkType,
    MapFlag,
    MapType,
    ProgType,
    TaskFdType,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.live, pytest.mark.vm]

RETURN_0 = bytes.fromhex("b700000000000000 9500000000000000")  # the same in both byte orders
KERNEL = version.kernel_version() if sys.platform == "linux" else 0


def needs(major: int, minor: int) -> pytest.MarkDecorator:
    reason = f"needs Linux {major}.{minor}, this is {version.version_text(KERNEL)}"
    return pytest.mark.skipif(major << 16 | minor << 8 > KERNEL, reason=reason)


def u32(number: int) -> bytes:
    return struct.pack("=I", number)


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    if sys.platform != "linux" or missing_capabilities("CAP_BPF", "CAP_PERFMON"):
        pytest.skip("needs Linux and CAP_BPF and CAP_PERFMON")
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def opened() -> Iterator[list[int]]:
    """Descriptors to close afterwards."""
    fds: list[int] = []
    yield fds
    for fd in fds:
        assert door.close(fd) == 0


@pytest.fixture
def hash_map(opened: list[int]) -> int:
    opened.append(bpf.map_create(MapType.HASH, 4, 8, 64, map_name="test_hash"))
    return opened[-1]


@pytest.fixture
def program(opened: list[int]) -> int:
    opened.append(bpf.prog_load(ProgType.SOCKET_FILTER, RETURN_0, prog_name="test_filter"))
    return opened[-1]


def test_map_elements(hash_map: int) -> None:
    for i in range(10):
        bpf.map_update_elem(hash_map, u32(i), struct.pack("=Q", i * i))
    assert bpf.map_lookup_elem(hash_map, u32(3), 8) == struct.pack("=Q", 9)
    assert bpf.map_lookup_elem(hash_map, u32(77), 8) is None
    keys, key = set(), None
    while (key := bpf.map_get_next_key(hash_map, key, 4)) is not None:
        keys.add(struct.unpack("=I", key)[0])
    assert keys == set(range(10))
    with pytest.raises(KernelError) as caught:
        bpf.map_update_elem(hash_map, u32(1), bytes(8), ElemFlag.NOEXIST)
    assert caught.value.errno == errno.EEXIST
    assert bpf.map_delete_elem(hash_map, u32(1))
    assert not bpf.map_delete_elem(hash_map, u32(1))


@needs(5, 14)
def test_take_out(hash_map: int) -> None:
    bpf.map_update_elem(hash_map, u32(1), bytes(range(8)))
    assert bpf.map_lookup_and_delete_elem(hash_map, u32(1), 8) == bytes(range(8))
    assert bpf.map_lookup_and_delete_elem(hash_map, u32(1), 8) is None


def test_queue_and_stack(opened: list[int]) -> None:
    queue = bpf.map_create(MapType.QUEUE, 0, 4, 4)
    stack = bpf.map_create(MapType.STACK, 0, 4, 4)
    opened += [queue, stack]
    for fd in (queue, stack):
        bpf.map_update_elem(fd, None, u32(1))
        bpf.map_update_elem(fd, None, u32(2))
    assert bpf.map_lookup_and_delete_elem(queue, None, 4) == u32(1)
    assert bpf.map_lookup_and_delete_elem(stack, None, 4) == u32(2)


def test_per_cpu_values(opened: list[int]) -> None:
    count = cpus.possible_cpus()
    fd = bpf.map_create(MapType.PERCPU_ARRAY, 4, 4, 2)
    opened.append(fd)
    value = b"".join(struct.pack("=II", i + 1, 0) for i in range(count))
    bpf.map_update_elem(fd, u32(1), value)
    assert bpf.map_lookup_elem(fd, u32(1), 8 * count) == value


@needs(5, 6)
def test_batches(opened: list[int], hash_map: int) -> None:
    keys = b"".join(map(u32, range(64)))
    values = b"".join(struct.pack("=Q", i) for i in range(64))
    bpf.map_update_batch(hash_map, keys, values, 64)
    got, token, room = {}, None, 7
    while True:
        try:
            part = bpf.map_lookup_batch(hash_map, token, room, 4, 8)
        except KernelError as error:
            if error.errno != errno.ENOSPC:  # a bucket does not fit
                raise
            room *= 2
            continue
        ks, vs = (
            struct.unpack(f"={part.count}{c}", x) for c, x in (("I", part.keys), ("Q", part.values))
        )
        got.update(zip(ks, vs, strict=True))
        token = part.token
        if part.done:
            break
    assert got == {i: i for i in range(64)}
    bpf.map_delete_batch(hash_map, keys[:128], 32)
    with pytest.raises(bpf.BatchError) as caught:
        bpf.map_delete_batch(hash_map, keys[128:132] + keys[:4], 2)
    assert caught.value.count == 1
    taken = bpf.map_lookup_and_delete_batch(hash_map, None, 64, 4, 8)
    assert taken.count == 31
    empty = bpf.map_lookup_batch(hash_map, None, 64, 4, 8)
    assert (empty.count, empty.done) == (0, True)

    array = bpf.map_create(MapType.ARRAY, 4, 4, 8)
    opened.append(array)
    first = bpf.map_lookup_batch(array, None, 5, 4, 4)
    assert (first.count, first.done) == (5, False)
    second = bpf.map_lookup_batch(array, first.token, 5, 4, 4)
    assert (second.count, second.done) == (3, True)

    queue = bpf.map_create(MapType.QUEUE, 0, 4, 4)
    opened.append(queue)
    with pytest.raises(KernelError, match="does not have this operation"):
        bpf.map_lookup_batch(queue, None, 4, 4, 4)


@needs(5, 2)
def test_freeze(hash_map: int) -> None:
    bpf.map_freeze(hash_map)
    with pytest.raises(PermissionError):
        bpf.map_update_elem(hash_map, u32(1), bytes(8))
    with pytest.raises(KernelError, match=r"EBUSY|frozen"):  # newer kernels: EPERM
        bpf.map_freeze(hash_map)


def test_map_info(opened: list[int], hash_map: int) -> None:
    info = bpf.map_info(hash_map)
    assert (info.type, info.key_size, info.value_size) == (MapType.HASH, 4, 8)
    assert (info.max_entries, info.name, info.map_flags) == (64, "test_hash", 0)
    assert info.id in bpf.iter_ids("map")
    opened.append(bpf.map_get_fd_by_id(info.id))
    assert bpf.map_info(opened[-1]) == info
    opened.append(bpf.map_get_fd_by_id(info.id, open_flags=MapFlag.RDONLY))
    with pytest.raises(PermissionError):
        bpf.map_update_elem(opened[-1], u32(1), bytes(8))


def test_program_info(opened: list[int], program: int) -> None:
    info = bpf.prog_info(program)
    assert (info.type, info.name) == (ProgType.SOCKET_FILTER, "test_filter")
    assert info.xlated_insns == RETURN_0
    assert info.gpl_compatible
    assert len(info.prog_tags) <= 1
    assert info.map_ids == []
    assert info.id in bpf.iter_ids("prog")
    opened.append(bpf.prog_get_fd_by_id(info.id))
    assert bpf.prog_info(opened[-1], code=False).xlated_insns == b""
    assert bpf.prog_info(opened[-1], arrays=False).tag == info.tag


def test_map_ids_of_a_program(opened: list[int], hash_map: int) -> None:
    code = struct.pack("=BBhiBBhi", 0x18, 0x11, 0, hash_map, 0, 0, 0, 0)
    opened.append(bpf.prog_load(ProgType.SOCKET_FILTER, code + RETURN_0))
    assert bpf.prog_info(opened[-1]).map_ids == [bpf.map_info(hash_map).id]


def test_ids_that_are_not_there() -> None:
    for get in (bpf.map_get_fd_by_id, bpf.prog_get_fd_by_id, bpf.btf_get_fd_by_id):
        with pytest.raises(KernelError) as caught:
            get(0x7FFFFFF0)
        assert caught.value.errno == errno.ENOENT


def test_test_run(program: int) -> None:
    packet = bytes(range(64))
    result = bpf.prog_test_run(program, data_in=packet, repeat=3)
    assert result.retval == 0
    assert len(result.data_out) >= 50
    with pytest.raises(KernelError, match="data_size_out must be") as caught:
        bpf.prog_test_run(program, data_in=packet, data_size_out=8)
    assert caught.value.errno == errno.ENOSPC


@needs(5, 8)
def test_statistics(program: int, opened: list[int]) -> None:
    opened.append(bpf.enable_stats())
    bpf.prog_test_run(program, data_in=bytes(64))
    assert bpf.prog_info(program).run_cnt >= 0


def test_btf_load(opened: list[int]) -> None:
    data = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, 16, 16, 5)
    data += struct.pack("=4I", 1, 1 << 24, 4, 1 << 24 | 32) + b"\0int\0"
    opened.append(bpf.btf_load(data))
    info = bpf.btf_info(opened[-1])
    assert info.data == data
    assert not info.kernel_btf
    assert info.id in bpf.iter_ids("btf")
    opened.append(
        bpf.map_create(
            MapType.ARRAY, 4, 4, 1, btf_fd=opened[-1], btf_key_type_id=1, btf_value_type_id=1
        )
    )
    assert bpf.map_info(opened[-1]).btf_id == info.id
    with pytest.raises(KernelError, match="the kernel says"):
        progload.load_btf(data[:24] + struct.pack("=4I", 1, 1 << 24, 3, 1 << 24 | 32) + b"\0int\0")


def test_bpf_ids_are_ordered() -> None:
    for kind in ("prog", "map", "btf", "link"):
        if kind != "link" or KERNEL >= 5 << 16 | 8 << 8:
            ids = list(bpf.iter_ids(kind))
            assert ids == sorted(ids)


def test_raw_tracepoint_link(opened: list[int]) -> None:
    """A tracepoint that is hit only by the process's own exec, which does not happen here."""
    prog = bpf.prog_load(ProgType.RAW_TRACEPOINT, RETURN_0, prog_name="test_raw_tp")
    opened.append(prog)
    with pytest.raises(KernelError, match="raw tracepoint no_such_thing") as caught:
        bpf.raw_tracepoint_open("no_such_thing", prog)
    assert caught.value.errno == errno.ENOENT
    link = bpf.raw_tracepoint_open("sched_process_exec", prog)
    opened.append(link)
    query = bpf.task_fd_query(os.getpid(), link)
    assert (query.fd_type, query.name) == (TaskFdType.RAW_TRACEPOINT, "sched_process_exec")
    assert query.prog_id == bpf.prog_info(prog).id
    if KERNEL >= 5 << 16 | 8 << 8:
        info = bpf.link_info(link)
        assert info.type is LinkType.RAW_TRACEPOINT
        assert info.details["tp_name"] == "sched_process_exec"
        assert info.id in bpf.iter_ids("link")
        opened.append(bpf.link_get_fd_by_id(info.id))
        with pytest.raises(KernelError) as caught:
            bpf.link_detach(link)
        assert caught.value.errno == errno.EOPNOTSUPP


@needs(5, 8)
def test_iterator(opened: list[int]) -> None:
    try:
        kernel = btf.vmlinux()
    except NotSupportedError as error:
        pytest.skip(str(error))
    target = kernel.find("bpf_iter_bpf_map")
    assert target
    prog = bpf.prog_load(
        ProgType.TRACING,
        RETURN_0,
        expected_attach_type=AttachType.TRACE_ITER,
        attach_btf_id=target,
    )
    opened.append(prog)
    link = bpf.link_create(prog, 0, AttachType.TRACE_ITER)
    opened.append(link)
    info = bpf.link_info(link)
    assert (info.type, info.details) == (LinkType.ITER, {"target_name": "bpf_map"})
    opened.append(bpf.iter_create(link))
    assert os.read(opened[-1], 100) == b""


def test_load_with_log(opened: list[int]) -> None:
    fd, log = progload.load_program(ProgType.SOCKET_FILTER, RETURN_0, name="test", log_level=1)
    opened.append(fd)
    assert "processed 2 insns" in log
    with pytest.raises(VerifierError) as caught:
        progload.load_program(ProgType.SOCKET_FILTER, RETURN_0[8:], name="no_result")
    error = caught.value
    assert error.errno == errno.EACCES
    assert (error.summary, error.insn) == ("R0 !read_ok", 0)
    assert "processed 1 insns" in error.log


def test_long_logs() -> None:
    """More log than the first buffer holds: the loop grows it until all of it is there."""
    code = RETURN_0[:8] + bytes.fromhex("bf00000000000000") * 3000 + RETURN_0[8:]
    fd, log = progload.load_program(ProgType.SOCKET_FILTER, code, log_level=2)
    door.close(fd)
    assert len(log) > progload.FIRST_LOG_SIZE
    assert "processed 3002 insns" in log[-200:]


def test_poison(opened: list[int]) -> None:
    call = struct.pack("=BBhi", 0x85, 0, 0, 195896080)
    with pytest.raises(VerifierError) as caught:
        progload.load_program(
            ProgType.SOCKET_FILTER, call + RETURN_0, name="poisoned", poisons={0: "no such field"}
        )
    assert caught.value.relocation == "no such field"
    assert "<invalid CO-RE relocation>" in caught.value.log


def test_unknown_program_type() -> None:
    with pytest.raises(KernelError, match="not even asked") as caught:
        progload.load_program(999, RETURN_0, name="future")
    assert caught.value.errno == errno.EINVAL


def test_refused_trampolines_are_explained(opened: list[int], program: int) -> None:
    """Where root may not load fentry programs the error names the likely cause in one line."""
    if not bpf.prog_info(program).jited_prog_len:
        pytest.skip("this kernel has no JIT compiler, without which there are no trampolines")
    try:
        target = btf.vmlinux().find("bpf_fentry_test1")
    except NotSupportedError as error:
        pytest.skip(str(error))
    refused = None
    try:
        fd = bpf.prog_load(
            ProgType.TRACING,
            RETURN_0,
            prog_name="test_fentry",
            expected_attach_type=AttachType.TRACE_FENTRY,
            attach_btf_id=target,
        )
        opened.append(fd)
    except NotPermittedError as error:
        refused = error
    if refused is None:
        pytest.skip("this kernel permits fentry programs")
    assert refused.errno == errno.EPERM
    assert "\n" not in str(refused)
    assert "lockdown" in str(refused) or "policy" in str(refused)


def test_probes() -> None:
    """Every answer is conclusive for root, and a feature's first version is its label."""
    for feature in Feature:
        answer, number = probe.probe(feature)
        assert answer is not None, probe.why(feature)
        since = version.parse_version(f"{feature.since}.0")
        assert since is not None
        if feature is Feature.SYSCALL_WRAPPER:
            continue  # depends on the architecture
        # Distributions backport, so a feature may be there early; it must not be missing late.
        if since <= KERNEL:
            assert answer, probe.why(feature)
        assert (number == 0) is answer


@pytest.mark.skipif(KERNEL >> 8 != 6 << 8 | 18, reason="what the reference says of 6.18")
def test_probes_of_6_18() -> None:
    missing = {feature.name for feature in Feature if not probe.has(feature)}
    assert missing == {"LDIMM64_FULL_RANGE_OFF", "BTF_LAYOUT"}


def test_vmlinux_and_modules() -> None:
    try:
        kernel = btf.vmlinux()
    except NotSupportedError as error:
        pytest.skip(str(error))
    assert kernel.find("task_struct")
    assert btf.vmlinux() is kernel
    for module in btf.modules():
        assert module.btf.base is kernel
        assert module.id > 0
    assert btf.problems() == []


def test_symbols() -> None:
    found = kallsyms.lookup(["bpf_prog_load", "no_such_symbol_at_all"])
    assert list(found) == ["bpf_prog_load"]


def test_configuration() -> None:
    try:
        data, _path = kconfig.read_kernel_config()
    except NotSupportedError as error:
        pytest.skip(str(error))
    assert b"\nCONFIG_BPF_SYSCALL=y\n" in data


def test_perf_events(opened: list[int]) -> None:
    online = cpus.online_cpus()
    assert len(online) <= cpus.possible_cpus()
    opened.append(perf.open_bpf_output(online[0]))
    perf.enable(opened[-1])
    perf.disable(opened[-1])


def test_tracefs_or_a_hint() -> None:
    if not door.exists("/sys/kernel/tracing/events"):
        with pytest.raises(KernelError, match="mount -t tracefs tracefs /sys/kernel/tracing"):
            tracefs.root()
        pytest.skip("tracefs is not mounted")
    number = tracefs.tracepoint_id("sched", "sched_switch")
    assert tracefs.tracepoint_format("sched", "sched_switch").id == number


def test_pin_or_a_hint(hash_map: int) -> None:
    if not bpffs.is_bpffs(bpffs.DEFAULT):
        with pytest.raises(KernelError, match="mount -t bpf bpf /sys/fs/bpf"):
            bpffs.prepare_parent(f"{bpffs.DEFAULT}/pybpfload_test/map")
        pytest.skip("no BPF filesystem is mounted")
    path = f"{bpffs.DEFAULT}/pybpfload_test_{os.getpid()}"
    bpf.obj_pin(hash_map, path)
    try:
        fd = bpf.obj_get(path)
        assert bpf.map_info(fd) == bpf.map_info(hash_map)
        door.close(fd)
    finally:
        door.unlink(path)
