"""Sets of BPF objects, and a libbpf, that tools/corpus makes in the cache for tools/differential.

Everything comes out of Debian packages, taken through the machine's own apt and unpacked in the
cache; nothing is installed. A compiler or bpftool that the machine has is used, any other is run
from its unpacked package, on that package's own C library.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from environment import ROOT

from pybpfload.elf.image import btf_from_image
from pybpfload.testing.vm import kernels
from pybpfload.testing.vm.apt import Apt, foreign_command, host_architecture
from pybpfload.testing.vm.cache import VirtualMachineError, build, cache_folder, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

logger = logging.getLogger("pybpfload.corpus")

NEWEST = "sid"
"""Debian's suite, and our kernel, that sources, headers, libbpf's objects and types come from."""

CLANGS = {14: "bookworm", 16: "bookworm", 19: "trixie", 22: "sid"}
"""Clang's major versions, and the Debian suite that has each."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A set of objects.

    Attributes:
        meaning: What it is, in a line.
        make: Makes it: called with its folder and the number of jobs to run at a time.
    """

    name: str
    meaning: str
    make: Callable[[Path, int], None]

    @property
    def folder(self) -> Path:
        """Where its objects are, in a folder for each way of building them."""
        return cache_folder() / "corpus" / self.name


# Programs


def unpacked(suite: str, packages: Sequence[str], programs: Iterable[str]) -> Path:
    """Folder of packages with all that they depend on, and with a ``bin`` of runnable programs.

    Args:
        suite: Debian's.
        packages: Names; the first one names the folder.
        programs: Paths of programs in the packages.
    """
    target = cache_folder() / "unpacked" / f"{packages[0]}-{suite}"

    def make(fresh: Path) -> None:
        logger.info("fetching %s of Debian %s", " and ".join(packages), suite)
        Apt(suite, host_architecture()).unpack(packages, fresh, dependencies=True)
        (fresh / "bin").unlink(missing_ok=True)  # a link to usr/bin
        (fresh / "bin").mkdir()
        for program in programs:
            # The loader's path is known, and the folder's final one: not the one it has now.
            words = shlex.join(foreign_command(fresh, program)).replace(str(fresh), str(target))
            script = fresh / "bin" / Path(program).name
            script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
            script.chmod(0o755)

    return build(target, make)


def find_clang(major: int) -> tuple[Path, Path]:
    """A clang, and the folder of the headers that belong to it."""
    if found := shutil.which(f"clang-{major}"):
        shown = subprocess.run(
            [found, "-print-resource-dir"], capture_output=True, text=True, check=True
        )
        return Path(found), Path(shown.stdout.strip()) / "include"
    tools = f"usr/lib/llvm-{major}/bin"
    folder = unpacked(
        CLANGS[major],
        [f"clang-{major}", f"llvm-{major}"],
        [f"{tools}/clang", f"{tools}/llvm-strip"],
    )
    return folder / "bin" / "clang", next(folder.glob(f"usr/lib/llvm-{major}/lib/clang/*/include"))


def find_bpftool() -> Path:
    """Debian's newest bpftool: the static linker of older ones links one byte order only."""
    return unpacked(NEWEST, ["bpftool"], ["usr/sbin/bpftool"]) / "bin" / "bpftool"


# The kernel's self tests

_VARIANTS = {
    "bpfel": ("--target=bpfel", "-mcpu=v3"),
    "bpfeb": ("--target=bpfeb", "-mcpu=v3"),
    "bpfel-v4": ("--target=bpfel", "-mcpu=v4"),
}
_LINKED = "bpfel-linked"
_SOURCES = (
    "include/uapi", "scripts/bpf_doc.py", "tools/arch", "tools/include", "tools/lib/bpf",
    "tools/testing/selftests/bpf",
)  # fmt: skip
_TESTS = "tools/testing/selftests/bpf"


