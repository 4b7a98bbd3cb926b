"""Who keeps maps, programs and links alive: processes that have them open, names in a bpffs.

An object of the kernel's also lives as long as another one needs it: a map as long as the programs
that use it, a program as long as what it is attached to. :meth:`Link.of_program` and
:func:`pybpfload.attached` tell of the latter.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from pybpfload.errors import KernelError
from pybpfload.kernel import bpf, door
from pybpfload.kernel.fd import FileDescriptor, fdinfo
from pybpfload.kernel.mounts import mounted

__all__ = ["Holder", "Pin", "holders", "pins"]

# What fdinfo calls the id; that of a link comes with the id of its program.
_IDS = {"link_id": "link", "prog_id": "prog", "map_id": "map", "btf_id": "btf"}


class Holder(NamedTuple):
    """A process that has an object open.

    Attributes:
        pid: The process.
        comm: Its name, at most 15 characters.
    """

    pid: int
    comm: str


class Pin(NamedTuple):
    """A name in a BPF filesystem.

    Attributes:
        path: The file.
        kind: ``"prog"``, ``"map"`` or ``"link"``.
        id: Id of what it names.
    """

    path: str
    kind: str
    id: int


def holders() -> dict[tuple[str, int], list[Holder]]:
    """Which processes have which BPF objects open, by the files of ``/proc/PID/fdinfo``.

    Processes that this one may not look into (without CAP_SYS_PTRACE those of other users) and
    those of other PID namespaces are not seen, nor is a map that is only mapped into memory.

    Returns:
        By kind (``"prog"``, ``"map"``, ``"link"``, ``"btf"``) and id: the processes, by ascending
        number; this one is among them.
    """
    found: dict[tuple[str, int], list[Holder]] = {}
    for pid in sorted(int(name) for name in _listed("/proc") if name.isdigit()):
        folder = f"/proc/{pid}/fdinfo"
        held = {_object(fdinfo(f"{folder}/{number}")) for number in _listed(folder)} - {None}
        if held:
            holder = Holder(pid, _comm(pid))
            for each in held:
                if each is not None:
                    found.setdefault(each, []).append(holder)
    return found


def pins() -> list[Pin]:
    """What is pinned in the BPF filesystems that this process sees, by their mount points.

    Files that may not be opened are left out; so are all where ``/proc`` is not mounted.
    """
    found = []
    folders = [*dict.fromkeys(mounted("bpf"))]  # one may be mounted over another
    while folders:
        folder = folders.pop()
        for name in _listed(folder):
            path = f"{folder.rstrip('/')}/{name}"
            if _is_folder(path):
                folders.append(path)
                continue
            with suppress(KernelError), FileDescriptor(bpf.obj_get(path), path) as fd:
                what = _object(fdinfo(f"/proc/self/fdinfo/{fd.fileno()}"))
                if what is not None:
                    found.append(Pin(path, *what))
    return sorted(found)


def _object(info: dict[str, str]) -> tuple[str, int] | None:
    for field, kind in _IDS.items():
        if info.get(field, "").isdigit():
            return kind, int(info[field])
    return None


def _comm(pid: int) -> str:
    try:
        return door.read_file(f"/proc/{pid}/comm").decode(errors="replace").rstrip("\n")
    except OSError:  # it has ended
        return ""


def _listed(folder: str) -> list[str]:
    try:
        return door.list_dir(folder)
    except OSError:  # it is gone, or not ours to look at
        return []


def _is_folder(path: str) -> bool:
    try:
        door.list_dir(path)
    except OSError:
        return False
    return True
