"""Every offset of the attribute table, against the reference and against the header."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpfload.kernel.attrs import address, layout, names

# The reference, A.2, in its own words: command(s), number(s), whole size, fields.
REFERENCE = """
MAP_CREATE | 0 | 92 | map_type 0, key_size 4, value_size 8, max_entries 12, map_flags 16, inner_map_fd 20, numa_node 24, map_name 28, map_ifindex 44, btf_fd 48, btf_key_type_id 52, btf_value_type_id 56, btf_vmlinux_value_type_id 60, map_extra 64, value_type_btf_obj_fd 72, map_token_fd 76, excl_prog_hash 80, excl_prog_hash_size 88
MAP_LOOKUP_ELEM MAP_UPDATE_ELEM MAP_DELETE_ELEM MAP_LOOKUP_AND_DELETE_ELEM | 1 2 3 21 | 32 | map_fd 0, key 8, value 16, flags 24
MAP_GET_NEXT_KEY | 4 | 24 | map_fd 0, key 8, next_key 16
MAP_FREEZE | 22 | 4 | map_fd 0
MAP_LOOKUP_BATCH MAP_LOOKUP_AND_DELETE_BATCH MAP_UPDATE_BATCH MAP_DELETE_BATCH | 24 25 26 27 | 56 | in_batch 0, out_batch 8, keys 16, values 24, count 32, map_fd 36, elem_flags 40, flags 48
PROG_LOAD | 5 | 168 | prog_type 0, insn_cnt 4, insns 8, license 16, log_level 24, log_size 28, log_buf 32, kern_version 40, prog_flags 44, prog_name 48, prog_ifindex 64, expected_attach_type 68, prog_btf_fd 72, func_info_rec_size 76, func_info 80, func_info_cnt 88, line_info_rec_size 92, line_info 96, line_info_cnt 104, attach_btf_id 108, attach_prog_fd 112, core_relo_cnt 116, fd_array 120, core_relos 128, core_relo_rec_size 136, log_true_size 140, prog_token_fd 144, fd_array_cnt 148, signature 152, signature_size 160, keyring_id 164
OBJ_PIN OBJ_GET | 6 7 | 20 | pathname 0, bpf_fd 8, file_flags 12, path_fd 16
PROG_ATTACH PROG_DETACH | 8 9 | 32 | target_fd 0, attach_bpf_fd 4, attach_type 8, attach_flags 12, replace_bpf_fd 16, relative_fd 20, expected_revision 24
PROG_TEST_RUN | 10 | 80 | prog_fd 0, retval 4, data_size_in 8, data_size_out 12, data_in 16, data_out 24, repeat 32, duration 36, ctx_size_in 40, ctx_size_out 44, ctx_in 48, ctx_out 56, flags 64, cpu 68, batch_size 72
PROG_GET_NEXT_ID MAP_GET_NEXT_ID BTF_GET_NEXT_ID LINK_GET_NEXT_ID | 11 12 23 31 | 12 | start_id 0, next_id 4, open_flags 8
PROG_GET_FD_BY_ID MAP_GET_FD_BY_ID LINK_GET_FD_BY_ID | 13 14 30 | 12 | id 0, next_id 4, open_flags 8
BTF_GET_FD_BY_ID | 19 | 16 | id 0, next_id 4, open_flags 8, token_fd 12
OBJ_GET_INFO_BY_FD | 15 | 16 | bpf_fd 0, info_len 4, info 8
PROG_QUERY | 16 | 64 | target_fd 0, attach_type 4, query_flags 8, attach_flags 12, prog_ids 16, count 24, prog_attach_flags 32, link_ids 40, link_attach_flags 48, revision 56
RAW_TRACEPOINT_OPEN | 17 | 24 | name 0, prog_fd 8, cookie 16
BTF_LOAD | 18 | 40 | btf 0, log_buf 8, btf_size 16, log_size 20, log_level 24, log_true_size 28, btf_flags 32, btf_token_fd 36
TASK_FD_QUERY | 20 | 48 | pid 0, fd 4, flags 8, buf_len 12, buf 16, prog_id 24, fd_type 28, probe_offset 32, probe_addr 40
LINK_CREATE | 28 | 64 | prog_fd 0, target_fd 4, attach_type 8, flags 12
LINK_CREATE/target_btf | 28 | 64 | target_btf_id 16
LINK_CREATE/iter | 28 | 64 | iter_info 16, iter_info_len 24
LINK_CREATE/perf_event | 28 | 64 | bpf_cookie 16
LINK_CREATE/kprobe_multi | 28 | 64 | kprobe_flags 16, cnt 20, syms 24, addrs 32, cookies 40
LINK_CREATE/uprobe_multi | 28 | 64 | path 16, offsets 24, ref_ctr_offsets 32, cookies 40, cnt 48, uprobe_flags 52, pid 56, path_fd 60
LINK_CREATE/tracing | 28 | 64 | target_btf_id 16, cookie 24
LINK_CREATE/tracing_multi | 28 | 64 | ids 16, cookies 24, cnt 32
LINK_CREATE/netfilter | 28 | 64 | pf 16, hooknum 20, priority 24, netfilter_flags 28
LINK_CREATE/mprog | 28 | 64 | relative_fd 16, expected_revision 24
LINK_UPDATE | 29 | 16 | link_fd 0, new_prog_fd 4, flags 8, old_prog_fd 12
ENABLE_STATS | 32 | 4 | type 0
ITER_CREATE | 33 | 8 | link_fd 0, flags 4
LINK_DETACH | 34 | 4 | link_fd 0
PROG_BIND_MAP | 35 | 12 | prog_fd 0, map_fd 4, flags 8
TOKEN_CREATE | 36 | 8 | flags 0, bpffs_fd 4
PROG_STREAM_READ_BY_FD | 37 | 24 | stream_buf 0, stream_buf_len 8, stream_id 12, prog_fd 16
PROG_ASSOC_STRUCT_OPS | 38 | 12 | map_fd 0, prog_fd 4, flags 8
"""  # noqa: E501
COMMON = {"prog_fd": 0, "target_fd": 4, "attach_type": 8, "flags": 12}


def reference() -> dict[str, tuple[int, int, dict[str, int]]]:
    rows = {}
    for line in REFERENCE.strip().splitlines():
        commands, numbers, size, body = (part.strip() for part in line.split("|"))
        fields = {f.split()[0]: int(f.split()[1]) for f in body.split(",")}
        for command, number in zip(
            commands.split(), numbers.split() * len(commands.split()), strict=False
        ):
            rows[command] = int(number), int(size), fields
    for command, number in zip(
        ("MAP_UPDATE_ELEM", "MAP_DELETE_ELEM", "MAP_LOOKUP_AND_DELETE_ELEM"),
        (2, 3, 21),
        strict=True,
    ):
        rows[command] = number, *rows[command][1:]
    return rows


def test_all_rows_are_the_references() -> None:
    assert sorted(names()) == sorted(reference())


@pytest.mark.parametrize("name", sorted(reference()))
def test_offsets(name: str) -> None:
    number, size, fields = reference()[name]
    ours = layout(name)
    if "/" in name:
        fields = {**COMMON, **fields}
    assert {field: offset for field, (_, offset) in ours.fields.items()} == fields
    assert ours.command == number
    assert ours.packer.size <= size <= 168
    assert ours.first_size <= ours.total_size


# Where a field of ours is in the union, where its name there differs.
ARMS = {
    "LINK_CREATE": "link_create.",
    "LINK_UPDATE": "link_update.",
    "LINK_DETACH": "link_detach.",
    "ITER_CREATE": "iter_create.",
    "ENABLE_STATS": "enable_stats.",
    "PROG_BIND_MAP": "prog_bind_map.",
    "TOKEN_CREATE": "token_create.",
    "PROG_STREAM_READ_BY_FD": "prog_stream_read.",
    "PROG_ASSOC_STRUCT_OPS": "prog_assoc_struct_ops.",
    "RAW_TRACEPOINT_OPEN": "raw_tracepoint.",
    "TASK_FD_QUERY": "task_fd_query.",
    "OBJ_GET_INFO_BY_FD": "info.",
    "PROG_QUERY": "query.",
    "PROG_TEST_RUN": "test.",
}
INNER = {
    "LINK_CREATE/perf_event": "perf_event.",
    "LINK_CREATE/kprobe_multi": "kprobe_multi.",
    "LINK_CREATE/uprobe_multi": "uprobe_multi.",
    "LINK_CREATE/tracing": "tracing.",
    "LINK_CREATE/tracing_multi": "tracing_multi.",
    "LINK_CREATE/netfilter": "netfilter.",
    "LINK_CREATE/mprog": "tcx.",
}
RENAMED = {
    "kprobe_flags": "flags",
    "uprobe_flags": "flags",
    "netfilter_flags": "flags",
}


def member(name: str, field: str) -> str:
    command = name.partition("/")[0]
    arm = ARMS.get(command, "batch." if command.endswith("_BATCH") else "")
    if field not in COMMON or command != "LINK_CREATE":
        arm += INNER.get(name, "")
    if command.endswith("_GET_NEXT_ID"):
        field = field if field != "id" else "start_id"
    if command.endswith("_GET_FD_BY_ID"):
        kind = command.partition("_")[0].lower()
        field = {"id": f"{kind}_id", "token_fd": "fd_by_id_token_fd"}.get(field, field)
    if command == "BTF_LOAD" and field.startswith("log_"):
        field = f"btf_{field}"
    return arm + RENAMED.get(field, field)


def test_offsets_in_the_header(tmp_path: Path) -> None:
    """Ask a C compiler. An older header lacks newer fields; most must be there."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    headers = os.environ.get("PYBPFLOAD_UAPI_HEADERS")
    if compiler is None or not (headers or Path("/usr/include/linux/bpf.h").exists()):
        pytest.skip("no C compiler or no linux/bpf.h on this machine")
    checks = [
        (f"{name}.{field}", f"offsetof(union bpf_attr, {member(name, field)}) == {offset}")
        for name in names()
        for field, (_, offset) in layout(name).fields.items()
    ]
    source = tmp_path / "offsets.c"
    command = [compiler, "-fsyntax-only", str(source), *(["-I", headers] if headers else [])]
    missing: set[str] = set()
    for _ in range(2):
        lines = ["#include <stddef.h>", "#include <linux/bpf.h>"]
        lines += [f'_Static_assert({c}, "{what}");' for what, c in checks if what not in missing]
        source.write_text("\n".join(lines) + "\n")
        result = subprocess.run(
            [*command, "-fmax-errors=0"] if "clang" not in compiler else command,
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C"},
        )
        assert "static assertion failed" not in result.stderr, result.stderr
        for at in re.findall(r"offsets\.c:(\d+):\d+: error: .*no member named", result.stderr):
            missing.add(re.search(r'"(.*)"', lines[int(at) - 1]).group(1))
    assert result.returncode == 0, result.stderr
    assert len(missing) < len(checks) / 4, sorted(missing)
    if headers:
        assert not missing


