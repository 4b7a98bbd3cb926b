"""Loaded programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.kernel import bpf, bpffs
from pybpfload.runtime.target import AttachTarget

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.kernel.fd import FileDescriptor
    from pybpfload.object.spec import ProgramSpec
    from pybpfload.runtime.link import Link

__all__ = ["Program"]


class Program:
    """A program in the kernel.

    Attributes:
        name: Its whole name; the kernel knows the first 15 characters.
        spec: What it was loaded from.
        log: Verifier log, when ``log_level`` asked for one.
        links: Its open links, made by :meth:`attach`.
    """

    def __init__(
        self,
        fd: FileDescriptor,
        spec: ProgramSpec,
        *,
        target: AttachTarget | None = None,
        log: str = "",
    ) -> None:
        self._fd = fd
        self.spec = spec
        self.name = spec.name
        self.log = log
        self.links: list[Link] = []
        self._target = target or AttachTarget()

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._fd.fileno()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._fd.closed

    @property
    def type(self) -> Any:
        """Program type (:class:`pybpfload.uapi.ProgType`)."""
        return self.spec.prog_type

    @property
    def attach_target(self) -> str:
        """What it was loaded for, ``""`` when that is told at attach."""
        return self._target.name

    def info(self) -> Any:
        """Ask the kernel about it (``BPF_OBJ_GET_INFO_BY_FD``, Linux 4.13)."""
        return bpf.prog_info(self.fileno())

    def attach(self, target: str | None = None, **options: Any) -> Link:
        """Attach it where its section name says, or where the arguments say.

        Args:
            target: Instead of what the section says: ``"category/name"`` of a tracepoint, name of a
                raw tracepoint. Programs that are verified against their target (fentry, fexit,
                fmod_ret, tp_btf, lsm, iter) cannot choose it here; see
                :meth:`ProgramSpec.set_attach_target`.
            **options: ``cookie`` (an ``int`` that the program gets from
                ``bpf_get_attach_cookie()``: tracepoints since 5.15, fentry, fexit and fmod_ret
                since 5.19, raw tracepoints since 6.10); for iterators ``map``, ``pid``, ``tid``,
                ``pidfd``, ``cgroup``, ``order``, see :func:`pybpfload.runtime.attach.iter.attach`.

        Returns:
            The link. It belongs to this program, which closes it when it is closed itself.

        Raises:
            AttachError: Nothing says where, or it does not exist.
            NotSupportedError: The kernel cannot do it.
            KernelError: The kernel refuses.
        """
        from pybpfload.runtime.attach import attach

        link = attach(self, self._target, target, options)
        self.links = [known for known in self.links if not known.closed]
        self.links.append(link)
        return link

    def iter(self, **options: Any) -> Iterator[str]:
        """Run an iterator program once and yield its output by lines, without their newlines.

        Args:
            **options: What to iterate over, as for :meth:`attach`.

        Raises:
            AttachError: It is not an iterator program.
        """
        with self.open_iter(**options) as stream:
            for line in stream:
                yield line.decode("utf-8", "backslashreplace").rstrip("\n")

    def open_iter(self, **options: Any) -> Any:
        """Run an iterator program and return its output as a binary file object.

        Args:
            **options: What to iterate over, as for :meth:`attach`.

        Raises:
            AttachError: It is not an iterator program.
        """
        from pybpfload.runtime.attach import iter as iterators

        return iterators.open_stream(self, self._target, options)

    def test_run(
        self,
        data: bytes = b"",
        *,
        ctx: bytes = b"",
        repeat: int = 1,
        data_size_out: int | None = None,
        ctx_size_out: int = 0,
        flags: int = 0,
        cpu: int = 0,
    ) -> Any:
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

    def pin(self, path: str) -> None:
        """Keep it loaded beyond this process, as a file on a bpffs.

        Raises:
            BpfError: The folder is not on a bpffs.
            KernelError: There is something at that path.
        """
        bpffs.prepare_parent(path)
        bpf.obj_pin(self.fileno(), path)

    def close(self) -> None:
        """Detach its links and unload it, unless others hold it. Closing again does nothing."""
        links, self.links = self.links, []
        try:
            for link in reversed(links):
                link.close()
        finally:
            self._target.close()
            self._fd.close()

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self,
        kind: object,
        error: object,
        traceback: object,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed " if self._fd.closed else ""
        return f"<{state}Program {self.name} SEC({self.spec.section!r})>"
