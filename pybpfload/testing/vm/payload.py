"""What a run brings into its guest: the checkout, the Python packages it needs, and the command."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pybpfload.testing.vm.cache import VirtualMachineError, cache_folder
from pybpfload.testing.vm.userland import add_compiled, compile_modules

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pybpfload.testing.vm.cpio import CpioWriter

PACKAGES = ("pybpfload", "pytest", "hypothesis", "construct", "pyelftools")
"""Python distributions that a guest gets if they are installed here, with what they depend on."""

LIMIT = 256 << 20
"""Most bytes of a checkout that are brought into a guest: its memory holds them."""

_COMPILED_CODE = (".so", ".pyd", ".dylib", ".a", ".pyc")


def checkout_of(folder: Path) -> Path:
    """The git checkout that a folder is in; the folder itself if it is in none."""
    words = ["git", "-C", str(folder), "rev-parse", "--show-toplevel"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return folder
    return Path(done.stdout.strip()) if done.returncode == 0 else folder


def checkout_files(checkout: Path) -> list[Path]:
    """The files of a checkout, relative to it: tracked ones and new ones that git would not ignore.

    In a folder that is not of git, all files but those in hidden folders and in `__pycache__`.
    """
    words = [
        "git",
        "-C",
        str(checkout),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    try:
        done = subprocess.run(words, capture_output=True, check=False)
        names = [Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name]
        if done.returncode == 0:
            return sorted({name for name in names if (checkout / name).is_file()})
    except FileNotFoundError:
        pass
    found = []
    for folder, folders, files in os.walk(checkout):
        folders[:] = [name for name in folders if name[0] != "." and name != "__pycache__"]
        found += [(Path(folder) / name).relative_to(checkout) for name in files]
    return sorted(found)


def site_packages(checkout: Path) -> list[Path]:
    """The folders where this machine's Python packages for a checkout are.

    Those of the virtual environment that runs this process, or else of `$VIRTUAL_ENV`, or of
    `.venv` in the checkout; without any of them, those of the Python that runs this process.
    """
    if sys.prefix == sys.base_prefix:
        for venv in (os.environ.get("VIRTUAL_ENV"), str(checkout / ".venv")):
            if venv and (found := sorted(Path(venv).glob("lib/python3*/site-packages"))):
                return found
    return [
        Path(entry)
        for entry in sys.path
        if entry.endswith(("site-packages", "dist-packages")) and Path(entry).is_dir()
    ]


def package_files(folders: Sequence[Path], packages: Iterable[str]) -> dict[Path, list[Path]]:
    """The pure-Python files of distributions and of all that they require.

    Args:
        folders: Where installed distributions are.
        packages: Names of distributions; those that are not installed are passed over.

    Returns:
        For each of `folders` the files, relative to it.
    """
    installed: dict[str, tuple[Path, importlib.metadata.Distribution]] = {}
    for folder in folders:
        for found in importlib.metadata.distributions(path=[str(folder)]):
            if name := found.metadata["Name"]:  # none: remains of an installation that failed
                installed.setdefault(_normal(name), (folder, found))
    files: dict[Path, list[Path]] = {folder: [] for folder in folders}
    wanted = [_normal(name) for name in packages]
    for name in wanted:  # grows while it is walked
        if name not in installed:
            continue
        folder, distribution = installed[name]
        for requirement in distribution.requires or ():
            # Markers are not evaluated but for extras: the guest's Python is another one than this.
            name_found = re.match(r"[\w.-]+", requirement)
            if name_found and not re.search(r"\bextra\s*==", requirement):
                required = _normal(name_found[0])
                if required not in wanted:
                    wanted.append(required)
        for file in distribution.files or ():
            path = Path(file)
            if (
                path.suffix not in _COMPILED_CODE
                and ".." not in path.parts
                and (folder / path).is_file()
            ):
                files[folder].append(path)
    return files


def add_checkout(cpio: CpioWriter, checkout: Path) -> None:
    """Add the files of a checkout.

    Raises:
        VirtualMachineError: They are too large, for instance because it is somebody's home folder.
    """
    files = checkout_files(checkout)
    size = 0
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            size += (checkout / file).lstat().st_size
        if size > LIMIT:
            raise VirtualMachineError(
                f"{checkout} has more than {LIMIT >> 20} MB of files that would go to the guest; "
                "run this in a git checkout, which ignores what does not belong there"
            )
    add_files(cpio, checkout, files)


def add_files(cpio: CpioWriter, folder: Path, files: Iterable[Path]) -> None:
    """Add files of this machine's at the same place in the guest, Python ones compiled too.

    Compiled modules are kept in the cache from run to run, so only changed ones are compiled. They
    are valid in the guest because files keep their times.
    """
    files = list(files)
    modules = [folder / file for file in files if file.suffix == ".py"]
    prefix = cache_folder() / "pycache"
    compile_modules(modules, prefix)
    for file in files:
        cpio.copy(folder / file, folder / file)
    add_compiled(cpio, modules, prefix)


def command_script(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    """The shell script by which a guest runs a command.

    Raises:
        VirtualMachineError: The command is empty.
    """
    if not command:
        raise VirtualMachineError("no command to run")
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    lines += [f"cd {shlex.quote(str(folder))} || exit 126", f"exec {shlex.join(command)}"]
    return "".join(line + "\n" for line in lines)


def _normal(name: str) -> str:
    """A distribution's name as names are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
