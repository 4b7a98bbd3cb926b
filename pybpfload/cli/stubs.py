"""The text of a ``.pyi`` that describes one object to editors and type checkers.

Names of its maps, programs, variables and types become literals that ``[]`` takes, values get
classes made from BTF. What the module needs itself begins with an underscore, so that nothing in
the object can have the same name; a name that Python does not take, or that is not ASCII, is left
to ``Any``.
"""

from __future__ import annotations

import keyword
import re
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.btf import types as t
from pybpfload.btf.arrays import ArrayCodec, BytesCodec, TextCodec
from pybpfload.btf.classes import TypeClasses
from pybpfload.btf.codecs import BoolCodec, Codec, EnumCodec, FloatCodec, IntCodec, WideIntCodec
from pybpfload.btf.records import BitsCodec, RecordCodec
from pybpfload.btf.values import codec, raw_codec
from pybpfload.cli.failure import visible
from pybpfload.errors import FormatError
from pybpfload.runtime.events import EventTypes
from pybpfload.runtime.mapkinds import (
    DESCRIPTORS,
    EVENTS,
    MAPS_OF_MAPS,
    PER_CPU,
    STORAGE,
    TARGETS,
)
from pybpfload.uapi import MapType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pybpfload.btf import Btf
    from pybpfload.object.spec import MapSpec, ObjectSpec

__all__ = ["stub_text"]

_MAX_TEXT = 16 << 20  # characters: members are lifted into each struct that has them
_MAX_LITERALS = 64  # enumerators whose names are listed where they may be given

_PRELUDE = """\
# mypy: disable-error-code="override"
# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false
from builtins import bool as _bool, bytes as _bytes, float as _float, int as _int, str as _str
from builtins import list as _list, property as _property, tuple as _tuple, type as _type
from collections.abc import AsyncIterator as _AsyncIterator, Iterator as _Iterator
from collections.abc import Mapping as _Mapping, Sequence as _Sequence
from typing import Any as _Any, Generic as _Generic, Literal as _Literal, TypeAlias as _TypeAlias
from typing import TypeVar as _TypeVar, overload as _overload

from typing_extensions import Self as _Self

import pybpfload as _pybpfload
from pybpfload.btf.classes import TypeClasses as _TypeClasses
from pybpfload.btf.codecs import BtfEnum as _BtfEnum
from pybpfload.btf.records import Record as _Record
from pybpfload.object.named import Named as _Named
from pybpfload.object.spec import SectionVariables as _SectionVariables

_K = _TypeVar("_K")
_V = _TypeVar("_V")
_GivenKey = _TypeVar("_GivenKey")
_Given = _TypeVar("_Given")
_Default = _TypeVar("_Default")

class _Map(_pybpfload.Map[_K, _V], _Generic[_K, _V, _GivenKey, _Given]):
    def __getitem__(self, key: _GivenKey) -> _V: ...
    def __setitem__(self, key: _GivenKey, value: _Given) -> None: ...
    def __delitem__(self, key: _GivenKey) -> None: ...
    @_overload
    def lookup(self, key: _GivenKey, *, lock: _bool = ..., cpu: None = ...) -> _V: ...
    @_overload
    def lookup(
        self, key: _GivenKey, default: _Default, *, lock: _bool = ..., cpu: None = ...
    ) -> _V | _Default: ...
    @_overload
    def lookup(
        self, key: _GivenKey, default: _Any = ..., *, lock: _bool = ..., cpu: _int
    ) -> _Any: ...
    @_overload
    def get(self, key: _GivenKey) -> _V | None: ...
    @_overload
    def get(self, key: _GivenKey, default: _Default) -> _V | _Default: ...
    @_overload
    def pop(self, key: _GivenKey = ...) -> _V: ...
    @_overload
    def pop(self, key: _GivenKey = ..., *, default: _Default) -> _V | _Default: ...
    @_overload
    def pop(self, key: _GivenKey, default: _Default) -> _V | _Default: ...
    def setdefault(self, key: _GivenKey, default: _Given) -> _V: ...
    def put(
        self,
        key: _GivenKey,
        value: _Given,
        *,
        noexist: _bool = ...,
        exist: _bool = ...,
        lock: _bool = ...,
        cpu: _int | None = ...,
    ) -> None: ...
    def push(self, value: _Given, *, force: _bool = ...) -> None: ...

class _RingBuffer(_pybpfload.RingBuffer, _Generic[_V]):
    def __iter__(self) -> _Iterator[_V]: ...
    def __aiter__(self) -> _AsyncIterator[_V]: ...
    def consume(self, limit: _int | None = None) -> _list[_V]: ...
    def poll(self, timeout: _float | None = None, *, limit: _int | None = None) -> _list[_V]: ...

class _PerfBuffer(_pybpfload.PerfBuffer, _Generic[_V]):
    def __iter__(self) -> _Iterator[_V]: ...
    def __aiter__(self) -> _AsyncIterator[_V]: ...
    def consume(self, limit: _int | None = None) -> _list[_V]: ...
    def poll(self, timeout: _float | None = None, *, limit: _int | None = None) -> _list[_V]: ...

class _Events(_pybpfload.Map[_Any, _Any], _Generic[_V]):
    def __iter__(self) -> _Iterator[_V]: ...
    def reader(self) -> _RingBuffer[_V]: ...

class _PerfEvents(_pybpfload.Map[_Any, _Any], _Generic[_V]):
    def __iter__(self) -> _Iterator[_V]: ...
    def reader(self) -> _PerfBuffer[_V]: ...

class _PerCpu(_list[_V]):
    def sum(self) -> _V: ...

class _Variable(_pybpfload.Variable, _Generic[_V, _Given]):
    @_property
    def value(self) -> _V: ...
    @value.setter
    def value(self, value: _Given) -> None: ...

class _VariableSpec(_pybpfload.VariableSpec, _Generic[_V, _Given]):
    @_property
    def value(self) -> _V: ...
    @value.setter
    def value(self, value: _Given) -> None: ...
"""

