"""BTF of kernels by name: from a folder of one's own, the cache of Debian's, this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.btf import Btf

__all__ = ["RUNNING", "KernelTypes"]

RUNNING = "running"
"""Name of the running kernel."""

_RUNNING_BTF = Path("/sys/kernel/btf/vmlinux")


class KernelTypes(Mapping[str, "Btf"]):
    """BTF by the name of a kernel, read when it is asked for, and once.

    A name is, in this order,

    * that of a file in ``folder``, without its suffix if that is ``.btf``: anything that
      :func:`pybpfload.read_btf` reads, such as BTF, ``vmlinux``, ``vmlinuz``;
    * that of a kernel of :data:`pybpfload.testing.vm.KERNELS`, fetched if it is not in the cache;
    * ``"running"``: the kernel of this machine.

    Iterating gives the names that need no fetching: those in the folder, or without one those in
    the cache; without either the running one, if it has BTF.

    Args:
        folder: A folder of kernels, or ``None``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._known: dict[str, Btf] = {}

    def __getitem__(self, name: str) -> Btf:
        """The BTF of a kernel.

        Raises:
            KeyError: No kernel has this name.
            VirtualMachineError: It cannot be fetched.
            FormatError: It has no BTF, or it is damaged.
        """
        if name not in self._known:
            self._known[name] = self._read(name)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        if self.folder is not None:
            yield from sorted(_name(path) for path in self.folder.iterdir() if path.is_file())
            return
        from pybpfload.testing.vm import KERNELS

        fetched = [name for name, kernel in KERNELS.items() if kernel.fetched]
        yield from fetched
        if not fetched and _RUNNING_BTF.exists():
            yield RUNNING

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _read(self, name: str) -> Btf:
        from pybpfload import Btf, read_btf

        for path in self.folder.iterdir() if self.folder is not None else ():
            if name == _name(path):
                return read_btf(path)
        if name == RUNNING:
            from pybpfload.kernel import btf

            return btf.vmlinux()
        from pybpfload.testing.vm import KERNELS

        if name not in KERNELS:
            known = ", ".join(dict.fromkeys([*self, *KERNELS, RUNNING]))
            raise KeyError(f"no kernel is called {name!r}; there are {known}")
        return Btf.from_bytes(_of_debian(name).read_bytes(), name=name)


def _name(path: Path) -> str:
    return path.stem if path.suffix == ".btf" else path.name


def _of_debian(name: str) -> Path:
    """File with the BTF of one of Debian's kernels; taken out of its image once."""
    from pybpfload.elf.image import btf_from_image
    from pybpfload.testing.vm.cache import build, cache_folder
    from pybpfload.testing.vm.kernels import fetch

    kernel = fetch(name)

    def take_out(path: Path) -> None:
        path.write_bytes(btf_from_image(kernel.image.read_bytes(), kernel.image.name))

    return build(cache_folder() / "btf" / f"{name}-{kernel.release}.btf", take_out)
