"""What all maps have, whatever their type: a descriptor, a name in a file system, a size."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from pybpfload.errors import BpfError, KernelError
from pybpfload.kernel import bpf, bpffs, door
from pybpfload.kernel.errors import kernel_error
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime import mapkinds
from pybpfload.runtime.handles import Handle, open_fd, open_pin
from pybpfload.uapi import BPF_OBJ_NAME_LEN, MapFlag, MapType

if TYPE_CHECKING:
    import mmap

    from typing_extensions import Self

    from pybpfload.btf import Btf
    from pybpfload.runtime.events import Choice, EventTypes
    from pybpfload.runtime.handles import HasFileno
    from pybpfload.runtime.perfbuf import PerfBuffer
    from pybpfload.runtime.ringbuf import RingBuffer
    from pybpfload.runtime.variable import Variable

__all__ = ["MapHandle", "kernel_btf"]


class _Opened:
    """What was opened to read a map, shared by all views of it on one descriptor."""

    def __init__(self) -> None:
        self.view: mmap.mmap | memoryview | None = None
        self.windows: WeakValueDictionary[int, memoryview] = WeakValueDictionary()  # by id()
        self.reader: RingBuffer | PerfBuffer | None = None

    def close(self) -> None:
        reader, self.reader = self.reader, None
        view, self.view = self.view, None
        if reader is not None:
            reader.close()
        for window in list(self.windows.values()):
            with suppress(BufferError):
                window.release()
        if view is not None:
            with suppress(BufferError):  # somebody looks into it; it goes with the last of them
                if isinstance(view, memoryview):
                    view.release()
                else:
                    view.close()


class MapHandle(Handle):
    """A map in the kernel, as a whole; :class:`~pybpfload.runtime.map.Map` adds its elements.

    Arguments and attributes are those of ``Map``.
    """

    _kind = "map"

    def __init__(
        self,
        fd: FileDescriptor,
        *,
        name: str,
        type: MapType,  # noqa: A002
        key_size: int,
        value_size: int,
        max_entries: int,
        flags: int = 0,
        btf: Btf | None = None,
        key_type_id: int = 0,
        value_type_id: int = 0,
        pin_path: str | None = None,
        event_types: EventTypes | None = None,
        address: int = 0,
    ) -> None:
        self._fd = fd
        self._address = address
        self._opened = _Opened()
        self.name = name
        self.type = type
        self.key_size = key_size
        self.value_size = value_size
        self.max_entries = max_entries
        self.flags = MapFlag(flags)
        self.btf = btf
        self.key_type_id = key_type_id
        self.value_type_id = value_type_id
        self.pin_path = pin_path
        self._event_types = event_types

    # Opening

    @classmethod
    def from_pin(cls, path: str | os.PathLike[str], *, read_only: bool = False) -> Self:
        """Open a pinned map.

        Args:
            path: Its path on a BPF filesystem.
            read_only: Ask for no more than reading (Linux 4.15).

        Raises:
            KernelError: There is none, or it may not be opened.
            BpfError: It is not a map.
        """
        made = cls._of(open_pin("map", path, file_flags=MapFlag.RDONLY if read_only else 0))
        made.pin_path = os.fspath(path)
        return made

    @classmethod
    def from_name(cls, name: str) -> Self:
        """Open the only map of that name in the kernel (Linux 4.15; CAP_SYS_ADMIN).

        Names are not unique: use an id or a pin where there may be several.

        Args:
            name: Its name; the kernel knows the first 15 characters.

        Raises:
            BpfError: There is none, or more than one.
            KernelError: The kernel refused.
        """
        wanted = name.encode()[: BPF_OBJ_NAME_LEN - 1].decode(errors="replace")
        found: list[FileDescriptor] = []
        try:
            for number in cls.ids():
                try:
                    fd = FileDescriptor(bpf.map_get_fd_by_id(number), f"map id {number}")
                except KernelError as error:
                    if error.errno != errno.ENOENT:  # it went meanwhile
                        raise
                    continue
                found.append(fd)
                if bpf.map_info(fd.fileno()).name != wanted:
                    found.pop().close()
            if len(found) != 1:
                which = ", ".join(fd.what.removeprefix("map id ") for fd in found)
                several = f"there are {len(found)} maps called {wanted}, with the ids {which}"
                raise BpfError(several if found else f"there is no map called {wanted}")
            return cls._of(found.pop())
        finally:
            for fd in found:
                fd.close()

    @classmethod
    def from_fd(cls, fd: HasFileno | int) -> Self:
        """Wrap a map that somebody else has open; its descriptor is duplicated.

        Args:
            fd: The descriptor, or anything with ``fileno()``.

        Raises:
            KernelError: It cannot be duplicated, or not asked about.
            BpfError: It is not a map.
        """
        return cls._of(open_fd("map", fd))

    @classmethod
    def _of(cls, fd: FileDescriptor) -> Self:
        try:
            info = bpf.map_info(fd.fileno())
            btf = None
            if info.btf_id and (info.btf_key_type_id or info.btf_value_type_id):
                btf = kernel_btf(info.btf_id)
            return cls(
                fd,
                name=info.name or fd.what.removeprefix("map "),
                type=info.type,
                key_size=info.key_size,
                value_size=info.value_size,
                max_entries=info.max_entries,
                flags=info.map_flags,
                btf=btf,
                key_type_id=info.btf_key_type_id,
                value_type_id=info.btf_value_type_id,
            )
        except BaseException:
            fd.close()
            raise

    # Life

    def close(self) -> None:
        """Close the descriptor and what was opened to read the map; again does nothing.

        The map itself lives as long as a program, a pin or another descriptor holds it.
        """
        try:
            self._opened.close()
        finally:
            self._fd.close()

    # The map as a whole

    def info(self) -> bpf.MapInfo:
        """What the kernel tells about it now (Linux 4.13)."""
        return bpf.map_info(self.fileno())

    def freeze(self) -> None:
        """Forbid all writes by system calls from now on (Linux 5.2); programs still may.

        Raises:
            KernelError: EBUSY: it is mapped for writing or frozen already.
        """
        try:
            bpf.map_freeze(self.fileno())
        except KernelError as error:
            error.target = f"map {self.name}"
            if error.errno in (errno.EBUSY, errno.EPERM):
                error.hint = "it is frozen already, or mapped for writing (view(), variables)"
            raise

    def view(self) -> mmap.mmap | memoryview:
        """The values as shared memory, made once: of arrays with ``BPF_F_MMAPABLE`` (Linux 5.5).

        Values lie one behind the other, each padded to 8 bytes. What is written is seen by programs
        at once, and the other way round. Read-only if the map is frozen or may not be written. Of
        arenas, all pages (6.9), at the address that ``map_extra`` of the map says, so that pointers
        of programs are good here too.

        Raises:
            TypeError: The map cannot be mapped.
            KernelError: The kernel refused; EEXIST: something is at the arena's address.
        """
        opened = self._opened
        if opened.view is not None:
            return opened.view
        import mmap

        page = mmap.PAGESIZE
        if self.type == MapType.ARENA:
            length = self.max_entries * page
        elif self.flags & MapFlag.MMAPABLE:
            length = (self.value_size + 7 & -8) * self.max_entries
        else:
            raise self._cannot("view() without BPF_F_MMAPABLE")
        length = length + page - 1 & -page
        try:
            if self._address:
                opened.view = door.mmap_at(self.fileno(), length, self._address)
            else:
                opened.view = door.mmap(self.fileno(), length, write=True)
        except PermissionError:
            try:
                opened.view = door.mmap(self.fileno(), length, write=False)
            except OSError as error:
                raise kernel_error(error.errno or 0, "mmap", f"map {self.name}") from None
        except OSError as error:
            raise kernel_error(error.errno or 0, "mmap", f"map {self.name}") from None
        return opened.view

    def window(self, offset: int, size: int, code: Any = "B") -> memoryview:
        """A part of :meth:`view`; closing the map makes it unusable.

        Args:
            offset: In bytes.
            size: In bytes.
            code: What its elements are, as in :mod:`struct`.

        Raises:
            TypeError: The map cannot be mapped.
            ValueError: There are not so many bytes there.
            KernelError: The kernel refused.
        """
        with memoryview(self.view()) as whole, whole[offset : offset + size] as part:
            if len(part) != size:
                raise ValueError(f"map {self.name}: no {size} bytes at offset {offset}")
            window = part.cast(code)
        self._opened.windows[id(window)] = window
        return window

    def variables(self) -> dict[str, Variable]:
        """The global variables that it holds, if its BTF says that it is a section of them.

        For maps of programs that somebody else has loaded; of an own object
        :attr:`Object.variables` are those of all sections. Nothing is read or mapped before a
        value is asked for. Those of a frozen map (``.rodata``) cannot be changed.

        Returns:
            By name; none if it is no such map.
        """
        from pybpfload.runtime.variable import section_variables

        this: Any = self
        return section_variables(this)

    def pin(self, path: str | os.PathLike[str] | None = None) -> None:
        """Give the map a name in a BPF filesystem, which keeps it alive (Linux 4.4).

        Args:
            path: Where; by default :attr:`pin_path`. A missing directory is made, but only one.

        Raises:
            BpfError: There is no path, or it is pinned elsewhere already.
            KernelError: EEXIST: something else is there; EINVAL: not a BPF filesystem; and others.
        """
        where = path or self.pin_path
        if where is None:
            raise BpfError(f"map {self.name}: no path to pin it at")
        self.pin_path = bpffs.pin(self.fileno(), where)

    def unpin(self, path: str | os.PathLike[str] | None = None) -> None:
        """Remove the map's name from the BPF filesystem.

        Args:
            path: Where; by default :attr:`pin_path`.

        Raises:
            BpfError: There is no path.
            KernelError: ENOENT: nothing is there; EINVAL: it is not on a BPF filesystem.
        """
        where = path or self.pin_path
        if where is None:
            raise BpfError(f"map {self.name} is not pinned")
        bpffs.unpin(where)
        if os.fspath(where) == self.pin_path:
            self.pin_path = None

    # Events

    @property
    def event_type(self) -> Choice:
        """What the user chose as type of the events of a ring buffer or perf event array.

        The name of a struct of the object's BTF, a codec, or a function that gets the record and
        returns either; ``None`` leaves the choice to :class:`~pybpfload.runtime.events.EventTypes`,
        which has the whole rule.
        """
        return self.event_types.choice

    @event_type.setter
    def event_type(self, choice: Choice) -> None:
        self.event_types.choice = choice

    @property
    def event_types(self) -> EventTypes:
        """How events are typed."""
        if self._event_types is None:
            from pybpfload.runtime.events import EventTypes

            self._event_types = EventTypes(self.btf, self.name)
        return self._event_types

    def reader(self) -> RingBuffer | PerfBuffer:
        """The buffer that ``for event in m`` reads; opened when needed and closed with the map.

        The map keeps it: every call gives the same one, until that is closed.

        Raises:
            TypeError: This type of map has no events.
            KernelError: It cannot be opened.
        """
        opened = self._opened
        if opened.reader is None or opened.reader.closed:
            this: Any = self
            if self.type == MapType.RINGBUF:
                from pybpfload.runtime.ringbuf import RingBuffer

                opened.reader = RingBuffer(this)
            elif self.type == MapType.PERF_EVENT_ARRAY:
                from pybpfload.runtime.perfbuf import PerfBuffer

                opened.reader = PerfBuffer(this)
            else:
                raise self._cannot("reading events")
        return opened.reader

    def _cannot(self, what: str) -> TypeError:
        able = mapkinds.abilities(self.type)
        return TypeError(f"map {self.name} is of type {self.type.name}: no {what}; it can {able}")


def kernel_btf(number: int) -> Btf | None:
    """BTF of the object that a map was made for; ``None`` if the kernel does not give it.

    Args:
        number: Its id, as :meth:`MapHandle.info` has it.
    """
    from pybpfload.btf import Btf

    try:
        with FileDescriptor(bpf.btf_get_fd_by_id(number), f"BTF id {number}") as fd:
            return Btf.from_bytes(bpf.btf_info(fd.fileno()).data, name=f"BTF id {number}")
    except BpfError:
        return None  # without it keys and values are numbers and bytes
