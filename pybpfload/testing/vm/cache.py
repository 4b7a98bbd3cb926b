"""Where kernels, QEMU and guest userlands are kept, and how a folder of it comes into being.

Everything in the cache can be made again from Debian's archive, so it may be deleted at any time. A
folder or file appears in it only when it is complete: it is built beside its final place and
renamed, under a lock, so that several processes (two virtual machines starting at once, say) can
share one cache.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class VirtualMachineError(Exception):
    """A virtual machine could not be prepared or started.

    Nothing has run in a guest when this is raised: what happens to a guest that did start is told
    by `Result.outcome`.
    """


def cache_folder() -> Path:
    """The folder for everything downloaded or made.

    `$PYBPFLOAD_CACHE` if set, else `$XDG_CACHE_HOME/pybpfload`, else `~/.cache/pybpfload`. It is
    not created.
    """
    if chosen := os.environ.get("PYBPFLOAD_CACHE"):
        return Path(chosen).expanduser().absolute()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "pybpfload"
    return Path.home() / ".cache" / "pybpfload"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to `path`, a file beside it, waiting until it is free."""
    import fcntl  # not on Windows, where kernel names can still be listed

    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(target: Path, make: Callable[[Path], None], *, replace: bool = False) -> Path:
    """Return `target`, made by `make` if it is not there.

    Args:
        target: The file or folder wanted.
        make: Called with a path beside `target` that does not exist; it creates a file or a folder
            there.
        replace: Make it even though it is there.

    Returns:
        `target`, which exists and is complete.
    """
    if target.exists() and not replace:
        return target
    with locked(target):
        if target.exists() and not replace:  # another process made it while this one waited
            return target
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as name:
            fresh = Path(name) / "new"
            make(fresh)
            if target.exists():
                target.rename(Path(name) / "old")
            fresh.rename(target)
    return target


def size_of(path: Path) -> int:
    """Bytes in the regular files at and below `path`; 0 if there is nothing."""
    if path.is_file():
        return path.stat().st_size
    return sum(each.lstat().st_size for each in path.rglob("*") if not each.is_dir())


def clear(path: Path) -> None:
    """Delete a file or folder of the cache, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
