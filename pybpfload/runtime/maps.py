"""Creating the maps of an object, reusing pinned ones, filling in what is declared.

The rules are those of libbpf's ``bpf_object__create_maps``.
"""

from __future__ import annotations

import errno
import mmap
import sys
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from pybpfload.errors import BpfError, KernelError, NotSupportedError
from pybpfload.kernel import bpf, bpffs, cpus, door, probe
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.kernel.probe import Feature
from pybpfload.kernel.progload import accepted_name
from pybpfload.object.maps import ring_buffer_size
from pybpfload.object.spec import MapKind, MapSpec, ObjectSpec
from pybpfload.runtime.events import EventTypes
from pybpfload.runtime.handles import open_by, open_pin
from pybpfload.runtime.map import Map
from pybpfload.runtime.mapcodecs import typed_codec
from pybpfload.runtime.maphandle import kernel_btf
from pybpfload.runtime.struct_ops import StructOpsMap
from pybpfload.uapi import MapFlag, MapType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import ExitStack

    from pybpfload.btf import Btf
    from pybpfload.relocate import StructOpsValue
    from pybpfload.runtime.program import Program

__all__ = ["Creator", "create_jump_table", "data_offset", "fill_program_arrays"]

# Types that the kernel refuses BTF for (libbpf ``bpf_object__create_map``).
_WITHOUT_BTF = frozenset(
    {
        MapType.PERF_EVENT_ARRAY,
        MapType.CGROUP_ARRAY,
        MapType.STACK_TRACE,
        MapType.ARRAY_OF_MAPS,
        MapType.HASH_OF_MAPS,
        MapType.DEVMAP,
        MapType.DEVMAP_HASH,
        MapType.CPUMAP,
        MapType.XSKMAP,
        MapType.SOCKMAP,
        MapType.SOCKHASH,
        MapType.QUEUE,
        MapType.STACK,
        MapType.ARENA,
    }
)
_MAP_IN_MAP = (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)