def make_selftests(folder: Path, jobs: int) -> None:
    """Build the kernel's BPF self tests, and link them, as their makefile does."""
    source = kernel_source()
    clang, headers = find_clang(max(CLANGS))
    bpftool, system = find_bpftool(), system_headers()
    folder.mkdir(parents=True, exist_ok=True)
    made_of = f"{source.name}\n{clang}\n{kernels.fetch(NEWEST).release}\n"
    _start_anew_unless(folder, made_of)
    generated = _generate_headers(folder, source, bpftool)
    tests = source / _TESTS
    flags = [
        "-g", "-O2", "-D__TARGET_ARCH_x86", "-DENABLE_ATOMICS_TESTS", "-std=gnu11",
        "-fms-extensions", "-fno-strict-aliasing", "-Wno-everything",
        f"-I{generated}", f"-I{tests}",
        f"-I{source}/tools/include/uapi", f"-I{source}/tools/include",
        f"-I{tests}/libarena/include", "-nostdinc", "-idirafter", headers,
        *(word for each in system for word in ("-idirafter", each)),
    ]  # fmt: skip
    sources = {path.stem: path for path in sorted((tests / "progs").glob("*.c"))}
    for path in sorted((tests / "libarena").glob("s*/*.bpf.c")):
        sources[f"libarena_{path.name.removesuffix('.bpf.c')}"] = path
    objects = {
        f"{variant}/{name}.bpf.o": [clang, *flags, *options, "-c", path, "-o"]
        for variant, options in _VARIANTS.items()
        for name, path in sources.items()
    }
    _make_all(folder, objects, jobs, tests)
    linked = {name: [name] for name in sources} | _linked_together(tests / "Makefile")
    links = {}
    for name, names in linked.items():
        parts = [folder / "bpfel" / f"{part}.bpf.o" for part in names]
        if all(part.exists() for part in parts):
            links[f"{_LINKED}/{name}.bpf.o"] = [bpftool, "gen", "object", Output, *parts]
    _make_all(folder, links, jobs, tests)


def kernel_source() -> Path:
    """The part of the newest kernel's source that the self tests need; named by its version."""
    apt = Apt(NEWEST, host_architecture())
    package = apt.depends("linux-source")[1]
    target = cache_folder() / "unpacked" / f"{package}_{apt.version(package)}"

    def make(fresh: Path) -> None:
        logger.info("fetching %s", package)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".source.") as name:
            apt.unpack([package], Path(name), dependencies=False)
            archive = next(Path(name).glob("usr/src/*.tar.xz"))
            fresh.mkdir()
            members = [f"{package}/{each}" for each in _SOURCES]
            _run(["tar", "-C", fresh, "--strip-components=1", "-xJf", archive, *members])

    return build(target, make)


def system_headers() -> list[Path]:
    """The newest C library's and kernel's headers for programs, which some tests include."""
    return _headers_of(unpacked(NEWEST, ["libc6-dev"], []))


def _headers_of(folder: Path) -> list[Path]:
    """Headers of unpacked packages, those for this machine first: there are some for others."""
    (library,) = folder.glob("usr/lib/*/libc.so.6")
    headers = folder / "usr" / "include"
    return [headers / library.parent.name, headers]


def _generate_headers(folder: Path, source: Path, bpftool: Path) -> Path:
    """What the makefile generates: ``vmlinux.h`` and libbpf's headers, below a folder."""

    def make(fresh: Path) -> None:
        (fresh / "bpf").mkdir(parents=True)
        for header in source.glob("tools/lib/bpf/*.h"):
            shutil.copy(header, fresh / "bpf")
        _generate_helper_definitions(source, fresh / "bpf")
        kernel = kernels.fetch(NEWEST)
        types = fresh / "vmlinux.btf"
        types.write_bytes(btf_from_image(kernel.image.read_bytes(), kernel.name))
        dump = _run([bpftool, "btf", "dump", "file", types, "format", "c"])
        (fresh / "vmlinux.h").write_text(dump)

    return build(folder / "include", make)


def _generate_helper_definitions(source: Path, folder: Path) -> None:
    script = [sys.executable, source / "scripts/bpf_doc.py", "--header", "--filename"]
    helpers = _run([*script, source / "tools/include/uapi/linux/bpf.h"])
    (folder / "bpf_helper_defs.h").write_text(helpers)


def _linked_together(makefile: Path) -> dict[str, list[str]]:
    """The objects that the makefile links of several: name -> names of the parts."""
    text = makefile.read_text().replace("\\\n", " ")
    found = re.findall(r"^(\w+)\.skel\.h-deps := (.*)$", text, re.MULTILINE)
    linked = {f"{name}.linked": re.findall(r"(\w+)\.bpf\.o", parts) for name, parts in found}
    return {name: parts for name, parts in linked.items() if len(parts) > 1}


# libbpf

_LIBBPF_FLAGS = (
    "-shared", "-fPIC", "-O2", "-w", "-D_LARGEFILE64_SOURCE", "-D_FILE_OFFSET_BITS=64",
    "-Wl,-soname,libbpf.so.1", "-Wl,-z,lazy", "-nostdinc", "-nostdlib",
)  # fmt: skip


