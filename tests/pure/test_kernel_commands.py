"""One function per command: what goes to the kernel and what comes back, with the fake kernel."""

from __future__ import annotations

import errno
import struct

import pytest

from pybpfload import lowlevel
from pybpfload.errors import KernelError
from pybpfload.kernel import bpf
from pybpfload.kernel.attrs import layout
from pybpfload.kernel.cmd_link import link_kind
from pybpfload.testing.fakekernel import Call, FakeKernel, memory, store
from pybpfload.uapi import AttachFlag, AttachType, LinkType, MapFlag, MapType, ProgType

RETURN_0 = bytes.fromhex("b700000000000000 9500000000000000")


def u32(number: int) -> bytes:
    return struct.pack("=I", number)


def test_everything_is_public() -> None:
    assert sorted(bpf.__all__) == bpf.__all__
    for name in lowlevel.__all__:
        assert getattr(lowlevel, name).__doc__


def test_map_create_fields() -> None:
    with FakeKernel() as fake:
        bpf.map_create(
            MapType.HASH,
            4,
            8,
            16,
            map_name="counts",
            map_flags=MapFlag.NO_PREALLOC,
            btf_fd=7,
            btf_key_type_id=1,
            btf_value_type_id=2,
            excl_prog_hash=bytes(32),
        )
    fields = fake.calls[0].fields
    assert fields["map_name"].rstrip(b"\0") == b"counts"
    assert fields["map_flags"] == 1
    assert fields["excl_prog_hash_size"] == 32
    assert fields["excl_prog_hash"] != 0


def test_elements() -> None:
    with FakeKernel():
        fd = bpf.map_create(MapType.HASH, 4, 8, 3)
        for i in range(3):
            bpf.map_update_elem(fd, u32(i), struct.pack("=Q", i * i))
        with pytest.raises(KernelError) as caught:
            bpf.map_update_elem(fd, u32(9), bytes(8))
        assert caught.value.errno == errno.E2BIG
        assert "the map is full" in str(caught.value)
        with pytest.raises(KernelError) as caught:
            bpf.map_update_elem(fd, u32(1), bytes(8), 1)
        assert caught.value.errno == errno.EEXIST
        assert bpf.map_lookup_elem(fd, u32(2), 8) == struct.pack("=Q", 4)
        assert bpf.map_lookup_elem(fd, u32(7), 8) is None
        assert bpf.map_lookup_and_delete_elem(fd, u32(2), 8) == struct.pack("=Q", 4)
        assert bpf.map_delete_elem(fd, u32(2)) is False
        assert bpf.map_delete_elem(fd, u32(0)) is True
        assert bpf.map_get_next_key(fd, None, 4) == u32(1)
        assert bpf.map_get_next_key(fd, u32(1), 4) is None
        bpf.map_freeze(fd)
        with pytest.raises(PermissionError):
            bpf.map_update_elem(fd, u32(1), bytes(8))
        with pytest.raises(KernelError, match="BPF_MAP_LOOKUP_ELEM of map fd 4444"):
            bpf.map_lookup_elem(4444, u32(1), 8)


def test_batches() -> None:
    with FakeKernel():
        fd = bpf.map_create(MapType.HASH, 4, 4, 8)
        keys = b"".join(map(u32, range(8)))
        bpf.map_update_batch(fd, keys, keys, 8)
        got, token = [], None
        while True:
            part = bpf.map_lookup_batch(fd, token, 5, 4, 4)
            got += struct.unpack(f"={part.count}I", part.keys)
            assert part.keys == part.values
            token = part.token
            if part.done:
                break
        assert got == list(range(8))
        with pytest.raises(bpf.BatchError) as caught:
            bpf.map_delete_batch(fd, u32(1) + u32(77) + u32(2), 3)
        assert caught.value.count == 1
        assert caught.value.errno == errno.ENOENT
        assert bpf.map_lookup_and_delete_batch(fd, None, 100, 4, 4).count == 7
        assert bpf.map_lookup_batch(fd, None, 100, 4, 4).count == 0


def test_batch_counts_of_maps_without_batches_mean_nothing() -> None:
    with FakeKernel(refuses={"MAP_UPDATE_BATCH": 524}):
        fd = bpf.map_create(MapType.HASH, 4, 4, 8)
        with pytest.raises(bpf.BatchError) as caught:
            bpf.map_update_batch(fd, bytes(8), bytes(8), 2)
        assert caught.value.count == 0
        assert "ENOTSUPP" in str(caught.value)
        assert "does not have this operation" in str(caught.value)


