"""Where programs can be attached, as far as a kernel's BTF tells: offline, of any kernel.

What a running kernel adds (tracepoints with their categories, functions for kprobes) is in
:mod:`pybpfload.kernel.places`. Names are those that ``SEC()`` takes.

Source of the rules: the prefixes are those of ``attach_btf_id`` (libbpf,
``libbpf_find_attach_btf_id()``); which functions a trampoline can carry is the kernel's
``btf_distill_func_proto()``.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Final, NamedTuple

from pybpfload.btf import types as t
from pybpfload.btf.cdecl import declare
from pybpfload.errors import FormatError
from pybpfload.pattern import glob_pattern
from pybpfload.uapi import AttachType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pybpfload.btf import Btf
    from pybpfload.object.spec import ProgramSpec

__all__ = ["ALIASES", "BTF_KINDS", "Place", "Wanted", "in_btf", "places_in_btf", "traceable"]

BTF_KINDS: Final = ("fentry", "tp_btf", "raw_tp", "iter", "lsm", "kfunc", "struct_ops")
"""Kinds of places that BTF tells; ``fentry`` stands for ``fexit`` and ``fmod_ret`` too."""

ALIASES: Final = {
    "fexit": "fentry",
    "fmod_ret": "fentry",
    "fsession": "fentry",
    "kretprobe": "kprobe",
    "tracepoint": "tp",
    "raw_tracepoint": "raw_tp",
}
"""Other beginnings of sections, and the kind that stands for the same places."""

_FUNC_PREFIXES = {"iter": "bpf_iter_", "lsm": "bpf_lsm_"}
_TRACEPOINT = "btf_trace_"
_STRUCT_OPS = "bpf_struct_ops_"
_NOT_TRACED = (*_FUNC_PREFIXES.values(), "__bpf_trace_", "__probestub_", "trace_raw_output_")
_MOST_ARGUMENTS = 12


# Attach type -> prefix of the name in BTF, kind, words; everything else is a FUNC of its own name.
_OF_ATTACH_TYPE = {
    AttachType.TRACE_RAW_TP: (_TRACEPOINT, t.Kind.TYPEDEF, "raw tracepoint"),
    AttachType.LSM_MAC: (_FUNC_PREFIXES["lsm"], t.Kind.FUNC, "LSM hook"),
    AttachType.LSM_CGROUP: (_FUNC_PREFIXES["lsm"], t.Kind.FUNC, "LSM hook"),
    AttachType.TRACE_ITER: (_FUNC_PREFIXES["iter"], t.Kind.FUNC, "iterator"),
}


class Place(NamedTuple):
    """Something that a program can be attached to, or call (kfuncs).

    Attributes:
        kind: What a section begins with: ``fentry``, ``tp``, ``kprobe``, ...; ``kfunc``.
        name: What follows it.
        module: Kernel module it belongs to, ``""`` for the kernel itself.
        prototype: Arguments and result in C, a line for each field of a tracepoint; ``""`` where
            nothing is known of them.
    """

    kind: str
    name: str
    module: str = ""
    prototype: str = ""

    @property
    def section(self) -> str:
        """As ``SEC()`` takes it."""
        module = f"{self.module}:" if self.module and self.kind in ("fentry", "lsm") else ""
        return f"{self.kind}/{module}{self.name}"


class Wanted:
    """A pattern of places: ``*`` for anything, ``?`` for one character.

    Args:
        pattern: ``kind/name``, as in ``fentry/vfs_*`` or ``*/sched_switch``; a pattern without
            ``/`` is one of names of any kind. Kinds by which sections call the same places, as
            ``fexit`` and ``tracepoint``, will do.

    Attributes:
        pattern: As given.

    Raises:
        ValueError: The pattern is empty.
    """

    def __init__(self, pattern: str) -> None:
        if not pattern:
            raise ValueError("an empty pattern names nothing; * is for anything")
        self.pattern = pattern
        kind, slash, name = pattern.partition("/")
        if not slash:
            kind, name = "*", pattern
        self._kind = glob_pattern(ALIASES.get(kind, kind))
        self._name = glob_pattern(name or "*")

    def kind(self, kind: str) -> bool:
        """Whether a kind of places is wanted."""
        return self._kind.fullmatch(kind) is not None

    def name(self, name: str) -> bool:
        """Whether a name is wanted."""
        return self._name.fullmatch(name) is not None

    def __repr__(self) -> str:
        return f"Wanted({self.pattern!r})"


def places_in_btf(
    btf: Btf, wanted: Wanted, *, module: str = "", prototypes: bool = False
) -> Iterator[Place]:
    """The places of a kernel, or of one of its modules, by kind and name.

    Args:
        btf: BTF of the kernel or module.
        wanted: Which ones.
        module: Name of the module that the BTF is of.
        prototypes: Whether to tell arguments and results.

    Raises:
        FormatError: The BTF is damaged.
    """
    named = cache(partial(_named, btf))  # several kinds of places come from one kind of types
    for kind in BTF_KINDS:
        if wanted.kind(kind):
            found = {name: i for name, i in _candidates(btf, kind, named) if wanted.name(name)}
            hooks = _hooks(btf) if kind == "lsm" and found else ()
            for name in sorted(found):
                if kind == "fentry" and not traceable(btf, found[name]):
                    continue
                # Helpers of iterators and of the security module have such prefixes, too.
                if kind == "iter" and not btf.find(f"bpf_iter__{name}", t.Kind.STRUCT):
                    continue
                if kind == "lsm" and hooks and name not in hooks:
                    continue
                text = _prototype(btf, kind, name, found[name]) if prototypes else ""
                yield Place(kind, name, module, text)


def _candidates(
    btf: Btf, kind: str, named: Callable[[t.Kind], list[tuple[str, int]]]
) -> Iterator[tuple[str, int]]:
    """Names of a kind, and the types that tell of them."""
    if kind in ("tp_btf", "raw_tp"):
        for name, type_id in named(t.Kind.TYPEDEF):
            if name.startswith(_TRACEPOINT):
                yield name[len(_TRACEPOINT) :], type_id
    elif kind == "struct_ops":
        for name, type_id in named(t.Kind.STRUCT):
            if name.startswith(_STRUCT_OPS):
                # The kernel's wrapper of a struct NAME, which is its member `data`.
                wrapper, inner = btf[type_id], name[len(_STRUCT_OPS) :]
                data = {m.name: m.type for m in getattr(wrapper, "members", ())}.get("data")
                if data is not None and btf.type_name(data) == inner:
                    yield inner, type_id
    elif kind == "kfunc":
        for type_id in btf.find_all("bpf_kfunc", t.Kind.DECL_TAG):
            tag = btf[type_id]
            assert isinstance(tag, t.DeclTag)
            if btf.kind(tag.type) == t.Kind.FUNC and type_id in btf.own_ids():
                yield btf.type_name(tag.type), tag.type
    elif prefix := _FUNC_PREFIXES.get(kind):
        for name, type_id in named(t.Kind.FUNC):
            if name.startswith(prefix):
                yield name[len(prefix) :], type_id
    else:
        for name, type_id in named(t.Kind.FUNC):
            if not name.startswith(_NOT_TRACED):
                yield name, type_id


def _named(btf: Btf, kind: t.Kind) -> list[tuple[str, int]]:
    return [(btf.type_name(i), i) for i in btf.own_ids() if btf.kind(i) == kind]


def _hooks(btf: Btf) -> frozenset[str]:
    """Names of the LSM hooks; empty where the BTF does not tell."""
    found = btf.find("security_list_options", t.Kind.UNION)
    union = btf[found] if found else None
    if not isinstance(union, t.Union):
        return frozenset()
    return frozenset(member.name for member in union.members)


def in_btf(program: ProgramSpec) -> tuple[str, t.Kind, str]:
    """How BTF names what a program is loaded for: prefix of the name, kind, and words for it."""
    found = _OF_ATTACH_TYPE.get(program.expected_attach_type)
    return found or ("", t.Kind.FUNC, "function")


def traceable(btf: Btf, func_id: int) -> bool:
    """Whether a trampoline can carry a function's arguments and result.

    That is up to 12 arguments of at most 16 bytes, none of them variable, and a result that is no
    struct.
    """
    func = btf[func_id]
    proto = btf[func.type] if isinstance(func, t.Func) else None
    if not isinstance(proto, t.FuncProto) or len(proto.params) > _MOST_ARGUMENTS:
        return False
    result = btf.kind(btf.strip(proto.return_type)) if proto.return_type else None
    if result in (t.Kind.STRUCT, t.Kind.UNION):
        return False
    for param in proto.params:
        if not param.type:
            return False  # ...
        core = btf.strip(param.type)
        if btf.kind(core) not in (
            t.Kind.INT, t.Kind.PTR, t.Kind.ENUM, t.Kind.ENUM64, t.Kind.STRUCT, t.Kind.UNION,
        ) or not 1 <= btf.size(core) <= 16:  # fmt: skip
            return False
    return True


def _prototype(btf: Btf, kind: str, name: str, type_id: int) -> str:
    try:
        if kind in ("tp_btf", "raw_tp"):
            # The typedef leaves the arguments without names; a function of the tracepoint has them.
            for prefix in ("__bpf_trace_", "__traceiter_"):
                func = btf[btf.find(prefix + name, t.Kind.FUNC)]
                if isinstance(func, t.Func):
                    return _without_data(btf, func.type, name)
            pointer = btf[btf.strip(type_id)]
            return _without_data(btf, pointer.type, name) if isinstance(pointer, t.Ptr) else ""
        found = btf[type_id]
        return declare(btf, found.type, name) if isinstance(found, t.Func) else ""
    except FormatError as error:
        return f"? ({error})"


def _without_data(btf: Btf, proto_id: int, name: str) -> str:
    """A tracepoint's prototype without the first argument, which programs do not get."""
    proto = btf[proto_id]
    if not isinstance(proto, t.FuncProto):
        return ""
    arguments = [declare(btf, param.type, param.name) for param in proto.params[1:]]
    return f"void {name}({', '.join(arguments) or 'void'})"
