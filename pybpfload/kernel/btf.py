"""BTF of the running kernel and its modules, read once per process and only when asked for."""

from __future__ import annotations

import errno

from pybpfload.btf import Btf, Kind
from pybpfload.btf.types import Composite
from pybpfload.errors import FormatError, KernelError, NotPermittedError, NotSupportedError
from pybpfload.kernel import door
from pybpfload.kernel.errors import kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pybpfload.errors import BpfError

__all__ = ["ModuleBtf", "has_member", "modules", "of_id", "problems", "vmlinux"]

_SYSFS = "/sys/kernel/btf"

# Where to look on kernels that do not show their BTF, first that has some (libbpf's list; the
# compressed images are ours). {} is the kernel's release.
_PLACES = (
    "/boot/vmlinux-{}",
    "/lib/modules/{}/vmlinux-{}",
    "/lib/modules/{}/build/vmlinux",
    "/usr/lib/modules/{}/kernel/vmlinux",
    "/usr/lib/debug/boot/vmlinux-{}",
    "/usr/lib/debug/boot/vmlinux-{}.debug",
    "/usr/lib/debug/lib/modules/{}/vmlinux",
    "/boot/vmlinuz-{}",
    "/lib/modules/{}/vmlinuz",
)


class ModuleBtf:
    """BTF of one kernel module.

    Attributes:
        id: Its id, 0 if it was read from ``/sys/kernel/btf`` for want of privilege.
        name: The module's name.
        btf: The types; the base is that of vmlinux.
    """

    __slots__ = ("btf", "id", "name")

    def __init__(self, number: int, name: str, btf: Btf) -> None:
        self.id = number
        self.name = name
        self.btf = btf

    def __repr__(self) -> str:
        return f"<BTF of module {self.name}, id {self.id}>"


def vmlinux() -> Btf:
    """BTF of the kernel itself.

    ``/sys/kernel/btf/vmlinux`` (Linux 5.4) if it exists, memory-mapped where the kernel allows
    (6.16); otherwise the first vmlinux or vmlinuz of this release that has BTF.

    Raises:
        NotSupportedError: There is none.
        KernelError: It exists but cannot be read.
        FormatError: It is damaged.
    """
    cache = door.cache()
    found: Btf | None = cache.get("vmlinux")
    if found is None:
        found = cache["vmlinux"] = _find_vmlinux()
    return found


def _find_vmlinux() -> Btf:
    path = f"{_SYSFS}/vmlinux"
    try:
        return Btf.from_bytes(door.map_file(path), name="vmlinux", pointer_size=8)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise kernel_error(error.errno or errno.EIO, "open", path) from None
    release = door.uname().release
    for place in _PLACES:
        path = place.replace("{}", release)
        if not door.exists(path):
            continue
        from pybpfload.elf.image import btf_from_image

        try:
            data = btf_from_image(bytes(door.map_file(path)), path)
            return Btf.from_bytes(data, name="vmlinux", pointer_size=8)
        except (FormatError, NotSupportedError, OSError) as error:
            _keep(path, error)
    missing = NotSupportedError(
        "this kernel has no BTF (CONFIG_DEBUG_INFO_BTF); give one with the btf argument or --btf",
        feature="BTF of the kernel",
    )
    missing.swallowed = tuple(problems())
    raise missing


def problems(prefix: str = "") -> list[BpfError | OSError]:
    """What was damaged or may not be read and therefore was left out, oldest first.

    Args:
        prefix: Only what concerns modules whose name begins so.
    """
    kept: dict[str, BpfError | OSError] = door.cache().get("btf problems", {})
    return [error for name, error in kept.items() if name.startswith(prefix) or not name]


def _keep(name: str, error: BpfError | OSError) -> None:
    """Remember why a module, or all of them (``""``), or a file was left out; once is enough."""
    door.cache().setdefault("btf problems", {}).setdefault(name, error)


