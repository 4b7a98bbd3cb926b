"""What all maps of the interpreter have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.btf.types import Kind
from pybpfload.btf.values import codec, raw_codec
from pybpfload.testing.interpreter.errors import FaultError
from pybpfload.uapi import MapType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.btf import Btf
    from pybpfload.btf.codecs import Codec
    from pybpfload.object.spec import MapSpec
    from pybpfload.testing.interpreter.environment import Environment
    from pybpfload.testing.interpreter.memory import Memory, Region

__all__ = ["MapModel"]


class MapModel:
    """A map: what helpers do with it, on bytes. Subclasses add what Python code does, on values.

    One of this class itself can be named by programs and do nothing: it stands for the types of
    maps that the interpreter does not have.

    Args:
        spec: Its definition.
        memory: Where its values are.
        environment: Tells the CPU, for per-CPU maps.
        btf: BTF of its object, or ``None``.

    Attributes:
        spec, memory, environment, btf: As above.
        name: Of the definition.
        address: What programs know it by.
    """

    def __init__(
        self, spec: MapSpec, memory: Memory, environment: Environment, btf: Btf | None = None
    ) -> None:
        self.spec = spec
        self.name = spec.name
        self.memory = memory
        self.environment = environment
        self.btf = btf
        self.address = memory.allocate(0, f"map {spec.name}", owner=self, writable=False).base

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {MapType(self.spec.type).name}>"

    # For helpers. What is not possible raises FaultError.

    def lookup_elem(self, key: bytes) -> int:
        """Address of a value, 0 if there is none."""
        raise self.cannot("be looked up")

    def lookup_percpu_elem(self, key: bytes, cpu: int) -> int:
        """Address of a value on a CPU, 0 if there is none."""
        raise self.cannot("be looked up by CPU")

    def update_elem(self, key: bytes, value: bytes, flags: int) -> int:
        """Set a value; 0 or a negative error number."""
        raise self.cannot("be updated")

    def delete_elem(self, key: bytes) -> int:
        """Remove a value; 0 or a negative error number."""
        raise self.cannot("have elements deleted")

    def elements(self) -> Iterator[tuple[bytes, int]]:
        """Keys, and addresses of the values."""
        raise self.cannot("be walked over")

    def push_elem(self, value: bytes, flags: int) -> int:
        """Put a value in; 0 or a negative error number."""
        raise self.cannot("be pushed to")

    def next_elem(self, remove: bool) -> bytes | None:
        """Value that comes out next, ``None`` if there is none."""
        raise self.cannot("be popped")

    def value_region(self) -> Region:
        """Memory of the only value, for instructions that refer to it directly."""
        raise self.cannot("be referred to by instructions")

    def cannot(self, what: str) -> FaultError:
        """Make the error for something that maps of this type cannot."""
        return FaultError(f"map {self.name} of type {MapType(self.spec.type).name} cannot {what}")

    # For subclasses

    def key_codec(self) -> Codec:
        """How keys become Python values."""
        return self._codec(self.spec.key_size, self.spec.key_type_id)

    def value_codec(self) -> Codec:
        """How values become Python values."""
        return self._codec(self.spec.value_size, self.spec.value_type_id)

    def _codec(self, size: int, type_id: int) -> Codec:
        btf = self.btf
        if btf is not None and type_id and btf.kind(type_id) != Kind.DATASEC:
            return codec(btf, type_id)
        return raw_codec(size, self.memory.byteorder)

    def number(self, key: bytes) -> int:
        """Key of an array as a number."""
        return int.from_bytes(key[:4], self._order)

    def number_key(self, number: int) -> bytes:
        """Key of an array."""
        return number.to_bytes(4, self._order)

    @property
    def _order(self) -> Any:
        return "little" if self.memory.byteorder == "<" else "big"
