"""Which C type a record of a ring or perf buffer has.

A buffer carries bytes; nothing in the kernel or in a map definition says what they are. But the
struct is in the object's BTF if the program uses it, and its name, or a convention, tells which one
it is. :class:`EventTypes` has the rule.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

from pybpfload.btf.types import Kind
from pybpfload.errors import BpfError, FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from pybpfload.btf import Btf
    from pybpfload.runtime.mapcodecs import Codec

    Choice: TypeAlias = (
        str | type | tuple[str, Any] | Codec | Callable[[memoryview], "str | Codec | None"] | None
    )

__all__ = ["BYTES", "Decoder", "EventTypes"]

_TAG = "record:"
_COMPOSITE = (Kind.STRUCT, Kind.UNION)


class Decoder(NamedTuple):
    """How records of one size become Python values.

    Attributes:
        one: A function of a buffer, the offset of the record in it, and its size.
        many: A function of a buffer, the offsets of records, and their size, that returns a list;
            ``None`` if they are decoded one by one.
    """

    one: Callable[[memoryview, int, int], Any]
    many: Callable[[memoryview, range, int], list[Any]] | None = None


class EventTypes:
    """How the records of one map become Python values.

    The type of a record is, first of these that gives one:

    1. what the user chose: ``obj.maps["events"].event_type = "event"``, the name of a struct of the
       object's BTF, a codec, or a function that gets the record (a ``memoryview``, valid during the
       call) and returns either, or ``None`` for bytes; or a class of the user's (see
       :mod:`pybpfload.interop.python_types`) for the only candidate, with a name in front for any
       other struct: ``("event", Event)``;
    2. of several candidates, the one that the record's first member names: if the first member of
       all is of the same enum, and for each candidate an enumerator ends in its name
       (``EVENT_OPEN`` for ``struct open`` or ``struct open_event``);
    3. the only candidate of the record's size; of several, the one that is named like the map;
    4. the only candidate, if the record ends inside its last member, an array (programs often send
       no more of a buffer than is filled; the rest is zero), or goes on behind it and that last
       member is a flexible array (``char data[]``); this holds for the one found by 2 too;
    5. otherwise none: the record comes as ``bytes``.

    *Candidates* are the structs and unions that the map's definition names by declaration tags
    ``record:<name>`` (``__attribute__((btf_decl_tag("record:event")))`` on the map's variable). If
    no map of the object has one, candidates are the structs and unions

    * that the object *exports* for its reader by a global variable (so they are in its BTF though
      no program needs the variable): ``__export_<anything>`` or ``<anything>unused<...>`` of that
      type or a pointer to it, as bpf2go has it, or ``_event`` of ``struct event``;
    * that are *named like the map*: ``event``, ``events``, ``event_t`` or ``events_t`` for a map
      ``events``.

    The size of a record in a perf buffer is known up to padding only (to a multiple of 8 less 4):
    there "of the record's size" means of a size that is padded to it.

    Args:
        btf: BTF of the object, or ``None``.
        map_name: Name of the map.
        choice: What the user chose, as above.
    """

    def __init__(self, btf: Btf | None, map_name: str, choice: Choice = None) -> None:
        self.btf = btf
        self.map_name = map_name
        self._choice: Choice = None
        self._fixed: Codec | None = None
        self._candidates: list[tuple[Codec, bool]] | None = None
        self._by_size: dict[tuple[int, bool], Decoder] = {}
        self.choice = choice

    @property
    def choice(self) -> Choice:
        """What the user chose.

        Raises:
            BpfError: On assignment of a name that is not in the BTF.
            TypeMismatchError: On assignment of a class that does not fit the struct.
            TypeError: On assignment of anything else, or of a class for one of several structs.
        """
        return self._choice

    @choice.setter
    def choice(self, value: Choice) -> None:
        fixed: Any = None
        if isinstance(value, str):
            fixed = self._named(value)
        elif isinstance(value, (type, tuple)):
            fixed = self._own(value)
        elif value is not None and hasattr(value, "decode"):
            fixed = value
        elif value is not None and not callable(value):
            raise TypeError(f"{value!r} is no name of a struct, no class, codec or function")
        self._choice, self._fixed = value, fixed
        self._by_size.clear()

    @property
    def candidates(self) -> list[str]:
        """Names of the types that come into question when nothing was chosen, best first."""
        return [found.name for found, _ in self._found()]

    def decoder(self, size: int, *, padded: bool = False) -> Callable[[memoryview, int, int], Any]:
        """The function that decodes a record of one size, see :meth:`decoders`."""
        return self.decoders(size, padded=padded).one

    def decoders(self, size: int, *, padded: bool = False) -> Decoder:
        """What decodes records of one size; ask again for each other size.

        Args:
            size: Bytes of the record.
            padded: Whether padding is counted in.
        """
        key = (size, padded)
        found = self._by_size.get(key)
        if found is None:
            if len(self._by_size) > 4096:
                self._by_size.clear()
            found = self._by_size[key] = self._choose(size, padded)
        return found

    def codec(self, size: int) -> Codec | None:
        """The codec of all records of one size; ``None`` if they are bytes.

        Raises:
            TypeError: Records of one size are of several types.
        """
        if self._fixed is None and (self._choice is not None or self._tagged_types() is not None):
            raise TypeError(
                f"map {self.map_name}: records of {size} bytes may be of several types; choose one "
                "by event_type"
            )
        return self._settled(size, padded=False)

    def encode(self, value: Any) -> bytes:
        """The bytes of a record that is to be sent.

        Its type is what the user chose, else that of the record if it is one of this BTF, else the
        only candidate.

        Raises:
            ValueMismatchError: The value does not fit the type.
            TypeError: There is no type, or more than one.
        """
        if self._fixed is not None:
            return self._fixed.encode(value)
        found = [codec for codec, _ in self._found()]
        own = [codec for codec in found if type(value) is getattr(codec, "record", None)]
        if len(own or found) != 1 or self._choice is not None:
            names = ", ".join(codec.name for codec in found) or "nothing"
            raise TypeError(
                f"map {self.map_name}: type of {type(value).__name__} to send is not settled; "
                f"candidates are {names}"
            )
        return (own or found)[0].encode(value)

    def _choose(self, size: int, padded: bool) -> Decoder:
        if self._fixed is None:
            if self._choice is not None:
                return Decoder(self._ask)
            tagged = self._tagged_types()
            if tagged is not None:
                return Decoder(self._by_tag(*tagged, padded))
        found = self._settled(size, padded)
        return BYTES if found is None else _decoder(found, size)

    def _tagged_types(self) -> tuple[Codec, dict[int, Codec]] | None:
        return _tags([codec for codec, _ in self._found()])

    def _settled(self, size: int, padded: bool) -> Codec | None:
        """The codec of records of a size, where nothing in them says which."""
        if self._fixed is not None:
            return self._fixed
        found = self._found()
        sized = [
            pair for pair in found if size == (_padded(pair[0].size) if padded else pair[0].size)
        ]
        if len(sized) > 1:
            sized = [pair for pair in sized if pair[1]]
        if len(sized) == 1:
            return sized[0][0]
        if not sized and len(found) == 1 and _fits(found[0][0], size, padded):
            return found[0][0]
        return None

    def _by_tag(
        self, tag: Codec, table: dict[int, Codec], padded: bool
    ) -> Callable[[memoryview, int, int], Any]:
        known: dict[tuple[int, int], Callable[[memoryview, int, int], Any]] = {}

        def decode(buffer: memoryview, offset: int, size: int) -> Any:
            value = tag.decode(buffer, offset) if size >= tag.size else -1
            found = known.get((value, size))
            if found is None:
                chosen = table.get(value)
                fits = chosen is not None and _fits(chosen, size, padded)
                found = _decoder(chosen, size).one if chosen and fits else _bytes
                if len(known) < 4096:
                    known[value, size] = found
            return found(buffer, offset, size)

        return decode

    def _ask(self, buffer: memoryview, offset: int, size: int) -> Any:
        assert callable(self._choice)
        chosen = self._choice(buffer[offset : offset + size])
        if chosen is None:
            return _bytes(buffer, offset, size)
        found = self._named(chosen) if isinstance(chosen, str) else chosen
        return _decoder(found, size).one(buffer, offset, size)

    # Candidates

    def _found(self) -> list[tuple[Codec, bool]]:
        """Codecs of the candidates, and whether each is named like the map."""
        if self._candidates is None:
            like_map = self._names()
            found: dict[int, bool] = {}
            tagged = self._tagged()
            for type_id in (
                self._exported() + self._like_map(like_map) if tagged is None else tagged
            ):
                found.setdefault(type_id, self._type_name(type_id) in like_map)
            ordered = sorted(found.items(), key=lambda item: not item[1])
            candidates = []
            for type_id, own in ordered:
                with suppress(FormatError):  # a struct that nobody could decode is no candidate
                    candidates.append((self._codec(type_id), own))
            self._candidates = candidates  # at once: Ctrl-C may come while codecs are made
        return self._candidates

    def _names(self) -> set[str]:
        name = self.map_name
        singular = name.removesuffix("es") if name.endswith("sses") else name.removesuffix("s")
        return {name, singular, f"{name}_t", f"{singular}_t"}

    def _tagged(self) -> list[int] | None:
        """What declaration tags say; ``None`` if no map of the object has any."""
        btf = self.btf
        found = None
        for type_id in btf.own_ids() if btf is not None else ():
            if btf is None or btf.kind(type_id) != Kind.DECL_TAG:
                continue
            tag = btf[type_id]
            if not tag.name.startswith(_TAG) or btf.kind(tag.type) != Kind.VAR:  # type: ignore[attr-defined]
                continue
            found = found or []
            if btf.type_name(tag.type) == self.map_name:  # type: ignore[attr-defined]
                found += self._like_map({tag.name.removeprefix(_TAG).removeprefix("struct ")})
        return found

    def _exported(self) -> list[int]:
        btf = self.btf
        if btf is None:
            return []
        found = []
        for type_id in btf.own_ids():
            if btf.kind(type_id) != Kind.VAR:
                continue
            variable = btf[type_id]
            name = variable.name
            target = btf.strip(variable.type)  # type: ignore[attr-defined]
            if btf.kind(target) == Kind.PTR:
                target = btf.strip(btf[target].type)  # type: ignore[attr-defined]
            if btf.kind(target) in _COMPOSITE and (
                name.startswith("__export_")
                or "unused" in name
                or (name.startswith("_") and name.lstrip("_") == self._type_name(target))
            ):
                found.append(target)
        return found

    def _like_map(self, names: set[str]) -> list[int]:
        btf = self.btf
        if btf is None:
            return []
        found = []
        for name in sorted(names):
            for kind in (*_COMPOSITE, Kind.TYPEDEF):
                for type_id in btf.find_all(name, kind):
                    target = btf.strip(type_id)
                    if btf.kind(target) in _COMPOSITE and btf.size(target):
                        found.append(target)
        return found

    def _own(self, value: type | tuple[str, Any]) -> Codec:
        """Codec for a class of the user's, and the struct that it is for."""
        from pybpfload.btf.records import Record
        from pybpfload.interop.python_types import codec_for, own_codec

        if isinstance(value, tuple):
            name, wanted = value
            return codec_for(wanted, self._named(name))  # type: ignore[arg-type]
        found = self._found()
        if len(found) == 1 and not issubclass(value, Record):
            return codec_for(value, found[0][0])  # type: ignore[arg-type]
        own = own_codec(value)
        if own is not None:
            return own
        names = ", ".join(self.candidates) or "none"
        raise TypeError(
            f"map {self.map_name}: which struct is {value.__qualname__} for? Its candidates are: "
            f"{names}; choose one by event_type = ('event', {value.__qualname__})"
        )

    def _type_name(self, type_id: int) -> str:
        return self.btf.type_name(type_id) if self.btf is not None else ""

    def _codec(self, type_id: int) -> Codec:
        from pybpfload.btf.values import codec

        assert self.btf is not None
        return codec(self.btf, type_id)

    def _named(self, name: str) -> Codec:
        btf = self.btf
        if btf is None:
            raise BpfError(f"map {self.map_name}: no struct {name}, the object has no BTF")
        bare = name.removeprefix("struct ").removeprefix("union ").strip()
        for kind in (*_COMPOSITE, Kind.TYPEDEF, Kind.INT, Kind.ENUM, Kind.ENUM64):
            found = btf.find(bare, kind)
            if found:
                return self._codec(found)
        raise BpfError(f"map {self.map_name}: the object's BTF has no type {name}")


def _padded(size: int) -> int:
    return ((size + 4 + 7) & -8) - 4


def _bytes(buffer: memoryview, offset: int, size: int) -> bytes:
    return bytes(buffer[offset : offset + size])


def _last_array(found: Codec) -> tuple[int | None, bool]:
    """Offset of a struct's last member if that is an array, and whether it is a flexible one."""
    members = getattr(found, "members", ())
    if not members or getattr(members[-1].codec, "element_size", None) is None:
        return None, False
    return members[-1].offset, not members[-1].codec.size


def _fits(found: Codec, size: int, padded: bool) -> bool:
    """Whether a record of a type can have that size."""
    if size == (_padded(found.size) if padded else found.size):
        return True
    start, flexible = _last_array(found)
    return start is not None and (flexible if size > found.size else size >= start)


def _tags(candidates: list[Codec]) -> tuple[Codec, dict[int, Codec]] | None:
    """The enum that all candidates begin with, and which of its values means which candidate."""
    firsts: list[Any] = [getattr(found, "members", ())[:1] for found in candidates]
    if len(firsts) < 2 or not all(first and first[0].offset == 0 for first in firsts):
        return None
    tags = [first[0].codec for first in firsts]
    known = [dict(getattr(getattr(tag, "enum", None), "__members__", {})) for tag in tags]
    if not known[0] or any(members != known[0] for members in known):
        return None
    table: dict[int, Codec] = {}
    for found in candidates:
        name = found.name.split()[-1].lower()
        names = {name, name.removesuffix("_t"), name.removesuffix("_event")}
        ends = tuple(f"_{each}" for each in names)
        values = [
            int(value)
            for word, value in known[0].items()
            if word.lower() in names or word.lower().endswith(ends)
        ]
        if len(values) != 1 or values[0] in table:
            return None
        table[values[0]] = found
    return tags[0], table


def _decoder(found: Codec, size: int) -> Decoder:
    if size < found.size:
        missing = bytes(found.size - size)
        return Decoder(
            lambda buffer, offset, size: found.decode(
                bytes(buffer[offset : offset + size]) + missing
            )
        )
    from pybpfload.btf.codecs import Codec as OwnCodec

    if isinstance(found, OwnCodec):
        # They take the size: a flexible array ends with the record.
        return Decoder(found.decode, found.decode_many)
    decode = found.decode
    return Decoder(lambda buffer, offset, size: decode(buffer, offset))


BYTES = Decoder(_bytes)
"""For records without a type: they stay bytes."""