def modules(prefix: str = "") -> list[ModuleBtf]:
    """BTF of the loaded modules (Linux 5.11), in the order of their ids.

    Each is read once per process; modules loaded meanwhile are seen. What is damaged is left out
    and kept in :func:`problems`: whoever needs a type of it does not find it, but all others can go
    on. Without the privilege to open BTF by id (CAP_SYS_ADMIN) the files in ``/sys/kernel/btf`` are
    read instead, if there are any; libbpf takes the first refusal as "no modules" and fails at the
    second.

    Args:
        prefix: Only modules whose name begins so.

    Raises:
        KernelError: A BTF object could be listed but not read, other than for want of privilege.
        NotSupportedError: The kernel has no BTF at all.
    """
    from pybpfload.kernel.cmd_obj import iter_ids
    from pybpfload.kernel.probe import Feature, has

    known: dict[Any, Any] = door.cache().setdefault("modules", {})
    names: dict[Any, str | None] = door.cache().setdefault("module names", {})
    try:
        ids: list[Any] = list(iter_ids("btf"))
    except NotPermittedError as error:
        return _from_files(prefix, known, error)
    except KernelError:
        return []  # no such command: no modules with BTF either
    if ids and not has(Feature.MODULE_BTF):
        return []
    found = []
    try:
        for number in ids:
            if number not in names:
                names[number] = _module_name(number)
            name = names[number]
            if name is not None and name.startswith(prefix):
                if number not in known:
                    known[number] = _read_module(number, name)
                if known[number] is not None:
                    found.append(known[number])
    except NotPermittedError as error:
        return _from_files(prefix, known, error)
    return found


def of_id(number: int) -> Btf:
    """BTF that is loaded, by its id (Linux 4.18): the kernel's, a module's or a program's.

    Raises:
        KernelError: There is none of that id, or it may not be read (CAP_SYS_ADMIN).
        FormatError: It is damaged.
    """
    info = _with_fd(number, data=True)
    if info is None:
        raise kernel_error(errno.ENOENT, "open", f"BTF of id {number}")
    name = str(info.name) or f"BTF of id {number}"
    base = vmlinux() if info.kernel_btf and info.name != "vmlinux" else None
    return Btf.from_bytes(info.data, base=base, name=name, pointer_size=8)


def _with_fd(number: int, *, data: bool) -> Any:
    """Info of a BTF object; ``None`` if it is gone."""
    from pybpfload.kernel.cmd_info import btf_info
    from pybpfload.kernel.cmd_obj import btf_get_fd_by_id

    try:
        fd = btf_get_fd_by_id(number)
    except KernelError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    try:
        return btf_info(fd, data=data)
    finally:
        door.close(fd)


def _module_name(number: int) -> str | None:
    """Name of the module a BTF object belongs to; ``None`` for others."""
    info = _with_fd(number, data=False)
    if info is None or not info.kernel_btf or info.name == "vmlinux":
        return None
    return str(info.name)


def _read_module(number: int, name: str) -> ModuleBtf | None:
    info = _with_fd(number, data=True)
    return None if info is None else _parse(number, name, info.data)


def _parse(number: int, name: str, data: Any) -> ModuleBtf | None:
    base = vmlinux()
    try:
        return ModuleBtf(number, name, Btf.from_bytes(data, base=base, name=name, pointer_size=8))
    except FormatError as error:
        _keep(name, error)
        return None


def _from_files(prefix: str, known: dict[Any, Any], refusal: KernelError) -> list[ModuleBtf]:
    try:
        names = door.list_dir(_SYSFS)
    except OSError:
        _keep("", refusal)
        return []
    found = []
    for name in names:
        if name == "vmlinux" or not name.startswith(prefix):
            continue
        if name not in known:
            try:
                known[name] = _parse(0, name, door.map_file(f"{_SYSFS}/{name}"))
            except OSError as error:
                _keep(name, error)
                known[name] = None
        if known[name] is not None:
            found.append(known[name])
    return found


def has_member(name: str, *path: str) -> bool | None:
    """Whether a type of the running kernel has a member: what it can be asked, without asking.

    Args:
        name: A struct or union, for example ``"bpf_attr"``.
        *path: Names of members, each one of that before.

    Returns:
        ``None`` if the kernel shows no such type.
    """
    try:
        btf = vmlinux()
    except (FormatError, KernelError, NotSupportedError):
        return None
    places = [found for kind in (Kind.STRUCT, Kind.UNION) if (found := btf.find(name, kind))]
    if not places:
        return None
    for wanted in path:
        inside, places = places, []
        while inside:
            composite = btf[btf.strip(inside.pop())]
            for member in composite.members if isinstance(composite, Composite) else ():
                if member.name == wanted:
                    places.append(member.type)
                elif not member.name:  # what is in it counts as if it were outside
                    inside.append(member.type)
    return bool(places)
