"""The tests that docs/testing-programs.md quotes, run as a user runs them, on two small kernels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pybpfload.btf.build import BtfBuilder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = ["-m", "pytest", "-q", "-rA", "-m", "not boots", "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, *words, f"--kernel-btf-folder={folder}", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    """A kernel of each byte order, with tasks of different layouts."""
    for order, pad in (("<", 1), (">", 3)):
        made = BtfBuilder(order)
        number = made.add_int("int", 4, 1)
        array = made.add_array(number, number, pad)
        pointer = made.add_ptr(4)  # of the struct, which comes next
        fields = [
            ("pad", array, 0), ("tgid", number, 32 * pad), ("real_parent", pointer, 128),
        ]  # fmt: skip
        assert made.add_struct("task_struct", 24, fields) == 4
        (tmp_path / ("little.btf" if order == "<" else "big.btf")).write_bytes(made.build())
    return tmp_path


def test_all_that_needs_no_kernel_passes(kernels):
    done = run(kernels, "examples/test_my_program.py", "examples/test_my_program_properties.py")
    assert done.returncode == 0, done.stdout
    for test in (
        "test_it_loads_on_every_kernel[little]",
        "test_it_loads_on_every_kernel[big]",
        "test_filtering_packets_does_not_depend_on_the_kernel[big]",
        "test_bytes_are_counted_by_protocol",
        "test_long_packets_are_dropped[1001-1]",
        "test_it_finds_the_parent_whatever_the_layout_of_tasks[big]",
        "test_no_packet_confuses_it",
        "test_it_loads_whatever_becomes_of_tasks",
        "test_relocation_of_my_program[little]",
        "test_relocation_itself",
        "test_damage_is_noticed",
    ):
        assert f"::{test}\n" in done.stdout, f"{test} did not pass:\n{done.stdout}"
    assert "4 deselected" in done.stdout


def test_a_kernel_without_a_guarded_field_is_no_failure_and_without_another_is(kernels):
    """The tests can fail: a kernel where the program would be refused is told."""
    made = BtfBuilder("<")
    number = made.add_int("int", 4, 1)
    made.add_struct("task_struct", 4, [("tgid", number, 0)])
    (kernels / "without.btf").write_bytes(made.build())
    done = run(kernels, "examples/test_my_program.py", "-k", "every_kernel or finds_the_parent")
    assert done.returncode == 1
    assert "test_it_loads_on_every_kernel[without]\n" in done.stdout
    assert "FAILED examples/test_my_program.py::test_it_finds_the_parent" in done.stdout
    assert done.stdout.count("FAILED ") == 1
