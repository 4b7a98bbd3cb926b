"""Kernels in virtual machines: run commands and tests on kernels of several ages and kinds.

    from pybpfload.testing.vm import run

    result = run("6.1", ["python3", "-c", "import os; print(os.uname().release)"])
    print(result.exit_status, result.stdout)

Works on Debian (apt, dpkg) without any privilege: kernels, QEMU and the guest's userland come from
Debian's archive and are kept in a cache folder. `python -m pybpfload.testing.vm` is the same for
the shell.
"""

from __future__ import annotations

from pybpfload.testing.vm.cache import VirtualMachineError, cache_folder
from pybpfload.testing.vm.kernels import KERNELS, Kernel, fetch
from pybpfload.testing.vm.kernels import find as find_kernel
from pybpfload.testing.vm.machine import DIED, TIMED_OUT, Result, VirtualMachine, run

__all__ = [
    "DIED",
    "KERNELS",
    "TIMED_OUT",
    "Kernel",
    "Result",
    "VirtualMachine",
    "VirtualMachineError",
    "cache_folder",
    "fetch",
    "find_kernel",
    "run",
]
