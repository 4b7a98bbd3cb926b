"""Features on a scripted kernel: yes, no and could not tell; the command's text and JSON."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING

import pytest

from pybpfload import features
from pybpfload.cli import main
from pybpfload.kernel import door
from pybpfload.testing.fakekernel import FakeKernel
from pybpfload.uapi import Helper, MapType, ProgType

if TYPE_CHECKING:
    from collections.abc import Sequence


TRIALS = "pybpfload.kernel.trials."


@pytest.fixture
def old():
    with FakeKernel.like("5.4") as kernel:
        yield kernel
        assert not kernel.leaked()


def test_yes_and_no(old):
    assert features.map_type(MapType.HASH).has is True
    answer = features.map_type(MapType.RINGBUF)
    assert (answer.has, answer.since) == (False, "5.8")
    assert "EINVAL" in answer.why
    assert features.prog_type(ProgType.XDP)
    assert features.prog_type(ProgType.SK_LOOKUP).has is False
    assert features.instruction("v3")


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOMEM, errno.EMFILE])
def test_could_not_tell(number):
    with FakeKernel(refuses={"PROG_LOAD": number, "MAP_CREATE": number}):
        for answer in (
            features.map_type(MapType.HASH),
            features.map_type(MapType.ARRAY_OF_MAPS),
            features.prog_type(ProgType.XDP),
            features.helper(ProgType.XDP, Helper.MAP_LOOKUP_ELEM),
            features.instruction("v1"),
        ):
            assert answer.has is None
            assert not answer
            assert errno.errorcode[number] in answer.why


def test_nothing_stays_open():
    with FakeKernel() as kernel:
        features.sweep()
        assert kernel.leaked() == []


def test_what_the_log_says(monkeypatch):
    """Whether the verifier knows a helper is told by its words, as its error numbers do not."""

    def load(log: bytes, result: int):
        answers = iter([(0, b""), (result, log)])  # a program that does nothing, then the call
        monkeypatch.setattr(TRIALS + "load", lambda *_, **__: next(answers))
        door.cache().clear()
        return features.helper(ProgType.XDP, 181)

    assert load(b"0: (85) call 181\nR1 !read_ok", -errno.EACCES).has is True
    assert load(b"0: (85) call 181\ninvalid func unknown#181", -errno.EINVAL).has is False
    last = b"program of this type cannot use helper bpf_loop#181"
    answer = load(b"0: (85) call 181\n" + last + b"\n", -errno.EINVAL)
    assert (answer.has, answer.why) == (False, last.decode())
    assert load(b"", -errno.EPERM).has is None
    assert load(b"calling kernel function f is not allowed", -errno.EACCES).has is False
    assert load(b"", -errno.EINVAL)[:2] == (None, "EINVAL")


def test_types_that_name_a_place(monkeypatch):
    """One form that may is a yes; one that cannot be tried leaves it open; all else is a no."""
    asked = [("tp_btf", {}), ("fentry", {})]
    monkeypatch.setattr(TRIALS + "_forms", lambda kind: asked)

    def tell(*answers: tuple[int, bytes], trials: Sequence[int] = (0, 0)) -> features.Answer:
        """What comes of these answers of the verifier, by form."""
        results, left = iter(trials), iter(answers)
        monkeypatch.setattr(TRIALS + "_trial", lambda *_: next(results))
        monkeypatch.setattr(TRIALS + "load", lambda *_, **__: next(left))
        return features.helper(ProgType.TRACING, 1)

    no, yes = (-errno.EINVAL, b"unknown func"), (-errno.EACCES, b"R1 !read_ok")
    assert tell(no, no).has is False
    assert tell(no, yes) == (True, "the verifier looked at its arguments (fentry)", "3.19")
    assert tell(no, (-errno.EPERM, b"")).has is None
    assert tell(yes, no).has is True
    assert tell(no, trials=(0, -errno.EINVAL)).has is False
    assert tell(no, trials=(0, -errno.EPERM)).has is None
    assert tell(trials=(-errno.EINVAL, -errno.EINVAL)).why.startswith("no program of this type")


def test_types_without_a_place(old):
    """A kernel that shows no BTF."""
    assert features.helper(ProgType.TRACING, 1).has is None
    assert features.kfunc(ProgType.XDP, "vfs_read").why == "the kernel shows no BTF"
    assert features.kfuncs_for(ProgType.XDP) is None
    assert features.prog_type(ProgType.TRACING).has is False  # it came with 5.5


def test_text(old, capsys):
    assert main(["features", "ringbuf"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "map types: 2 no"
    assert lines[2].split() == ["ringbuf", "no", "5.8"]
    assert main(["features", "-v", "hash_of"]) == 0
    assert "one was made" in capsys.readouterr().out


def test_json(old, capsys):
    assert main(["features", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["map types"]["ringbuf"]["has"] is False
    assert found["program types"]["xdp"]["has"] is True
    assert set(found["settings"]) >= {"kernel.unprivileged_bpf_disabled", "lockdown"}
    assert found["settings"]["CONFIG_BPF_LSM"] is None  # which cannot be read


def test_the_configuration_of_the_kernel(old):
    old.files["/proc/config.gz"] = b"CONFIG_BPF=y\n# CONFIG_XFRM is not set\nCONFIG_HZ=250\n"
    told = {name: value for name, value, _ in features.settings()}
    assert (told["CONFIG_BPF"], told["CONFIG_XFRM"], told["CONFIG_HZ"]) == ("y", "n", "250")
    assert told.keys() >= features.CONFIG.keys()


def test_mistakes(old, capsys):
    assert main(["features", "--helpers", "xpd"]) == 2
    assert "did you mean 'xdp'" in capsys.readouterr().err
    assert main(["features", "no-such-thing"]) == 1
    assert main(["features", "--kfuncs", "xdp"]) == 1
    assert "does not say which functions" in capsys.readouterr().err
    assert door.current() is old
