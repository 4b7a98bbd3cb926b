"""The command lines of this package: tools/vm, tools/test-kernels and tools/kernels."""

from __future__ import annotations

import argparse
import concurrent.futures
import logging
import os
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from pybpfload.testing.vm import kernels, matrix, userland
from pybpfload.testing.vm.cache import VirtualMachineError, cache_folder, clear, size_of
from pybpfload.testing.vm.machine import DIED, TIMED_OUT, Result, VirtualMachine
from pybpfload.testing.vm.modules import find_module, module_files, modules_archive_file

UNAVAILABLE = 123
"""Exit status of tools/vm when a virtual machine could not be prepared or started."""

_INTERRUPTED = 130


def run_main(arguments: list[str] | None = None) -> int:
    """tools/vm: run a command under one kernel or several."""
    options = _run_parser().parse_args(arguments)
    _log_progress()
    names = [_with_architecture(name, options.arch) for name in options.kernel]
    shared = _Output(prefixed=len(names) > 1)

    def one(name: str) -> int:
        try:
            return _run_one(name, options, shared)
        except VirtualMachineError as error:
            shared.note(name, str(error))
            return UNAVAILABLE

    try:
        for name in names:
            kernels.find(name)
        if options.jobs == 1 or len(names) == 1:
            statuses = [one(name) for name in names]
        else:
            with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
                futures = [pool.submit(one, name) for name in names]
                try:
                    statuses = [future.result() for future in futures]
                except KeyboardInterrupt:
                    # Threads cannot be interrupted, but the machines end with this process.
                    os._exit(_INTERRUPTED)
    except VirtualMachineError as error:
        print(f"vm: {error}", file=sys.stderr)
        return UNAVAILABLE
    except KeyboardInterrupt:
        return _INTERRUPTED
    return next((status for status in statuses if status != 0), 0)


def kernels_main(arguments: list[str] | None = None) -> int:
    """tools/kernels: list and fetch kernels, and take BTF out of them."""
    options = _kernels_parser().parse_args(arguments)
    _log_progress()
    try:
        options.action(options)
    except VirtualMachineError as error:
        print(f"kernels: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def suite_main(arguments: list[str] | None = None) -> int:
    """tools/test-kernels: run tests marked `vm` under several kernels."""
    options, rest = _test_parser().parse_known_args(arguments)
    _log_progress()
    try:
        return matrix.main(
            matrix.kernel_names(options.kernels),
            [word for word in rest if word != "--"] or ["tests/kernel"],
            jobs=options.jobs,
            timeout=options.timeout,
            junit=options.junit,
        )
    except VirtualMachineError as error:
        print(f"test-kernels: {error}", file=sys.stderr)
        return UNAVAILABLE
    except KeyboardInterrupt:
        return _INTERRUPTED


def _test_parser() -> argparse.ArgumentParser:
    here = ",".join(
        name for name, kernel in kernels.KERNELS.items() if kernel.architecture == "amd64"
    )
    parser = argparse.ArgumentParser(
        prog="test-kernels",
        usage="%(prog)s [options] [PYTEST ARGUMENTS...]",
        description="Run the tests marked `vm` (below tests/kernel, unless told otherwise) under "
        "several kernels, each in a virtual machine, and print a table of what passed where.",
        epilog="Exit status: 0 if nothing failed and every machine ran, 1 otherwise. "
        "What is not an option of this tool is passed on to pytest.",
    )
    parser.add_argument(
        "--kernels", default=here, metavar="NAMES", help="with commas between, or all [%(default)s]"
    )
    parser.add_argument(
        "--jobs", "-j", type=int, default=2, metavar="N", help="machines at a time [%(default)s]"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=900,
        metavar="S",
        help="seconds for each machine [%(default)s]",
    )
    parser.add_argument(
        "--junit", type=Path, metavar="FILE", help="all results in JUnit's XML format"
    )
    return parser


def _run_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vm",
        usage="%(prog)s --kernel NAME [--kernel NAME ...] [options] -- COMMAND...",
        description="Run a command under a real kernel, in a virtual machine with this checkout.",
        epilog=f"Kernels: {', '.join(kernels.KERNELS)}. "
        f"Exit status: the command's own (of the first kernel where it is not 0); "
        f"{TIMED_OUT}: time-out; {DIED}: the guest died (panic, oops); "
        f"{UNAVAILABLE}: no virtual machine could be had; "
        "126, 127: the command cannot be run, or is not found.",
    )
    parser.add_argument(
        "--kernel", "-k", action="append", required=True, metavar="NAME", help="may be repeated"
    )
    parser.add_argument(
        "--arch", metavar="ARCH", help="--kernel 6.12 --arch s390x: kernel 6.12-s390x"
    )
    parser.add_argument(
        "--timeout", type=float, default=600, metavar="S", help="seconds [%(default)s]"
    )
    parser.add_argument("--cpus", type=int, default=2, metavar="N", help="processors [%(default)s]")
    parser.add_argument("--memory", type=int, default=1024, metavar="M", help="MiB [%(default)s]")
    parser.add_argument(
        "--jobs", "-j", type=int, default=1, metavar="N", help="machines at a time [%(default)s]"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where files come that the command leaves in /tmp/results "
        "(with several kernels: DIR/NAME)",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable for the command",
    )
    parser.add_argument(
        "--append", default="", metavar="WORDS", help="more words for the kernel's command line"
    )
    parser.add_argument(
        "--accel",
        default="tcg",
        metavar="NAME",
        help="QEMU's accelerator [%(default)s]; kvm where it works",
    )
    parser.add_argument(
        "--console", action="store_true", help="show the kernel's console at the end"
    )
    parser.add_argument(
        "command", nargs="+", metavar="COMMAND", help="the program and its arguments"
    )
    return parser


