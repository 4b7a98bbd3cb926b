"""``test-run`` with captures and contexts, ``iter run`` over what is said, on this kernel."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import pybpfload
from pybpfload.cli import main
from pybpfload.formats.pcap import ETHERNET, read_pcap, write_pcap

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb")


def said(capsys, *words, status=0):
    assert main(list(map(str, words))) == status
    return capsys.readouterr()


def test_packets_in_and_out(tmp_path, capsys):
    packets = [bytes(range(60)), bytes(range(100, 160))]
    (tmp_path / "in.pcap").write_bytes(write_pcap(packets))
    with pybpfload.open(FIXTURES / "test_run.bpf.o").load() as obj:
        number = obj.programs["swap_addresses"].info(code=False).id
        words = ("test-run", "id", number, "--pcap", tmp_path / "in.pcap")
        out, err = said(capsys, *words, "--write", tmp_path / "out.pcap")
        assert (out.count("returned 3 (XDP_TX), "), err) == (2, "")
        swapped = [each[6:12] + each[:6] + each[12:] for each in packets]
        assert read_pcap((tmp_path / "out.pcap").read_bytes()) == (ETHERNET, swapped)


def test_a_context_that_is_too_short(capsys):
    with pybpfload.open(FIXTURES / "test_run.bpf.o").load() as obj:
        number = obj.programs["add_arguments"].info(code=False).id
        out, err = said(capsys, "test-run", number, status=1)
        assert out == ""
        assert "8 bytes each" in err
        out, _ = said(capsys, "test-run", number, "--ctx", bytes(16).hex())
        assert out.startswith("returned 0, ")


def test_a_program_of_a_tracepoint_with_btf(capsys):
    with pybpfload.open(FIXTURES / "execsnoop.bpf.o").load() as obj:
        number = obj.programs["on_exec"].info(code=False).id
        _, err = said(capsys, "test-run", number, "--ctx", bytes(24).hex(), status=1)
    assert "only fentry, fexit and fmod_ret" in err


def test_iterators_of_one_process(capsys):
    path = FIXTURES / "iters.bpf.o"
    out, err = said(capsys, "--json", "iter", "run", "--pid", os.getpid(), path)
    lines = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert {"iter_task", "iter_task_file", "iter_task_vma"} <= {each["program"] for each in lines}
    assert {each["line"].split()[1] for each in lines} == {str(os.getpid())}
