"""What runs QEMU here, and what runs in the guest besides the kernel: both Debian 13's, made once.

* `tools()` is a folder with QEMU for all guest architectures and with the guest's Python built for
  this machine, which compiles the guest's modules. Both run through their own dynamic loader and
  libraries, so it does not matter what this machine has installed.
* `root_archive()` is the guest's root file system for one architecture: Python, busybox, iproute2,
  bpftool and strace, as a cpio archive.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from pybpfload.testing.vm.apt import Apt, foreign_command, host_architecture
from pybpfload.testing.vm.cache import VirtualMachineError, build, cache_folder
from pybpfload.testing.vm.cpio import CpioWriter

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

SUITE = "trixie"
"""The Debian release that QEMU and the guest's userland are of. Its QEMU is 10.0; QEMU 7.2, of the
release before, corrupts registers of newer kernels."""

PYTHON = "python3.13"
"""The guest's Python: package and program."""

CACHE_TAG = "cpython-313"
"""What it calls its compiled modules by (`sys.implementation.cache_tag`)."""

_TOOLS_PACKAGES = (
    "qemu-system-x86",
    "qemu-system-arm",
    "qemu-system-s390x",
    f"{PYTHON}-minimal",
    f"lib{PYTHON}-stdlib",
)

_GUEST_PACKAGES = (
    f"{PYTHON}-minimal",
    f"lib{PYTHON}-stdlib",
    "busybox-static",
    "iproute2",
    "bpftool",
    "strace",
)

_TOOLS_LEFT_OUT = (
    "etc",
    "var",
    "usr/sbin",
    "usr/share/[!qs]*",
    "usr/bin/qemu-system-arm",
    "usr/bin/qemu-system-i386",
    "usr/bin/qemu-system-x86_64-microvm",
)
_GUEST_LEFT_OUT = (
    "var",
    "etc/*",
    "usr/share",
    "usr/include",
    "usr/lib/*/gconv",
    "usr/lib/*/perl*",
    "usr/lib/*/libcrypto.so*",
    "usr/lib/*/libssl.so*",
    "usr/lib/*/libsqlite3.so*",
    "usr/lib/*/libdb-*.so*",
    "usr/lib/*/ossl-modules",
    "usr/lib/*/engines-3",
    "usr/lib/*/libmvec.so*",
    "usr/lib/python3",
    "usr/lib/python3.*/test",
    "usr/lib/python3.*/idlelib",
    "usr/lib/python3.*/ensurepip",
    "usr/lib/python3.*/pydoc_data",
    "usr/lib/python3.*/turtle*",
    "usr/lib/python3.*/sqlite3",
    "usr/lib/python3.*/lib-dynload/_ssl.*",
    "usr/lib/python3.*/lib-dynload/_hashlib.*",
    "usr/lib/python3.*/lib-dynload/_sqlite3.*",
    "usr/lib/python3.*/lib-dynload/_dbm.*",
    "usr/lib/python3.*/lib-dynload/_gdbm.*",
    "usr/lib/python3.*/lib-dynload/_test*",
    "usr/lib/python3.*/__pycache__/*.opt-?.pyc",
)
_EMPTY_FOLDERS = ("dev", "proc", "sys", "run", "tmp", "root", "mnt", "etc", "var/tmp", "var/log")
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost vm\n::1 localhost\n",
    "etc/hostname": "vm\n",
}


def tools_folder() -> Path:
    """Where `tools` is in the cache, whether made or not."""
    return cache_folder() / "tools" / digest(_TOOLS_PACKAGES, _TOOLS_LEFT_OUT)


def tools(*, update: bool = False) -> Path:
    """The folder with QEMU and a Python for this machine; made if it is not there.

    Args:
        update: Make it anew, of Debian's newest packages.
    """

    def make(folder: Path) -> None:
        logger.info("fetching QEMU")
        Apt(SUITE, host_architecture()).unpack(_TOOLS_PACKAGES, folder, dependencies=True)
        _remove(folder, _TOOLS_LEFT_OUT)
        for program in (folder / "usr/bin").iterdir():
            if program.is_symlink() or not program.name.startswith(("qemu-system-", "python3")):
                program.unlink()

    return build(tools_folder(), make, replace=update)


