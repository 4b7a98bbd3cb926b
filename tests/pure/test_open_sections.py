"""Section names: the SEC() table against a list written down by itself, and what it means."""

from __future__ import annotations

from pathlib import Path

import pytest
from insns import EXIT, mov
from sec_table import TABLE

from pybpfload.object import ProgramSpec, open_object
from pybpfload.object.sections import find_section, section_table
from pybpfload.testing.objects import ObjectBuilder
from pybpfload.uapi import AttachType, ProgFlag, ProgType

SLEEPABLE, FRAGS = 0x10, 0x20
ROWS = [line.split() for line in TABLE.strip().splitlines()]


def test_table():
    told = [
        [
            row.name,
            "+" if row.extended else "=",
            str(int(row.prog_type)),
            str(int(row.attach_type)),
            "".join(sorted(row.flags)) or "-",
            "y" if row.auto else "n",
        ]
        for row in section_table()
    ]
    assert told == [[*row[:4], "".join(sorted(row[4])), row[5]] for row in ROWS]


def test_matching():
    for name, match, *_ in ROWS:
        found = find_section(name)
        assert found is not None
        assert found.name == name
        for suffix in ("/", "/anything", "/a/b:c"):
            longer = find_section(name + suffix)
            if match == "+":
                assert longer is not None
                assert longer.name == name
            else:
                assert longer is None or longer.name != name
        longer = find_section(name + "x")
        assert longer is None or longer.name != name


@pytest.mark.parametrize(
    "name",
    [
        "", "?xdp", "xdp/foo", "tc/foo", "perf_event/x", "socket1", "syscall/x", "cgroup/sock/x",
        "kprobes", "kprobe.multi.s/x", "lsm_cgroup.s/x", "fentrY/x", "struct_ops.link",
        "sk_skb/other", ".text", "license",
    ],
)  # fmt: skip
def test_names_that_mean_nothing(name):
    assert find_section(name) is None


def opened(sections: list[str]) -> list[ProgramSpec]:
    made = ObjectBuilder()
    for at, section in enumerate(sections):
        made.program(section, [mov(0, dst=0), EXIT], f"program_{at}")
    return list(open_object(made.build()))


@pytest.mark.parametrize("mark", ["", "?"])
def test_programs_of_sections(mark):
    sections = [row[0] + ("/vfs_read" if row[1] == "+" else "") for row in ROWS]
    programs = opened([mark + section for section in sections])
    assert [program.name for program in programs] == [f"program_{at}" for at in range(len(ROWS))]
    for row, section, program in zip(ROWS, sections, programs, strict=True):
        check_program(row, mark, section, program)


def check_program(row: list[str], mark: str, section: str, program: ProgramSpec) -> None:
    _, match, prog_type, attach_type, flags, _ = row
    assert program.section == section
    assert program.autoload is (mark == "")
    assert (program.prog_type, program.expected_attach_type) == (int(prog_type), int(attach_type))
    assert isinstance(program.prog_type, ProgType)
    assert isinstance(program.expected_attach_type, AttachType)
    expected = (SLEEPABLE if "S" in flags else 0) | (FRAGS if "F" in flags else 0)
    assert program.flags == expected
    assert program.sec is not None
    assert program.sec.needs_btf_id == ("B" in flags)
    assert program.sec.attach_type_optional == ("O" in flags)
    assert program.attach_to == ("vfs_read" if match == "+" else None)
    assert ProgFlag(expected) == expected


@pytest.mark.parametrize("section", ["?", "nothing", "xdp/foo", "??xdp", "tc/"])
def test_program_of_unknown_section(section):
    (program,) = opened([section])
    assert program.prog_type == ProgType.UNSPEC
    assert program.sec is None
    assert program.attach_to is None
    assert program.section == section.removeprefix("?")


def row_of(section: str) -> list[str] | None:
    for row in ROWS:
        if section == row[0] or (row[1] == "+" and section.startswith(row[0] + "/")):
            return row
    return None


def test_fixture_with_every_section():
    """Every name bare, and those that may be followed by something with something."""
    path = Path(__file__).parents[2] / "fixtures" / "bpfel" / "sections.bpf.o"
    programs = open_object(path).programs.values()
    sections = {program.section for program in programs}
    for name, match, *_ in ROWS:
        assert name in sections
        if match == "+":
            assert any(section.startswith(name + "/") for section in sections)
    for program in programs:
        row = row_of(program.section)
        told = (int(program.prog_type), int(program.expected_attach_type))
        assert told == ((int(row[2]), int(row[3])) if row else (0, 0))
