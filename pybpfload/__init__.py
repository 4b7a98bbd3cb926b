"""libbpf in pure Python: open, inspect, relocate, load and attach BPF objects.

    spec = pybpfload.open("tracer.bpf.o")      # pure: parse and edit, on any system
    spec.rodata.target_pid = 1234
    with spec.load() as obj:                   # into the running Linux kernel
        obj.attach()
        for event in obj.maps["events"]:       # typed by the object's BTF
            print(event.pid, event.comm)

Names are imported when they are first used, so ``import pybpfload`` is cheap.
"""

from __future__ import annotations

from pybpfload.lazy import lazily

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import PathLike
    from typing import BinaryIO

    from pybpfload.btf import Btf
    from pybpfload.btf.codecs import ValueMismatchError
    from pybpfload.errors import (
        AttachError,
        BpfError,
        FormatError,
        KernelError,
        NotPermittedError,
        NotSupportedError,
        RelocationError,
        VerifierError,
    )
    from pybpfload.interop.python_types import TypeMismatchError, codec_for
    from pybpfload.kernel.doctor import Finding, diagnose
    from pybpfload.kernel.netns import in_network_namespace
    from pybpfload.object.spec import (
        ExternSpec,
        MapSpec,
        ObjectSpec,
        ProgramSpec,
        VariableSpec,
    )
    from pybpfload.relocate import Relocation, Target
    from pybpfload.runtime.attached import Attachment, attached, cgroups, detach
    from pybpfload.runtime.holders import Holder, Pin, holders, pins
    from pybpfload.runtime.link import Link
    from pybpfload.runtime.loaded_btf import LoadedBtf, loaded_btf
    from pybpfload.runtime.map import Map
    from pybpfload.runtime.object import Object
    from pybpfload.runtime.perfbuf import Lost, PerfBuffer, Sample
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.ringbuf import RingBuffer
    from pybpfload.runtime.stats import ProgramActivity, ProgramStats
    from pybpfload.runtime.trace import trace_pipe
    from pybpfload.runtime.user_ringbuf import RingFullError, UserRingBuffer
    from pybpfload.runtime.variable import ReadOnlyError, Variable

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - by topic
    "open",
    "load",
    "read_btf",
    "ObjectSpec",
    "ProgramSpec",
    "MapSpec",
    "VariableSpec",
    "ExternSpec",
    "Btf",
    "Target",
    "Relocation",
    "Object",
    "Program",
    "Map",
    "Variable",
    "Link",
    "Attachment",
    "attached",
    "cgroups",
    "detach",
    "in_network_namespace",
    "Holder",
    "holders",
    "LoadedBtf",
    "loaded_btf",
    "Pin",
    "pins",
    "ProgramStats",
    "ProgramActivity",
    "RingBuffer",
    "PerfBuffer",
    "Lost",
    "Sample",
    "UserRingBuffer",
    "trace_pipe",
    "diagnose",
    "Finding",
    "codec_for",
    "BpfError",
    "FormatError",
    "RelocationError",
    "KernelError",
    "NotPermittedError",
    "NotSupportedError",
    "VerifierError",
    "AttachError",
    "ReadOnlyError",
    "RingFullError",
    "TypeMismatchError",
    "ValueMismatchError",
]

_HOMES = {
    "Btf": "btf",
    "ExternSpec": "object.spec",
    "MapSpec": "object.spec",
    "ObjectSpec": "object.spec",
    "ProgramSpec": "object.spec",
    "VariableSpec": "object.spec",
    "Finding": "kernel.doctor",
    "diagnose": "kernel.doctor",
    "Relocation": "relocate",
    "Target": "relocate",
    "Attachment": "runtime.attached",
    "attached": "runtime.attached",
    "cgroups": "runtime.attached",
    "detach": "runtime.attached",
    "in_network_namespace": "kernel.netns",
    "Holder": "runtime.holders",
    "Pin": "runtime.holders",
    "holders": "runtime.holders",
    "pins": "runtime.holders",
    "Link": "runtime.link",
    "LoadedBtf": "runtime.loaded_btf",
    "loaded_btf": "runtime.loaded_btf",
    "Lost": "runtime.perfbuf",
    "Map": "runtime.map",
    "Object": "runtime.object",
    "PerfBuffer": "runtime.perfbuf",
    "Program": "runtime.program",
    "ProgramActivity": "runtime.stats",
    "ProgramStats": "runtime.stats",
    "RingBuffer": "runtime.ringbuf",
    "RingFullError": "runtime.user_ringbuf",
    "Sample": "runtime.perfbuf",
    "UserRingBuffer": "runtime.user_ringbuf",
    "Variable": "runtime.variable",
    "trace_pipe": "runtime.trace",
    "AttachError": "errors",
    "ReadOnlyError": "runtime.variable",
    "TypeMismatchError": "interop.python_types",
    "ValueMismatchError": "btf.codecs",
    "codec_for": "interop.python_types",
    "BpfError": "errors",
    "FormatError": "errors",
    "KernelError": "errors",
    "NotPermittedError": "errors",
    "NotSupportedError": "errors",
    "RelocationError": "errors",
    "VerifierError": "errors",
}


