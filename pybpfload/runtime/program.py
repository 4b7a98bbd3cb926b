"""Loaded programs."""

from __future__ import annotations

import copy
import errno
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pybpfload.errors import BpfError, KernelError, NotSupportedError
from pybpfload.kernel import bpf, bpffs
from pybpfload.kernel.token import shown
from pybpfload.object.spec import ProgramSpec
from pybpfload.runtime.handles import Handle
from pybpfload.runtime.target import AttachTarget
from pybpfload.uapi import ProgType, StreamId

if TYPE_CHECKING:
    import io
    import os
    from collections.abc import Iterator, Mapping

    from typing_extensions import Buffer, Self

    from pybpfload.kernel.fd import FileDescriptor
    from pybpfload.kernel.token import Token
    from pybpfload.runtime.jited import JitedFunction
    from pybpfload.runtime.link import Link
    from pybpfload.runtime.map import Map
    from pybpfload.runtime.xlated import XlatedLine

__all__ = ["Program"]


class Program(Handle):
    """A program in the kernel.

    Args:
        fd: The program, owned by this object from now on.
        spec: What it was loaded from.
        target: What it was loaded for.
        log: As below.
        maps: As below.
        token: What its object was loaded with, open as long as that, or ``None``.

    Attributes:
        name: Its whole name; the kernel knows the first 15 characters.
        spec: What it was loaded from: a copy, so that editing the object's spec changes nothing.
        log: Verifier log, when ``log_level`` asked for one.
        maps: Maps of its object by name; none when it was opened by a pin or an id.
        pin_path: Where it was pinned by :meth:`pin` or opened from, or ``None``.
        links: What :meth:`attach` made. Closing the program closes them; one that is taken out of
            the list is yours to close.
    """

    _kind = "program"

    def __init__(
        self,
        fd: FileDescriptor,
        spec: ProgramSpec,
        *,
        target: AttachTarget | None = None,
        log: str = "",
        maps: Mapping[str, Map[Any, Any]] | None = None,
        token: Token | None = None,
    ) -> None:
        self._fd = fd
        self.spec = copy.copy(spec)
        self.name = spec.name
        self.log = log
        self.maps = maps if maps is not None else {}
        self.pin_path: str | None = None
        self.links: list[Link] = []
        self._target = target or AttachTarget()
        self._token = token

    @classmethod
    def _of(cls, fd: FileDescriptor) -> Self:
        try:
            info = bpf.prog_info(fd.fileno(), arrays=False)
            spec = ProgramSpec(info.name or fd.what, "", [], prog_type=info.type)
            return cls(fd, spec)
        except BaseException:
            fd.close()
            raise

    @property
    def attached(self) -> bool:
        """Whether one of its links is open."""
        return any(not link.closed for link in self.links)

    @property
    def type(self) -> ProgType:
        """Program type."""
        return self.spec.prog_type

    @property
    def attach_target(self) -> str:
        """What it was loaded for, ``""`` when that is told at attach."""
        return self._target.name

    def info(self, *, code: bool = True) -> bpf.ProgInfo:
        """Ask the kernel about it (``BPF_OBJ_GET_INFO_BY_FD``, Linux 4.13).

        Args:
            code: Whether to fetch the instructions and the machine code, too.
        """
        return bpf.prog_info(self.fileno(), code=code)

    def whole_name(self) -> str:
        """Its name in the kernel, by its BTF where the 15 characters that the kernel keeps end."""
        from pybpfload.runtime.debuginfo import whole_name

        return whole_name(self.info(code=False))

    def xlated(self) -> list[XlatedLine]:
        """Its instructions as the verifier has left them, with names and source lines.

        Raises:
            NotPermittedError: The kernel does not show them to this process.
        """
        from pybpfload.runtime.xlated import xlated

        return xlated(self.info())

    def jited(self, *, text: bool = False) -> list[JitedFunction]:
        """Its machine code by function, with source lines.

        Args:
            text: Whether to disassemble it, by objdump or capstone.

        Raises:
            NotSupportedError: It is not compiled; or, for ``text``, neither of the two is
                installed.
            NotPermittedError: The kernel does not show the machine code to this process.
        """
        from pybpfload.runtime.jited import jited

        return jited(self.info(), text=text)

    def attach(self, target: Any = None, **options: Any) -> Link:
        """Attach it where its section name says, or where the arguments say.

        By family, with the module of :mod:`pybpfload.runtime.attach` whose ``attach()`` tells all
        of its target and its options:

        * fentry, fexit, fmod_ret, fsession, freplace, tp_btf, lsm (``tracing``): no target, they
          are verified against it (:meth:`ProgramSpec.set_attach_target`); ``cookie``
        * fentry.multi, fexit.multi, fsession.multi (``tracing_multi``): a pattern or list of
          functions; ``cookies``
        * iter (``iter``): no target; ``map``, ``pid``, ``tid``, ``pidfd``, ``cgroup``,
          ``cgroup_id``, ``order``
        * raw_tp (``raw_tracepoint``): a name without category; ``cookie``
        * tp (``tracepoint``): ``"category/name"``; ``cookie``
        * kprobe, kretprobe, ksyscall, kretsyscall (``kprobe``): ``"function"``,
          ``"function+offset"``, an address; ``cookie``, ``link``, ``via``, ``on_return``
        * kprobe.multi, kretprobe.multi, kprobe.session (``kprobe_multi``): a pattern, a list of
          functions or addresses; ``cookies``, ``on_return``
        * uprobe, uretprobe (``uprobe``): ``"file:function+offset"``; ``symbol``, ``offset``,
          ``pid``, ``cookie``, ``ref_ctr_offset``, ``link``, ``via``, ``on_return``
        * uprobe.multi, uretprobe.multi, uprobe.session (``uprobe_multi``): ``"file:pattern"``;
          ``symbols``, ``offsets``, ``ref_ctr_offsets``, ``cookies``, ``pid``, ``on_return``
        * usdt (``usdt``): ``"file:provider:name"``; ``provider``, ``name``, ``pid``, ``cookie``
        * perf_event (``perf_event``): the name of an event, ``(type, config)``, an open event;
          ``frequency``, ``period``, ``pid``, ``cpu``, ``cookie``, ``link``
        * xdp (``xdp``): a network device; ``mode``, ``link``, ``replace``
        * tc, tcx, netkit (``tc``): a network device; ``direction``, ``link``, ``before``,
          ``after``, ``revision``, ``priority``, ``handle``, ``replace``
        * cgroup, sockops, lsm_cgroup (``cgroup``): a directory; ``link``, ``before``, ``after``,
          ``revision``, ``sharing``
        * sk_lookup, flow_dissector (``netns``): a network namespace, the own one by default
        * netfilter (``netfilter``): a hook; ``family``, ``priority``, ``defrag``
        * socket, sk_reuseport, sk_msg, sk_skb (``sockets``): a socket or a map of them; ``link``
        * lwt (``lwt``): the prefix of a route; ``device``, ``gateway``, ``beside``, ``type``,
          ``table``, ``metric``, ``headroom``, ``replace``
        * lirc_mode2 (``lirc``): an infrared receiver

        Args:
            target: Where, if the section does not say, or instead of what it says.
            **options: Those of the family. ``cookie`` is an ``int`` that the program gets from
                ``bpf_get_attach_cookie()``: perf events of all sorts since 5.15, fentry, fexit,
                fmod_ret and lsm since 5.19, raw_tp and tp_btf since 6.10.

        Returns:
            The link. It belongs to this program, which closes it when it is closed itself.

        Raises:
            AttachError: Nothing says where, it does not exist, or the family has no such option.
            FormatError: The file of a uprobe or USDT program is damaged.
            NotSupportedError: The kernel cannot do it.
            KernelError: The kernel refuses.
            ValueError: It is closed, or an option has a value that makes no sense.
        """
        from pybpfload.runtime.attach import attach

        self.fileno()
        with shown(self._token):
            link = attach(self, self._target, target, options)
        self.links = [*(known for known in self.links if not known.closed), link]
        return link

    def iter(self, **options: Any) -> Iterator[str]:
        """Run an iterator program once and yield its output by lines, without their newlines.

        Args:
            **options: What to iterate over, as for :meth:`attach`.

        Raises:
            AttachError: It is not an iterator program.
        """
        from pybpfload.runtime.attach.iter import lines

        return lines(self.open_iter(**options))

    def open_iter(self, **options: Any) -> io.BufferedReader:
        """Run an iterator program and return its output as a binary file object.

        Args:
            **options: What to iterate over, as for :meth:`attach`.

        Raises:
            AttachError: It is not an iterator program.
        """
        from pybpfload.runtime.attach import iter as iterators

        return iterators.open_stream(self, self._target, options)

    def read_stream(self, which: str = "stdout") -> str:
        """Take what it has written with ``bpf_stream_printk()`` (Linux 6.17).

        The kernel writes there too: what went wrong while it ran, on ``"stderr"``.

        Args:
            which: ``"stdout"`` or ``"stderr"``.

        Returns:
            All that has come since the last call.

        Raises:
            ValueError: There is no such stream.
            NotSupportedError: The kernel has no streams.
        """
        if which.upper() not in ("STDOUT", "STDERR"):
            raise ValueError(f"there is no stream {which!r}; there are stdout and stderr")
        stream = StreamId[which.upper()]
        parts: list[bytes] = []
        try:
            while part := bpf.prog_stream_read(self.fileno(), stream):
                parts.append(part)
        except KernelError as error:
            if error.errno == errno.EINVAL:
                raise NotSupportedError(
                    f"program {self.name}: this kernel has no streams",
                    feature="program streams",
                    since="6.17",
                ) from error
            raise
        return b"".join(parts).decode(errors="replace")

    def test_run(
        self,
        data: Buffer = b"",
        *,
        ctx: Buffer = b"",
        repeat: int = 1,
        data_size_out: int | None = None,
        ctx_size_out: int = 0,
        flags: int = 0,
        cpu: int = 0,
    ) -> bpf.TestRun:
        """Run it on given input without attaching it (``BPF_PROG_TEST_RUN``, Linux 4.12).

        Args:
            data: Packet, for program types that work on packets.
            ctx: Context, for types that take one (raw_tp, syscall, sk_lookup, and ``struct
                __sk_buff`` of tc programs).
            repeat: How often to run; the duration is the average.
            data_size_out: Room for the packet afterwards, in bytes; the kernel's answer otherwise.
            ctx_size_out: Room for the context afterwards, in bytes.
            flags: :class:`pybpfload.uapi.TestRunFlag`.
            cpu: On which CPU, with the flag ``RUN_ON_CPU`` (raw_tp, 5.10).

        Returns:
            ``retval``, ``duration`` in ns, ``data_out``, ``ctx_out``.

        Raises:
            KernelError: This program type cannot be tested so (errno 524), or the input is not
                accepted.
        """
        # raw_tp and syscall programs are run once and refuse a count.
        single = self.spec.prog_type.name in ("RAW_TRACEPOINT", "SYSCALL", "TRACING")
        try:
            return bpf.prog_test_run(
                self.fileno(),
                data_in=data,
                data_size_out=data_size_out,
                ctx_in=ctx,
                ctx_size_out=ctx_size_out,
                repeat=0 if single and repeat == 1 else repeat,
                flags=flags,
                cpu=cpu,
            )
        except KernelError as error:
            error.target = f"program {self.name}"
            if error.errno == errno.EINVAL:
                error.hint = _what_a_test_takes(self.spec.prog_type, memoryview(data).nbytes)
            elif error.errno == errno.EFAULT and self.spec.prog_type == ProgType.TRACING:
                error.hint = "of tracing programs only fentry, fexit and fmod_ret can be tested so"
            raise

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Keep it loaded beyond this process, as a file on a bpffs (Linux 4.4).

        Args:
            path: Where. A missing folder is made (mode 0700), but only one.

        Raises:
            KernelError: EEXIST: something is there; EINVAL: the folder is not on a bpffs.
        """
        self.pin_path = bpffs.pin(self.fileno(), path)

    def unpin(self) -> None:
        """Remove the pin; the program stays as long as it is open or attached.

        Raises:
            BpfError: It is not pinned.
            KernelError: ENOENT: somebody else has removed it.
        """
        if self.pin_path is None:
            raise BpfError(f"program {self.name} is not pinned")
        bpffs.unpin(self.pin_path)
        self.pin_path = None

    def close(self) -> None:
        """Detach its links and unload it, unless others hold it. Closing again does nothing."""
        links, self.links = self.links, []
        with ExitStack() as stack:  # whatever fails, all the others are closed
            stack.callback(self._fd.close)
            for link in links:
                stack.callback(link.close)

    def __repr__(self) -> str:
        state = "closed " if self._fd.closed else ""
        return f"<{state}Program {self.name} SEC({self.spec.section!r})>"

    def _repr_html_(self) -> str:
        from importlib import import_module  # the room of commands is above this one

        return str(import_module("pybpfload.cli.notebook").program(self))


_ON_PACKETS = (
    ProgType.XDP,
    ProgType.SCHED_CLS,
    ProgType.SCHED_ACT,
    ProgType.SOCKET_FILTER,
    ProgType.CGROUP_SKB,
    ProgType.FLOW_DISSECTOR,
    ProgType.LWT_IN,
    ProgType.LWT_OUT,
    ProgType.LWT_XMIT,
)


def _what_a_test_takes(kind: ProgType, length: int) -> str | None:
    """The likely reason why the kernel refuses the input of a test run."""
    if kind in _ON_PACKETS and length < 14:
        return "a packet has at least 14 bytes, an Ethernet header"
    if kind == ProgType.RAW_TRACEPOINT:
        return (
            "it takes no packet, is run once, and its context has all the arguments that it reads, "
            "8 bytes each"
        )
    return None
