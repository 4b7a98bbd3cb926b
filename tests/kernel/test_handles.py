"""Maps, programs and links that are there already: by id, by program; streams of programs."""

from __future__ import annotations

import errno

import pytest

import pybpfload

pytestmark = pytest.mark.vm


@pytest.fixture
def loaded(opened):
    with opened("minimal").load() as obj:
        yield obj


def test_ids(loaded):
    program = loaded.programs["count_syscalls"]
    assert program.info().id in pybpfload.Program.ids()
    assert {each.info().id for each in loaded.maps.values()} <= set(pybpfload.Map.ids())


@pytest.mark.kernel("5.8")
def test_links_of_a_program(loaded):
    program = loaded.programs["count_syscalls"]
    assert pybpfload.Link.of_program(program) == []
    link = program.attach()
    if link.info().id not in pybpfload.Link.ids():
        pytest.skip("this kernel gives no ids to such links")
    (found,) = pybpfload.Link.of_program(program)
    (again,) = pybpfload.Link.of_program(program.info().id)
    assert found.info().id == again.info().id == link.info().id
    again.close()
    link.close()
    # What this process opened again holds the attachment.
    assert [each.close() for each in pybpfload.Link.of_program(program)] == [None]
    found.close()
    assert pybpfload.Link.of_program(program) == []


@pytest.mark.kernel("6.17")
def test_streams(opened):
    with opened("streams").load() as obj:
        program = obj.programs["write_lines"]
        written = program.test_run().retval
        if obj.variables["last_error"].value == -errno.ENOMEM:
            pytest.skip("this kernel gives streams no memory")
        assert written == 3
        assert program.read_stream() == "number 1\nnumber 2\n"
        assert program.read_stream() == ""
        assert program.read_stream("stderr") == "trouble 3\n"
        with pytest.raises(ValueError, match="stdout and stderr"):
            program.read_stream("stdin")


@pytest.mark.kernel(below="6.17")
def test_no_streams(loaded):
    with pytest.raises(pybpfload.NotSupportedError, match=r"needs Linux 6\.17"):
        loaded.programs["count_syscalls"].read_stream()
