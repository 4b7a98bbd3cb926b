"""Verifier logs as data and in words, offline: of any kernel, on any system.

:func:`explain` is what ``pybpfload log`` shows and what a
:class:`~pybpfload.errors.VerifierError` carries.
"""

from pybpfload.verifier.explain import Explanation, explain
from pybpfload.verifier.log import Log, read, split

__all__ = ["Explanation", "Log", "explain", "read", "split"]
