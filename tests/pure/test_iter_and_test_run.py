"""What ``iter run`` chooses to run, and the input of ``test-run``; tests/live has a real kernel."""

import errno
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

import pybpfload
from pybpfload.cli import main
from pybpfload.cli.common import count
from pybpfload.cli.iter import _choose
from pybpfload.errors import KernelError
from pybpfload.formats.pcap import read_pcap, write_pcap
from pybpfload.testing.fakekernel import FakeKernel

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb")
MAPS = {"iter_bpf_map_elem", "iter_bpf_sk_storage_map", "iter_sockmap"}
TASKS = {"iter_task", "iter_task_sleepable", "iter_task_file", "iter_task_vma"}

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


def chosen(names=(), over=()):
    spec = pybpfload.open(FIXTURES / "iters.bpf.o")
    _choose(spec, list(names), set(over))
    return {name for name, program in spec.programs.items() if program.autoload}


@needs_linux
def test_iterators_that_need_not_be_told_over_what(capsys):
    found = chosen()
    assert TASKS | {"iter_tcp", "iter_bpf_prog"} <= found
    assert not found & (MAPS | {"iter_cgroup"})
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert any("iter_sockmap is left out" in line and "--map" in line for line in said)
    assert any("iter_cgroup is left out" in line and "--cgroup" in line for line in said)


@needs_linux
@pytest.mark.parametrize(
    ("over", "found"), [({"map"}, MAPS), ({"pid"}, TASKS), ({"cgroup"}, {"iter_cgroup"})]
)
def test_iterators_that_go_over_what_was_said(over, found, capsys):
    assert chosen(over=over) == found
    assert chosen(names=[min(found)], over=over) == {min(found)}
    assert capsys.readouterr().err == ""


@needs_linux
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--program", "iter_tcp", "--pid", "1", "iters"], "iter_tcp cannot be told --pid"),
        (["--map", "counts", "iter_task"], "no iterator of"),
        (["minimal"], "has no iterator programs"),
        (["--program", "iter_sockmap", "iters"], "iter_sockmap goes over what --map MAP says"),
        (["--pid", "0", "iters"], "'0' is no number of a process"),
        (["--tid", "-5", "iters"], "'-5' is no number of a process"),
        (["--pid", "1", "--map", "counts", "iters"], "not allowed with"),
    ],
)
def test_iterators_that_do_not_go_over_that(words, said, capsys):
    assert main(["iter", "run", *words[:-1], str(FIXTURES / f"{words[-1]}.bpf.o")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("packets", [[], [b"abc", bytes(70)], [b""]])
def test_captures_are_written_as_they_are_read(packets):
    assert read_pcap(write_pcap(packets, link_type=101)) == (101, packets)


@pytest.mark.parametrize("text", ["0", "-5", "x", "", "1.5", str(1 << 32)])
def test_counts(text):
    assert count("4294967295") == (1 << 32) - 1
    with pytest.raises(ArgumentTypeError, match="no count"):
        count(text)


@needs_linux
@pytest.mark.parametrize(
    ("program", "data", "hint"),
    [
        ("sum_bytes", b"", "Ethernet header"),
        ("accept_some", bytes(13), "Ethernet header"),
        ("add_arguments", b"", "8 bytes each"),
        ("sum_bytes", bytes(14), None),
    ],
)
def test_a_test_run_that_is_refused_says_what_it_takes(program, data, hint):
    path = FIXTURES / "test_run.bpf.o"
    files = {"/sys/kernel/btf/vmlinux": pybpfload.open(path).btf.to_bytes()}
    with FakeKernel(files=files) as kernel, pybpfload.open(path).load() as obj:
        kernel.refuses["PROG_TEST_RUN"] = errno.EINVAL
        with pytest.raises(KernelError) as caught:
            obj.programs[program].test_run(data)
    assert (caught.value.hint or "").endswith(hint or "")
    assert bool(caught.value.hint) == bool(hint)
