"""Stack traces as names: of stack maps, of records, with build ids, and folded for flame graphs."""

from __future__ import annotations

import errno
import sys
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.symbols.frame import Frame
from pybpfload.symbols.kernel import KernelSymbols
from pybpfload.symbols.process import UserSymbols
from pybpfload.uapi import MapFlag, MapType

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pybpfload.runtime.map import Map

__all__ = ["BuildIdFrame", "Stacks", "read_build_ids"]

_BUILD_ID = Struct("=i20sQ")  # as pybpfload.formats.stack describes it
_NOTHING, _VALID, _IP = 0, 1, 2
_ADDRESS = Struct("=Q")

_WHY = {
    errno.EEXIST: "another stack is in its place of the map: stacks go by a hash of {entries} "
    "places. Give the map more max_entries, or the program BPF_F_REUSE_STACKID",
    errno.EFAULT: "there is none of this kind: no kernel code was running, or a kernel thread has "
    "no user stack",
    errno.ENOMEM: "there was no memory or buffer for it",
    errno.EINVAL: "the program's flags are not those that bpf_get_stackid() knows",
}


class BuildIdFrame(NamedTuple):
    """A level of a stack trace that was taken with build ids.

    Attributes:
        build_id: Of the file; empty if the kernel could not tell, because the page that has it was
            not in memory.
        offset: In the file; without a build id, the address.
    """

    build_id: bytes
    offset: int


def read_build_ids(data: bytes) -> list[BuildIdFrame]:
    """Levels of a stack trace with build ids (:mod:`pybpfload.formats.stack`), innermost first."""
    found = []
    for status, build_id, offset in _BUILD_ID.iter_unpack(data[: len(data) // 32 * 32]):
        if status not in (_VALID, _IP):
            break
        found.append(BuildIdFrame(build_id if status == _VALID else b"", offset))
    return found


class Stacks:
    """Turns stack traces into frames.

    Args:
        map: The map of type ``STACK_TRACE`` that ids are of; none for stacks in records only.
        kernel: Symbols of the kernel; read when they are first needed by default.
        user: Symbols of processes; shared with other instances by handing them in.
    """

    def __init__(
        self,
        map: Map[Any, Any] | None = None,  # noqa: A002 - the kernel's word
        *,
        kernel: KernelSymbols | None = None,
        user: UserSymbols | None = None,
    ) -> None:
        if map is not None and map.type != MapType.STACK_TRACE:
            raise TypeError(f"map {map.name} is of type {map.type.name}, not STACK_TRACE")
        self._map = map
        self._kernel = kernel
        self.user = user or UserSymbols()

    @property
    def kernel(self) -> KernelSymbols:
        """Symbols of the kernel."""
        if self._kernel is None:
            self._kernel = KernelSymbols()
        return self._kernel

    def addresses(self, stack_id: int) -> list[int] | list[BuildIdFrame]:
        """A stack trace of the map as the kernel has it, innermost level first.

        Raises:
            KeyError: There is none of that id; says why.
            TypeError: There is no map.
        """
        if self._map is None:
            raise TypeError("there is no map of stacks: Stacks(obj.maps[NAME])")
        if stack_id < 0:
            raise KeyError(self.explain(stack_id))
        if not self._map.flags & MapFlag.STACK_BUILD_ID:
            found: list[int] = self._map[stack_id]
            return found
        raw = self._map.lookup_bytes(stack_id.to_bytes(4, sys.byteorder))
        if raw is None:
            raise KeyError(f"{stack_id} is not in map {self._map.name}")
        return read_build_ids(raw)

    def explain(self, stack_id: int) -> str | None:
        """What a negative stack id means, one sentence; ``None`` for others."""
        if stack_id >= 0:
            return None
        name = errno.errorcode.get(-stack_id, str(-stack_id))
        entries = self._map.max_entries if self._map is not None else "its"
        why = _WHY.get(-stack_id, "the kernel did not take it").format(entries=entries)
        return f"no stack was kept (-{name}): {why}"

    def frames(self, stack_id: int, pid: int | None = None) -> list[Frame]:
        """A stack trace of the map, innermost frame first.

        Args:
            stack_id: What ``bpf_get_stackid()`` returned. Negative: -EFAULT (there is no such
                stack) gives no frames, another error one frame that says so, as
                ``[lost stack: EEXIST]``, so that samples can still be counted.
            pid: The process for stacks of user space (``BPF_F_USER_STACK``); ``None`` for stacks
                of the kernel.

        Raises:
            KeyError: The map has no such stack (any more).
        """
        if stack_id == -errno.EFAULT:
            return []
        if stack_id < 0:
            name = errno.errorcode.get(-stack_id, str(-stack_id))
            return [Frame(0, f"[lost stack: {name}]", is_kernel=pid is None)]
        return self.resolve(self.addresses(stack_id), pid)

    def resolve(
        self,
        stack: Sequence[int | BuildIdFrame] | bytes,
        pid: int | None = None,
        *,
        build_ids: bool = True,
    ) -> list[Frame]:
        """Frames of a stack trace that is at hand, innermost first.

        Args:
            stack: Addresses, as ``bpf_get_stack()`` writes them into records: what is behind a 0
                does not count; or levels with build ids, also as ``bytes``.
            pid: As for :meth:`frames`.
            build_ids: Of ``bytes``, whether they are levels with build ids
                (``BPF_F_USER_BUILD_ID``), else addresses of 8 bytes.

        Raises:
            ValueError: The bytes are no levels with build ids.
        """
        levels: Sequence[int | BuildIdFrame]
        if not isinstance(stack, bytes):
            levels = stack
        elif build_ids:
            status = int.from_bytes(stack[:4], sys.byteorder, signed=True)
            if status not in (_NOTHING, _VALID, _IP):
                raise ValueError(
                    f"no stack with build ids begins with {status:#x}; build_ids=False if these "
                    "are addresses"
                )
            levels = read_build_ids(stack)
        else:
            levels = [address for (address,) in _ADDRESS.iter_unpack(stack[: len(stack) & -8])]
        found = []
        for level, each in enumerate(levels):
            # All but the innermost are where execution goes on after a call.
            if isinstance(each, BuildIdFrame):
                found.append(self._in_file(each, pid, level > 0))
            elif not each:
                break
            elif pid is None:
                found.append(self.kernel.frame(each, is_return=level > 0))
            else:
                found.append(self.user.frame(pid, each, is_return=level > 0))
        return found

    def _in_file(self, each: BuildIdFrame, pid: int | None, is_return: bool) -> Frame:
        if each.build_id:
            return self.user.frame_in_file(each.build_id, each.offset, pid=pid, is_return=is_return)
        if pid is None:
            return Frame(each.offset)
        return self.user.frame(pid, each.offset, is_return=is_return)

    def folded(
        self, comm: str, *, user: int | None = None, kernel: int | None = None, pid: int = 0
    ) -> tuple[str, ...]:
        """One stack for :mod:`pybpfload.charts`: outermost first, user space before the kernel.

        Args:
            comm: The first level, usually the name of the process.
            user: Id of the stack of user space, if any.
            kernel: Id of the stack of the kernel, if any; its frames are marked ``_[k]``.
            pid: The process.

        Returns:
            Names of the levels.
        """
        inner = [] if kernel is None else [f"{each.name}_[k]" for each in self.frames(kernel)]
        outer = [] if user is None else [each.name for each in self.frames(user, pid)]
        return (comm, *reversed(outer), *reversed(inner))
