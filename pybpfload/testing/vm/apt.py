"""Debian packages of any suite and architecture, without touching the system.

apt is run with a private configuration, state and cache for each pair of suite and architecture.
Everything that decides how packages are reached (archive address, proxies, authentication) is still
the machine's: the address is the one of the machine's own Debian source, asked for another suite.
Lists and packages are verified against Debian's archive keys as in any apt run. Nothing is
installed; packages are unpacked into folders of the caller's.

It works on Debian 11 and later, as root or not. On another distribution, `PYBPFLOAD_DEBIAN_ARCHIVE`
names an archive, and the packages `apt`, `dpkg` and `debian-archive-keyring` have to be there.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pybpfload.testing.vm.cache import VirtualMachineError, cache_folder, locked

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
)
"""Where Debian's archive keyring is: the second name is Debian 14's."""

_MAIN_SUITE = re.compile(
    r"(old)*stable|testing|unstable|sid|bullseye|bookworm|trixie|forky|duke", re.ASCII
)
_LISTS_LAST = 12 * 3600.0
"""Seconds before package lists are fetched anew."""


def host_architecture() -> str:
    """Debian's name of the machine's own architecture."""
    return _run(["dpkg", "--print-architecture"]).strip()


def archive_address() -> str:
    """The address of the Debian archive that this machine uses.

    Raises:
        VirtualMachineError: apt is missing or names no Debian archive.
    """
    if chosen := os.environ.get("PYBPFLOAD_DEBIAN_ARCHIVE"):
        return chosen
    # Without release information, addresses are told even before the machine's first `apt-get
    # update`.
    fields = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    lines = _run(["apt-get", "indextargets", "--no-release-info", "--format", fields]).splitlines()
    for line in lines:
        match line.split():
            case [address, suite, "main"] if _MAIN_SUITE.fullmatch(suite):
                return address
    raise VirtualMachineError(
        "apt on this machine names no Debian archive; "
        "set PYBPFLOAD_DEBIAN_ARCHIVE to the address of one"
    )


@dataclasses.dataclass(frozen=True)
class Apt:
    """Debian's archive as seen from one suite and architecture.

    Attributes:
        suite: `"trixie"`, `"sid"`, ...
        architecture: `"amd64"`, `"s390x"`, ...
    """

    suite: str
    architecture: str

    @property
    def folder(self) -> Path:
        """The private state of apt for this suite and architecture."""
        return cache_folder() / "apt" / f"{self.suite}-{self.architecture}"

    def update(self, *, force: bool = False) -> None:
        """Fetch the package lists, unless that was done in the last twelve hours."""
        stamp = self.folder / "updated"
        with locked(stamp):
            if not force and stamp.exists() and time.time() - stamp.stat().st_mtime < _LISTS_LAST:
                return
            self._configure()
            self._apt("apt-get", "update")
            stamp.touch()

    def names(self, pattern: str) -> list[str]:
        """Names of packages that match a regular expression as a whole."""
        self.update()
        wanted = re.compile(pattern)
        return [
            name for name in self._apt("apt-cache", "pkgnames").split() if wanted.fullmatch(name)
        ]

    def depends(self, package: str) -> list[str]:
        """The packages that `package` depends on, itself first, as far as they exist: one level."""
        self.update()
        text = self._apt("apt-cache", "depends", "--important", package)
        names = re.findall(r"^ +\|?(?:Pre)?Depends: ([^<\s]\S*)$", text, re.MULTILINE)
        return [package, *(name.partition(":")[0] for name in names)]

    def version(self, package: str) -> str:
        """The version that would be taken.

        Raises:
            VirtualMachineError: There is no such package.
        """
        self.update()
        text = self._apt("apt-cache", "show", "--no-all-versions", package)
        if found := re.search(r"^Version: (\S+)$", text, re.MULTILINE):
            return found[1]
        raise VirtualMachineError(f"{self}: no package {package}")

    def unpack(self, packages: Sequence[str], folder: Path, *, dependencies: bool) -> None:
        """Download packages and unpack them, all into one folder.

        Args:
            packages: Their names.
            folder: Created if missing.
            dependencies: With all that they depend on, as on a system with nothing installed;
                without what they only recommend.
        """
        self.update()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="debs.") as name:
            debs = Path(name)
            if dependencies:
                (debs / "partial").mkdir()
                self._apt(
                    "apt-get", "-o", f"Dir::Cache::Archives={debs}", "install", "--download-only",
                    "--yes", "--no-install-recommends", *packages,
                )  # fmt: skip
            else:
                self._apt("apt-get", "download", *packages, cwd=debs)
            for deb in sorted(debs.glob("*.deb")):
                _unpack(deb, folder)

    def __str__(self) -> str:
        return f"Debian {self.suite} ({self.architecture})"

    def _configure(self) -> None:
        """Write the private configuration; the machine's own still applies beneath it."""
        keyring = next((path for path in KEYRINGS if Path(path).exists()), None)
        if keyring is None:
            raise VirtualMachineError(
                "Debian's archive keys are missing: install debian-archive-keyring"
            )
        for name in ("lists/partial", "archives/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        # An empty status: nothing is installed, so a package's dependencies are all of them.
        (self.folder / "status").write_text("")
        (self.folder / "sources.list").write_text(
            f"deb [arch={self.architecture} signed-by={keyring} lang=none target=Packages]"
            f" {archive_address()} {self.suite} main\n"
        )
        (self.folder / "apt.conf").write_text(
            f"""\
# Read after the machine's own configuration: that one decides how the archive is reached.
#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture "{self.architecture}";
APT::Architectures "{self.architecture}";
APT::Default-Release "";
# The folder may be one that only its owner can enter.
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Acquire::Retries "3";
Dir::Etc::SourceList "{self.folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "{self.folder}";
Dir::State::Lists "{self.folder}/lists";
Dir::State::Status "{self.folder}/status";
Dir::Cache "{self.folder}";
Dir::Cache::Archives "{self.folder}/archives";
"""
        )

    def _apt(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        return _run([program, "--quiet", "-c", f"{self.folder}/apt.conf", *arguments], cwd=cwd)


def library_path(folder: Path) -> str:
    """Where libraries are below unpacked packages, as for `ld.so --library-path`."""
    found = {each.parent for each in folder.glob("usr/lib/*-linux-gnu*/*.so*")}
    return ":".join(str(each) for each in sorted(found))


def foreign_command(folder: Path, program: str) -> list[str]:
    """How to run a program of unpacked packages, whatever C library this machine has.

    Args:
        folder: Where the packages, all of the machine's own architecture, were unpacked.
        program: Path of the program in it.

    Returns:
        The first words of the command: the packages' own dynamic loader, told where their libraries
        are.
    """
    for pattern in ("usr/lib64/ld-*.so*", "usr/lib/ld-*.so*", "usr/lib/*/ld-linux*.so*"):
        for loader in sorted(folder.glob(pattern)):
            return [str(loader), "--library-path", library_path(folder), str(folder / program)]
    raise VirtualMachineError(f"no dynamic loader below {folder}")


def _unpack(deb: Path, folder: Path) -> None:
    """Unpack one package over what is there, with /lib and the like merged into /usr."""
    with tempfile.TemporaryDirectory(dir=deb.parent) as name:
        fresh = Path(name)
        _run(["dpkg-deb", "--extract", str(deb), str(fresh)])
        _move(fresh, folder)


def _move(source: Path, target: Path, *, top: bool = True) -> None:
    for each in sorted(source.iterdir()):
        merged = top and each.name in {"bin", "sbin", "lib", "lib64"} and not each.is_symlink()
        place = target / "usr" / each.name if merged else target / each.name
        if each.is_dir() and not each.is_symlink():
            place.mkdir(parents=True, exist_ok=True)
            _move(each, place, top=False)
        else:
            each.rename(place)


def _run(command: Iterable[str], *, cwd: Path | None = None) -> str:
    """Run a program of the machine's and return what it prints.

    Raises:
        VirtualMachineError: It is missing, or it failed; with the last lines that it wrote to its
            standard error.
    """
    command = list(command)
    if shutil.which(command[0]) is None:
        raise VirtualMachineError(
            f"{command[0]} is missing; kernels and QEMU are fetched by Debian's tools"
        )
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        check=False,
    )
    if done.returncode != 0:
        words = " ".join(word for word in command if not word.startswith(("-", "/")))
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise VirtualMachineError(f"{words}: exit status {done.returncode}\n{last}")
    return done.stdout
