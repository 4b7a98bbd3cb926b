"""Global variables of a loaded object."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pybpfload.errors import BpfError

if TYPE_CHECKING:
    from pybpfload.btf.codecs import Codec
    from pybpfload.runtime.map import Map

__all__ = ["ReadOnlyError", "Variable", "section_variables"]

_WORDS = {2: "H", 4: "I", 8: "Q"}  # single bytes are accessed at once anyway
_ELEMENT = bytes(4)


class ReadOnlyError(BpfError, ValueError):
    """A constant of a loaded object cannot be changed; set it before loading."""


class Variable:
    """A global variable, live: reading and writing it is reading and writing what programs see.

    Through shared memory where its map can be mapped (``BPF_F_MMAPABLE``, Linux 5.5; every section
    that has a variable that is not ``static``). Then a variable of 1, 2, 4 or 8 bytes that is
    aligned is read and written in one access, so neither side ever sees half of one (not on
    riscv64, where CPython may copy it byte by byte); a larger one may be read while a program is
    writing it. ``v.value += 1`` is a read and a write: what programs
    add in between is lost; count in per-CPU variables or maps, or let only one side write.

    Otherwise by reading and writing the whole section (element 0 of its map): what programs write
    to *other* variables of the section meanwhile is lost.

    Args:
        name: Name in C.
        map: The map that holds its section.
        offset: In bytes in the section.
        size: In bytes.
        codec: How its bytes become a value.
        shared: Whether the map can be mapped (:meth:`Map.view`).
        read_only: Whether it is a constant.
        section: ELF section.

    Attributes:
        name, map, offset, size, read_only, section: As above.
    """

    __slots__ = (
        "_codec",
        "_parts",
        "_shared",
        "_window",
        "map",
        "name",
        "offset",
        "read_only",
        "section",
        "size",
    )

    def __init__(
        self,
        name: str,
        map: Map[Any, Any],  # noqa: A002
        offset: int,
        size: int,
        codec: Codec,
        shared: bool,
        read_only: bool,
        *,
        section: str = "",
    ) -> None:
        self.name = name
        self.map = map
        self.offset = offset
        self.size = size
        self.read_only = read_only
        self.section = section
        self._codec = codec
        self._shared = shared
        self._window: memoryview | None = None
        self._parts: dict[str, Variable] = {}

    @property
    def codec(self) -> Codec:
        """How its bytes become a value."""
        return self._codec

    @property
    def type_name(self) -> str:
        """Its type as C writes it."""
        return self._codec.name

    @property
    def value(self) -> Any:
        """Its value now. Assigning changes what programs see at once.

        Raises:
            ReadOnlyError: On assignment to a constant.
            ValueMismatchError: On assignment of a value that does not fit its C type.
            ValueError: The object is closed.
            KernelError: The kernel refused.
        """
        self._check_open()
        return self._codec.decode(self._read())

    @value.setter
    def value(self, value: Any) -> None:
        if self.read_only:
            raise ReadOnlyError(
                f"{self.name} is a constant ({self.section or self.map.name}): programs are loaded "
                "with its value; set it in the spec before loading"
            )
        self._check_open()
        raw = self._codec.encode(value)
        if len(raw) > self.size:
            raise BpfError(f"variable {self.name}: {len(raw)} bytes do not fit into {self.size}")
        if not self._shared:
            section = bytearray(self._section())
            section[self.offset : self.offset + len(raw)] = raw
            self.map.put_bytes(_ELEMENT, bytes(section))
            return
        window = self._window or self._open()
        if window.format == "B":
            window[: len(raw)] = raw
        else:
            window[0] = int.from_bytes(raw, sys.byteorder)

    def __getitem__(self, step: str | int) -> Variable:
        """A member of a struct or an element of an array, as a variable of its own.

        Assigning to its ``value`` leaves the rest alone, which a program may be changing::

            obj.variables["config"]["limit"].value = 5
            obj.variables["counts"][3].value

        Args:
            step: Name of the member, or index of the element.

        Raises:
            KeyError: There is no such member.
            IndexError: There is no such element.
            TypeError: It has no parts, or the member is a bit field.
        """
        codec: Any = self._codec
        if isinstance(step, str) and hasattr(codec, "members"):
            member = next((each for each in codec.members if each.name == step), None)
            if member is None:
                raise KeyError(f"{self.name} has no member {step!r}")
            if hasattr(member.codec, "width"):
                raise TypeError(f"{self.name}.{step} is a bit field: assign the whole struct")
            return self._part(f"{self.name}.{step}", member.offset, member.codec)
        if isinstance(step, int) and hasattr(codec, "element"):
            index = step + codec.count if step < 0 else step
            if not 0 <= index < codec.count:
                raise IndexError(f"{self.name} has {codec.count} elements, not one at {step}")
            return self._part(f"{self.name}[{index}]", index * codec.element.size, codec.element)
        raise TypeError(f"{self.name} of type {self.type_name} has no {step!r}")

    def _part(self, name: str, offset: int, codec: Codec) -> Variable:
        made = self._parts.get(name)
        if made is None:  # kept, because each has a window into the map
            self._check_open()
            made = self._parts[name] = Variable(
                name,
                self.map,
                self.offset + offset,
                codec.size,
                codec,
                self._shared,
                self.read_only,
                section=self.section,
            )
        return made

    def _check_open(self) -> None:
        if self.map.closed:
            raise ValueError(f"variable {self.name}: its object is closed")

    def _read(self) -> bytes:
        if not self._shared:
            return self._section()[self.offset : self.offset + self.size]
        window = self._window or self._open()
        if window.format == "B":
            return bytes(window)
        return window[0].to_bytes(self.size, sys.byteorder)

    def _open(self) -> memoryview:
        code = "B"
        if self.offset % (self.size or 1) == 0 and self._codec.size == self.size:
            code = _WORDS.get(self.size, "B")
        self._window = self.map.window(self.offset, self.size, code)
        return self._window

    def _section(self) -> bytes:
        raw = self.map.lookup_bytes(_ELEMENT)
        if raw is None or len(raw) < self.offset + self.size:
            raise BpfError(f"variable {self.name}: map {self.map.name} does not hold it")
        return raw

    def __repr__(self) -> str:
        kind = "constant" if self.read_only else "variable"
        return f"<Variable {self.name}: {kind} of type {self.type_name} in {self.map.name}>"


def section_variables(section: Map[Any, Any]) -> dict[str, Variable]:
    """The global variables of a map that holds a section of them; see :meth:`Map.variables`."""
    from pybpfload.btf.types import Datasec
    from pybpfload.btf.values import codec
    from pybpfload.uapi import MapFlag

    btf = section.btf
    described = btf[btf.strip(section.value_type_id)] if btf and section.value_type_id else None
    if btf is None or not isinstance(described, Datasec):
        return {}
    shared = bool(section.flags & MapFlag.MMAPABLE)
    frozen = section.fdinfo().get("frozen") == "1"
    found = {}
    for entry in described.entries:
        variable: Any = btf[entry.type]
        if entry.offset + entry.size <= section.value_size:
            kind = codec(btf, variable.type)
            found[variable.name] = Variable(
                variable.name, section, entry.offset, entry.size, kind, shared, frozen,
                section=described.name,
            )  # fmt: skip
    return found