def test_objects_by_path_and_id() -> None:
    with FakeKernel() as fake:
        fd = bpf.map_create(MapType.HASH, 4, 4, 8)
        bpf.obj_pin(fd, "/sys/fs/bpf/x")
        assert fake.calls[-1].text == "/sys/fs/bpf/x"
        with pytest.raises(KernelError, match="/sys/fs/bpf/x"):
            bpf.obj_pin(fd, "/sys/fs/bpf/x")
        again = bpf.obj_get("/sys/fs/bpf/x", file_flags=MapFlag.RDONLY)
        info = bpf.map_info(again)
        assert (info.id, info.type, info.max_entries) == (1, MapType.HASH, 8)
        assert list(bpf.iter_ids("map")) == [1]
        assert bpf.map_get_next_id(1) is None
        assert bpf.map_info(bpf.map_get_fd_by_id(1)) == info
        with pytest.raises(KernelError, match="map id 99"):
            bpf.map_get_fd_by_id(99)
        with pytest.raises(ValueError, match="'maps' is not"):
            list(bpf.iter_ids("maps"))


def test_prog_load_fields() -> None:
    with FakeKernel() as fake:
        fd = bpf.prog_load(
            ProgType.TRACING,
            RETURN_0,
            "Dual BSD/GPL",
            prog_name="on_exit",
            expected_attach_type=AttachType.TRACE_FEXIT,
            attach_btf_id=77,
            attach_btf_obj_fd=5,
            prog_btf_fd=6,
            func_info=bytes(16),
            line_info=bytes(32),
            fd_array=[0, 9],
        )
        call = fake.calls[0]
    assert fd > 3
    assert call.insns == RETURN_0
    assert call.text == "Dual BSD/GPL"
    fields = call.fields
    assert fields["insn_cnt"] == 2
    assert fields["attach_prog_fd"] == 5
    assert (fields["func_info_cnt"], fields["func_info_rec_size"]) == (2, 8)
    assert (fields["line_info_cnt"], fields["line_info_rec_size"]) == (2, 16)
    assert fields["fd_array_cnt"] == 0
    assert call.size == layout("PROG_LOAD").fields["fd_array"][1] + 8
    with FakeKernel(), pytest.raises(ValueError, match="exclude each other"):
        bpf.prog_load(ProgType.TRACING, RETURN_0, attach_prog_fd=4, attach_btf_obj_fd=5)


def test_an_interrupted_verifier_is_asked_again() -> None:
    with FakeKernel() as fake:
        fake.on("PROG_LOAD", lambda call: -errno.EAGAIN if len(fake.calls) < 5 else None)
        bpf.prog_load(ProgType.SOCKET_FILTER, RETURN_0)
        assert len(fake.calls) == 5
        fake.on("PROG_LOAD", lambda call: -errno.EAGAIN)
        with pytest.raises(KernelError):
            bpf.prog_load(ProgType.SOCKET_FILTER, RETURN_0)
        assert len(fake.calls) == 10


def test_test_run() -> None:
    attempts = 0

    def answer(call: Call) -> int:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            return -errno.EINTR
        assert memory(call.fields["data_in"], call.fields["data_size_in"]) == b"packet"
        store(call.fields["data_out"], b"PACKET")
        store(call.fields["ctx_in"], b"changed")
        return 0

    with FakeKernel() as fake:
        fake.on("PROG_TEST_RUN", answer)
        fd = bpf.prog_load(ProgType.XDP, RETURN_0)
        result = bpf.prog_test_run(fd, data_in=b"packet", ctx_in=b"context", data_size_out=6)
        assert result.data_out == b"PACKET"
        assert result.ctx_out == b"changed"
        assert result.retval == 0
    assert attempts == 2


def test_test_run_that_is_always_interrupted() -> None:
    with FakeKernel() as fake:
        fake.on("PROG_TEST_RUN", lambda call: -errno.EINTR)
        fd = bpf.prog_load(ProgType.XDP, RETURN_0)
        with pytest.raises(KernelError, match="signals interrupted each of 30 attempts"):
            bpf.prog_test_run(fd)


