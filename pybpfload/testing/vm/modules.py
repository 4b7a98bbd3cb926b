"""The kernel modules that a guest gets.

Debian's kernel packages have no modules.dep (it is made on installation), so the modules' own notes
on what they depend on are read, from their .modinfo section.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pybpfload.elf.image import decompress, elf_section
from pybpfload.testing.vm.cache import VirtualMachineError, build, cache_folder
from pybpfload.testing.vm.cpio import CpioWriter
from pybpfload.testing.vm.userland import digest

if TYPE_CHECKING:
    from pathlib import Path

    from pybpfload.testing.vm.kernels import Kernel

logger = logging.getLogger(__name__)

NEEDED = ("virtio_pci", "virtio_console")
"""Modules that the guest needs to talk to this machine. What a kernel has built in, or does not
have (s390x reaches virtio devices without PCI), is passed over."""

LOADED = ("nf_tables", "veth", "dummy", "sch_ingress", "cls_bpf", "act_bpf")
"""Modules loaded in every guest, so that tests find module BTF and network devices."""

AVAILABLE = (
    "crc32c_generic",  # libcrc32c, which nf_tables needs, asks for one of these by alias
    "crc32c_s390",
    "bonding",
    "br_netfilter",
    "bridge",
    "dm_mod",
    "ifb",
    "ip_tunnel",
    "ip6_tunnel",
    "ipip",
    "ipvlan",
    "loop",
    "macvlan",
    "nf_conntrack",
    "nf_nat",
    "nfnetlink",
    "nft_compat",
    "overlay",
    "sch_fq",
    "sch_htb",
    "sctp",
    "tcp_bbr",
    "tcp_dctcp",
    "tls",
    "tun",
    "vcan",
    "vxlan",
    "vsock",
    "wireguard",
)
"""Modules that a guest also has: `modprobe NAME` loads them, and so does the kernel on demand."""


def modules_archive_file(kernel: Kernel) -> Path:
    """Where `modules_archive` of a fetched kernel is in the cache, whether made or not."""
    recipe = digest(kernel.release, NEEDED, LOADED, AVAILABLE, "config")
    return cache_folder() / "modules" / f"{kernel.name}-{recipe}.cpio"


def modules_archive(kernel: Kernel) -> Path:
    """The modules of a kernel as a cpio archive; made if it is not there.

    It holds `/lib/modules/RELEASE` with decompressed modules, modules.dep and modules.alias; the
    kernel's configuration in `/boot`; and `/etc/pybpfload/modules`: the paths of the modules to
    load at boot, one a line, in order.
    """

    def make(archive: Path) -> None:
        with archive.open("wb") as file, CpioWriter(file) as cpio:
            _pack(kernel, cpio)

    return build(modules_archive_file(kernel), make)


def module_files(kernel: Kernel) -> dict[str, Path]:
    """The files of all modules of a fetched kernel, by name."""
    return {_plain(path.name.partition(".ko")[0]): path for path in kernel.modules.rglob("*.ko*")}


def find_module(kernel: Kernel, module: str) -> Path:
    """The file of a module of a fetched kernel.

    Raises:
        VirtualMachineError: It has no such module.
    """
    try:
        return module_files(kernel)[_plain(module)]
    except KeyError:
        raise VirtualMachineError(f"kernel {kernel.name} has no module {module}") from None


def _pack(kernel: Kernel, cpio: CpioWriter) -> None:
    index = module_files(kernel)
    top = f"/usr/lib/modules/{kernel.release}"
    places: dict[str, str] = {}
    dependencies: dict[str, list[str]] = {}
    aliases: list[str] = []

    def add(name: str) -> None:
        if name in places or name not in index:
            return
        path = index[name]
        data = decompress(path.read_bytes(), path.name)
        inner = path.relative_to(kernel.modules)
        places[name] = f"{inner.parent}/{path.name.partition('.')[0]}.ko"
        info = _modinfo(data, path.name)
        dependencies[name] = [
            _plain(each) for each in ",".join(info.get("depends", [])).split(",") if each
        ]
        aliases.extend(f"alias {alias} {name}" for alias in info.get("alias", []))
        for each in dependencies[name]:
            add(each)
        cpio.file(f"{top}/{places[name]}", data)

    for name in (*NEEDED, *LOADED, *AVAILABLE):
        add(_plain(name))

    def in_order(name: str, seen: list[str]) -> list[str]:
        """All that `name` needs, then itself, without what was seen."""
        if name in places and name not in seen:
            for each in dependencies[name]:
                in_order(each, seen)
            seen.append(name)
        return seen

    lines = []
    for name in places:
        needed = [places[each] for each in reversed(in_order(name, [])) if each != name]
        lines.append(f"{places[name]}: {' '.join(needed)}".rstrip())
    cpio.file(f"{top}/modules.dep", "".join(line + "\n" for line in lines))
    cpio.file(f"{top}/modules.alias", "".join(alias + "\n" for alias in aliases))
    for name in ("modules.builtin", "modules.order"):
        if (kernel.modules / name).exists():
            cpio.copy(kernel.modules / name, f"{top}/{name}")
    # Where distributions put it, and where libbpf and pybpfload look for it.
    cpio.copy(kernel.folder / "config", f"/boot/config-{kernel.release}")
    order: list[str] = []
    for name in (*NEEDED, *LOADED):
        in_order(name, order)
    cpio.file("/etc/pybpfload/modules", "".join(f"{top}/{places[name]}\n" for name in order))


def _modinfo(data: bytes, name: str) -> dict[str, list[str]]:
    """What a module says of itself: key to values."""
    info: dict[str, list[str]] = {}
    for entry in (elf_section(data, ".modinfo", name) or b"").split(b"\0"):
        key, equals, value = entry.decode("utf-8", "replace").partition("=")
        if equals:
            info.setdefault(key, []).append(value)
    return info


def _plain(name: str) -> str:
    """A module's name as the kernel says it: file names have either dashes or underscores."""
    return name.replace("-", "_")