_TAIL = """\
class Object(_pybpfload.Object):
    maps: Maps
    programs: Programs
    variables: Variables
    @_property
    def types(self) -> Types: ...
    @_property
    def rodata(self) -> _Rodata: ...
    @_property
    def data(self) -> _Data: ...
    @_property
    def bss(self) -> _Bss: ...
    def __enter__(self) -> _Self: ...

class ObjectSpec(_pybpfload.ObjectSpec):
    maps: MapSpecs
    programs: ProgramSpecs
    variables: VariableSpecs
    @_property
    def types(self) -> Types: ...
    @_property
    def rodata(self) -> _Rodata: ...
    @_property
    def data(self) -> _Data: ...
    @_property
    def bss(self) -> _Bss: ...
    def copy(self) -> _Self: ...
    def load(self, **options: _Any) -> Object: ...
"""

_OWN_NAMES = frozenset(
    [
        "Object",
        "ObjectSpec",
        "Maps",
        "MapSpecs",
        "Programs",
        "ProgramSpecs",
        "Variables",
        "VariableSpecs",
        "Types",
    ]
) | frozenset(re.findall(r"\b_\w+", _PRELUDE + _TAIL))


class _Value(NamedTuple):
    """What a C type is in annotations: when it is read, and what may be given to write it."""

    read: str
    given: str


_ANY = _Value("_Any", "_Any")
_INT = _Value("_int", "_int")


def stub_text(spec: ObjectSpec) -> str:
    """Return the text of the module.

    Raises:
        FormatError: It would have more than 16 million characters.
    """
    return _Stub(spec).text()


