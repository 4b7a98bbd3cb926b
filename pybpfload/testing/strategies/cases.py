"""Strategies of whole problems: paths, questions, objects with the BTF of a kernel, damage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import note
from hypothesis import strategies as st

from pybpfload.isa import insn as isa
from pybpfload.relocate import CoreKind
from pybpfload.testing.access import Access
from pybpfload.testing.cases import (
    ENUM_KINDS,
    FIELD_KINDS,
    SHIFTS,
    TYPE_KINDS,
    Case,
    Evolution,
    Form,
    Probe,
    original,
)
from pybpfload.testing.cmodel import (
    Array,
    CType,
    Enum,
    Pointer,
    Record,
    Typedef,
    Types,
    size_of,
    strip,
)
from pybpfload.testing.mutate import Mutation, mutate
from pybpfload.testing.strategies.evolution import _evolution, _root
from pybpfload.testing.strategies.types import Choices, Names, _type, drawn

if TYPE_CHECKING:
    from pybpfload.btf import Btf

__all__ = ["accesses", "btfs", "cases", "corrupted", "objects"]


def accesses(root: CType) -> st.SearchStrategy[Access]:
    """Strategy of paths from a pointer to a struct or union to something in it.

    ``str()`` of one is its access string, ``text`` the C expression.
    """
    return drawn(None, lambda draw, _: _access(draw, root))


def _access(draw: Choices, root: CType) -> Access:
    indices = [draw.of([0] * 7 + [1])]
    current = strip(root)
    while True:
        if isinstance(current, Record):
            at = draw.between(0, len(current.members) - 1)
            member = current.members[at]
            current = strip(member.type)
            stops = bool(member.name)
        elif isinstance(current, Array):
            at = draw.between(0, max(current.nelems - 1, 0))
            if not current.nelems:
                at = draw.between(0, 3)  # flexible: it is the last member of a struct
            current = strip(current.of)
            stops = True
        else:
            break
        indices.append(at)
        if stops and draw.seldom():
            break
    return Access(root, tuple(indices))


def cases(
    names: Names | None = None,
    *,
    max_probes: int = 3,
    order: str | None = None,
    kinds: tuple[CoreKind, ...] | None = None,
) -> st.SearchStrategy[Case]:
    """Strategy of objects with CO-RE relocations, kernels to relocate them against, and answers.

    Every kind of relocation is there, in every instruction that may carry it.

    Args:
        names: Names already in use.
        max_probes: Questions, each a program of its own.
        order: Byte order; either by default.
        kinds: Kinds of relocations; all by default.
    """

    def made(draw: Choices, names: Names) -> Case:
        probes: list[Probe] = []
        evolutions: list[Evolution] = []
        for _ in draw.several(1, max_probes):
            if not evolutions or draw.seldom():
                evolutions.append(_evolution(draw, names, _root(draw, names), 4))
            probes.append(_probe(draw, draw.of(evolutions), kinds))
        extra = [_type(draw, names, 1) for _ in range(draw.of([0, 0, 1, 3]))]
        return Case(
            probes,
            order or draw.of("<>"),
            extra=tuple(extra),
            twin=draw.seldom(),
            backwards=draw.seldom(),
        )

    return drawn(names, made)


def _probe(draw: Choices, evolution: Evolution, kinds: tuple[CoreKind, ...] | None) -> Probe:
    root = evolution.before
    is_enum = isinstance(strip(root), Enum)
    possible = ENUM_KINDS + TYPE_KINDS if is_enum else _FIELDS_OFTEN + TYPE_KINDS
    wanted = [kind for kind in possible if kinds is None or kind in kinds] or list(possible)
    kind = draw.of(wanted)
    access = Access(root, (0,))
    if kind in FIELD_KINDS:
        access = _access(draw, root)
    elif kind in ENUM_KINDS:
        enum = strip(root)
        assert isinstance(enum, Enum)
        access = Access(root, (draw.between(0, len(enum.values) - 1),))
    form = draw.of(_forms(Probe(kind, Form.MOV, access, evolution)))
    value = draw.number(False, 64)
    return Probe(kind, form, access, evolution, value)


_FIELDS_OFTEN = (CoreKind.BYTE_OFF,) * 8 + FIELD_KINDS


def _forms(probe: Probe) -> list[Form]:
    """Instructions that can ask it."""
    # As a constant, if it fits: compilers know what they put where.
    constant = original(probe, "<", 1)
    fits = constant == isa.to_s32(constant) & (1 << 64) - 1 and probe.kind not in SHIFTS
    forms = [Form.MOV, Form.LDIMM64, Form.MOV32, Form.ADD] if fits else [Form.LDIMM64]
    here = probe.here
    if probe.kind != CoreKind.BYTE_OFF or here is None:
        return forms
    number_there = here.is_number and not isinstance(here.element, (Record, Array))
    if here.named and number_there and not isinstance(here.type, Pointer):
        forms += [Form.BITS] * 6
    size = size_of(here.element)
    if constant > 0x7FFF or size not in (1, 2, 4, 8):
        return forms
    if number_there or isinstance(here.type, Array):
        forms += [Form.LOAD] * 6 + [Form.STORE, Form.STORE_X]
        forms += [Form.LOAD_SX] * 2 * (size < 8) + [Form.ATOMIC] * (size >= 4)
    return forms


def objects(*, order: str | None = None) -> st.SearchStrategy[bytes]:
    """Strategy of BPF object files with BTF and CO-RE relocations, made without a compiler.

    A failing test tells what is in them.
    """

    def told(case: Case) -> bytes:
        note(f"object of {case!r}")
        return case.data

    return cases(order=order).map(told)


def btfs(*, order: str | None = None) -> st.SearchStrategy[Btf]:
    """Strategy of BTF of C types, with a few roots and all that they refer to.

    A failing test tells what is in it.
    """

    def made(draw: Choices, names: Names) -> Btf:
        roots: list[CType] = []
        for _ in draw.several(1, 4):
            root = _root(draw, names) if draw.coin() else _type(draw, names, 2)
            roots.append(root if draw.coin() else Typedef(names.of("t"), root))
        types = Types(roots, order or draw.of("<>"), backwards=draw.seldom())
        note(f"BTF of {roots}")
        return types.btf()

    return drawn(None, made)


def corrupted(files: st.SearchStrategy[bytes]) -> st.SearchStrategy[Mutation]:
    """Strategy of damaged files: ELF, BTF or text, see :func:`pybpfload.testing.mutate.mutate`.

    Args:
        files: What is damaged; for BTF ``btfs().map(Btf.to_bytes)``.
    """
    return st.builds(mutate, files, st.integers(0, (1 << 32) - 1))
