"""Real kernels to test on: Debian's, of several ages and architectures, fetched and cached.

A kernel's folder in the cache holds

    release         its `uname -r`, one line
    package         the Debian package and version it came from, one line
    vmlinuz         what a boot loader loads
    config          its build configuration
    modules/        its module tree, as packaged (modules.dep, kernel/...)
"""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
from typing import TYPE_CHECKING

from pybpfload.testing.vm.apt import Apt
from pybpfload.testing.vm.cache import VirtualMachineError, build, cache_folder, size_of

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel to be had from Debian.

    Attributes:
        name: What people call it: `"6.1"`, `"sid"`, `"6.12-s390x"`.
        architecture: Debian's name of its architecture.
        suite: The Debian suite it comes from.
        package: The package there that always depends on the newest build of it.
        parameters: Words for its command line that it needs in particular.
        bootable: False: there is only its BTF to be had, no machine to boot it on.
    """

    name: str
    architecture: str
    suite: str
    package: str
    parameters: tuple[str, ...] = ()
    bootable: bool = True

    @property
    def folder(self) -> Path:
        """Its folder in the cache, whether fetched or not."""
        return cache_folder() / "kernels" / self.name

    @property
    def fetched(self) -> bool:
        """Whether it is in the cache."""
        return self.folder.exists()

    @property
    def release(self) -> str:
        """Its `uname -r`; it must have been fetched."""
        return (self.folder / "release").read_text().strip()

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor version; it must have been fetched."""
        major, minor = self.release.split(".")[:2]
        return int(major), int(re.match(r"\d+", minor)[0])  # type: ignore[index]

    @property
    def image(self) -> Path:
        """The bootable image; it must have been fetched."""
        return self.folder / "vmlinuz"

    @property
    def modules(self) -> Path:
        """The module tree; it must have been fetched."""
        return self.folder / "modules"


KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        # Debian 5.10 has the BPF LSM built in but not among the active ones; naming those is the
        # only way.
        Kernel(
            "5.10",
            "amd64",
            "bullseye",
            "linux-image-cloud-amd64",
            ("lsm=lockdown,yama,apparmor,bpf",),
        ),
        Kernel("6.1", "amd64", "bookworm", "linux-image-cloud-amd64"),
        Kernel("6.12", "amd64", "trixie", "linux-image-cloud-amd64"),
        Kernel("sid", "amd64", "sid", "linux-image-cloud-amd64"),
        Kernel("6.12-arm64", "arm64", "trixie", "linux-image-cloud-arm64"),
        # Big endian, and Debian builds it without the BPF JIT: no trampolines, so no fentry and its
        # like.
        Kernel("6.12-s390x", "s390x", "trixie", "linux-image-s390x"),
        Kernel("6.12-riscv64", "riscv64", "trixie", "linux-image-riscv64", bootable=False),
    )
}
"""The kernels known, by name. "sid" is the newest that Debian has on that day."""


def find(name: str) -> Kernel:
    """The kernel of a name.

    Raises:
        VirtualMachineError: There is none; the message lists those there are.
    """
    try:
        return KERNELS[name]
    except KeyError:
        names = ", ".join(KERNELS)
        raise VirtualMachineError(f"no kernel is called {name!r}; there are {names}") from None


def fetch(name: str, *, update: bool = False) -> Kernel:
    """Make sure that a kernel is in the cache.

    Args:
        name: One of `KERNELS`.
        update: Take Debian's newest build even when one is cached.

    Returns:
        The kernel, fetched.

    Raises:
        VirtualMachineError: It cannot be had.
    """
    kernel = find(name)
    if kernel.fetched and not update:
        return kernel
    apt = Apt(kernel.suite, kernel.architecture)
    apt.update(force=update)
    packages = _packages(apt, kernel.package)
    label = f"{packages[0]} {apt.version(packages[0])}"
    if kernel.fetched and (kernel.folder / "package").read_text().strip() == label:
        return kernel
    logger.info("fetching kernel %s: %s", name, label)

    def make(folder: Path) -> None:
        apt.unpack(packages, folder / "unpacked", dependencies=False)
        _arrange(folder)
        (folder / "package").write_text(label + "\n")

    build(kernel.folder, make, replace=update)
    logger.info("kernel %s is %s, %d MB", name, kernel.release, size_of(kernel.folder) >> 20)
    return kernel


def _packages(apt: Apt, meta: str) -> list[str]:
    """The packages with the files of the kernel that `meta` stands for, the image first.

    Up to Debian 13 one package has them all; later ones split it in image, modules and
    configuration.
    """
    image = next((each for each in apt.depends(meta) if re.match(r"linux-image-\d", each)), None)
    if image is None:
        raise VirtualMachineError(f"{apt}: {meta} depends on no kernel image")
    release = image.removeprefix("linux-image-")
    found = [image]
    for package in found:  # grows while it is walked
        for each in apt.depends(package):
            if each.endswith(release) and each.startswith("linux-") and each not in found:
                found.append(each)
    return found


def _arrange(folder: Path) -> None:
    """Turn packages unpacked to `folder / "unpacked"` into the layout of this module."""
    unpacked = folder / "unpacked"
    trees = sorted(each.parent for each in unpacked.glob("usr/lib/modules/*/kernel"))
    if len(trees) != 1:
        raise VirtualMachineError(f"{len(trees)} module trees in a kernel package, expected one")
    tree = trees[0]
    release = tree.name
    images = [
        *unpacked.glob("boot/vmlinu[xz]-*"),
        *unpacked.glob(f"usr/lib/modules/{release}/vmlinu[xz]*"),
    ]
    configs = [
        *unpacked.glob("boot/config-*"),
        *unpacked.glob(f"usr/lib/modules/{release}/config*"),
    ]
    configs += unpacked.glob(f"usr/lib/linux/*/{release}/config*")
    if not images:
        raise VirtualMachineError(f"no kernel image in the packages of {release}")
    (folder / "release").write_text(release + "\n")
    images[0].rename(folder / "vmlinuz")
    if configs:
        configs[0].rename(folder / "config")
    tree.rename(folder / "modules")
    shutil.rmtree(unpacked)