class _Stub:
    """A module under construction."""

    def __init__(self, spec: ObjectSpec) -> None:
        self._spec = spec
        self._parts: list[str] = []  # classes of structs and enums, in the order they are needed
        self._size = 0
        self._names: dict[type, str] = {}
        self._taken: set[str] = set(_OWN_NAMES)

    def text(self) -> str:
        """The whole module."""
        spec = self._spec
        types = list(self._types())
        maps = [(name, self._map(found)) for name, found in spec.maps.items()]
        values = [
            (name, v.section, self._of(v.btf, v.type_id)) for name, v in spec.variables.items()
        ]
        variables = [(name, f"_Variable[{v.read}, {v.given}]") for name, _, v in values]
        specs = [(name, f"_VariableSpec[{v.read}, {v.given}]") for name, _, v in values]
        program, program_spec = "_pybpfload.Program", "_pybpfload.ProgramSpec"
        parts = [
            f"# {visible(spec.path or spec.name)}: what is in it, for editors and type checkers.",
            "# Made by pybpfload gen stubs; do not edit.",
            _PRELUDE,
            *self._parts,
            _mapping("Maps", "_Named[_pybpfload.Map[_Any, _Any]]", maps),
            _mapping(
                "MapSpecs",
                "_Named[_pybpfload.MapSpec]",
                [(name, "_pybpfload.MapSpec") for name in spec.maps],
            ),
            _mapping("Programs", f"_Named[{program}]", [(n, program) for n in spec.programs]),
            _mapping(
                "ProgramSpecs",
                f"_Named[{program_spec}]",
                [(n, program_spec) for n in spec.programs],
            ),
            _mapping("Variables", "_Named[_pybpfload.Variable]", variables),
            _mapping("VariableSpecs", "_Named[_pybpfload.VariableSpec]", specs),
            _mapping("Types", "_TypeClasses", types),
        ]
        for name, section in (("_Rodata", ".rodata"), ("_Data", ".data"), ("_Bss", ".bss")):
            there = [(n, value) for n, where, value in values if where == section]
            parts.append(_attributes(name, "_SectionVariables", there))
        return "\n".join([*parts, _TAIL])

    def _types(self) -> Iterator[tuple[str, str]]:
        classes = TypeClasses(self._spec.btf)
        for name in classes:
            try:
                found = classes.codec(name)
            except (FormatError, KeyError):  # nobody can make values of it
                continue
            value = self._value(found)
            if value != _INT:
                yield name, f"_type[{value.read}]"

    def _map(self, found: MapSpec) -> str:
        kind = found.type
        if kind in EVENTS:
            name = "_PerfEvents" if kind == MapType.PERF_EVENT_ARRAY else "_Events"
            return f"{name}[{self._events(found.name)}]"
        if kind == MapType.STRUCT_OPS:
            return "_Map[_Any, _Any, _Any, _Any]"
        key = self._typed(found, found.key_type_id, found.key_size)
        value = self._typed(found, found.value_type_id, found.value_size)
        if kind in STORAGE:
            key = _ANY
        elif kind == MapType.LPM_TRIE:
            key = _Value(key.read, "_Any")  # also addresses and networks of ipaddress
        if found.inner is not None and kind in MAPS_OF_MAPS:
            value = _Value(self._map(found.inner), "_Any")
        elif kind in MAPS_OF_MAPS | DESCRIPTORS | TARGETS or kind == MapType.STACK_TRACE:
            value = _ANY
        elif kind in PER_CPU:
            one = f"_PerCpu[{value.read}]"
            value = _Value(one, f"{value.given} | _list[{value.read}]")
        return f"_Map[{key.read}, {value.read}, {key.given}, {value.given}]"

    def _events(self, name: str) -> str:
        """Type of a buffer's events: the only candidate, else one of all, or bytes."""
        btf = self._spec.btf
        classes = TypeClasses(btf)
        found = []
        for candidate in EventTypes(btf, name).candidates:
            try:
                own = classes.codec(candidate.split()[-1])
            except (FormatError, KeyError):
                found.append("_Any")
            else:
                found.append(self._value(own).read)
        return found[0] if len(found) == 1 else " | ".join([*found, "_bytes"])

    def _typed(self, found: MapSpec, type_id: int, size: int) -> _Value:
        btf = self._spec.btf
        if btf is None or not type_id or not size:
            return self._value(raw_codec(size)) if size else _ANY
        if btf.kind(btf.strip(type_id)) == t.Kind.DATASEC:
            return _ANY
        return self._of(btf, type_id)

    def _of(self, btf: Btf, type_id: int) -> _Value:
        try:
            found = codec(btf, type_id)
        except FormatError:
            return _ANY
        return self._value(found)

    def _value(self, found: Codec) -> _Value:
        """What values of a codec are."""
        if isinstance(found, BitsCodec):
            return self._value(found.inner)
        if isinstance(found, RecordCodec):
            name = self._record(found)
            return _Value(f"_{name}", f"_{name}_given")
        if isinstance(found, EnumCodec) and found.enum is not None:
            name = self._enum(found)
            return _Value(f"_{name}", f"_{name}_given")
        if isinstance(found, ArrayCodec):
            element = self._value(found.element)
            return _Value(f"_tuple[{element.read}, ...]", f"_Sequence[{element.given}] | _bytes")
        for kinds, value in (
            ((BoolCodec,), _Value("_bool", "_bool")),
            ((IntCodec, WideIntCodec), _INT),
            ((FloatCodec,), _Value("_float", "_float")),
            ((TextCodec,), _Value("_str", "_str | _bytes")),
            ((BytesCodec,), _Value("_bytes", "_bytes | _Sequence[_int]")),
        ):
            if isinstance(found, kinds):
                return value
        # Without BTF: bytes, or an integer.
        return _Value("_bytes" if found.code.endswith("s") else "_int", "_int | _bytes")

    def _record(self, found: RecordCodec) -> str:
        """Name of the class of a struct or union, which is written when it is first needed."""
        name = self._names.get(found.record)
        if name is None:
            name = self._names[found.record] = self._free(found.label)
            fields = [(m.name, self._value(m.codec)) for m in found.members]
            self._add(_record_class(name, found.name, fields))
            self._alias(name, f"{name} | _Mapping[_str, _Any] | _tuple[_Any, ...] | _bytes")
        return name

    def _enum(self, found: EnumCodec) -> str:
        made = found.enum
        assert made is not None
        name = self._names.get(made)
        if name is None:
            name = self._names[made] = self._free(made.__name__)
            members = made.__members__.items()
            lines = [f"    {each} = {int(number)}" for each, number in members if _is_name(each)]
            self._add("\n".join([f"class {name}(_BtfEnum):", *(lines or ["    ..."]), ""]))
            literals = ", ".join(ascii(each) for each, _ in found.pairs[:_MAX_LITERALS])
            texts = "_str" if len(found.pairs) > _MAX_LITERALS else f"_Literal[{literals}]"
            self._alias(name, f"_int | {texts}")
        return name

    def _alias(self, name: str, given: str) -> None:
        """Give a class the names that annotations use: a member may be called like the class."""
        self._add(f"_{name}: _TypeAlias = {name}\n_{name}_given: _TypeAlias = {given}\n")

    def _free(self, label: str) -> str:
        """A name for a class that nothing else has."""
        base = (
            label if _is_name(label) and not label.startswith("_") else f"type_{len(self._taken)}"
        )
        name, number = base, 1
        while not self._taken.isdisjoint(names := {name, f"_{name}", f"_{name}_given"}):
            number += 1
            name = f"{base}_{number}"
        self._taken |= names
        return name

    def _add(self, part: str) -> None:
        self._size += len(part)
        if self._size > _MAX_TEXT:
            raise FormatError(
                "its types have too many members to be described", file=self._spec.path
            )
        self._parts.append(part)