def _run_one(name: str, options: argparse.Namespace, shared: _Output) -> int:
    machine = VirtualMachine(
        name,
        cpus=options.cpus,
        memory=options.memory,
        parameters=options.append.split(),
        accelerator=options.accel,
    )
    output = options.output
    if output is not None and len(options.kernel) > 1:
        output /= name
    result = machine.run(
        options.command,
        environment=dict(each.split("=", 1) for each in options.env),
        output=output,
        timeout=options.timeout,
        on_stdout=lambda data: shared.write(name, sys.stdout.buffer, data),
        on_stderr=lambda data: shared.write(name, sys.stderr.buffer, data),
    )
    shared.finish(name)
    if options.console:
        shared.note(name, result.console)
    elif result.outcome == "exited":
        _warn(shared, result)
    else:
        shared.note(name, result.explain())
    return result.exit_status


def _warn(shared: _Output, result: Result) -> None:
    """Say that the kernel complained although the command ended as usual."""
    if result.trouble:
        lines = "\n".join(result.trouble)
        shared.note(result.kernel, f"the kernel complained (--console shows all):\n{lines}")


class _Output:
    """Standard output and error of all machines, prefixed by line when there are several."""

    def __init__(self, *, prefixed: bool) -> None:
        self._prefixed = prefixed
        self._lock = threading.Lock()
        self._pending: dict[tuple[str, BinaryIO], bytearray] = {}

    def write(self, name: str, stream: BinaryIO, data: bytes) -> None:
        """Pass on what a guest wrote: at once, or by whole lines if they are prefixed."""
        with self._lock:
            if self._prefixed:
                pending = self._pending.setdefault((name, stream), bytearray())
                pending += data
                *lines, rest = bytes(pending).split(b"\n")
                pending[:] = rest
                data = b"".join(b"%s: %s\n" % (name.encode(), line) for line in lines)
            stream.write(data)
            stream.flush()

    def finish(self, name: str) -> None:
        """Pass on a last line without an end."""
        for (owner, stream), pending in list(self._pending.items()):
            if owner == name and pending:
                self.write(name, stream, b"\n")

    def note(self, name: str, text: str) -> None:
        """Say something of our own, on standard error."""
        for line in text.splitlines():
            self.write(name, sys.stderr.buffer, f"vm: {line}\n".encode())