def test_query_asks_again_when_there_is_more() -> None:
    def answer(call: Call) -> int:
        room = call.fields["count"]
        ids = [5, 6, 7]
        assert fake.attr is not None
        struct.pack_into("=I", fake.attr, 24, 3)
        struct.pack_into("=Q", fake.attr, 56, 9)
        store(call.fields["prog_ids"], struct.pack("=3I", *ids)[: 4 * room])
        return -errno.ENOSPC if room else 0

    class Kernel(FakeKernel):
        attr: bytearray | None = None

        def bpf(self, cmd: int, attr: bytearray, size: int) -> int:
            self.attr = attr
            assert size == 64  # the kernel writes the revision only if the size covers it
            return super().bpf(cmd, attr, size)

    with Kernel() as fake:
        fake.on("PROG_QUERY", lambda call: 0 if answer(call) and call.fields["count"] > 2 else -28)
        result = bpf.prog_query(3, AttachType.TCX_INGRESS)
    assert result.prog_ids == [5, 6, 7]
    assert result.revision == 9


@pytest.mark.parametrize(
    ("attach_type", "kind"),
    [
        (AttachType.TRACE_ITER, "iter"),
        (AttachType.PERF_EVENT, "perf_event"),
        (AttachType.TRACE_KPROBE_SESSION, "kprobe_multi"),
        (AttachType.TRACE_UPROBE_MULTI, "uprobe_multi"),
        (AttachType.TRACE_FEXIT, "tracing"),
        (AttachType.TRACE_FSESSION_MULTI, "tracing_multi"),
        (AttachType.NETFILTER, "netfilter"),
        (AttachType.TCX_EGRESS, "mprog"),
        (AttachType.CGROUP_INET_INGRESS, "mprog"),
        (AttachType.CGROUP_UNIX_GETSOCKNAME, "mprog"),
        (AttachType.LSM_CGROUP, "mprog"),
        (AttachType.XDP, ""),
        (AttachType.SK_LOOKUP, ""),
        (AttachType.STRUCT_OPS, ""),
        (999, ""),
    ],
)
def test_link_kinds(attach_type: int, kind: str) -> None:
    assert link_kind(attach_type) == kind


def test_link_create_arms() -> None:
    with FakeKernel() as fake:
        prog = bpf.prog_load(ProgType.TRACING, RETURN_0)

        def last() -> dict[str, object]:
            return fake.calls[-1].fields

        bpf.link_create(prog, 0, AttachType.TRACE_FENTRY, cookie=0x1122334455667788)
        assert last()["cookie"] == 0x1122334455667788
        bpf.link_create(prog, 8, 0, target_btf_id=5)  # freplace
        raw = struct.pack("=I", 5)
        assert last()["relative_fd"] == struct.unpack("=i", raw)[0]
        bpf.link_create(prog, 0, AttachType.TRACE_ITER, iter_info=bytes(16))
        assert last()["iter_info_len"] == 16
        seen = []
        fake.on(
            "LINK_CREATE",
            lambda call: seen.append(memory(call.fields["addrs"], 16)) if call.fields["cnt"] else 0,
        )
        bpf.link_create(
            prog, 0, AttachType.TRACE_KPROBE_MULTI, addrs=[1, 2], cookies=[3, 4], multi_flags=1
        )
        assert seen == [struct.pack("=QQ", 1, 2)]
        assert last()["kprobe_flags"] == 1
        fake.on(
            "LINK_CREATE",
            lambda call: seen.append(
                [memory(at, 4) for at in struct.unpack("=QQ", memory(call.fields["syms"], 16))]
            ),
        )
        bpf.link_create(prog, 0, AttachType.TRACE_KPROBE_MULTI, syms=["abc", "xyz"])
        assert seen[1] == [b"abc\0", b"xyz\0"]
        fake.on("LINK_CREATE", lambda call: None)
        bpf.link_create(prog, 0, AttachType.NETFILTER, pf=2, hooknum=3, priority=-5)
        assert last()["priority"] == -5
        bpf.link_create(prog, 1, AttachType.TCX_INGRESS, flags=AttachFlag.BEFORE, relative_id=9)
        assert (last()["flags"], last()["relative_fd"]) == (8 | 32, 9)
        bpf.link_create(prog, 2, AttachType.XDP)
        assert fake.calls[-1].size == 16


@pytest.mark.parametrize(
    ("attach_type", "options"),
    [
        (AttachType.XDP, {"cookie": 1}),
        (AttachType.NETFILTER, {"relative_fd": 3}),
        (AttachType.TRACE_ITER, {"target_btf_id": 3, "iter_info": bytes(16)}),
        (AttachType.TRACE_KPROBE_MULTI, {"syms": ["a", "b"], "cookies": [1]}),
        (AttachType.TCX_INGRESS, {"relative_fd": 3, "relative_id": 3}),
    ],
)
def test_options_that_do_not_fit(attach_type: int, options: dict[str, object]) -> None:
    with FakeKernel() as fake:
        with pytest.raises(ValueError, match=r"meaning|length|exclude"):
            bpf.link_create(3, 0, attach_type, **options)
        assert not fake.calls


