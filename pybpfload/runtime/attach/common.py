"""What the families share: making links, attachments without one, and the targets people name."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from pybpfload.errors import AttachError, BpfError, KernelError, NotSupportedError
from pybpfload.kernel import bpf, door, netdev
from pybpfload.kernel import btf as kernel_btf
from pybpfload.kernel.errors import kernel_error, missing_capabilities
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.kernel.netlink import KERNEL_SAYS
from pybpfload.kernel.since import first_version, version_pair
from pybpfload.kernel.version import kernel_version
from pybpfload.runtime.handles import duplicate
from pybpfload.runtime.link import Link
from pybpfload.uapi import AttachFlag, AttachType, name_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Hashable, Iterable, Mapping

    from pybpfload.runtime.handles import HasFileno
    from pybpfload.runtime.map import Map
    from pybpfload.runtime.program import Program

__all__ = [
    "PLACE_HINTS",
    "LegacyLink",
    "LinkGroup",
    "anchors",
    "check_options",
    "check_pid",
    "create_link",
    "device_index",
    "explain",
    "is_open",
    "open_target",
    "own_namespace",
    "raise_if_young",
    "require_cookies",
]

PLACE_HINTS = {
    errno.ENOENT: "the program or link to go before or after is not there",
    errno.ERANGE: "it cannot go there: the program or link to go before or after is not there",
    errno.EINVAL: "what to go before or after is not of this kind, or not attached in this way",
}
"""What error numbers mean when :func:`anchors` gave a place."""

_TOO_YOUNG = (errno.EINVAL, errno.E2BIG, errno.EOPNOTSUPP)  # what an old kernel says to new things


class LegacyLink(Link):
    """An attachment that the kernel makes no link of, held by this object all the same.

    Closing it detaches. It cannot be pinned, and it outlives a process that is killed, and an
    object that is dropped without being closed.

    Args:
        program: The program; the map, for struct_ops.
        kind: As for :class:`Link`.
        target: As for :class:`Link`.
        do: Attaches the program; done last, so that Ctrl-C, whenever it comes, finds somebody who
            undoes it.
        undo: Takes the program away again if it is still there; gets a descriptor of the program.
        held: What both need to be open; closed behind ``undo``, and if this fails.
        place: What has only one program at a time, which a younger one takes the place of.
            Closing an older link of this process then leaves the younger one alone, also if it is
            of the same program, so that the kernel could not tell them apart.
    """

    def __init__(
        self,
        program: Program | Map[Any, Any],
        *,
        kind: str,
        target: str,
        do: Callable[[], object],
        undo: Callable[[int], None],
        held: FileDescriptor | socket.socket | None = None,
        place: Hashable = None,
    ) -> None:
        self._undo = undo
        self._held = held
        self._place = place
        try:
            own = duplicate(program, f"owner of {kind} {program.name}")
        except BaseException:
            if held is not None:
                held.close()
            raise
        super().__init__(own, kind=kind, target=target, program=program.name)
        before = _youngest.get(place)
        if place is not None:
            _youngest[place] = self
        try:
            do()
        except BpfError:
            self._leave()
            if before is not None:
                _youngest[place] = before
            self._release()  # it was refused: there is nothing to undo
            raise
        except BaseException:
            with suppress(BpfError):  # what interrupts it is more telling than what follows
                self.close()
            raise

    def _leave(self) -> bool:
        """Leave the place; ``False`` if a younger link has it."""
        if self._place is None:
            return True
        return _youngest.get(self._place) is self and _youngest.pop(self._place) is self

    def _release(self) -> None:
        try:
            if self._held is not None:
                self._held.close()
        finally:
            super().close()

    def close(self) -> None:
        """Detach. Closing again does nothing.

        Raises:
            KernelError: It could not be detached; it may be gone already, with its target.
        """
        if self.closed:
            return
        try:
            if self._leave():
                self._undo(self.fileno())
        finally:
            self._release()

    def detach(self) -> None:
        """The same as :meth:`close`."""
        self.close()

    def _no_link(self, what: str) -> NotSupportedError:
        return NotSupportedError(
            f"{self!r} {what}: the kernel has no link of it", feature=f"{self.kind} links"
        )

    def info(self) -> bpf.LinkInfo:
        """Not to be had.

        Raises:
            NotSupportedError: Always.
        """
        raise self._no_link("has no info")

    def update(self, program: HasFileno, *, old: HasFileno | None = None) -> None:
        """Not to be had.

        Raises:
            NotSupportedError: Always.
        """
        raise self._no_link("cannot be updated")

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Not to be had.

        Raises:
            NotSupportedError: Always.
        """
        raise self._no_link("cannot be pinned")


_youngest: WeakValueDictionary[Hashable, LegacyLink] = WeakValueDictionary()


