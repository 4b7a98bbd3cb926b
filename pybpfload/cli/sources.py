"""Where commands get BTF from: what ``SRC`` stands for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pybpfload.cli.failure import UsageError, did_you_mean

if TYPE_CHECKING:
    from pybpfload.btf.table import Btf
    from pybpfload.check import Kernel

__all__ = ["SOURCES", "read_kernel_source", "read_source"]

SOURCES = """\
SRC is a file with BTF (raw, ELF, vmlinux, vmlinuz, .ko, .o), a Debian kernel package, or on a
running kernel id:N (loaded BTF) or the name of a module; by default the running kernel.
"""
"""For the help of commands."""

_KERNEL = "vmlinux"
_SYSFS = Path("/sys/kernel/btf")
_MODULE_SUFFIXES = frozenset({".ko", ".gz", ".xz", ".zst"})


def read_source(text: str = "", *, base: str = "") -> Btf:
    """Read the BTF that an argument names.

    Args:
        text: As :data:`SOURCES` says.
        base: The same, for the BTF that this one extends. Not needed for modules of the running
            kernel.

    Raises:
        UsageError: There is nothing of that name.
        FormatError: There is no BTF in the file, or it is damaged.
        OSError: The file cannot be read, or the kernel refuses.
        NotSupportedError: The running kernel is asked for and has no BTF, or this is no Linux.
    """
    text = text or _KERNEL
    path = Path(text)
    if text.startswith("id:") or ("/" not in text and not path.exists()):
        return _live(text)
    if path.parent == _SYSFS and path.name != _KERNEL:
        base = base or str(_SYSFS / _KERNEL)
    return _read_file(path, read_source(base) if base else None)


def read_kernel_source(text: str = "", *, base: str = "") -> Kernel:
    """Read the kernel that an argument names: its BTF and what lies beside it.

    Args:
        text: As :data:`SOURCES` says, or a directory: :meth:`pybpfload.check.Kernel.read`.
        base: The same, of the kernel that a module extends.

    Raises:
        UsageError: There is nothing of that name.
        FormatError: There is no BTF in it, or it is damaged.
        OSError: It cannot be read.
        NotSupportedError: The running kernel is asked for and has no BTF, or this is no Linux.
    """
    from pybpfload.check import Kernel

    try:
        return Kernel.read(text, base=base)
    except FileNotFoundError as error:
        if error.filename != text or "/" in text or not sys.platform.startswith("linux"):
            raise
        from pybpfload.kernel import btf as kernel

        close = did_you_mean(text, [each.name for each in kernel.modules()])
        raise UsageError(
            f"there is no file and no loaded module with BTF {text!r}{close}"
        ) from None


def _live(text: str) -> Btf:
    """BTF of the running kernel."""
    kind, _, number = text.rpartition(":")
    if kind and not number.isdecimal():
        raise UsageError(f"{text}: an id is a number, as in id:1")
    if not sys.platform.startswith("linux"):
        if kind or text == _KERNEL:
            from pybpfload.errors import NotSupportedError

            raise NotSupportedError(
                f"this needs a running Linux kernel, and this is {sys.platform}"
            )
        raise UsageError(f"there is no file {text!r}")

    from pybpfload.kernel import btf as kernel

    if kind:
        return kernel.of_id(int(number))
    if text == _KERNEL:
        return kernel.vmlinux()
    modules = {each.name: each.btf for each in kernel.modules()}
    if text not in modules:
        close = did_you_mean(text, modules)
        raise UsageError(f"there is no file and no loaded module with BTF {text!r}{close}")
    return modules[text]


def _read_file(path: Path, base: Btf | None) -> Btf:
    import pybpfload
    from pybpfload.btf.table import Btf
    from pybpfload.errors import FormatError

    if path.is_file():
        with path.open("rb") as file:
            start = file.read(64)
        if start.startswith(b"!<arch>"):  # what reads packages takes long to import
            from pybpfload.elf.deb import kernel_of_deb
            from pybpfload.elf.image import btf_from_image

            name, image = kernel_of_deb(path.read_bytes(), str(path))
            full = f"{path}: {name}"
            return Btf.from_bytes(btf_from_image(image, full), base=base, name=full)
    try:
        return pybpfload.read_btf(path, base=base)
    except FormatError as error:
        if base is None and path.suffix in _MODULE_SUFFIXES and ".ko" in path.suffixes:
            error.hint = (
                error.hint or "a module's BTF extends that of its kernel: give it by --base"
            )
        raise