_NAMESPACES = ("ktime", "charts", "lowlevel", "symbols", "testing")
__getattr__ = lazily(__name__, _HOMES, _NAMESPACES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_NAMESPACES})


def open(  # noqa: A001 - pybpfload.open is the name that reads best
    source: str | PathLike[str] | bytes | bytearray | memoryview | BinaryIO,
    *,
    name: str | None = None,
    relaxed_maps: bool = False,
) -> ObjectSpec:
    """Parse a BPF object without asking any kernel; works on any system and for either byte order.

    The file may come from a stranger: whatever is in it, reading takes at most 64 times its size
    and 32 MB of memory. The objects of compilers take 2 to 15 times their size.

    Args:
        source: Path, content, or a file opened in binary mode.
        name: Object name instead of the file's; 15 characters are kept.
        relaxed_maps: Ignore attributes of map definitions that are not known.

    Returns:
        A spec of plain values that can be edited before loading.

    Raises:
        FormatError: It is not a BPF object, or damaged; says where.
        OSError: The file cannot be read.
    """
    from pybpfload.object.opener import open_object

    return open_object(source, name=name, relaxed_maps=relaxed_maps)


def load(
    source: ObjectSpec | str | PathLike[str] | bytes | bytearray | memoryview | BinaryIO,
    *,
    btf: Btf | str | PathLike[str] | None = None,
    kconfig: str | None = None,
    pin_root: str | PathLike[str] = "/sys/fs/bpf",
    log_level: int = 0,
    token: str | PathLike[str] | bool | None = None,
) -> Object:
    """Load an object into the running kernel (Linux only).

    All or nothing: when it fails, nothing stays open, pinned or loaded.

    Args:
        source: A spec, or what :func:`open` takes.
        btf: BTF to relocate against instead of the running kernel's: a :class:`Btf`, or the path of
            a BTF file, an ELF file or a kernel image.
        kconfig: Kernel configuration text (``CONFIG_HZ=250`` lines) that wins over the kernel's
            own.
        pin_root: Folder on a bpffs for maps that are pinned by name.
        log_level: ``log_level`` of every ``BPF_PROG_LOAD``: 1 basic, 2 verbose, 4 statistics, or
            their sum; added to that of each program. The log is :attr:`Program.log`.
        token: Where a BPF token (Linux 6.9) is made, which lets a process in a user namespace load
            what a BPF filesystem delegates to it: the path of that filesystem; ``True`` for
            ``/sys/fs/bpf``. ``None`` tries ``$LIBBPF_BPF_TOKEN_PATH``, or ``/sys/fs/bpf`` if that
            is not set, ``False`` does without.

    Returns:
        The loaded object, a context manager that detaches and unloads.

    Raises:
        FormatError: The object is damaged.
        RelocationError: Something it refers to is not in this kernel.
        VerifierError: The kernel refuses a program; carries the log.
        NotPermittedError: This process may not load BPF; says why.
        NotSupportedError: This kernel lacks what the object needs.
        AttachError: A fentry, tp_btf, iterator, ... program names no target, or one that this
            kernel does not have.
        KernelError: Any other refusal.
        OSError: A file cannot be read.
    """
    from pybpfload.object.spec import ObjectSpec
    from pybpfload.runtime.object import load_object

    spec = source if isinstance(source, ObjectSpec) else open(source)
    return load_object(
        spec, btf=btf, kconfig=kconfig, pin_root=pin_root, log_level=log_level, token=token
    )


def read_btf(source: str | PathLike[str] | bytes, *, base: Btf | None = None) -> Btf:
    """Read BTF from a raw file, an ELF file, a kernel image (``vmlinuz``) or a kernel module.

    A module that was built out of tree brings an outline of its kernel's types along, in its
    section ``.BTF.base`` (Linux 6.11). That is the base of its BTF, unless ``base`` is given; then
    its BTF is relocated onto that (:func:`pybpfload.btf.relocate_base`).

    The file may come from a stranger: raw BTF takes at most 4 times its size and 8 MB of memory.
    What is packed may unpack to 32 times its size and 32 MB, more is refused; it takes at most 64
    times its size and 96 MB.

    Args:
        source: Path or content.
        base: BTF that it extends: vmlinux for that of a module.

    Raises:
        FormatError: There is no BTF in it, it is damaged, or ``base`` lacks types that it needs.
        OSError: The file cannot be read.
    """
    from pathlib import Path

    from pybpfload.btf import Btf
    from pybpfload.errors import FormatError

    if isinstance(source, bytes):
        return Btf.from_image(source, base=base)
    path = Path(source)
    if path.is_char_device() or path.is_block_device():
        raise FormatError("it is a device, which has no end", file=str(path))
    return Btf.from_image(path.read_bytes(), base=base, name=str(path))
