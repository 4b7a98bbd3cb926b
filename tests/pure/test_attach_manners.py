"""Attaching on scripted kernels: odd arguments, what others did meanwhile, and what errors say."""

from __future__ import annotations

import contextlib
import errno
import sys
from pathlib import Path

import pytest

import pybpfload
from pybpfload import BpfError, KernelError, lowlevel
from pybpfload.testing.fakekernel import FakeKernel
from pybpfload.uapi import MapType

OBJECTS = (
    Path(__file__).parents[2] / "fixtures" / f"bpf{'el' if sys.byteorder == 'little' else 'eb'}"
)
CGROUP = "/sys/fs/cgroup/some"


@contextlib.contextmanager
def loaded(name: str, program: str):
    """One program of a fixture."""
    spec = pybpfload.open(OBJECTS / f"{name}.bpf.o")
    for each in spec:
        each.autoload = each.name == program
    with spec.load() as obj:
        yield obj.programs[program]


class TestAnchors:
    @pytest.mark.parametrize("option", ["before", "after"])
    @pytest.mark.parametrize("anchor", [False, "first", 0, 1])
    def test_what_is_no_place(self, option, anchor):
        with FakeKernel() as fake, loaded("network", "on_cgroup_ingress") as program:
            fake.dirs.add(CGROUP)
            before = len(fake.fds)
            with pytest.raises(ValueError, match=f"{option} is {anchor!r}, not a program, a link"):
                program.attach(CGROUP, **{option: anchor})
            assert "LINK_CREATE" not in fake.commands()
            assert len(fake.fds) == before

    def test_what_is_one(self):
        with FakeKernel() as fake, loaded("network", "on_cgroup_ingress") as program:
            fake.dirs.add(CGROUP)
            first = program.attach(CGROUP, before=True)
            told = []
            for anchor in (program, first):
                program.attach(CGROUP, after=anchor)
                told.append(fake.calls[-1].fields)
            assert [each["relative_fd"] for each in told] == [program.fileno(), first.fileno()]
            assert told[1]["flags"] != told[0]["flags"]


class TestPins:
    def test_somebody_else_has_removed_it(self):
        with FakeKernel() as fake, loaded("minimal", "count_syscalls") as program:
            link = program.attach()
            link.pin("/sys/fs/bpf/kept")
            fake.unlink("/sys/fs/bpf/kept")
            with pytest.raises(KernelError, match="ENOENT") as caught:
                link.unpin()
            assert caught.value.errno == errno.ENOENT
            assert link.pin_path is None
            link.pin("/sys/fs/bpf/kept")
            with pytest.raises(BpfError, match="pinned already at /sys/fs/bpf/kept"):
                link.pin("/sys/fs/bpf/again")
            fake.unlink("/sys/fs/bpf/kept")
            link.pin("/sys/fs/bpf/again")
            assert list(fake.pins) == ["/sys/fs/bpf/again"]

    def test_it_cannot_be_removed(self, monkeypatch):
        with FakeKernel() as fake, loaded("minimal", "count_syscalls") as program:
            link = program.attach()
            link.pin("/sys/fs/bpf/kept")

            def refuse(path):
                raise PermissionError(errno.EPERM, "no")

            monkeypatch.setattr(fake, "unlink", refuse)
            with pytest.raises(KernelError, match="EPERM"):
                link.unpin()
            assert link.pin_path == "/sys/fs/bpf/kept"


class TestOneAtATime:
    """Attachments without a link that the kernel cannot tell apart: the same program again."""

    def test_of_a_control_group(self):
        asked = {"PROG_ATTACH": 0, "PROG_DETACH": 0}

        def count(call):
            asked[call.command] += 1
            return 0

        with FakeKernel() as fake, loaded("network", "on_cgroup_ingress") as program:
            fake.dirs.add(CGROUP)
            fake.on("PROG_ATTACH", count)
            fake.on("PROG_DETACH", count)
            fake.on("PROG_QUERY", lambda call: -errno.EINVAL)
            older, younger = (program.attach(CGROUP, sharing="override") for _ in range(2))
            older.close()
            assert asked == {"PROG_ATTACH": 2, "PROG_DETACH": 0}
            fake.refuses["PROG_ATTACH"] = errno.EPERM
            with pytest.raises(KernelError, match="EPERM"):
                program.attach(CGROUP, sharing="override")
            younger.close()
            assert asked == {"PROG_ATTACH": 2, "PROG_DETACH": 1}

    def test_of_a_map_of_sockets(self):
        with FakeKernel() as fake, loaded("network", "on_sk_msg") as program:
            sockets = lowlevel.map_create(MapType.SOCKMAP, 4, 4, 1)
            older, younger = (program.attach(sockets, link=False) for _ in range(2))
            older.close()
            assert "PROG_DETACH" not in fake.commands()
            younger.close()
            assert fake.commands().count("PROG_DETACH") == 1