def _kernels_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kernels",
        description="Kernels to test on: list, fetch and cache them, and take the BTF out of them.",
        epilog=f"Kernels: {', '.join(kernels.KERNELS)}. The cache is $PYBPFLOAD_CACHE, or "
        "$XDG_CACHE_HOME/pybpfload, or ~/.cache/pybpfload; it may be deleted at any time.",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    action = actions.add_parser("list", help="the kernels known, and which are in the cache")
    action.set_defaults(action=_list)

    action = actions.add_parser("fetch", help="fetch kernels, QEMU and the guests' userlands")
    action.add_argument("names", nargs="*", metavar="NAME", help="kernels [all]")
    action.add_argument(
        "--update", action="store_true", help="Debian's newest builds even if cached"
    )
    action.set_defaults(action=_fetch)

    action = actions.add_parser("btf", help="the BTF of a kernel or of its modules")
    action.add_argument("name", metavar="NAME", help="a kernel, fetched if need be")
    action.add_argument("-o", "--output", type=Path, metavar="FILE", help="[standard output]")
    which = action.add_mutually_exclusive_group()
    which.add_argument("--module", metavar="M", help="the split BTF of one module, not vmlinux's")
    which.add_argument(
        "--all-modules", type=Path, metavar="DIR",
        help="vmlinux's and all modules', a file each, as in /sys/kernel/btf",
    )  # fmt: skip
    action.set_defaults(action=_btf)

    action = actions.add_parser(
        "clean", help="delete what is old in the cache: other versions of tools"
    )
    action.set_defaults(action=_clean)

    action = actions.add_parser("path", help="the cache folder, or a kernel's folder in it")
    action.add_argument("name", nargs="?", metavar="NAME", help="a kernel, fetched if need be")
    action.set_defaults(action=_path)
    return parser


def _list(_: argparse.Namespace) -> None:
    print(f"{'name':<12} {'architecture':<13} {'suite':<9} {'MB':>5}  release")
    for kernel in kernels.KERNELS.values():
        size = f"{size_of(kernel.folder) / 1e6:.0f}" if kernel.fetched else "-"
        release = kernel.release if kernel.fetched else "(not fetched)"
        print(f"{kernel.name:<12} {kernel.architecture:<13} {kernel.suite:<9} {size:>5}  {release}")


def _fetch(options: argparse.Namespace) -> None:
    names = options.names or list(kernels.KERNELS)
    wanted = [kernels.find(name) for name in names]
    for kernel in wanted:
        print(f"{kernel.name}: {kernels.fetch(kernel.name, update=options.update).release}")
    userland.tools(update=options.update)
    for architecture in sorted({kernel.architecture for kernel in wanted if kernel.bootable}):
        userland.root_archive(architecture, update=options.update)


def _btf(options: argparse.Namespace) -> None:
    from pybpfload.elf.image import btf_from_image
    from pybpfload.errors import FormatError

    kernel = kernels.fetch(options.name)
    path = find_module(kernel, options.module) if options.module else kernel.image
    try:
        data = btf_from_image(path.read_bytes(), f"{options.name} {path.name}")
        if options.all_modules is not None:
            options.all_modules.mkdir(parents=True, exist_ok=True)
            (options.all_modules / "vmlinux").write_bytes(data)
            _all_modules(kernel, options.all_modules)
            return
    except FormatError as error:
        raise VirtualMachineError(str(error)) from None
    if options.output is not None:
        options.output.write_bytes(data)
    else:
        sys.stdout.buffer.write(data)


def _all_modules(kernel: kernels.Kernel, folder: Path) -> None:
    """Write the BTF of each module that has any: none had before Linux 5.11."""
    from pybpfload.elf.image import decompress, elf_section

    for name, path in sorted(module_files(kernel).items()):
        data = elf_section(decompress(path.read_bytes(), path.name), ".BTF", path.name)
        if data is not None:
            (folder / name).write_bytes(data)


def _clean(_: argparse.Namespace) -> None:
    known = kernels.KERNELS.values()
    current = {userland.tools_folder()}
    current |= {userland.root_archive_file(each.architecture) for each in known if each.bootable}
    current |= {modules_archive_file(kernel) for kernel in known if kernel.fetched}
    for name in ("modules", "tools", "userland"):
        for path in sorted((cache_folder() / name).glob("[!.]*")):
            if path not in current:
                print(f"deleting {path} ({size_of(path) / 1e6:.0f} MB)")
                clear(path)


def _path(options: argparse.Namespace) -> None:
    print(kernels.fetch(options.name).folder if options.name else cache_folder())


def _with_architecture(name: str, architecture: str | None) -> str:
    """The name of a kernel whose architecture was told apart."""
    return name if architecture in (None, "amd64", "x86_64") else f"{name}-{architecture}"


def _log_progress() -> None:
    """Show on standard error what takes long."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("pybpfload")
    if not logger.handlers:
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
