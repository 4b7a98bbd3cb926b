"""Elements of maps of the running kernel, read from words and shown by their BTF types."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from pybpfload.btf.arrays import ArrayCodec, BytesCodec
from pybpfload.btf.codecs import RawCodec
from pybpfload.btf.records import RecordCodec
from pybpfload.cli.assign import assign, find_part, parse, part
from pybpfload.cli.failure import UsageError, did_you_mean
from pybpfload.cli.values import plain, pretty
from pybpfload.runtime.mapkinds import MAPS_OF_MAPS, PER_CPU
from pybpfload.uapi import MapType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.cli.assign import Steps
    from pybpfload.runtime.map import Map
    from pybpfload.runtime.variable import Variable

__all__ = ["Elements", "set_part"]

_NETWORKS = "./:"


class Elements:
    """The elements of a map.

    Args:
        opened: The map.
    """

    def __init__(self, opened: Map[Any, Any]) -> None:
        self.map = opened
        self._refers = opened.type in MAPS_OF_MAPS or opened.type == MapType.PROG_ARRAY
        self._variables = opened.variables()
        value = BytesCodec("bytes", opened.value_size, "=")
        # Without keys (queues) it cannot be iterated, and says so.
        key = BytesCodec("bytes", opened.key_size, "=") if opened.key_codec else None
        self._raw: Map[bytes, Any] = opened.typed(key=key, value=value)

    def __iter__(self) -> Iterator[tuple[bytes, Any]]:
        """Keys and values as bytes; of per-CPU maps, a list of them.

        Raises:
            TypeError: This type of map cannot be iterated.
        """
        return iter(self._raw.items())

    def get(self, key: Any) -> tuple[bytes, Any]:
        """Key and value as bytes, of one key.

        Raises:
            KeyError: There is no such key.
            TypeError: This type of map has no lookup.
        """
        if self.map.key_codec is None:
            raise UsageError(f"map {self.map.name} has no keys")
        raw = self.map.key_codec.encode(key)
        value = self._raw.lookup(raw, None)
        if value is None:
            raise KeyError(f"map {self.map.name} has no key {pretty(self._key(raw))}")
        return raw, value

    def variable(self, text: str) -> tuple[Variable, Steps] | None:
        """What a word names in a section of variables: one of them, and the way to a part of it.

        ``None`` for keys, which in sections of variables are numbers, and for other maps.

        Raises:
            UsageError: There is no such variable.
        """
        if not self._variables or text[:1].isdigit():
            return None
        found = find_part(text, self._variables)
        if found is None:
            there = f"; there are: {', '.join(self._variables)}"
            close = did_you_mean(text, self._variables) or there
            raise UsageError(f"map {self.map.name} has no variable {text!r}{close}")
        name, steps = found
        return self._variables[name], steps

    def key(self, text: str) -> Any:
        """Read a key."""
        if self.map.type == MapType.LPM_TRIE and any(mark in text for mark in _NETWORKS):
            import ipaddress

            return ipaddress.ip_network(text, strict=False)
        return _read(self.map.key_codec, text)

    def value(self, text: str) -> Any:
        """Read a value; of maps of maps and programs, what names one."""
        if self._refers:
            from pybpfload.cli.live import open_named
            from pybpfload.runtime.map import Map
            from pybpfload.runtime.program import Program

            return open_named(Program if self.map.type == MapType.PROG_ARRAY else Map, text)
        if self.map.type in PER_CPU and text.startswith("["):
            return [_from_json(self.map.value_codec, each) for each in _json(text)]
        one = _read(self.map.value_codec, text)
        # A list would be a value for each CPU.
        return tuple(one) if self.map.type in PER_CPU and isinstance(one, list) else one

    def front(self, *, take: bool) -> bytes:
        """The next value of a queue or stack as bytes.

        Args:
            take: Whether to take it out.

        Raises:
            IndexError: It is empty.
            TypeError: It is of another type.
        """
        raw: bytes = self._raw.pop() if take else self._raw.peek()
        return raw

    def document(self, key: bytes, value: Any) -> dict[str, Any]:
        """An element as ``bpftool -j map dump`` has it; ``key`` is empty if the map has none."""
        shown = {} if self.map.key_codec is None else {"key": _plain(self._key(key))}
        if isinstance(value, list):
            values = [{"cpu": cpu, "value": _hex(each)} for cpu, each in enumerate(value)]
            by_cpu = [{"cpu": cpu, "value": self._plain(each)} for cpu, each in enumerate(value)]
            return {"key": _hex(key), "values": values, "formatted": {**shown, "values": by_cpu}}
        shown["value"] = self._plain(value)
        made = {"key": _hex(key), "value": _hex(value), "formatted": shown}
        if self.map.type in MAPS_OF_MAPS:
            made["inner_map_id"] = shown["value"]
        return made

    def line(self, key: bytes, value: Any) -> str:
        """An element for people."""
        shown = [self._shown(v) for v in value] if isinstance(value, list) else self._shown(value)
        text = self._text(shown)
        return text if self.map.key_codec is None else f"{pretty(self._key(key))}: {text}"

    def _plain(self, raw: bytes) -> Any:
        shown = self._shown(raw)
        if not isinstance(shown, dict):
            return _plain(shown)
        section = next(iter(self._variables.values())).section
        return {section: [{name: _plain(item)} for name, item in shown.items()]}

    def _text(self, shown: Any) -> str:
        if isinstance(shown, dict):
            return " ".join(f"{name}={pretty(item)}" for name, item in shown.items())
        return pretty(shown, top=True)

    def _key(self, raw: bytes) -> Any:
        assert self.map.key_codec is not None
        return self.map.key_codec.decode(raw)

    def _shown(self, raw: bytes) -> Any:
        if self._refers:  # the id of a map or program
            return int.from_bytes(raw, sys.byteorder)
        if self._variables:
            return {name: v.codec.decode(raw, v.offset) for name, v in self._variables.items()}
        return self.map.value_codec.decode(raw)


def set_part(variable: Variable, steps: Steps, text: str) -> None:
    """Set a live variable, or a part of it; what lies beside the part is left alone if it can be.

    Raises:
        UsageError: It is a constant, there is no such part, or the text cannot be its value.
        ValueMismatchError: The value does not fit.
    """
    if variable.read_only:
        raise UsageError(
            f"{variable.name} is a constant: programs were loaded with its value; "
            f"it is set before that, as by run --set {variable.name}={text}"
        )
    part(variable.codec, variable.value, steps)  # is it there at all
    rest = list(steps)
    while rest:
        try:
            variable = variable[rest[0]]
        except TypeError:  # a bit field, or a byte of an array of them
            break
        del rest[0]
    codec = variable.codec
    variable.value = assign(codec, variable.value, rest, text) if rest else _read(codec, text)


def _read(codec: Any, text: str) -> Any:
    """Read a word by a type; objects and arrays may be JSON."""
    if codec is None:
        raise UsageError("this type of map has no keys")
    if isinstance(codec, RecordCodec) or (isinstance(codec, ArrayCodec) and text[:1] == "["):
        return _from_json(codec, _json(text))
    number = isinstance(codec, RawCodec) and codec.size in (1, 2, 4, 8)
    if isinstance(codec, (BytesCodec, RawCodec)) and not number and len(text) == 2 * codec.size:
        try:
            return bytes.fromhex(text)  # as values are shown
        except ValueError:
            pass
    return parse(codec, text)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"{text}: expected JSON, {error}") from None


def _from_json(codec: Any, value: Any) -> Any:
    """Make a value of what JSON has, the inverse of how values are shown."""
    if isinstance(value, dict) and isinstance(codec, RecordCodec):
        members = {member.name: member.codec for member in codec.members}
        return {
            name: _from_json(members[name], item) if name in members else item
            for name, item in value.items()
        }
    if isinstance(value, list) and isinstance(codec, ArrayCodec):
        return [_from_json(codec.element, item) for item in value]
    return _read(codec, value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """As bpftool has it: bytes as an array of numbers."""
    return plain(value, of_bytes=list)


def _hex(raw: bytes) -> list[str]:
    return [f"0x{byte:02x}" for byte in raw]