class Creator:
    """Creates the maps of one object, in its order.

    Args:
        spec: The object.
        btf_fd: Its BTF in the kernel, -1 when that was not possible.
        pin_root: Folder for maps that are pinned by name.
        kconfig: Content of the ``.kconfig`` map.
        undo: Gets a callback for everything that is opened or pinned.
        note: Is told the errors of optional steps.
        struct_ops: Values of struct_ops maps by ``id()`` of the map.
        module_fd: Gives the descriptor of a module's BTF, 0 for that of the kernel itself.
    """

    def __init__(
        self,
        spec: ObjectSpec,
        btf_fd: int,
        pin_root: str,
        kconfig: bytes,
        undo: ExitStack,
        note: Callable[[BaseException], None],
        struct_ops: Mapping[int, StructOpsValue],
        module_fd: Callable[[Btf], int],
    ) -> None:
        self.spec = spec
        self.btf_fd = btf_fd
        self.pin_root = pin_root
        self.kconfig = kconfig
        self.undo = undo
        self.note = note
        self.struct_ops = struct_ops
        self.module_fd = module_fd

    def create_all(self) -> dict[str, Map[Any, Any]]:
        """Create, reuse or pin every map that is wanted.

        Raises:
            KernelError: The kernel refuses one.
            BpfError: A pinned map is not what the definition says.
        """
        made: dict[str, Map[Any, Any]] = {}
        for key, map_spec in self.spec.maps.items():
            if map_spec.is_internal and not probe.has(Feature.GLOBAL_DATA):
                self.note(
                    NotSupportedError(
                        f"map {map_spec.name}: this kernel has no global variables", since="5.2"
                    )
                )
                continue
            if map_spec.autocreate:
                made[key] = self._provide(map_spec, made)
        return made

    def _provide(self, spec: MapSpec, made: Mapping[str, Map[Any, Any]]) -> Map[Any, Any]:
        pin_path = spec.pin_path
        if pin_path is None and spec.pinning == 1:
            pin_path = f"{self.pin_root}/{spec.name}"
        if spec.reuse is not None:
            return self._reuse(spec, open_by("map", spec.reuse))
        if pin_path is not None:
            existing = self._open_pin(spec, pin_path)
            if existing is not None:
                return existing
        created = self._create(spec, made)
        if pin_path is not None and not self._pin(created, pin_path):
            # Somebody pinned one in the meantime: theirs is the one to share.
            existing = self._open_pin(spec, pin_path)
            created.close()
            if existing is None:
                raise BpfError(
                    f"map {spec.name}: {pin_path} is made and removed all the time by others"
                )
            return existing
        return created

    # Existing maps

    def _open_pin(self, spec: MapSpec, path: str) -> Map[Any, Any] | None:
        try:
            owner = open_pin("map", path, f"map {spec.name}")
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        found = self._reuse(spec, owner, check=path)
        found.pin_path = path
        return found

    def _reuse(
        self, spec: MapSpec, owner: FileDescriptor, check: str | None = None
    ) -> Map[Any, Any]:
        self.undo.callback(owner.close)
        info = bpf.map_info(owner.fileno())
        if check is not None:
            differences = _differences(spec, info)
            other_types = self._type_differences(spec, info)
            if differences:
                raise BpfError(
                    f"map {spec.name}: the map pinned at {check} is another one: "
                    + "; ".join(differences + other_types)
                )
            if other_types:  # libbpf takes it all the same
                self.note(
                    BpfError(
                        f"map {spec.name}: the map pinned at {check} was made for other types: "
                        + "; ".join(other_types)
                    )
                )
        return self._wrap(
            spec,
            owner,
            info.type,
            info.key_size,
            info.value_size,
            info.max_entries,
            info.map_flags,
        )

    def _type_differences(self, spec: MapSpec, info: bpf.MapInfo) -> list[str]:
        """How the layout of keys and values differs from what an existing map was made for."""
        if self.spec.btf is None or not info.btf_id:
            return []
        theirs = kernel_btf(info.btf_id)
        if theirs is None:
            return []
        sides = (
            ("key", info.key_size, info.btf_key_type_id, spec.key_size, spec.key_type_id),
            ("value", info.value_size, info.btf_value_type_id, spec.value_size, spec.value_type_id),
        )
        found = []
        for what, their_size, their_id, our_size, our_id in sides:
            ours = typed_codec(our_size, self.spec.btf, our_id)
            existing = typed_codec(their_size, theirs, their_id)
            if ours is not None and existing is not None:
                found += [f"{what} {text}" for text in islice(_unlike(existing, ours), 4)]
        return found

    # New maps

    def _create(self, spec: MapSpec, made: Mapping[str, Map[Any, Any]]) -> Map[Any, Any]:
        entries = ring_buffer_size(spec.type, spec.max_entries, mmap.PAGESIZE)
        if spec.type == MapType.PERF_EVENT_ARRAY and not entries:
            entries = cpus.possible_cpus()
        flags = spec.flags
        if spec.is_internal and flags & MapFlag.MMAPABLE and not probe.has(Feature.ARRAY_MMAP):
            flags &= ~MapFlag.MMAPABLE
        options: dict[str, Any] = {
            "map_flags": flags,
            "numa_node": spec.numa_node,
            "map_ifindex": spec.ifindex,
            "map_extra": spec.map_extra,
            "map_name": accepted_name(spec.name),
        }
        if spec.kind == MapKind.STRUCT_OPS:
            return self._create_struct_ops(spec, flags, options)
        if self.btf_fd >= 0 and spec.type not in _WITHOUT_BTF:
            options["btf_fd"] = self.btf_fd
            options["btf_key_type_id"] = spec.key_type_id
            options["btf_value_type_id"] = spec.value_type_id
        inner: Map[Any, Any] | None = None
        if spec.type in _MAP_IN_MAP and spec.inner is not None:
            inner = self._create(spec.inner, made)
            options["inner_map_fd"] = inner.fileno()
        try:
            owner = self._create_fd(spec, entries, options)
        finally:
            if inner is not None:
                inner.close()
        self.undo.callback(owner.close)
        created = self._wrap(spec, owner, spec.type, spec.key_size, spec.value_size, entries, flags)
        self._fill(spec, created, made)
        return created

    def _create_struct_ops(
        self, spec: MapSpec, flags: int, options: dict[str, Any]
    ) -> Map[Any, Any]:
        """Make a map whose value is of a type of the kernel."""
        value = self.struct_ops[id(spec)]
        options["btf_vmlinux_value_type_id"] = value.type_id
        if self.btf_fd >= 0:
            options["btf_fd"] = self.btf_fd
        if module := self.module_fd(value.btf):
            flags |= MapFlag.VTYPE_BTF_OBJ_FD
            options["value_type_btf_obj_fd"] = module
        options["map_flags"] = flags
        size, target = len(value.contents), f"map {spec.name}"
        arguments = (spec.type, spec.key_size, size, spec.max_entries)
        try:
            fd = bpf.map_create(*arguments, **options)
        except KernelError as error:
            error.target = target
            if flags & MapFlag.LINK and error.errno == errno.EINVAL:
                _check_struct_ops_links(error, arguments, options)
            raise
        owner = FileDescriptor(fd, target)
        self.undo.callback(owner.close)
        created = StructOpsMap(
            owner,
            name=spec.name,
            type=spec.type,
            key_size=spec.key_size,
            value_size=size,
            max_entries=spec.max_entries,
            flags=spec.flags,
            btf=value.btf,
            value_type_id=value.type_id,
        )
        self.undo.callback(created.close)
        return created

    def _create_fd(self, spec: MapSpec, entries: int, options: dict[str, Any]) -> FileDescriptor:
        arguments = (spec.type, spec.key_size, spec.value_size, entries)
        target = f"map {spec.name}"
        try:
            return FileDescriptor(bpf.map_create(*arguments, **options), target)
        except KernelError as error:
            error.target = target
            described = options.get("btf_key_type_id") or options.get("btf_value_type_id")
            if not described:
                raise
            # Kernels differ in what BTF they accept for which map; without it a map works too.
            self.note(error)
        for name in ("btf_fd", "btf_key_type_id", "btf_value_type_id"):
            options.pop(name)
        try:
            return FileDescriptor(bpf.map_create(*arguments, **options), target)
        except KernelError as error:
            error.target = target
            raise

    def _fill(
        self, spec: MapSpec, created: Map[Any, Any], made: Mapping[str, Map[Any, Any]]
    ) -> None:
        if spec.is_internal:
            _put(created, 0, self._contents(spec))
            if spec.is_read_only:
                try:
                    bpf.map_freeze(created.fileno())
                except KernelError as error:
                    # Before 5.2 there is no freezing; the program cannot write it all the same.
                    if error.errno not in (errno.EINVAL, errno.EPERM):
                        raise
                    self.note(error)
        elif spec.type in _MAP_IN_MAP:
            for slot, name in enumerate(spec.values):
                if name is None:
                    continue
                if name not in made:
                    raise BpfError(
                        f"map {spec.name}: its value {name} is not there; define it before "
                        f"{spec.name} in the object, with autocreate"
                    )
                _put(created, slot, _u32(made[name].fileno()))
        elif spec.type == MapType.ARENA and spec.contents:
            self._fill_arena(spec, created)

    def _contents(self, spec: MapSpec) -> bytes:
        """Initial value; the kernel reads as many bytes as a value has, whatever we give."""
        contents = self.kconfig if spec.kind == MapKind.KCONFIG else bytes(spec.contents or b"")
        if len(contents) > spec.value_size:
            raise BpfError(
                f"map {spec.name}: its contents have {len(contents)} bytes, but its value has "
                f"{spec.value_size}"
            )
        return contents.ljust(spec.value_size, b"\0")

    def _fill_arena(self, spec: MapSpec, created: Map[Any, Any]) -> None:
        """Put global variables where programs are made to look for them."""
        contents = bytes(spec.contents or b"")
        start = data_offset(spec)
        with memoryview(created.view()) as pages:
            if len(contents) > len(pages):
                raise BpfError(
                    f"map {spec.name}: its contents have {len(contents)} bytes, but there is room "
                    f"for {len(pages)}"
                )
            pages[start : start + len(contents)] = contents

    def _pin(self, created: Map[Any, Any], path: str) -> bool:
        try:
            bpffs.pin(created.fileno(), path)
        except KernelError as error:
            if error.errno == errno.EEXIST:
                return False
            error.target = f"map {created.name} at {path}"
            raise
        created.pin_path = path
        self.undo.callback(unpin, path)
        return True

    def _wrap(
        self,
        spec: MapSpec,
        owner: FileDescriptor,
        map_type: int,
        key_size: int,
        value_size: int,
        entries: int,
        flags: int | None = None,
    ) -> Map[Any, Any]:
        btf = self.spec.btf
        is_arena = map_type == MapType.ARENA
        made: Map[Any, Any] = Map(
            owner,
            address=spec.map_extra if is_arena else 0,
            name=spec.name,
            type=MapType(map_type),
            key_size=key_size,
            value_size=value_size,
            max_entries=entries,
            flags=spec.flags if flags is None else flags,
            btf=btf,
            key_type_id=spec.key_type_id,
            value_type_id=spec.value_type_id,
            event_types=EventTypes(btf, spec.name) if btf is not None else None,
        )
        self.undo.callback(made.close)
        return made