def make_libbpf(folder: Path, jobs: int) -> None:
    """Build the libbpf of the newest kernel's source: it is ahead of Debian's package.

    Its folder is as that of the package and all that it needs; the machine's linker is used.
    """
    del jobs
    source = kernel_source()
    folder.mkdir(parents=True, exist_ok=True)
    _start_anew_unless(folder, f"{source.name}\n")

    def make(fresh: Path) -> None:
        unpack = ["libbpf1", "libelf-dev", "zlib1g-dev", "libc6-dev"]
        Apt(NEWEST, host_architecture()).unpack(unpack, fresh, dependencies=True)
        (library,) = fresh.glob("usr/lib/*/libbpf.so.1")
        for old in library.parent.glob("libbpf.so*"):
            old.unlink()
        clang, headers = find_clang(max(CLANGS))
        tools = source / "tools"
        with tempfile.TemporaryDirectory(dir=folder) as name:
            _generate_helper_definitions(source, Path(name))
            places = [tools / "include", tools / "include/uapi", tools / "lib/bpf", name]
            _run([
                clang, *_LIBBPF_FLAGS,
                *(f"-I{each}" for each in places),
                *(f"-isystem{each}" for each in (headers, *_headers_of(fresh))),
                *sorted(tools.glob("lib/bpf/*.c")),
                *(library.with_name(each) for each in ("libelf.so.1", "libz.so.1", "libc.so.6")),
                f"-Wl,--version-script={tools}/lib/bpf/libbpf.map", "-o", library,
            ])  # fmt: skip

    build(folder / "root", make)


# Packages with objects in them


def make_xdp_tools(folder: Path, jobs: int) -> None:
    """Take the objects out of the packages of several releases, and of a big-endian machine."""
    del jobs
    folder.mkdir(parents=True, exist_ok=True)
    sources = [Apt(suite, host_architecture()) for suite in ("bookworm", "trixie", NEWEST)]
    for apt in [*sources, Apt(NEWEST, "s390x")]:
        build(
            folder / f"{apt.suite}-{apt.architecture}",
            lambda fresh, apt=apt: _take_objects(apt, ["xdp-tools", "libxdp1"], fresh),
        )


def _take_objects(apt: Apt, packages: list[str], fresh: Path) -> None:
    fresh.mkdir()
    with tempfile.TemporaryDirectory(dir=fresh.parent) as name:
        apt.unpack(packages, Path(name), dependencies=False)
        for path in sorted(Path(name).glob("usr/lib/**/bpf/*.o")):
            path.rename(fresh / path.name)


# Our own fixtures, by other compilers


def make_fixtures(major: int, folder: Path, jobs: int) -> None:
    """Build our fixtures by one clang, and link each by bpftool."""
    clang, _ = find_clang(major)
    bpftool = find_bpftool()
    folder.mkdir(parents=True, exist_ok=True)
    script = [sys.executable, ROOT / "fixtures" / "build", "--clang", clang, "--output", folder]
    done = subprocess.run(
        [str(word) for word in script],
        env={**os.environ, "BPFTOOL": str(bpftool)},
        text=True,
        capture_output=True,
        check=False,
    )
    (folder / "build.log").write_text(done.stdout + done.stderr)
    if not done.stdout:
        raise VirtualMachineError(done.stderr.strip())
    for order in ("bpfel", "bpfeb"):
        shutil.rmtree(folder / f"{order}-linked", ignore_errors=True)
    jobs_of = {
        f"{path.parent.name}-linked/{path.name}": [bpftool, "gen", "object", Output, path]
        for path in sorted(folder.glob("bpfe?/*.bpf.o"))
    }
    _make_all(folder, jobs_of, jobs, folder)


# Running jobs


_ERRORS = 4000  # characters kept of what a command wrote to its standard error


class Output:
    """Stands for the file to be made in a command; it is the last word where it is not named."""


def _make_all(folder: Path, objects: dict[str, list[object]], jobs: int, directory: Path) -> None:
    """Make objects that are not there yet, each by a command.

    A command that fails leaves ``NAME.log`` instead of ``NAME.bpf.o``, and is not tried again
    until that is deleted.
    """
    todo = {
        name: command
        for name, command in objects.items()
        if not (folder / name).exists() and not _log_of(folder / name).exists()
    }
    logger.info("%s: %d of %d objects to make", folder.name, len(todo), len(objects))

    def one(name: str) -> None:
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        partial = target.with_name(f".{target.name}")
        words = [partial if word is Output else word for word in todo[name]]
        if Output not in todo[name]:
            words.append(partial)
        try:
            _run(["nice", "-n", "10", *words], cwd=directory)
            partial.rename(target)
        except VirtualMachineError as error:
            partial.unlink(missing_ok=True)
            _log_of(target).write_text(f"{error}\n")

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for at, _ in enumerate(pool.map(one, todo), 1):
            if at % 200 == 0:
                logger.info("%s: %d of %d", folder.name, at, len(todo))


