"""Trampolines around many functions by one link: each fires when this process removes a file."""

from __future__ import annotations

import os

import pytest

import pybpfload
from pybpfload.uapi import LinkType

pytestmark = pytest.mark.vm

_PLACES = {"on_entry": (0, 1), "on_exit": (1, 1), "on_session": (2, 2)}


@pytest.fixture
def probes(opened):
    loaded = []

    def load(name: str, **constants):
        spec = opened("tracing_multi")
        spec.programs[name].autoload = True
        for variable, value in constants.items():
            spec.variables[variable].value = value
        obj = spec.load()
        loaded.append(obj)
        obj.variables["target_tgid"].value = os.getpid()
        return obj

    yield load
    for obj in loaded:
        obj.close()


@pytest.mark.kernel("7.2")
@pytest.mark.parametrize("name", _PLACES)
@pytest.mark.parametrize("target", [None, "vfs_unlin?", ["vfs_unlink", "vfs_rename"]])
def test_fires(probes, trampolines, unlink_a_file, name, target):
    obj = probes(name)
    place, times = _PLACES[name]
    with obj.programs[name].attach(target) as link:
        assert link.info().type == LinkType.TRACING_MULTI
        unlink_a_file()
        assert obj.variables["hits"].value[place] == times
    unlink_a_file()
    assert obj.variables["hits"].value[place] == times


@pytest.mark.kernel("7.2")
def test_cookies(probes, trampolines, unlink_a_file):
    obj = probes("on_entry", with_cookie=True)
    with obj.programs["on_entry"].attach(["vfs_rename", "vfs_unlink"], cookies=[7, 8]):
        unlink_a_file()
    assert obj.variables["cookies"].value[0] == 8


@pytest.mark.kernel("7.2")
def test_mistakes(probes, trampolines):
    program = probes("on_entry").programs["on_entry"]
    with pytest.raises(pybpfload.AttachError, match="no function that a trampoline can carry"):
        program.attach("there_is_no_such_*")
    with pytest.raises(pybpfload.AttachError, match="no function there_is_none"):
        program.attach(["there_is_none"])
    with pytest.raises(pybpfload.AttachError, match="no module nowhere"):
        program.attach("nowhere:f*")
    with pytest.raises(ValueError, match="cookies need a list"):
        program.attach("vfs_unlink", cookies=[1])
    with pytest.raises(ValueError, match="a cookie for each"):
        program.attach(["vfs_unlink"], cookies=[1, 2])


@pytest.mark.kernel(below="7.2")
def test_too_old(probes, trampolines):
    with pytest.raises(pybpfload.BpfError, match=r"7\.2"):
        probes("on_entry").programs["on_entry"].attach()
