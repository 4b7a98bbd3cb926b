"""What fixtures compute: the numbers that their sources name, beside the globals that get them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pybpfload import read_btf
from pybpfload.testing.running import load

FIXTURES = Path(__file__).parents[2] / "fixtures"
# u32 one, two; /* 1 -2 */
_DECLARATION = re.compile(
    r"^[us]\d+ (\w+(?:, \w+)*); /\* (-?\w+(?: -?\w+)*)(?:,| =| \*/)", re.MULTILINE
)
_LITTLE_ENDIAN = re.compile(r"^/\* little-endian.*?(?=\n\n)", re.MULTILINE | re.DOTALL)


def told(name: str, order: str) -> dict[str, int]:
    """Values by variable; comments of another form say something else."""
    text = (FIXTURES / f"{name}.bpf.c").read_text()
    if order == "bpfeb":
        text = _LITTLE_ENDIAN.sub("", text)
    found = {}
    for names, values in _DECLARATION.findall(text):
        words = values.split()
        if len(words) == len(names.split(", ")) and all(re.match(r"-?\d", w) for w in words):
            found.update(zip(names.split(", "), (int(w, 0) for w in words), strict=True))
    return found


@pytest.mark.parametrize("order", ["bpfel", "bpfeb"])
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("core_anon", 20),
        ("core_arrays", 25),
        ("core_bits", 20),
        ("core_enums", 30),
        ("core_flavors", 18),
        ("core_match", 35),
        ("core_local", 80),
    ],
)
def test_values(name, count, order):
    expected = told(name, order)
    assert len(expected) >= count
    target = read_btf(FIXTURES / order / "core_target.bpf.o")
    with load(FIXTURES / order / f"{name}.bpf.o", btf=target) as loaded:
        for program, spec in loaded.spec.programs.items():
            if spec.autoload and program != "stores":  # what these change is read elsewhere
                loaded[program].run(ctx=[0, 0])
        found = {variable: int(loaded.variables[variable].value) for variable in expected}
    if order == "bpfeb":  # bits are counted from the other end
        shifts = [each for each in expected if each.endswith(("lshift", "_left"))]
        found.update({each: expected[each] for each in shifts})
    assert found == expected


@pytest.mark.parametrize("order", ["bpfel", "bpfeb"])
def test_poison_in_dead_code_is_never_reached(order):
    target = read_btf(FIXTURES / order / "core_target.bpf.o")
    with load(FIXTURES / order / "core_poison.bpf.o", btf=target) as loaded:
        dead = [name for name in loaded.spec.programs if name.startswith("dead_")]
        assert {loaded[name].run(ctx=[0, 0]).retval for name in dead} == {1}
        assert len(dead) == 7


@pytest.mark.parametrize("order", ["bpfel", "bpfeb"])
def test_widths(order):
    """Loads and stores of core_sizes: as wide as the target has them, at its offsets."""
    target = read_btf(FIXTURES / order / "core_target.bpf.o")
    struct = target[target.find("ct_widths")]
    places = {m.name: (m.bit_offset // 8, target.size(m.type)) for m in struct.members}
    byteorder = "little" if order == "bpfel" else "big"
    for fixture in ("core_sizes", "core_sizes_v4"):
        with load(FIXTURES / order / f"{fixture}.bpf.o", btf=target) as loaded:
            loaded["loads"].run(ctx=[0, 0])
            for name, (offset, size) in places.items():
                if name.startswith("n_"):
                    here = int(name[2])
                    number = int.from_bytes(bytes(range(offset, offset + size)), byteorder)
                    kept = number & (1 << 8 * max(here, size)) - 1
                    value = loaded.variables[f"load{name[1:]}"].value
                    assert value in (kept, kept & (1 << 8 * here) - 1), name
            loaded["constants"].run(ctx=[0, 0])
            memory = bytes(loaded.variables["memory"].value)
            for name, (offset, size) in places.items():
                if name.startswith("n_"):
                    written = int(name[2] + name[4], 16)
                    assert int.from_bytes(memory[offset : offset + size], byteorder) == written


@pytest.mark.parametrize("order", ["bpfel", "bpfeb"])
def test_returned_numbers(order):
    """The numbers at the top of the sources."""
    numbers = {
        "subprogs_deep": {
            "call_chain": 55, "call_diamond": 22, "call_tree": 31, "call_around": 8,
            "loop_deep": 30, "shared": 4,
        },
        "subprogs": {"no_calls": 42, "call_forward": 46, "call_backward": 12, "call_twice": 20},
        "callbacks": {"loop_sum": 45, "loop_hidden": 20, "loop_both": 65, "loop_nested": 28},
        "linked_core": {"first_shared": 7, "first_sum": 1111, "second_sum": 2222, "third_loop": 10},
    }  # fmt: skip
    for name, programs in numbers.items():
        with load(FIXTURES / order / f"{name}.bpf.o", btf=task_types(order)) as loaded:
            found = {each: loaded[each].run(bytes(64)).retval for each in programs}
        assert found == programs, name


def task_types(order: str):
    from pybpfload.btf.build import BtfBuilder

    made = BtfBuilder("<" if order == "bpfel" else ">")
    number = made.add_int("int", 4, 1)
    fields = [("pid", number, 0), ("tgid", number, 32), ("prio", number, 64)]
    made.add_struct("task_struct", 12, fields)
    return made.btf()
