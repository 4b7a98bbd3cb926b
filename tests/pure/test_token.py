"""BPF tokens on a scripted kernel: where they are made of, who is shown them, what they lack."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

import pytest

import pybpfload
from pybpfload import lowlevel
from pybpfload.kernel import probe, token
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.kernel.probe import Feature
from pybpfload.runtime.token import VARIABLE, find_token
from pybpfload.testing.fakekernel import FakeKernel
from pybpfload.uapi import Cmd, MapFlag, MapType, ProgFlag, ProgType

OBJECT = Path(__file__).parents[2] / "fixtures" / "bpfel" / "globals.bpf.o"
ANY = {"cmds": "any", "maps": "any", "progs": "any", "attachs": "any"}
SHOWN = {"MAP_CREATE": "map_token_fd", "PROG_LOAD": "prog_token_fd", "BTF_LOAD": "btf_token_fd"}


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


class Delegating(FakeKernel):
    """A kernel whose BPF filesystem delegates, to a process that may do nothing by itself.

    Args:
        delegates: What ``fdinfo`` of its tokens says, by kind.
    """

    def __init__(self, delegates=ANY, **options) -> None:
        super().__init__(**options)
        self.delegates = delegates
        self.on("TOKEN_CREATE", self.create_token)
        for command in SHOWN:
            self.on(command, self.check)

    def create_token(self, call):
        if call.fields["bpffs_fd"] not in self.fds:
            return -errno.EBADF
        fd = self.open_object(self.make("token"))
        text = "pos:\t0\n" + "".join(f"allowed_{k}:\t{v}\n" for k, v in self.delegates.items())
        self.files[f"/proc/self/fdinfo/{fd}"] = text.encode()
        return fd

    def check(self, call):
        """EPERM without a token, or with one that lacks a bit."""
        shown = self.fds.get(call.fields[SHOWN[call.command]])
        if shown is None or shown.kind != "token":
            return -errno.EPERM
        needed = {"cmds": Cmd[call.command]}
        if call.command == "MAP_CREATE":
            needed["maps"] = call.fields["map_type"]
        elif call.command == "PROG_LOAD":
            needed["progs"] = call.fields["prog_type"]
            needed["attachs"] = call.fields["expected_attach_type"]
        for kind, number in needed.items():
            mask = self.delegates[kind]
            if mask != "any" and not int(mask, 16) >> number & 1:
                return -errno.EPERM
        return None


def load(**options) -> None:
    pybpfload.open(OBJECT).load(**options).close()


def test_it_is_shown_with_every_command():
    with Delegating() as kernel:
        load()
        calls = [call for call in kernel.calls if call.command in SHOWN]
        assert {call.command for call in calls} == set(SHOWN)
        for call in calls:
            flags = {"MAP_CREATE": "map_flags", "PROG_LOAD": "prog_flags", "BTF_LOAD": "btf_flags"}
            assert call.fields[flags[call.command]] & MapFlag.TOKEN_FD == ProgFlag.TOKEN_FD
        assert kernel.leaked() == []
        with pytest.raises(pybpfload.NotPermittedError):
            load(token=False)
        assert token.current() is None


@pytest.mark.parametrize("path", [None, True, "/sys/fs/bpf", Path("/sys/fs/bpf")])
def test_where_it_is_made(path):
    with Delegating():
        load(token=path)


@pytest.mark.parametrize("off", [False, ""])
def test_without(off, monkeypatch):
    with Delegating() as kernel:
        assert find_token(off, print) is None
        monkeypatch.setenv(VARIABLE, "")
        assert find_token(None, print) is None
        assert kernel.calls == []


def test_the_variable_counts_like_the_argument(monkeypatch):
    monkeypatch.setenv(VARIABLE, "/sys/fs/missing")
    with Delegating() as kernel:
        with pytest.raises(pybpfload.KernelError, match="open of /sys/fs/missing"):
            load()
        load(token="/sys/fs/bpf")
        assert kernel.leaked() == []


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM])
def test_none_is_possible(number):
    """Without being asked for one, a kernel that gives none is nothing special."""
    notes: list[BaseException] = []
    with FakeKernel(refuses={"TOKEN_CREATE": number}) as kernel:
        assert find_token(None, notes.append) is None
        assert len(notes) == (number == errno.EPERM)
        with pytest.raises((pybpfload.KernelError, pybpfload.NotSupportedError)):
            find_token(True, notes.append)
        load()
        assert kernel.leaked() == []


def test_a_kernel_without_tokens():
    with FakeKernel.like("6.8") as kernel:
        load()
        with pytest.raises(pybpfload.NotSupportedError, match="BPF tokens") as caught:
            load(token=True)
        assert caught.value.since == "6.9"
        assert kernel.leaked() == []


@pytest.mark.parametrize(
    ("kind", "mask", "said"),
    [
        (
            "cmds",
            1 << Cmd.MAP_CREATE | 1 << Cmd.BTF_LOAD,
            "the command prog_load; .* delegate_cmds",
        ),
        ("cmds", 1 << Cmd.PROG_LOAD | 1 << Cmd.BTF_LOAD, "the command map_create; .*delegate_cmds"),
        ("maps", 1 << MapType.HASH, "the map type array; .* with array in delegate_maps"),
        ("progs", 1 << ProgType.XDP, "the program type raw_tracepoint; .* in delegate_progs"),
        ("attachs", 1 << 5, "the attach type cgroup_inet_ingress; .* in delegate_attachs"),
    ],
)
def test_what_is_lacking(kind, mask, said):
    with Delegating({**ANY, kind: hex(mask)}) as kernel:
        with pytest.raises(pybpfload.NotPermittedError, match=f"token of /sys/fs/bpf .*{said}"):
            load()
        assert kernel.leaked() == []


def test_fdinfo_that_cannot_be_read():
    """Nothing is claimed to be lacking then."""
    with Delegating({**ANY, "progs": "0x0"}) as kernel:

        def refuse(call):
            for path in [path for path in kernel.files if "fdinfo" in path]:
                del kernel.files[path]
            return -errno.EPERM

        kernel.on("PROG_LOAD", refuse)
        with pytest.raises(pybpfload.NotPermittedError) as caught:
            load()
    assert "does not delegate" not in str(caught.value)


def test_probes():
    """What they try need not be delegated: whoever has tokens has what is older."""
    with Delegating({**ANY, "progs": hex(1 << ProgType.XDP)}) as kernel:
        made = find_token(True, print)
        assert not probe.has(Feature.PROG_NAME)
        with token.shown(made):
            assert probe.has(Feature.PROG_NAME)
            assert not probe.has(Feature.LDIMM64_FULL_RANGE_OFF)  # it is younger
            asked = len(kernel.calls)
            assert probe.has(Feature.PROG_NAME)
            assert len(kernel.calls) == asked
        assert not probe.has(Feature.PROG_NAME)
        made.close()


@pytest.mark.parametrize("after", range(6))
def test_any_of_the_first_calls_may_fail(after):
    """The later ones fail in test_load_fake."""
    with Delegating() as kernel:
        kernel.fail(after)
        with contextlib.suppress(pybpfload.BpfError):
            load(token=True)
        assert len(kernel.calls) > after
        assert kernel.leaked() == []


def test_one_that_is_given_by_hand_stays():
    with Delegating() as kernel:
        by_hand, shown = (find_token(True, print) for _ in range(2))
        with token.shown(shown):
            made = lowlevel.map_create(
                2, 4, 4, 1, map_flags=int(MapFlag.TOKEN_FD), token_fd=by_hand.fileno()
            )
        assert kernel.calls[-1].fields["map_token_fd"] == by_hand.fileno()
        for owner in (FileDescriptor(made), by_hand, shown):
            owner.close()
        assert kernel.leaked() == []
        assert repr(shown) == "<closed Token of /sys/fs/bpf>"