class LinkGroup(Link):
    """Several links that belong together, as one for each CPU; they are closed together.

    ``fileno()`` and ``info()`` are those of the first one that is open.

    Args:
        links: The links, at least one; owned from now on.
        target: As for :class:`Link`.

    Attributes:
        links: The links.
    """

    def __init__(self, links: list[Link], *, target: str) -> None:
        first = links[0]
        super().__init__(first._fd, kind=first.kind, target=target, program=first.program)
        self.links = links

    @property
    def closed(self) -> bool:
        """Whether all are closed."""
        return all(link.closed for link in self.links)

    def fileno(self) -> int:
        """The descriptor of the first link that is open.

        Raises:
            ValueError: All are closed.
        """
        return next((link for link in self.links if not link.closed), self.links[0]).fileno()

    def _require_link(self, what: str) -> None:
        for link in self.links:
            link._require_link(what)

    def close(self) -> None:
        """Detach all. Closing again does nothing.

        Raises:
            KernelError: One could not be detached; the others are, even so.
        """
        with ExitStack() as stack:
            for link in self.links:
                stack.callback(link.close)

    def detach(self) -> None:
        """Detach all at once but keep them; see :meth:`Link.detach`."""
        for link in self.links:
            link.detach()

    def update(self, program: HasFileno, *, old: HasFileno | None = None) -> None:
        """Put another program in the place of each, or of none; see :meth:`Link.update`."""
        self._require_link("cannot be updated")
        with ExitStack() as kept, ExitStack() as undo:
            for link in self.links:
                before = old if old is not None else kept.enter_context(_program_of(link))
                name = link.program
                link.update(program, old=old)
                undo.callback(_put_back, link, before, name)
            undo.pop_all()
        self.program = self.links[0].program

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Not to be had: pin each of :attr:`links`.

        Raises:
            NotSupportedError: Always.
        """
        raise NotSupportedError(f"{self!r} is {len(self.links)} links: pin each of `links`")


def check_options(program: Program, attach: Callable[..., Link], options: Iterable[str]) -> None:
    """Refuse options that a family does not take.

    Args:
        program: The program.
        attach: The family's ``attach()``, whose keyword-only arguments are its options.
        options: Names of those that are given.

    Raises:
        AttachError: One of them is not among these.
    """
    known = attach.__kwdefaults__ or {}
    if unknown := ", ".join(name for name in options if name not in known):
        raise AttachError(
            f"SEC({program.spec.section!r}) does not take {unknown}; "
            + (f"its options are {', '.join(known)}" if known else "it has no options"),
            program=program.name,
        )


def check_pid(pid: int) -> None:
    """Refuse negative numbers but -1, which all processes are watched for.

    Raises:
        ValueError: It is one.
    """
    if pid < -1:
        raise ValueError(f"pid is {pid}: neither a process nor -1, which stands for all")


def _put_back(link: Link, program: HasFileno, name: str) -> None:
    link.update(program)
    link.program = name


def _program_of(link: Link) -> FileDescriptor:
    number = link.info().prog_id
    return FileDescriptor(bpf.prog_get_fd_by_id(number), f"program id {number}")


def create_link(
    program: Program,
    target_fd: int,
    *,
    kind: str,
    target: str,
    since: str,
    hints: Mapping[int, str] | None = None,
    **options: Any,
) -> Link:
    """Attach a program by ``BPF_LINK_CREATE`` with its expected attach type.

    Args:
        program: The program.
        target_fd: Descriptor or interface index.
        kind: As for :class:`Link`.
        target: As for :class:`Link`.
        since: First kernel that has such links.
        hints: What error numbers mean here.
        **options: As for :func:`pybpfload.lowlevel.link_create`.

    Raises:
        NotSupportedError: The kernel has no such links.
        KernelError: The kernel refuses for another reason.
        ValueError: An option has no meaning for this attach type.
    """
    attach_type = program.spec.expected_attach_type
    try:
        fd = bpf.link_create(program.fileno(), target_fd, attach_type, **options)
    except KernelError as error:
        raise_if_young(error, program, f"{kind} links", since)
        explain(error, program, target, hints or {})
        raise
    return Link(
        FileDescriptor(fd, f"link of {program.name}"),
        kind=kind,
        target=target,
        program=program.name,
    )


def explain(error: KernelError, program: Program, target: str, hints: Mapping[int, str]) -> None:
    """Say of a refused attachment what it was for, and what the error number means there.

    Args:
        error: What the kernel answered.
        program: The program.
        target: What it was to be attached to.
        hints: What error numbers mean; the kernel's own words and missing capabilities go before.
    """
    error.target = f"program {program.name} to {target}"
    hint = hints.get(error.errno or 0)
    if hint is None or (error.errno == errno.EPERM and missing_capabilities("CAP_NET_ADMIN")):
        return
    said = error.hint if (error.hint or "").startswith(KERNEL_SAYS) else None
    error.hint = f"{said}; {hint}" if said else hint


def raise_if_young(error: KernelError, program: Program, feature: str, since: str) -> None:
    """Turn the refusal of a kernel that is too old into an error that says so.

    Args:
        error: What the kernel answered.
        program: The program.
        feature: What was asked for.
        since: First kernel that has it; the attach type of the program may be younger.

    Raises:
        NotSupportedError: The running kernel is older than that.
    """
    attach_type = AttachType(program.spec.expected_attach_type)
    born = first_version("AttachType", attach_type)
    if born is not None and version_pair(born) > version_pair(since):
        feature, since = f"attach type {name_of(attach_type)}", born
    running = kernel_version()
    if error.errno in _TOO_YOUNG and (running >> 16, running >> 8 & 255) < version_pair(since):
        raise NotSupportedError(
            f"program {program.name}: this kernel has no {feature}", feature=feature, since=since
        ) from error


def require_cookies(program: Program, *place: str, since: str) -> None:
    """Insist on attach cookies; some kernels would not notice that they were given one.

    Args:
        program: The program.
        *place: Members of ``union bpf_attr`` that lead to the structure with the cookie.
        since: First kernel that has it.

    Raises:
        NotSupportedError: The running kernel's own type has no place for it.
    """
    if kernel_btf.has_member("bpf_attr", *place, "cookie") is False:
        raise NotSupportedError(
            f"program {program.name}: this kernel has no attach cookies "
            f"for {program.spec.section.split('/')[0]} programs",
            feature="attach cookies",
            since=since,
        )


def anchors(
    before: Program | Link | bool | None, after: Program | Link | bool | None, revision: int
) -> dict[str, int]:
    """Options of :func:`create_link` for a place among the programs that are there already.

    Args:
        before: Go before this program or link; ``True``: before all.
        after: Go after it; ``True``: after all.
        revision: Refuse if the list has changed since it had this revision; 0 for any.

    Raises:
        ValueError: Both are given, or one is neither a program, a link, ``True`` nor ``None``.
    """
    from pybpfload.runtime.program import Program

    for name, given in (("before", before), ("after", after)):
        if not (given is None or given is True or isinstance(given, (Program, Link))):
            raise ValueError(f"{name} is {given!r}, not a program, a link or True")
    if before is None and after is None:
        return {"expected_revision": revision} if revision else {}
    if before is not None and after is not None:
        raise ValueError("before and after exclude each other")
    anchor = after if before is None else before
    options = {"flags": int(AttachFlag.AFTER if before is None else AttachFlag.BEFORE)}
    if isinstance(anchor, (Program, Link)):
        options["relative_fd"] = anchor.fileno()
        if isinstance(anchor, Link):
            options["flags"] |= AttachFlag.LINK
    return {**options, "expected_revision": revision}


def device_index(program: Program, target: object) -> int:
    """Index of the network device that was named as a target.

    Raises:
        AttachError: None is named, or there is none such.
    """
    if isinstance(target, bool) or not isinstance(target, (str, int)):
        raise AttachError(
            "it attaches to a network device: name one, as in attach('eth0')", program=program.name
        )
    try:
        index = netdev.interface_index(target)
    except KernelError as error:
        raise AttachError(
            f"{error.target}: {error.hint}", program=program.name, target=str(target)
        ) from error
    if not 0 < index < 1 << 31 or door.interface_name(index) is None:
        raise AttachError(f"{target} is no index of a network device", program=program.name)
    return index


def own_namespace() -> str:
    """Which network namespace this thread is in, ``net:[NUMBER]``.

    Numbers are used again when a namespace is gone, which an open socket prevents.
    """
    return door.real_path("/proc/thread-self/ns/net").rpartition("/")[2]


def is_open(target: object) -> bool:
    """Whether a target is a descriptor, which ``True`` is not, or anything with ``fileno()``."""
    return hasattr(target, "fileno") or (isinstance(target, int) and not isinstance(target, bool))


def open_target(
    program: Program, target: Any, what: str, *, default: str | None = None
) -> FileDescriptor:
    """A descriptor of our own for a target that is a path or open already.

    Args:
        program: The program.
        target: Path, descriptor, or something with ``fileno()``.
        what: What it should be, for messages.
        default: What to open for ``None``.

    Raises:
        AttachError: None is named, or there is none such.
        KernelError: It cannot be opened.
    """
    target = default if target is None else target
    if is_open(target):
        return duplicate(target, what)
    if target is None or isinstance(target, (bool, bytes, bytearray)):
        raise AttachError(f"it attaches to a {what}: name its path", program=program.name)
    try:
        path = os.fspath(target)
        return FileDescriptor(door.open_fd(path), f"{what} {path}")
    except TypeError as error:
        raise AttachError(f"{target!r} is no {what}: {error}", program=program.name) from None
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise AttachError(
                f"there is no {what} {target}", program=program.name, target=str(target)
            ) from error
        raise kernel_error(error.errno or errno.EIO, "open", f"{what} {target}") from None
