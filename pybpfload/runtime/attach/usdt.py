"""Probes that programs declare themselves (USDT): all sites of one, and where its arguments are.

The BPF code was compiled with libbpf's ``usdt.bpf.h``. It finds the places of the arguments in the
map ``__bpf_usdt_specs`` of its object, at the index that the attach cookie says; on kernels without
cookies another map leads there from the address of the instruction. Here both maps are filled.

Source of the rules: libbpf, ``usdt.c``. Unlike libbpf, the specifications have the layout that the
object was compiled with, whichever that is.
"""

from __future__ import annotations

import errno
import struct
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pybpfload.elf.usdt import SECTION, arguments, probes
from pybpfload.errors import AttachError, KernelError, NotSupportedError
from pybpfload.formats.usdt import SPEC_SIZES, ArgumentKind, layouts
from pybpfload.kernel import bpf, door, probe
from pybpfload.kernel.errors import kernel_error
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.kernel.probe import Feature
from pybpfload.runtime.attach.common import LinkGroup, check_pid
from pybpfload.runtime.attach.uprobe import attach_at, require_ref_counters
from pybpfload.runtime.attach.user_files import explained, open_binary, split_target
from pybpfload.runtime.link import Link
from pybpfload.uapi import AttachType, ElemFlag

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from pybpfload.elf.usdt import Argument, Probe
    from pybpfload.runtime.attach.user_files import UserFile
    from pybpfload.runtime.map import Map
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["IPS_MAP", "SPECS_MAP", "Specs", "attach"]

SPECS_MAP = "__bpf_usdt_specs"
IPS_MAP = "__bpf_usdt_ip_to_spec_id"