def _check_struct_ops_links(
    error: KernelError, arguments: tuple[int, int, int, int], options: Mapping[str, Any]
) -> None:
    """After a struct_ops map was refused: whether the kernel would take it without a link.

    Raises:
        NotSupportedError: It would.
    """
    flags = options["map_flags"] & ~MapFlag.LINK
    try:
        FileDescriptor(bpf.map_create(*arguments, **{**options, "map_flags": flags})).close()
    except KernelError:
        return
    raise NotSupportedError(
        f"{error.target}: this kernel has no links of struct_ops; declare it in "
        'SEC(".struct_ops"), which needs none',
        feature="struct_ops links",
        since="6.4",
    ) from error


def data_offset(spec: MapSpec) -> int:
    """Where in a map's memory its global variables begin: in arenas, on the last pages.

    Before Linux 7.0 they are at the beginning, because instructions cannot reach further.
    """
    if spec.type != MapType.ARENA or not spec.contents:
        return 0
    pages = -(-len(spec.contents) // mmap.PAGESIZE)
    if pages > spec.max_entries or not probe.has(Feature.LDIMM64_FULL_RANGE_OFF):
        return 0
    return (spec.max_entries - pages) * mmap.PAGESIZE


def create_jump_table(program: str, table: Sequence[int], owner: ExitStack) -> int:
    """Make the map through which a program jumps (Linux 6.19).

    Args:
        program: Its name.
        table: Indices of its instructions.
        owner: Gets a callback that closes the map; a loaded program keeps it alive.

    Returns:
        Its file descriptor.

    Raises:
        KernelError: The kernel refuses.
    """
    what = f"jump table of program {program}"
    try:
        made = bpf.map_create(MapType.INSN_ARRAY, 4, 16, len(table), map_name=".jumptables")
        owner.callback(FileDescriptor(made, what).close)
        for slot, index in enumerate(table):
            # struct bpf_insn_array_value: what is asked for, then what the kernel makes of it.
            bpf.map_update_elem(made, _u32(slot), _u32(index) + bytes(12))
        bpf.map_freeze(made)
    except KernelError as error:
        error.target = what
        raise
    return made


def unpin(path: str) -> None:
    """Remove a pin; one that is gone already is no error."""
    with suppress(FileNotFoundError):
        door.unlink(path)


def _differences(spec: MapSpec, info: bpf.MapInfo) -> list[str]:
    flags = int(info.map_flags)
    if info.type in (MapType.DEVMAP, MapType.DEVMAP_HASH):
        flags &= ~MapFlag.RDONLY_PROG  # the kernel sets it by itself since 5.18
    entries = ring_buffer_size(spec.type, spec.max_entries, mmap.PAGESIZE)
    if spec.type == MapType.PERF_EVENT_ARRAY and not entries:
        entries = cpus.possible_cpus()
    pairs = (
        ("type", int(spec.type), int(info.type)),
        ("key size", spec.key_size, info.key_size),
        ("value size", spec.value_size, info.value_size),
        ("max_entries", entries, info.max_entries),
        ("flags", int(spec.flags), flags),
        ("map_extra", spec.map_extra, info.map_extra),
    )
    return [
        f"{what} is {theirs}, the object says {ours}"
        for what, ours, theirs in pairs
        if ours != theirs
    ]


def _unlike(theirs: Any, ours: Any, path: str = "") -> Iterator[str]:
    """What two types have in different places or of different sizes, by member."""
    structs = [hasattr(each, "members") for each in (theirs, ours)]
    if theirs.size != ours.size or structs[0] != structs[1]:
        yield (
            f"{path or 'type'} is {theirs.name} of {theirs.size} bytes, "
            f"the object says {ours.name} of {ours.size}"
        )
    if not all(structs):
        return
    existing = {member.name: member for member in theirs.members}
    for member in ours.members:
        name = f"{path}.{member.name}" if path else member.name
        other = existing.pop(member.name, None)
        if other is None:
            yield f"has no member {name}"
        elif other.offset != member.offset:
            yield f"{name} is at byte {other.offset}, the object says {member.offset}"
        else:
            yield from _unlike(other.codec, member.codec, name)
    for name in existing:
        yield f"has a member {path}{'.' * bool(path)}{name}, which the object has not"


def _u32(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)


def _put(target: Map[Any, Any], slot: int, value: bytes) -> None:
    """Write a declared value.

    Raises:
        KernelError: The kernel refused.
    """
    try:
        bpf.map_update_elem(target.fileno(), _u32(slot), value)
    except KernelError as error:
        error.target = f"map {target.name}, key {slot}"
        raise


def fill_program_arrays(
    spec: ObjectSpec, maps: Mapping[str, Map[Any, Any]], programs: Mapping[str, Program]
) -> None:
    """Write the declared programs into PROG_ARRAY maps, once all programs are loaded.

    Raises:
        BpfError: One of them was not loaded.
        KernelError: The kernel refused one.
    """
    for key, map_spec in spec.maps.items():
        if map_spec.type != MapType.PROG_ARRAY or key not in maps:
            continue
        for slot, name in enumerate(map_spec.values):
            if name is None:
                continue
            if name not in programs:
                raise BpfError(f"map {map_spec.name}: its program {name} was not loaded")
            _put(maps[key], slot, _u32(programs[name].fileno()))