def _is_name(name: str) -> bool:
    return name.isascii() and name.isidentifier() and not keyword.iskeyword(name)


def _member_names(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names of members, and how Python has them; what it cannot have is left out."""
    for name in names:
        python = f"{name}_" if keyword.iskeyword(name) else name
        if _is_name(python) and not python.startswith("_"):
            yield name, python


def _record_class(name: str, c_name: str, fields: list[tuple[str, _Value]]) -> str:
    values = dict(fields)
    named = [(python, values[c]) for c, python in _member_names(values)]
    lines = [f"class {name}(_Record):  # {visible(c_name)}"]
    given = [f"{n}: {v.given} = ..." for n, v in named if n not in ("cls", "self")]
    others = [] if len(given) == len(values) else ["**_others: _Any"]
    parameters = ["cls", "/", *given, *others]
    changes = ["self", "/", *(["*"] if given else []), *given, *others]
    lines.append(f"    def __new__({', '.join(parameters)}) -> _Self: ...")
    lines.append("    @classmethod")
    lines.append("    def from_buffer(cls, buffer: _Any, offset: _int = 0) -> _Self: ...")
    lines.append(f"    def _replace({', '.join(changes)}) -> _Self: ...")
    for python, value in named:
        lines += ["    @_property", f"    def {python}(self) -> {value.read}: ..."]
    return "\n".join([*lines, ""])


def _attributes(name: str, base: str, values: list[tuple[str, _Value]]) -> str:
    lines = [f"class {name}({base}):"]
    by_name = dict(values)
    for c_name, python in _member_names(by_name):
        value = by_name[c_name]
        lines += ["    @_property", f"    def {python}(self) -> {value.read}: ..."]
        lines += [
            f"    @{python}.setter",
            f"    def {python}(self, value: {value.given}) -> None: ...",
        ]
    return "\n".join([*(lines if len(lines) > 1 else [f"{lines[0]} ..."]), ""])


def _mapping(name: str, base: str, items: list[tuple[str, str]]) -> str:
    """A class whose ``[]`` takes the given names and nothing else."""
    if not items:
        return f"class {name}({base}): ...\n"
    lines = [f"class {name}({base}):"]
    for key, value in items:
        lines += ["    @_overload"] if len(items) > 1 else []
        lines.append(f"    def __getitem__(self, name: _Literal[{key!a}], /) -> {value}: ...")
    return "\n".join([*lines, ""])
