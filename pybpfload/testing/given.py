"""Objects and BTF as tests are given them: by path, as bytes, or opened already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.btf import Btf
from pybpfload.object import ObjectSpec, open_object
from pybpfload.relocate import Target

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike
    from typing import TypeAlias

    ObjectLike: TypeAlias = "ObjectSpec | str | PathLike[str] | bytes"
    BtfLike: TypeAlias = "Btf | str | PathLike[str] | bytes"
    TargetLike: TypeAlias = "BtfLike | Target"

__all__ = ["as_btf", "as_object", "as_target"]


def as_object(given: ObjectLike) -> ObjectSpec:
    """Open an object, unless it is open.

    Raises:
        FormatError: It is no BPF object, or damaged.
    """
    return given if isinstance(given, ObjectSpec) else open_object(given)


def as_btf(given: BtfLike) -> Btf:
    """Read BTF, unless it is read.

    Raises:
        FormatError: There is no BTF, or it is damaged.
    """
    from pybpfload import read_btf

    return given if isinstance(given, Btf) else read_btf(given)


def as_target(given: TargetLike | None, modules: Iterable[Btf] = ()) -> Target:
    """What to relocate against; the running kernel and its modules for ``None``.

    Raises:
        FormatError: There is no BTF, or it is damaged.
        KernelError: The running kernel shows none.
    """
    if isinstance(given, Target):
        return given
    if given is None:
        from pybpfload.kernel import btf as kernel_btf

        return Target(kernel_btf.vmlinux(), lambda: [m.btf for m in kernel_btf.modules()])
    return Target(as_btf(given), modules)
