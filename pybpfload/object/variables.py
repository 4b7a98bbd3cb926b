"""Global variables of an object, kept in the contents of the map that is made of their section."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pybpfload.errors import BpfError

if TYPE_CHECKING:
    from pybpfload.btf import Btf
    from pybpfload.object.spec import MapSpec

__all__ = ["SectionVariables", "VariableSpec"]


@dataclass(slots=True, eq=False)
class VariableSpec:
    """A global variable, kept in the map that is made from its section.

    Attributes:
        name: Name in C.
        section: ELF section, for example ``.rodata``.
        map: The map that holds it.
        offset, size: In bytes in the section.
        type_id: Its type in the object's BTF.
        linkage: 0 static, 1 global.
    """

    name: str
    section: str
    map: MapSpec
    offset: int
    size: int
    type_id: int
    linkage: int
    btf: Btf = field(repr=False)

    @property
    def value(self) -> Any:
        """Initial value by its BTF type; assign to change it, also that of a constant."""
        codec = self._codec()
        if self.map.is_untouched:  # zeros, of which no more are made than are looked at
            there = min(codec.size, self.map.value_size - self.offset)
            return codec.decode(bytes(there), 0)
        return codec.decode(self._contents(), self.offset)

    @value.setter
    def value(self, value: Any) -> None:
        encoded = self._codec().encode(value)
        self._contents()[self.offset : self.offset + len(encoded)] = encoded

    @property
    def is_const(self) -> bool:
        """Whether the program may only read it."""
        return self.map.is_read_only

    def _codec(self) -> Any:
        from pybpfload.btf.values import codec

        return codec(self.btf, self.type_id)

    def _contents(self) -> bytearray:
        if self.map.contents is None:
            raise BpfError(
                f"variable {self.name}: its section {self.section} has no initial content"
            )
        return self.map.contents


class SectionVariables:
    """Variables of one section as attributes: ``spec.rodata.target_pid = 1234``."""

    __slots__ = ("_section", "_variables")

    def __init__(self, section: str, variables: dict[str, Any]) -> None:
        object.__setattr__(self, "_section", section)
        object.__setattr__(self, "_variables", variables)

    def _find(self, name: str) -> Any:
        variable = self._variables.get(name)
        if variable is None:
            known = ", ".join(self._variables) or "none"
            raise AttributeError(f"no variable {name!r} in {self._section}; there are: {known}")
        return variable

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._find(name).value

    def __setattr__(self, name: str, value: Any) -> None:
        self._find(name).value = value

    def __dir__(self) -> list[str]:
        return list(self._variables)

    def __repr__(self) -> str:
        return f"<variables of {self._section}: {', '.join(self._variables)}>"