_ORDER = "<" if sys.byteorder == "little" else ">"
# ELF machine -> name of the kernel that runs such files.
_MACHINES = {22: "s390x", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
_MANY = 12  # names in a message


def attach(
    program: Program,
    loaded_for: AttachTarget,
    target: str | PathLike[str] | None,
    *,
    provider: str | None = None,
    name: str | None = None,
    pid: int = -1,
    cookie: int = 0,
) -> Link:
    """Attach to all sites of a probe in an executable or library.

    Args:
        program: The program.
        loaded_for: Unused: the probe is chosen at attach.
        target: ``path:provider:name``; what the section says when ``None``. Only the path if the
            next two are given. Paths are those of
            :func:`pybpfload.runtime.attach.uprobe.attach`.
        provider: First half of the probe's name.
        name: Second half of the probe's name.
        pid: Process to watch, 0 for this one; -1 for all, also those that will start later.
        cookie: What ``bpf_usdt_cookie()`` gives.

    Returns:
        One link on kernels with multi-uprobe links (6.6), else a group of one for each site.

    Raises:
        AttachError: Nothing says where, there is no such file or probe, or the object was not
            compiled for USDT.
        FormatError: The file is damaged, or has arguments that are not understood.
        NotSupportedError: The kernel lacks something that this probe needs.
        KernelError: The kernel refuses.
        ValueError: A pid below -1.
    """
    check_pid(pid)
    if provider is not None and name is not None and isinstance(target, str):
        path = target
    else:
        path, rest = split_target(program, target, "provider:name")
        if provider is None and name is None:
            provider, _, name = rest.partition(":")
    if not provider or not name or ":" in name:
        raise AttachError(
            f"a USDT probe is named as path:provider:name, not {target or program.spec.attach_to}",
            program=program.name,
            target=path,
        )
    what = f"{path}:{provider}:{name}"
    file = open_binary(program, path)
    sites = _sites(program, file, provider, name)
    with ExitStack() as undo:
        specs = Specs(program, cookie)
        undo.callback(specs.release)
        ids = [specs.put(arguments(file.binary, site)) for site in sites]
        if not probe.has(Feature.BPF_COOKIE):
            for site, number in zip(sites, ids, strict=True):
                specs.put_address(_address(program, file, site, pid), number)
        if probe.has(Feature.UPROBE_MULTI_LINK):
            link = _by_one_link(program, file, sites, ids, specs, what=what, pid=pid)
        else:
            link = _one_by_one(program, file, sites, ids, specs, what=what, pid=pid)
        undo.pop_all()
    return link


def _sites(program: Program, file: UserFile, provider: str, name: str) -> list[Probe]:
    binary = file.binary
    machine = _MACHINES.get(binary.machine)
    if machine != door.uname().machine or binary.bits != 64:
        raise NotSupportedError(
            f"program {program.name}: {binary.name} is a {binary.bits}-bit file for "
            f"{machine or f'ELF machine {binary.machine}'}, USDT probes are read in 64-bit ones of "
            f"{', '.join(_MACHINES.values())}, on the same machine",
            feature="USDT",
        )
    if binary.section(SECTION) is None:
        raise AttachError(
            f"{binary.name} has no USDT probes; they may be in a library that it uses, or it was "
            "built without them",
            program=program.name,
            target=f"{provider}:{name}",
        )
    known = list(probes(binary))
    sites = [site for site in known if (site.provider, site.name) == (provider, name)]
    if not sites:
        names = sorted({f"{site.provider}:{site.name}" for site in known})
        more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
        raise AttachError(
            f"{binary.name} has no USDT probe {provider}:{name}; it has "
            f"{', '.join(names[:_MANY]) or 'none'}{more}",
            program=program.name,
            target=f"{provider}:{name}",
        )
    if any(site.semaphore for site in sites):
        require_ref_counters(program)
    return sites


def _address(program: Program, file: UserFile, site: Probe, pid: int) -> int:
    """Where the instruction is in memory, for kernels that do not tell which probe was hit."""
    if not file.binary.is_position_independent:
        return site.address
    if pid < 0:
        raise NotSupportedError(
            f"program {program.name}: {file.path} is loaded at another address in every process, "
            "and this kernel has no attach cookies to tell its probes by: give the pid of one",
            feature="attach cookies",
            since="5.15",
        )
    root = f"/proc/{pid or door.pid()}"
    try:
        lines = door.read_file(f"{root}/maps").decode(errors="surrogateescape").splitlines()
    except OSError as error:
        raise kernel_error(error.errno or errno.EIO, "open", f"{root}/maps") from None
    path, wanted = door.real_path(file.path), file.start + site.offset
    for line in lines:
        fields = line.split(maxsplit=5)  # addresses, rights, offset, device, inode, path
        if len(fields) < 6 or "x" not in fields[1]:
            continue
        start, _, end = fields[0].partition("-")
        into = wanted - int(fields[2], 16)
        if fields[5] in (path, path.removeprefix(f"{root}/root")) and (
            0 <= into < int(end, 16) - int(start, 16)
        ):
            return int(start, 16) + into
    raise AttachError(
        f"process {pid or door.pid()} has not loaded {path}", program=program.name, target=path
    )


def _by_one_link(
    program: Program,
    file: UserFile,
    sites: Sequence[Probe],
    ids: Sequence[int],
    specs: Specs,
    *,
    what: str,
    pid: int,
) -> Link:
    counters = [file.start + site.semaphore if site.semaphore else 0 for site in sites]
    try:
        fd = bpf.link_create(
            program.fileno(),
            0,
            AttachType.TRACE_UPROBE_MULTI,  # what it was loaded for, see the loader
            path=file.path,
            offsets=[file.start + site.offset for site in sites],
            ref_ctr_offsets=counters if any(counters) else (),
            cookies=ids,
            pid=door.pid() if pid == 0 else max(pid, 0),
        )
    except KernelError as error:
        raise explained(error, program, what) from None
    return Link(
        FileDescriptor(fd, f"link of {program.name}"),
        kind="usdt",
        target=what,
        program=program.name,
        cleanup=specs.release,
    )


def _one_by_one(
    program: Program,
    file: UserFile,
    sites: Sequence[Probe],
    ids: Sequence[int],
    specs: Specs,
    *,
    what: str,
    pid: int,
) -> Link:
    has_cookies = probe.has(Feature.BPF_COOKIE)
    links: list[Link] = []
    with ExitStack() as undo:
        for site, number in zip(sites, ids, strict=True):
            link = attach_at(
                program,
                file.path,
                file.start + site.offset,
                kind="usdt",
                what=what,
                pid=pid,
                cookie=number if has_cookies else 0,
                ref_ctr_offset=file.start + site.semaphore if site.semaphore else 0,
            )
            undo.callback(link.close)
            links.append(link)
        undo.pop_all()
    return _Sites(links, specs, target=what)


class _Sites(LinkGroup):
    """The links of all sites; what they need in the maps is released behind them."""

    def __init__(self, links: list[Link], specs: Specs, *, target: str) -> None:
        super().__init__(links, target=target)
        self._specs = specs

    def close(self) -> None:
        """Detach all. Closing again does nothing."""
        try:
            super().close()
        finally:
            if not any(link.pin_path for link in self.links):
                self._specs.release()


class _Numbers:
    """Which indices of a map of specifications are taken."""

    def __init__(self) -> None:
        self.unused: list[int] = []
        self.next = 0


_numbers: WeakKeyDictionary[Any, _Numbers] = WeakKeyDictionary()  # by the map


class Specs:
    """What one attachment needs in the maps of its object.

    Args:
        program: The program.
        cookie: The user's, the same for all sites.

    Raises:
        AttachError: The object does not have the maps, or not as ``usdt.bpf.h`` has them.
    """

    def __init__(self, program: Program, cookie: int) -> None:
        try:
            self._specs: Map[Any, Any] = program.maps[SPECS_MAP]
            self._addresses: Map[Any, Any] = program.maps[IPS_MAP]
        except KeyError as error:
            raise AttachError(
                f"its object has no map {error.args[0]}, so it is not compiled for USDT: include "
                "libbpf's usdt.bpf.h and write the program with BPF_USDT()",
                program=program.name,
            ) from None
        size, layout = self._specs.value_size, SPEC_SIZES
        sizes = (self._specs.key_size, self._addresses.key_size, self._addresses.value_size)
        if size not in layout or sizes != (4, 8, 4):
            raise AttachError(
                f"map {SPECS_MAP} has values of {size} bytes, and those of libbpf's usdt.bpf.h "
                f"have {' or '.join(map(str, layout))}: it was compiled with another header",
                program=program.name,
            )
        self._layout = layout[size]
        self._program = program.name
        self._cookie = cookie
        self._numbers = _numbers.setdefault(self._specs, _Numbers())
        self._known: dict[tuple[Argument, ...], int] = {}
        self._put: list[bytes] = []

    def put(self, places: tuple[Argument, ...]) -> int:
        """Write a specification, unless it is there already.

        Returns:
            Its index.

        Raises:
            NotSupportedError: The object's header is too old for such arguments.
            AttachError: The map is full.
            KernelError: The kernel refused.
        """
        if places in self._known:
            return self._known[places]
        value = self._encoded(places)
        numbers = self._numbers
        if not numbers.unused and numbers.next >= self._specs.max_entries:
            raise AttachError(
                f"map {SPECS_MAP} is full with {self._specs.max_entries} entries: raise its "
                "max_entries before loading",
                program=self._program,
            )
        if numbers.unused:
            number = numbers.unused.pop()
        else:
            number = numbers.next
            numbers.next += 1
        self._known[places] = number
        bpf.map_update_elem(self._specs.fileno(), struct.pack("=i", number), value)
        return number

    def _encoded(self, places: tuple[Argument, ...]) -> bytes:
        old = self._layout == "old_spec"
        if old and any(place.kind == ArgumentKind.SIB for place in places):
            raise NotSupportedError(
                f"program {self._program}: an argument of the probe has an index register, which "
                "its header does not know: compile it with usdt.bpf.h of libbpf 1.7 or later",
                feature="USDT arguments with index registers",
            )
        nothing = {"value": 0, "kind": 0, "register": 0, "signed": 0, "shift": 0}
        told = [
            {
                "value": place.value & (1 << 64) - 1,
                "kind": place.kind,
                "index": {"scale": place.scale, "offset": place.index},
                "register": place.register,
                "signed": place.signed,
                "shift": 64 - 8 * place.size,
            }
            for place in places
        ]
        layout = getattr(layouts(_ORDER), self._layout)
        empty = {**nothing, "index": {"scale": 0, "offset": 0}}
        made: bytes = layout.build(
            {
                "arguments": told + [empty] * (12 - len(told)),
                "cookie": self._cookie,
                "count": len(told),
            }
        )
        return made

    def put_address(self, address: int, number: int) -> None:
        """Lead from the address of an instruction to a specification.

        Raises:
            AttachError: Another attachment is there already.
            KernelError: The kernel refused.
        """
        key = struct.pack("=Q", address)
        fd = self._addresses.fileno()
        try:
            bpf.map_update_elem(fd, key, struct.pack("=I", number), flags=ElemFlag.NOEXIST)
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
            raise AttachError(
                f"a USDT program of this object is at address {address:#x} already, and this "
                "kernel cannot tell them apart",
                program=self._program,
            ) from error
        self._put.append(key)

    def release(self) -> None:
        """Let others have what was put; again does nothing."""
        keys, self._put = self._put, []
        for key in keys:
            with suppress(KernelError, ValueError):  # closed maps need no care
                bpf.map_delete_elem(self._addresses.fileno(), key)
        self._numbers.unused += self._known.values()
        self._known = {}
