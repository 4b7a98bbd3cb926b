"""Objects that a kernel is too old for: the error names what, and which kernel brought it."""

from __future__ import annotations

import pytest

import pybpfload
from pybpfload import lowlevel
from pybpfload.kernel.since import first_version, version_pair
from pybpfload.kernel.version import kernel_version
from pybpfload.uapi import MapType

pytestmark = pytest.mark.vm

_RUNNING = (kernel_version() >> 16, kernel_version() >> 8 & 255)


def since(version: str):
    """Mark of a test that needs an older kernel than the one that brought something."""
    return pytest.mark.kernel(below=version)


@pytest.mark.parametrize(
    ("name", "feature", "version"),
    [
        pytest.param("arena", "the map type ARENA", "6.9", marks=since("6.9")),
        pytest.param("user_ringbuf", "the map type USER_RINGBUF", "6.1", marks=since("6.1")),
        pytest.param("struct_ops_link", "struct_ops links", "6.4", marks=since("6.4")),
    ],
)
def test_loading(opened, name, feature, version):
    with pytest.raises(pybpfload.NotSupportedError) as caught:
        opened(name).load()
    assert (caught.value.feature, caught.value.since) == (feature, version)
    assert version in str(caught.value)


@pytest.mark.parametrize("kind", [MapType.BLOOM_FILTER, MapType.ARENA, MapType.INSN_ARRAY])
def test_maps(kind):
    version = first_version("MapType", kind)
    if version_pair(version) <= _RUNNING:
        pytest.skip(f"this kernel is not older than {version}")
    with pytest.raises(pybpfload.NotSupportedError, match=f"came with Linux {version}") as caught:
        lowlevel.map_create(kind, 0, 4, 1)
    assert isinstance(caught.value, pybpfload.KernelError)
    assert caught.value.since == version


def test_what_is_not_too_young_is_no_such_error():
    """Wrong arguments of something that the kernel has."""
    with pytest.raises(pybpfload.KernelError) as caught:
        lowlevel.map_create(MapType.ARRAY, 3, 4, 1)
    assert not isinstance(caught.value, pybpfload.NotSupportedError)
