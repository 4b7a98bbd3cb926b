"""Exceptions of signal handlers, at every place where CPython may run a handler."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Tick", "interrupted"]


class Tick(Exception):
    """What a handler raises; an ``Exception``, as TimeoutError is, so it might be mistaken."""


def interrupted(call: Callable[[], Any], number: int) -> Any:
    """Call a function, and raise where CPython may run a handler for the number-th time.

    That is at the start of each function and behind each call of one that is written in C.
    """

    def profile(frame: Any, event: str, arg: Any) -> None:
        nonlocal number
        if event in ("call", "c_return"):
            number -= 1
            if number == 0:
                sys.setprofile(None)
                raise Tick

    sys.setprofile(profile)
    try:
        return call()
    finally:
        sys.setprofile(None)
