"""One function per command of bpf(2), for people who need the kernel's own interface.

Everything of :mod:`pybpfload.kernel.bpf`, and the door itself: :func:`bpf` takes a command number
and the memory of a ``bpf_attr``.
"""

from __future__ import annotations

import pybpfload.kernel.bpf as commands
from pybpfload.kernel.bpf import *  # noqa: F403
from pybpfload.kernel.door import bpf, ioctl, log_calls, perf_event_open
from pybpfload.kernel.fd import FileDescriptor

__all__ = ["FileDescriptor", "bpf", "ioctl", "log_calls", "perf_event_open"]
__all__ += commands.__all__
