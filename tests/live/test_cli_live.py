"""Commands on programs, maps and links of the running kernel, on objects that the test made.

What else there is on the machine, the tests neither know nor touch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

import pybpfload
from pybpfload.cli import main

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb")


@pytest.fixture
def obj():
    """The object ``minimal``, which counts nobody's system calls, loaded and attached."""
    spec = pybpfload.open(FIXTURES / "minimal.bpf.o")
    spec.variables["target_tgid"].value = 0
    with spec.load() as loaded:
        loaded.attach()
        yield loaded


def printed(capsys, *words, status=0):
    assert main(list(map(str, words))) == status
    return capsys.readouterr().out


def document(capsys, *words):
    return json.loads(printed(capsys, *words, "--json"))


def test_a_program_and_who_holds_it(obj, capsys):
    info = obj.programs["count_syscalls"].info()
    shown = document(capsys, "prog", "show", info.id)
    assert (shown["id"], shown["tag"], shown["name"]) == (info.id, info.tag, "count_syscalls")
    assert shown["map_ids"] == info.map_ids
    assert shown["bytes_xlated"] == 56
    assert os.getpid() in [process["pid"] for process in shown["pids"]]
    assert info.id in [each["id"] for each in document(capsys, "prog", "list")]
    assert abs(shown["loaded_at"] - time.time()) < 60


def test_elements_by_btf(obj, capsys):
    number = obj.maps["counts"].info().id
    printed(capsys, "map", "set", number, 0, "0x2a")
    assert obj.maps["counts"][0] == 42
    assert printed(capsys, "map", "get", number, 0) == "0: 42\n"
    assert printed(capsys, "map", "dump", number) == "0: 42\n"
    assert "from 0 to" in refused(capsys, "map", "set", number, 0, -1)
    assert document(capsys, "map", "show", number)["frozen"] == 0


def refused(capsys, *words):
    assert main(list(map(str, words))) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_variables_of_a_section(obj, capsys):
    number = obj.maps["minimal.rodata"].info().id
    (element,) = document(capsys, "map", "dump", number)
    assert element["formatted"]["value"] == {".rodata": [{"target_tgid": 0}]}
    assert printed(capsys, "map", "dump", number) == "0: target_tgid=0\n"


def test_values_of_all_kinds_read_back_as_they_are_shown(capsys):
    """What ``get`` shows, ``set`` takes: structs as JSON, per-CPU values as an array."""
    with pybpfload.open(FIXTURES / "maps_types.bpf.o").load() as obj:
        tried = 0
        for each in obj.maps.values():
            if each.type.name not in ("HASH", "ARRAY", "PERCPU_HASH", "PERCPU_ARRAY", "LRU_HASH"):
                continue
            if each.info().map_flags & 0x80:  # read-only for programs, frozen
                continue
            number = each.info().id
            key = each.key_codec.decode(bytes(each.key_size))
            each[key] = each.value_codec.decode(bytes(each.value_size))
            (first, *_) = document(capsys, "map", "dump", number)
            shown = first["formatted"]
            words = [w if isinstance(w, str) else json.dumps(w) for w in (shown["key"],)]
            values = shown.get("values")
            value = shown["value"] if values is None else [v["value"] for v in values]
            words.append(value if isinstance(value, str) else json.dumps(value))
            printed(capsys, "map", "set", number, *words)
            assert document(capsys, "map", "get", number, words[0]) == first
            tried += 1
        assert tried >= 3


def test_links(obj, capsys):
    (link,) = obj.links
    number = link.info().id
    shown = document(capsys, "link", "show", number)
    assert (shown["type"], shown["tp_name"]) == ("raw_tracepoint", "sys_enter")
    assert shown["prog_id"] == obj.programs["count_syscalls"].info().id
    assert shown["name"] == "count_syscalls"
    assert main(["link", "detach", str(number)]) == 4  # raw tracepoints cannot be
    assert "detach when they are closed" in capsys.readouterr().err


def test_holders_tells_of_this_process(obj):
    here = pybpfload.holders()
    for kind, each in (("map", obj.maps["counts"]), ("link", obj.links[0])):
        assert os.getpid() in [process.pid for process in here[kind, each.info().id]]


def test_instructions_of_a_loaded_program(capsys):
    with pybpfload.open(FIXTURES / "subprogs.bpf.o").load() as obj:
        program = obj.programs["call_forward"]
        info = program.info()
        lines = program.xlated()
        assert b"".join(each.code for each in lines) == info.xlated_insns
        called = {each.line.comment for each in lines if each.line.text.startswith("call")}
        assert called == {"second", "leaf", "first"}
        starts = {each.function: each.line.index for each in lines if each.function}
        assert list(starts) == ["call_forward", "second", "leaf", "first"]
        for each in lines:
            if each.line.comment in starts:
                assert each.line.target == starts[each.line.comment]
        assert [(f.name, len(f.code)) for f in program.jited()] == [
            *zip(starts, info.jited_func_lens, strict=False)
        ]
        text = printed(capsys, "prog", "dump", info.id)
        assert "\nsecond:\n; " in text
        assert "; return n + leaf(0);" in text.splitlines()
        dumped = document(capsys, "prog", "dump", info.id)
        assert bytes.fromhex("".join(each["code"] for each in dumped)) == info.xlated_insns
        machine = document(capsys, "prog", "dump", info.id, "--jited")
        assert bytes.fromhex("".join(each["code"] for each in machine)) == info.jited_insns


def test_instructions_name_helpers_maps_and_variables(obj):
    comments = [each.line.comment for each in obj.programs["count_syscalls"].xlated()]
    assert "&target_tgid" in comments
    with pybpfload.open(FIXTURES / "execsnoop.bpf.o").load() as other:
        named = {each.line.comment for each in other.programs["on_exec"].xlated()}
    assert {"bpf_ringbuf_reserve", "bpf_ktime_get_ns", "map events"} <= named