def test_smallest_size() -> None:
    create = layout("MAP_CREATE")
    assert create.build(map_type=1, key_size=4, value_size=4, max_entries=1).size == 16
    assert create.build(map_type=1, map_name="x").size == 44
    assert create.build(map_type=1, map_extra=1).size == 72
    assert layout("PROG_LOAD").build(prog_type=1).size == 48
    assert layout("PROG_LOAD").build("log_true_size", prog_type=1).size == 144
    assert layout("LINK_CREATE/tracing").build(prog_fd=3, cookie=1).size == 32
    assert len(create.build().data) == 96


def test_a_big_endian_machine_would_see_whole_fields() -> None:
    """The size covers the last field even where its last byte is zero."""
    built = layout("MAP_CREATE").build(map_extra=1)
    assert built.size == 72
    built = layout("MAP_CREATE").build(map_extra=1 << 63)
    assert built.size == 72


@pytest.mark.parametrize(
    "values",
    [
        {"max_entries": 1 << 32},
        {"max_entries": -1},
        {"map_extra": 1 << 64},
        {"map_name": "a name of 16 bytes"},
        {"map_name": "nul\0"},
        {"btf_fd": 1 << 31},
        {"map_type": "hash"},
    ],
)
def test_misfits(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        layout("MAP_CREATE").build(**values)


def test_unknown_fields() -> None:
    with pytest.raises(TypeError, match="colour"):
        layout("MAP_CREATE").build(colour=1)


@given(st.data())
def test_build_and_unpack(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names()))
    ours = layout(name)
    ranges = {
        "u32": st.integers(0, 2**32 - 1),
        "s32": st.integers(-(2**31), 2**31 - 1),
        "fd": st.integers(-(2**31), 2**31 - 1),
        "u64": st.integers(0, 2**64 - 1),
        "ptr": st.integers(0, 2**64 - 1),
        "c16": st.binary(max_size=15).filter(lambda raw: b"\0" not in raw),
    }
    values = {
        field: data.draw(st.one_of(st.just(b"" if code == "c16" else 0), ranges[code]))
        for field, (code, _) in ours.fields.items()
    }
    built = ours.build(**values)
    back = ours.unpack(built.data, built.size)
    padded = {
        field: value.ljust(16, b"\0") if isinstance(value, bytes) else value
        for field, value in values.items()
    }
    assert back == padded
    assert built.size <= len(built.data)
    assert not any(built.data[built.size :])


@pytest.mark.parametrize(
    "buffer", [b"abc", bytearray(b"abc"), memoryview(b"abc"), memoryview(bytearray(b"abc")), "abc"]
)
def test_addresses(buffer: object) -> None:
    import ctypes

    keep: list[object] = []
    assert ctypes.string_at(address(buffer, keep), 3) == b"abc"
    assert keep


def test_nothing_has_no_address() -> None:
    assert address(None, []) == 0
    assert address(b"", []) == 0
    assert address(bytearray(), []) == 0
    assert address("", []) != 0  # an empty string still has its NUL
