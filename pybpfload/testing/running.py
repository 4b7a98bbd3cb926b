"""Running programs of an object in tests: on the interpreter, in the kernel, or on both alike.

    loaded = load("counter.bpf.o", on="both")
    result = loaded["count"].run(packet)
    assert result.retval == 2
    assert loaded.variables["packets"].value == 1
    assert loaded.maps["by_protocol"][17] == 1

``on="both"`` runs each program twice and compares what came out; variables and map elements are
compared when they are read, and written to both.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pybpfload.errors import BpfError
from pybpfload.object.spec import ObjectSpec
from pybpfload.relocate import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from os import PathLike

    from typing_extensions import Self

    from pybpfload.btf import Btf

__all__ = ["PLACES", "Loaded", "Run", "Runnable", "load"]


@dataclass(frozen=True, slots=True)
class Run:
    """What a run gave.

    Attributes:
        retval: What the program returned, 32 bits unsigned as ``BPF_PROG_TEST_RUN`` gives it.
        data_out: The packet afterwards, for programs that work on packets.
    """

    retval: int
    data_out: bytes


class Loaded(Protocol):
    """An object that programs of can be run.

    Attributes:
        spec: What it was made of.
        programs: Names of the programs that were loaded.
        maps: By name: mappings of Python values.
        variables: Global variables by name, each with a ``value`` that can be set.
    """

    spec: ObjectSpec
    programs: Sequence[str]
    maps: Mapping[str, Any]
    variables: Mapping[str, Any]

    def run(self, program: str, data: bytes = b"", ctx: bytes | Sequence[int] = b"") -> Run:
        """Run a program once.

        Args:
            program: Its name.
            data: A packet, for programs that work on packets.
            ctx: The context: bytes, or numbers for 64-bit slots, which are the arguments of raw
                tracepoints.
        """
        ...

    def __getitem__(self, program: str) -> Runnable: ...

    def close(self) -> None:
        """Unload it."""
        ...


class Runnable:
    """A program of a loaded object.

    Attributes:
        loaded: The object.
        name: Its name.
    """

    def __init__(self, loaded: Loaded, name: str) -> None:
        if name not in loaded.spec.programs:
            known = ", ".join(loaded.spec.programs)
            raise BpfError(f"{loaded.spec.name} has no program {name!r}; it has: {known}")
        if name not in loaded.programs:
            raise BpfError(
                f"program {name!r} of {loaded.spec.name} was not loaded; before it is, set "
                f"spec.programs[{name!r}].autoload = True"
            )
        self.loaded = loaded
        self.name = name

    def run(self, data: bytes = b"", *, ctx: bytes | Sequence[int] = b"") -> Run:
        """Run it once; see :meth:`Loaded.run`."""
        return self.loaded.run(self.name, data, ctx)

    def __repr__(self) -> str:
        return f"<Runnable {self.name} of {self.loaded!r}>"


def load(
    obj: ObjectSpec | str | PathLike[str] | bytes,
    *,
    on: str = "interpreter",
    btf: Btf | Target | None = None,
    kconfig: Mapping[str, bool | int | str] | None = None,
    **options: Any,
) -> Loaded:
    """Make an object ready to run programs of.

    Args:
        obj: A spec, a path, or the content of a file. Programs with ``autoload`` are loaded.
        on: One of :data:`PLACES`.
        btf: BTF to relocate against, the running kernel's by default.
        kconfig: Values of ``__kconfig`` externs; the kernel's own where nothing is given, or 0 on
            the interpreter.
        **options: More for the interpreter, such as ``helpers`` and ``memory``: see
            :class:`pybpfload.testing.Interpreter`.

    Raises:
        BpfError: It cannot be opened, relocated or loaded.
        ValueError: There is no such place.
    """
    if on not in PLACES:
        raise ValueError(f"programs run on {', '.join(PLACES)}, not on {on!r}")
    if not isinstance(obj, ObjectSpec):
        from pybpfload.object.opener import open_object

        obj = open_object(obj)
    loaded: Loaded = PLACES[on](obj, btf, kconfig or {}, options)
    return loaded


class _Place:
    """What all places have in common."""

    def __init__(self, spec: ObjectSpec) -> None:
        self.spec = spec
        self.programs = [name for name, each in spec.programs.items() if each.autoload]

    def __getitem__(self: Any, program: str) -> Runnable:
        return Runnable(self, program)

    def __enter__(self) -> Self:
        return self

    def __exit__(self: Any, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.spec.name}>"


class OnInterpreter(_Place):
    """Without a kernel.

    Attributes:
        interpreter: The interpreter, with its memory.
    """

    def __init__(
        self,
        spec: ObjectSpec,
        btf: Btf | Target | None,
        kconfig: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        from pybpfload.testing.interpreter import Interpreter

        super().__init__(spec)
        self.interpreter = Interpreter(
            spec.relocate(btf if btf is not None else _running_types(spec)),
            kconfig=kconfig,
            **options,
        )
        self.maps = self.interpreter.maps
        self.variables = self.interpreter.variables

    def run(self, program: str, data: bytes = b"", ctx: bytes | Sequence[int] = b"") -> Run:
        result = self.interpreter.run(program, data, ctx=ctx or None)
        return Run(result.retval, result.data_out)

    def close(self) -> None:
        pass


class OnKernel(_Place):
    """In the running kernel, by ``BPF_PROG_TEST_RUN``.

    Attributes:
        object: The loaded object.
    """

    def __init__(
        self,
        spec: ObjectSpec,
        btf: Btf | Target | None,
        kconfig: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(spec)
        text = "".join(f"{name}={_setting(value)}\n" for name, value in kconfig.items())
        types = btf.btf if isinstance(btf, Target) else btf  # its modules are those it has
        self.object = spec.load(btf=types, kconfig=text or None)
        self.maps: Mapping[str, Any] = self.object.maps
        self.variables: Mapping[str, Any] = self.object.variables

    def run(self, program: str, data: bytes = b"", ctx: bytes | Sequence[int] = b"") -> Run:
        if not isinstance(ctx, (bytes, bytearray)):
            ctx = struct.pack(f"={len(ctx)}Q", *(number & 0xFFFFFFFFFFFFFFFF for number in ctx))
        done = self.object.programs[program].test_run(data, ctx=ctx)
        return Run(done.retval & 0xFFFFFFFF, bytes(done.data_out) if data else b"")

    def close(self) -> None:
        self.object.close()


class OnBoth(_Place):
    """On the interpreter and in the kernel, which have to agree.

    Attributes:
        places: The two.
    """

    def __init__(
        self,
        spec: ObjectSpec,
        btf: Btf | Target | None,
        kconfig: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(spec)
        self.places = (
            OnInterpreter(spec.copy(), btf, kconfig, options),
            OnKernel(spec.copy(), btf, kconfig, options),
        )
        ours, theirs = self.places
        self.maps = {
            name: _BothMaps(name, ours.maps[name], theirs.maps[name])
            for name in ours.maps
            if name in theirs.maps
        }
        self.variables = {
            name: _BothVariables(name, ours.variables[name], theirs.variables[name])
            for name in ours.variables
            if name in theirs.variables
        }

    def run(self, program: str, data: bytes = b"", ctx: bytes | Sequence[int] = b"") -> Run:
        __tracebackhide__ = True
        ours, theirs = (place.run(program, data, ctx) for place in self.places)
        for name in ("retval", "data_out"):
            _agree(f"{name} of program {program}", getattr(ours, name), getattr(theirs, name))
        return theirs

    def close(self) -> None:
        for place in self.places:
            place.close()


PLACES: Mapping[str, Callable[..., Any]] = {
    "interpreter": OnInterpreter,
    "kernel": OnKernel,
    "both": OnBoth,
}
"""Where programs can run."""


class _BothVariables:
    """A global variable that is there twice."""

    def __init__(self, name: str, ours: Any, theirs: Any) -> None:
        self._name, self._ours, self._theirs = name, ours, theirs

    @property
    def value(self) -> Any:
        __tracebackhide__ = True
        return _agree(f"variable {self._name}", self._ours.value, self._theirs.value)

    @value.setter
    def value(self, value: Any) -> None:
        self._ours.value = value
        self._theirs.value = value


class _BothMaps(MutableMapping[Any, Any]):
    """A map that is there twice."""

    def __init__(self, name: str, ours: Any, theirs: Any) -> None:
        self._name, self._ours, self._theirs = name, ours, theirs

    def __getitem__(self, key: Any) -> Any:
        __tracebackhide__ = True
        found = [_get(each, key) for each in (self._ours, self._theirs)]
        value = _agree(f"{self._name}[{key!r}]", *found)
        if value is _MISSING:
            raise KeyError(key)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ours[key] = value
        self._theirs[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._ours[key]
        del self._theirs[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._ours)

    def __len__(self) -> int:
        __tracebackhide__ = True
        return int(_agree(f"len({self._name})", len(self._ours), len(self._theirs)))


_MISSING = type("Missing", (), {"__repr__": lambda self: "no element"})()


def _get(found: Any, key: Any) -> Any:
    try:
        return found[key]
    except KeyError:
        return _MISSING


def _agree(what: str, ours: Any, theirs: Any) -> Any:
    __tracebackhide__ = True
    if ours != theirs:
        raise AssertionError(f"{what}: {ours!r} on the interpreter, {theirs!r} in the kernel")
    return theirs


def _setting(value: bool | int | str) -> str:
    """A value as in a kernel's configuration."""
    if isinstance(value, bool):
        return "y" if value else "n"
    return f'"{value}"' if isinstance(value, str) and len(value) != 1 else str(value)


def _running_types(spec: ObjectSpec) -> Target | None:
    """Types of the running kernel, for objects that need any."""
    if not any(function.core_relos for function in spec.functions):
        return None
    from pybpfload.kernel import btf

    return Target(btf.vmlinux(), lambda: [module.btf for module in btf.modules()])