def _log_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".bpf.o") + ".log")


def _start_anew_unless(folder: Path, made_of: str) -> None:
    """Empty a folder unless it was made of the same things."""
    note = folder / "made-of"
    if not note.exists() or note.read_text() != made_of:
        shutil.rmtree(folder)
        folder.mkdir()
        note.write_text(made_of)


def _run(command: Sequence[object], *, cwd: Path | None = None) -> str:
    """Run a program and return what it prints.

    Raises:
        VirtualMachineError: It fails; with what it wrote to its standard error.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VirtualMachineError(f"{shlex.join(words)}\n{done.stderr.strip()[:_ERRORS]}")
    return done.stdout


# The command line

CORPORA = {
    corpus.name: corpus
    for corpus in (
        Corpus("selftests", "the newest kernel's BPF self tests, built and linked", make_selftests),
        Corpus("libbpf", "no objects, but the libbpf of the newest kernel's source", make_libbpf),
        Corpus("xdp-tools", "the objects of the packages of xdp-tools", make_xdp_tools),
        *(
            Corpus(
                f"clang{major}",
                f"our fixtures built by clang {major}, and linked by bpftool",
                lambda folder, jobs, major=major: make_fixtures(major, folder, jobs),
            )
            for major in CLANGS
        ),
    )
}


def main(description: str | None, arguments: list[str] | None = None) -> int:
    """The command line of tools/corpus."""
    parser = argparse.ArgumentParser(
        prog="tools/corpus",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    actions.add_parser("list", help="the corpora, and what of them is in the cache")
    action = actions.add_parser("build", help="make corpora; what is there is not made again")
    action.add_argument("names", nargs="*", metavar="NAME", help=f"[{', '.join(CORPORA)}]")
    action.add_argument(
        "-j", "--jobs", type=int, default=os.cpu_count() or 1, metavar="N",
        help="compilers at a time [%(default)s]",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.action == "list":
        for corpus in CORPORA.values():
            report(corpus)
        return 0
    if unknown := set(options.names) - set(CORPORA):
        parser.error(f"no such corpus: {', '.join(sorted(unknown))}")
    for name in options.names or CORPORA:
        try:
            CORPORA[name].make(CORPORA[name].folder, options.jobs)
        except VirtualMachineError as error:
            print(f"corpus: {name}: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("corpus: interrupted; what is done is kept", file=sys.stderr)
            return 130
        report(CORPORA[name])
    return 0


def report(corpus: Corpus) -> None:
    """Say what there is of a corpus, and why some of its objects could not be built."""
    print(f"{corpus.name}: {corpus.meaning}")
    if not corpus.folder.exists():
        print("  (not built)")
        return
    print(f"  {corpus.folder}, {size_of(corpus.folder) / 1e6:.0f} MB")
    log = corpus.folder / "build.log"
    for line in log.read_text().splitlines() if log.exists() else ():
        if found := re.fullmatch(r"\d+ objects, \d+ bad|.*: skipped, .*", line):
            print(f"  fixtures/build: {found[0]}")
    for variant in sorted(path for path in corpus.folder.glob("[!.]*") if path.is_dir()):
        made, failed = sorted(variant.glob("*.o")), sorted(variant.glob("*.log"))
        if not made and not failed:
            continue
        print(f"  {variant.name}: {len(made)} of {len(made) + len(failed)} objects")
        reasons = collections.defaultdict(list)
        for log in failed:
            reasons[_reason(log.read_text())].append(log.stem)
        for reason, names in sorted(reasons.items(), key=lambda each: -len(each[1])):
            shown = ", ".join([*names[:4], "..."][: len(names)])
            print(f"    {len(names)} not: {reason} ({shown})")


def _reason(log: str) -> str:
    """The first error in what a compiler or linker printed."""
    for line in log.splitlines()[1:]:
        if found := re.search(r"(?:error|libbpf): (.*)", line):
            return re.sub(r"\s+", " ", found[1])[:110]
    return "it says nothing"
