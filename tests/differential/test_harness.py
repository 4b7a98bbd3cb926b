"""The comparison itself: it sees what differs, and outlives what crashes."""

from __future__ import annotations

import sys

import libbpf_compare as compare
import libbpf_pool as pool
import pytest
from libbpf_kernel import NATIVE, Recorder

import pybpfload
from pybpfload.isa import insn as isa

FOLDER = pool.ROOT / "fixtures" / ("bpfel" if NATIVE == "<" else "bpfeb")
MINIMAL = FOLDER / "minimal.bpf.o"


def loaded(spec: pybpfload.ObjectSpec) -> tuple[Recorder, compare.Loaded]:
    """What a scripted kernel is given of a spec."""
    kernel = Recorder()
    with kernel:
        obj = spec.load()
        maps = {name: each.fileno() for name, each in obj.maps.items()}
        programs = {name: each.fileno() for name, each in obj.programs.items()}
        found = compare.Loaded.of(kernel, maps, programs)
        obj.close()
    return kernel, found


def differences(change) -> list[str]:
    """What is told when one of two loaders is given a changed object."""
    changed = pybpfload.open(MINIMAL)
    change(changed)
    (left, theirs), (right, ours) = loaded(pybpfload.open(MINIMAL)), loaded(changed)
    result = compare.Result("minimal", "a test")
    compare.compare_loaded(result, (left, right), theirs, ours)
    assert result.counts["programs"] == 1
    assert result.counts["maps"] == 3
    return result.differences


def change_code(spec: pybpfload.ObjectSpec) -> None:
    program = spec.programs["count_syscalls"]
    program.insns[-2] = isa.mov64_imm(0, 7)


def change_lines(spec: pybpfload.ObjectSpec) -> None:
    spec.btf_ext = None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda spec: None, []),
        (lambda spec: setattr(spec.maps["counts"], "max_entries", 2), ["max_entries"]),
        (lambda spec: setattr(spec.maps["counts"], "name", "others"), ["map_name"]),
        (lambda spec: setattr(spec, "license", "MIT"), ["license"]),
        (lambda spec: setattr(spec, "kernel_version", 7), ["kern_version"]),
        (lambda spec: setattr(spec.variables["target_tgid"], "value", 5), ["elements"]),
        (change_code, ["instruction 22"]),
        (change_lines, ["func_info", "func_info_rec_size", "line_info", "func_info_cnt"]),
    ],
    ids=["nothing", "entries", "name", "license", "version", "contents", "code", "info"],
)
def test_what_differs_is_seen(change, expected):
    found = differences(change)
    assert bool(found) == bool(expected)
    for words in expected:
        assert any(f": {words}:" in line for line in found)


def test_a_documented_difference_is_kept_apart():
    result = compare.Result("x", "y")
    result.say("program p: section tp.s/x is not in the table of libbpf v1.7")
    result.say("program p: section other")
    assert (len(result.known), result.differences) == (1, ["program p: section other"])


@pytest.mark.differential
def test_a_worker_that_takes_too_long_is_told_of_and_replaced():
    if reason := pool.why_not():
        pytest.skip(reason)
    setting = pool.Setting("core_target", FOLDER / "core_target.bpf.o")
    with pool.Worker(setting, patience=0) as worker:
        assert "took more than 0 s" in worker.compare(MINIMAL).crashed
    with pool.Worker(setting) as worker:
        assert worker.compare(MINIMAL).counts["loaded"] == 1
        assert worker._process is not None
        worker._process.kill()
        worker._process.wait()
        assert worker.compare(MINIMAL).counts["loaded"] == 1


@pytest.mark.differential
def test_results_of_several_workers():
    if reason := pool.why_not():
        pytest.skip(reason)
    setting = pool.Setting("core_target", FOLDER / "core_target.bpf.o")
    paths = [MINIMAL, FOLDER / "globals.bpf.o", FOLDER / "bad_common.bpf.o"]
    totals = pool.Totals()
    for result in pool.compare_all([(setting, path) for path in paths], jobs=2):
        totals.add(result)
    assert totals.comparisons == 3
    assert totals.counts["loaded"] == 2
    assert [reason.partition(":")[0] for reason in totals.refusals] == ["open"]
    assert not totals.different


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["missing.bpf.o"], "there is no missing.bpf.o"),
        (["--btf", "missing.btf"], "there is no missing.btf"),
        (["--kernel", "moon"], "no kernel is called moon; there are 5.10"),
        (["--module", "bridge"], "--module goes with --kernel"),
        (["--kernel", "6.12", "--module", "bridge", "--age", "5.4"], "without --age"),
        (["--age", "old"], "such as 5.4, not old"),
        (["-j0"], "--jobs wants one at least"),
    ],
)
def test_options_that_make_no_sense(monkeypatch, capsys, arguments, problem):
    monkeypatch.syspath_prepend(str(pool.ROOT / "tools" / "lib"))
    import differential

    monkeypatch.setattr(sys, "argv", ["differential", *arguments])
    with pytest.raises(SystemExit) as ended:
        differential.main("")
    assert ended.value.code == 2
    assert problem in capsys.readouterr().err
