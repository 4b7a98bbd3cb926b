"""Functions of loaded programs that others take the place of, seen by what test runs return."""

from __future__ import annotations

import os

import pytest

import pybpfload
from pybpfload.kernel.version import kernel_version

pytestmark = [pytest.mark.vm, pytest.mark.kernel("5.10"), pytest.mark.usefixtures("trampolines")]


@pytest.fixture
def target(opened):
    """The programs whose functions are replaced."""
    with opened("freplace").load() as obj:
        yield obj


def returns(program: pybpfload.Program) -> int:
    return program.test_run(bytes(64)).retval


def replacement(opened, name: str, program, function: str | None = None) -> pybpfload.ObjectSpec:
    """The object with one replacement, for a function of a program."""
    spec = opened("freplace_new")
    spec.programs[name].autoload = True
    spec.programs[name].set_attach_target(program, function)
    return spec


@pytest.mark.parametrize("by", ["object", "id", "pin"])
def test_named_in_each_way(target, opened, bpffs, by):
    caller = target.programs["caller"]
    assert returns(caller) == 11
    pin = f"{bpffs}/pybpfload-freplace-{os.getpid()}"
    caller.pin(pin)
    try:
        named = {"object": caller, "id": caller.info().id, "pin": pin}[by]
        with replacement(opened, "new_one", named).load() as obj:
            assert returns(caller) == 11
            with obj.programs["new_one"].attach() as link:
                assert returns(caller) == 42
                if kernel_version() >= 0x50D00:  # before, the kernel does not tell
                    assert link.info().details["target_obj_id"] == caller.info().id
            assert returns(caller) == 11
            assert obj.variables["calls"].value == 1
    finally:
        caller.unpin()


def test_all_at_once_and_another_function(target, opened):
    caller = target.programs["caller_two"]
    with replacement(opened, "new_two", caller, "replace_me_too").load() as obj:
        obj.attach()
        assert returns(caller) == 102
        assert returns(target.programs["caller"]) == 11
    assert returns(caller) == 3


def test_one_function_has_one_replacement(target, opened):
    caller = target.programs["caller"]
    with replacement(opened, "new_one", caller).load() as obj:
        with replacement(opened, "new_one", caller).load() as other:
            with obj.programs["new_one"].attach():
                with pytest.raises(pybpfload.KernelError, match="new_one"):
                    other.programs["new_one"].attach()
                assert returns(caller) == 42
            assert returns(caller) == 11


def test_it_outlives_the_object_of_its_target(opened):
    """The link holds the program that it changes."""
    with opened("freplace").load() as target:
        caller = pybpfload.Program.from_id(target.programs["caller"].info().id)
        with replacement(opened, "new_one", target.programs["caller"]).load() as obj:
            obj.attach()
            target.close()
            assert returns(caller) == 42
        assert returns(caller) == 11
        caller.close()


def test_what_cannot_be_replaced(target, opened):
    caller = target.programs["caller"]
    with pytest.raises(pybpfload.VerifierError, match="wrong_prototype"):
        replacement(opened, "wrong_prototype", caller).load()
    with pytest.raises(pybpfload.BpfError, match="nothing_like_it"):
        replacement(opened, "new_one", caller, "nothing_like_it").load()
    with pytest.raises(pybpfload.BpfError, match="new_one"):
        spec = opened("freplace_new")
        spec.programs["new_one"].autoload = True
        spec.load()
    assert returns(caller) == 11
