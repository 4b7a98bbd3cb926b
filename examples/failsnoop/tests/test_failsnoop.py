import os
import subprocess

import pytest
from failsnoop import Failure, failures, open_object

from pybpfload.testing import assert_loads


def test_it_loads(kernel_btf):
    """On each kernel that pytest was told of: their types are enough, no kernel runs."""
    assert_loads(open_object(), kernel_btf)


def test_it_tells_why(bpf_load, bpf_run, kernel_btf):
    """On an interpreter, with a task laid out as that kernel has them."""
    loaded = bpf_load(open_object(), btf=kernel_btf, on="interpreter")
    task = loaded.interpreter.memory.place(
        kernel_btf, "task_struct", {"pid": 7, "tgid": 7, "exit_code": 9, "comm": "victim"}
    )
    bpf_run(loaded["on_exit"], ctx=[task])
    (event,) = loaded.maps["failures"].events()
    assert (event.pid, event.comm, event.status) == (7, "victim", 9)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to load BPF")
def test_it_sees_children_fail():
    spec = open_object()
    spec.rodata.parent = os.getpid()
    with spec.load() as obj:
        obj.attach()
        subprocess.run(["sh", "-c", "exit 3"], check=False)
        subprocess.run(["true"], check=True)
        subprocess.run(["sh", "-c", "kill -9 $$"], check=False)
        seen = list(failures(obj, timeout=1))
    assert [each.why for each in seen] == ["exit status 3", "killed by signal 9"]
    assert all(isinstance(each, Failure) and each.command == "sh" for each in seen)
