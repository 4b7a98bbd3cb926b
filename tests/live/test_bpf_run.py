"""Programs run on the interpreter and in this kernel: what users' tests see of both is the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pybpfload.testing.running import PLACES, load

pytestmark = pytest.mark.live

OBJECTS = (
    Path(__file__).parents[2] / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb")
)


@pytest.mark.parametrize("on", PLACES)
def test_every_place_gives_the_same(on):
    with load(OBJECTS / "test_run.bpf.o", on=on) as loaded:
        assert loaded["add_arguments"].run(ctx=[3, 4]).retval == 7
        assert loaded["sum_bytes"].run(bytes(range(64))).retval == sum(range(8))
        swapped = loaded["swap_addresses"].run(bytes(range(64))).data_out
        assert swapped[:12] == bytes([*range(6, 12), *range(6)])
    with load(OBJECTS / "subprogs.bpf.o", on=on) as loaded:
        packet = bytes(64)
        assert [loaded["call_data"].run(packet).retval for _ in range(3)] == [1000, 2000, 3000]
        assert loaded.maps["calls"][1] == 3
        loaded.maps["calls"][1] = 10
        loaded.variables["step"].value = 5
        assert loaded["call_data"].run(packet).retval == 3005
        assert loaded.maps["calls"][1] == 11
        assert loaded["call_core"].run(packet).retval == 4


def test_what_every_program_of_subprogs_deep_returns():
    """The numbers are those that the source names."""
    told = {
        "call_chain": 55, "call_diamond": 22, "call_tree": 31, "call_around": 8, "loop_deep": 30,
        "shared": 4,
    }  # fmt: skip
    with load(OBJECTS / "subprogs_deep.bpf.o", on="both") as loaded:
        assert {name: loaded[name].run(bytes(64)).retval for name in told} == told


def test_what_differs_is_told():
    with load(OBJECTS / "subprogs.bpf.o", on="both") as loaded:
        ours, _theirs = loaded.places
        ours.variables["step"].value = 7
        with pytest.raises(AssertionError, match=r"retval of program call_data: 7 on the interp"):
            loaded["call_data"].run(bytes(64))
        with pytest.raises(
            AssertionError, match=r"variable total: 7 on the .*, 1000 in the kernel"
        ):
            assert loaded.variables["total"].value
        ours.maps["calls"][1] = 8
        with pytest.raises(
            AssertionError, match=r"calls\[1\]: 8 on the interpreter, 1 in the kern"
        ):
            assert loaded.maps["calls"][1]


def test_data_sections_and_settings():
    with load(OBJECTS / "data_sections.bpf.o", on="both") as loaded:
        assert loaded["touch"].run(ctx=[0, 0]).retval == 63
        assert loaded.variables["large"].value[4096] == 5
    values = {
        "CONFIG_PYBPF_BOOL": True, "CONFIG_PYBPF_U8": 255, "CONFIG_PYBPF_S16": -32768,
        "CONFIG_PYBPF_U64": (1 << 64) - 1, "CONFIG_PYBPF_S64": -1, "CONFIG_PYBPF_TEXT": "text",
    }  # fmt: skip
    with load(OBJECTS / "kconfig_types.bpf.o", on="both", kconfig=values) as loaded:
        loaded["report"].run(ctx=[0, 0])
        read = {n: loaded.variables[n].value for n in ("a_bool", "a_u8", "a_s16", "a_u64", "a_s64")}
        assert read == {
            "a_bool": True, "a_u8": 255, "a_s16": -32768, "a_u64": (1 << 64) - 1, "a_s64": -1,
        }  # fmt: skip
        assert loaded.variables["a_text"].value in ("text", b"text")


CORE = [
    "core_anon", "core_arrays", "core_bits", "core_enums", "core_flavors", "core_match",
    "core_poison", "core_sizes", "core_sizes_v4",
]  # fmt: skip


@pytest.mark.parametrize("name", CORE)
def test_relocated_programs_compute_the_same(name):
    """All programs that load, on made-up types; then every variable is compared."""
    from pybpfload import read_btf

    target = read_btf(OBJECTS / "core_target.bpf.o")
    with load(OBJECTS / f"{name}.bpf.o", on="both", btf=target) as loaded:
        programs = [n for n, program in loaded.spec.programs.items() if program.autoload]
        for program in programs:
            loaded[program].run(ctx=[0, 0])
        values = {name: each.value for name, each in loaded.variables.items()}
        assert programs
        assert any(values.values())