def compile_modules(modules: Iterable[Path], prefix: Path, *options: str) -> None:
    """Compile Python modules for the guest.

    A .pyc file depends on Python's version only, not on the architecture.

    Args:
        modules: Absolute paths of the modules.
        prefix: `PYTHONPYCACHEPREFIX`: a compiled module goes to a path below it that begins with
            the whole path of its source. What is there and still up to date is left.
        options: More arguments for `compileall`.
    """
    command = foreign_command(tools(), f"usr/bin/{PYTHON}")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [*command, "-m", "compileall", "-q", *options, "-i", "-"],
        env={**kept, "PYTHONHOME": str(tools() / "usr"), "PYTHONPYCACHEPREFIX": str(prefix)},
        input="".join(f"{module}\n" for module in modules),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # Status 1: some module does not compile, for instance one that is a test of just that.
    if done.returncode not in (0, 1):
        raise VirtualMachineError(f"compiling for the guest failed:\n{done.stdout[-2000:]}")


def add_compiled(
    cpio: CpioWriter, modules: Iterable[Path], prefix: Path, folder: Path = Path("/")
) -> None:
    """Add what `compile_modules(modules, prefix)` made, each in `__pycache__` beside its source.

    Args:
        cpio: Where to.
        modules: Absolute paths of the modules here.
        prefix: As for `compile_modules`.
        folder: The folder here that is the guest's root.
    """
    for module in modules:
        compiled = prefix / module.parent.relative_to("/") / f"{module.stem}.{CACHE_TAG}.pyc"
        if compiled.exists():
            place = Path("/") / module.parent.relative_to(folder) / "__pycache__" / compiled.name
            cpio.copy(compiled, place)


def root_archive_file(architecture: str) -> Path:
    """Where `root_archive` is in the cache, whether made or not."""
    recipe = digest(_GUEST_PACKAGES, _GUEST_LEFT_OUT, _EMPTY_FOLDERS, _FILES)
    return cache_folder() / "userland" / f"{architecture}-{recipe}.cpio"


def root_archive(architecture: str, *, update: bool = False) -> Path:
    """The guest's root file system as a cpio archive; made if it is not there.

    Args:
        architecture: Debian's name of the guest's architecture.
        update: Make it anew, of Debian's newest packages.
    """

    def make(archive: Path) -> None:
        logger.info("making the %s guest's root file system", architecture)
        folder = archive.with_name("root")
        Apt(SUITE, architecture).unpack(_GUEST_PACKAGES, folder, dependencies=True)
        _remove(folder, _GUEST_LEFT_OUT)
        prefix = archive.with_name("pycache")
        modules = sorted(folder.rglob("*.py"))
        # Unchecked: files in the guest have the right contents whatever their times. The paths that
        # tracebacks show are the guest's.
        how = ("--invalidation-mode", "unchecked-hash", "-s", str(folder), "-p", "/")
        compile_modules(modules, prefix, *how)
        with archive.open("wb") as file, CpioWriter(file) as cpio:
            for name in (
                "bin",
                "sbin",
                "lib",
                *(["lib64"] if (folder / "usr/lib64").exists() else []),
            ):
                cpio.symlink(name, f"usr/{name}")
            for name in _EMPTY_FOLDERS:
                cpio.folder(name)
            cpio.device("dev/console", 5, 1)
            cpio.device("dev/null", 1, 3, 0o666)
            for name, text in _FILES.items():
                cpio.file(name, text)
            cpio.tree(folder / "usr", "usr")
            add_compiled(cpio, modules, prefix, folder)
            for name in ("python", "python3"):
                cpio.symlink(f"usr/bin/{name}", PYTHON)
            cpio.symlink("usr/bin/sh", "busybox")

    return build(root_archive_file(architecture), make, replace=update)


def digest(*recipe: object) -> str:
    """A short name for a way of making something: another way has another name."""
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]


def _remove(folder: Path, patterns: Iterable[str]) -> None:
    """Remove what is at the patterns, which are those of a shell, below a folder."""
    for pattern in patterns:
        for path in list(folder.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