def test_old_kernels_attach_tracing_through_raw_tracepoints() -> None:
    with FakeKernel(refuses={"LINK_CREATE": errno.EINVAL}) as fake:
        prog = bpf.prog_load(ProgType.TRACING, RETURN_0)
        bpf.link_create(prog, 0, AttachType.TRACE_RAW_TP)
        assert fake.commands()[-2:] == ["LINK_CREATE", "RAW_TRACEPOINT_OPEN"]
        assert fake.calls[-1].text == ""
        for options in ({"cookie": 1}, {"target_btf_id": 1}):
            with pytest.raises(KernelError):
                bpf.link_create(prog, 0, AttachType.TRACE_RAW_TP, **options)
        with pytest.raises(KernelError, match=r"\(trace_fsession\)"):
            bpf.link_create(prog, 0, AttachType.TRACE_FSESSION)


def test_link_update_names_the_old_program() -> None:
    with FakeKernel() as fake:
        prog = bpf.prog_load(ProgType.XDP, RETURN_0)
        link = bpf.link_create(prog, 1, AttachType.XDP)
        bpf.link_update(link, prog, old_fd=prog)
        assert fake.calls[-1].fields["flags"] == AttachFlag.REPLACE
        bpf.link_detach(link)
        info = bpf.link_info(link)
        assert (info.type, info.prog_id) == (LinkType.TRACING, 1)


def test_link_info_fetches_texts_and_lists() -> None:
    addrs = struct.pack("=3Q", 10, 20, 30)

    class Kernel(FakeKernel):
        def _info(self, target: object, fields: dict[str, int], attr: bytearray) -> int:
            given = bytearray(memory(fields["info"], 64))
            pointer, count = struct.unpack_from("=QI", given, 16)
            assert bool(pointer) == bool(count)
            if pointer:
                store(pointer, addrs)
                assert count == 3
            struct.pack_into("=III", given, 0, LinkType.KPROBE_MULTI, 4, 5)
            struct.pack_into("=II", given, 24, 3, 1)
            struct.pack_into("=Q", given, 32, 7)
            store(fields["info"], bytes(given))
            return 0

    with Kernel() as fake:
        fd = fake.open_object(fake.make("link"))
        info = bpf.link_info(fd)
    assert info.details == {
        "addrs": (10, 20, 30),
        "count": 3,
        "flags": 1,
        "missed": 7,
        "cookies": (),
    }


def test_prog_info_grows_with_the_program() -> None:
    """A count that grew between the calls is asked for again."""
    rounds = 0

    class Kernel(FakeKernel):
        def _info(self, target: object, fields: dict[str, int], attr: bytearray) -> int:
            nonlocal rounds
            rounds += 1
            given = bytearray(memory(fields["info"], fields["info_len"]))
            room, pointer = (
                struct.unpack_from("=I", given, 52)[0],
                struct.unpack_from("=Q", given, 56)[0],
            )
            have = min(rounds, 3)
            store(pointer, struct.pack("=3I", 11, 12, 13)[: 4 * min(room, have)])
            struct.pack_into("=I", given, 52, have)
            struct.pack_into("=16s", given, 64, b"grow")
            store(fields["info"], bytes(given))
            return 0

    with Kernel() as fake:
        info = bpf.prog_info(fake.open_object(fake.make("prog")))
    assert info.map_ids == [11, 12, 13]
    assert info.name == "grow"
    assert info.jited_ksyms == []
    assert rounds == 4


def test_btf_info_of_old_kernels() -> None:
    """Before 5.11 there were no names, and asking for one was an error."""
    data = bytes(range(24))
    with FakeKernel(lacks={"MODULE_BTF"}) as fake:
        fd = fake.open_object(fake.make("btf", data=data))
        info = bpf.btf_info(fd)
        assert (info.data, info.name, info.kernel_btf, info.btf_size) == (data, "", False, 24)


def test_results_show_their_fields() -> None:
    with FakeKernel():
        fd = bpf.map_create(MapType.HASH, 4, 4, 8, map_name="abc")
        info = bpf.map_info(fd)
    assert repr(info).startswith("MapInfo(type=<MapType.HASH: 1>, id=1, key_size=4,")
    assert info.as_dict()["name"] == "abc"
    assert info != bpf.MapInfo(**{**info.as_dict(), "id": 9})
    with pytest.raises(TypeError, match="colour"):
        bpf.MapInfo(**info.as_dict(), colour=1)
