"""Relocations with known answers: a program's types, a kernel's, and what the model says of them.

A :class:`Case` is an object file and a BTF to relocate it against. Each of its programs holds one
:class:`Probe`: instructions that ask one question about a type, such as the value of a field. The
model (:mod:`pybpfload.testing.cmodel`) knows the answer because it made the kernel's types out of
the program's; it does not look for names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum as PyEnum
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from pybpfload.isa import insn as isa
from pybpfload.relocate import CoreKind
from pybpfload.testing.cmodel import (
    CType,
    Enum,
    Int,
    Record,
    Shown,
    Typedef,
    Types,
    size_of,
    strip,
)
from pybpfload.testing.objects import ObjectBuilder, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pybpfload.btf import Btf
    from pybpfload.isa.insn import Insn
    from pybpfload.testing.access import Access, Place

__all__ = ["Answer", "Case", "Evolution", "Form", "Probe", "Verdict"]

_MASK32: Final = 0xFFFFFFFF
_MASK64: Final = 0xFFFFFFFFFFFFFFFF
_SIZES: Final = {1: isa.SIZE_B, 2: isa.SIZE_H, 4: isa.SIZE_W, 8: isa.SIZE_DW}
_SIGNED: Final = 1

SHIFTS: Final = (CoreKind.LSHIFT_U64, CoreKind.RSHIFT_U64)
FIELD_KINDS: Final = tuple(CoreKind(kind) for kind in range(6))
TYPE_KINDS: Final = (
    CoreKind.LOCAL_TYPE_ID, CoreKind.TARGET_TYPE_ID, CoreKind.TYPE_EXISTS, CoreKind.TYPE_SIZE,
    CoreKind.TYPE_MATCHES,
)  # fmt: skip
ENUM_KINDS: Final = (CoreKind.ENUMVAL_EXISTS, CoreKind.ENUMVAL_VALUE)


class Verdict(PyEnum):
    """An answer that is no number."""

    POISONED = "the instruction becomes a call that cannot work"
    REFUSED = "the object is not relocated"
    UNKNOWN = "the model has no opinion"

    def __repr__(self) -> str:
        return self.name


Answer: TypeAlias = "int | Verdict"


class Form(PyEnum):
    """How a program asks.

    Those before ``LOAD`` leave the relocated number in r0, as a constant; the others move what is
    in memory, with r1 pointing to the root.
    """

    MOV = "r0 = N"
    MOV32 = "w0 = N"
    ADD = "r0 = 0; r0 += N"
    LDIMM64 = "r0 = N ll"
    LOAD = "r0 = *(T *)(r1 + N)"
    LOAD_SX = "r0 = *(signed T *)(r1 + N)"
    STORE = "*(T *)(r1 + N) = constant"
    STORE_X = "*(T *)(r1 + N) = r2"
    ATOMIC = "lock *(T *)(r1 + N) += r2"
    BITS = "BPF_CORE_READ_BITFIELD()"

    def __repr__(self) -> str:
        return self.name

    @property
    def is_constant(self) -> bool:
        """Whether it leaves the number itself in r0."""
        return self in (Form.MOV, Form.MOV32, Form.ADD, Form.LDIMM64)

    @property
    def overwrites(self) -> bool:
        """Whether it puts the probe's number into memory."""
        return self in (Form.STORE, Form.STORE_X)

    @property
    def writes(self) -> bool:
        """Whether it changes the memory."""
        return self.overwrites or self is Form.ATOMIC


@dataclass(frozen=True, repr=False)
class Evolution(Shown):
    """A type of the program and what the kernel has instead.

    Attributes:
        before: The program's: a struct, a union, a typedef of one, or an enum.
        after: The kernel's; ``None`` when it has none of that name and kind.
        changes: What was done, in words.
        matches: Whether the kernel's has all of the program's by the rules of
            ``bpf_core_type_matches()``; ``None``: not known.
        decoys: Other types of the kernel, some of the same name.
    """

    before: CType
    after: CType | None
    changes: tuple[str, ...] = ()
    matches: bool | None = True
    decoys: tuple[CType, ...] = ()

    def __repr__(self) -> str:
        """C text of both sides, and the changes."""
        after = [] if self.after is None else [self.after]
        return "\n".join(_told([self.before], [*after, *self.decoys], self.changes))


class Probe(NamedTuple):
    """A question.

    Attributes:
        kind: Kind of its relocation; ``BYTE_OFF`` also for :attr:`Form.BITS`, which has several.
        form: How it is asked.
        access: What about: a path, an enumerator's index, or ``(0,)`` for a type.
        evolution: The type.
        number: What is put into the field, or what the program writes there.
    """

    kind: CoreKind
    form: Form
    access: Access
    evolution: Evolution
    number: int = 0

    @property
    def here(self) -> Place | None:
        """Where the field is in the program's types; ``None`` if the question is not of a field."""
        return self.access.place if self.kind in FIELD_KINDS else None

    @property
    def there(self) -> Place | None:
        """Where it is in the kernel's types; ``None`` if it is not there."""
        after = self.evolution.after
        if after is None or self.kind not in FIELD_KINDS:
            return None
        return self.access.within(after)


class Case:
    """An object, a BTF and the answers.

    Args:
        probes: The questions.
        order: Byte order of object and BTF.
        extra: More types that the kernel has.
        twin: Whether the kernel has each type twice, as flavors that do not differ.
        backwards: Whether its BTF refers to later types where it can.

    Attributes:
        probes: The questions by name of their program.
        evolutions: The types that they are about.
        order, extra, twin, backwards: As above.
    """

    def __init__(
        self,
        probes: list[Probe],
        order: str = "<",
        *,
        extra: tuple[CType, ...] = (),
        twin: bool = False,
        backwards: bool = False,
    ) -> None:
        self.probes = {f"probe_{at}": probe for at, probe in enumerate(probes)}
        self.order = order
        self.extra = extra
        self.twin = twin
        self.backwards = backwards
        self.evolutions = list(dict.fromkeys(probe.evolution for probe in probes))

    @cached_property
    def local(self) -> Types:
        """Types of the object."""
        return Types([evolution.before for evolution in self.evolutions], self.order)

    @property
    def kernel_types(self) -> list[CType]:
        """Types of the kernel; :attr:`kernel` is all that they refer to."""
        listed = list(self.extra)
        for evolution in self.evolutions:
            listed += evolution.decoys
            if evolution.after is not None:
                listed.append(evolution.after)
                if self.twin:
                    listed.append(flavored(evolution.after, "twin"))
        return listed

    @cached_property
    def kernel(self) -> Types:
        """BTF of the kernel, and its ids."""
        return Types(self.kernel_types, self.order, backwards=self.backwards)

    @cached_property
    def target(self) -> Btf:
        """BTF of the kernel."""
        return self.kernel.btf("kernel")

    @cached_property
    def data(self) -> bytes:
        """The object file."""
        made = ObjectBuilder(self.order, btf=self.local.builder())
        for name, probe in self.probes.items():
            made.program("raw_tp", self.code(probe), name)
        made.license()
        return made.build()

    def code(self, probe: Probe) -> list[Insn | tuple[Insn, Insn] | Site]:
        """Instructions that ask a question."""
        return _code(probe, self.local.id(probe.access.root), self.order)

    def answer(self, probe: Probe) -> Answer:
        """Return what the model says: what r0 is in the end, or what else happens.

        Of a program that writes: what the field is in the end.
        """
        if probe.kind in FIELD_KINDS:
            return _field_answer(probe, self.order)
        number = self._constant(probe)
        return number if isinstance(number, Verdict) else _as_seen(number, probe.form)

    def _constant(self, probe: Probe) -> Answer:
        evolution, kind = probe.evolution, probe.kind
        after = evolution.after
        if kind == CoreKind.LOCAL_TYPE_ID:
            return self.local.id(evolution.before)
        if kind in ENUM_KINDS:
            found = _enumerator(probe) if after is not None else None
            if kind == CoreKind.ENUMVAL_EXISTS:
                return int(found is not None)
            return Verdict.POISONED if found is None else found
        if after is None:
            return 0
        if kind == CoreKind.TARGET_TYPE_ID:
            return Verdict.REFUSED if self.twin else self.kernel.id(after)
        if kind == CoreKind.TYPE_EXISTS:
            return 1
        if kind == CoreKind.TYPE_SIZE:
            return size_of(after)
        return Verdict.UNKNOWN if evolution.matches is None else int(evolution.matches)

    def swapped(self) -> Case:
        """The same problem in the other byte order."""
        return Case(
            list(self.probes.values()),
            ">" if self.order == "<" else "<",
            extra=self.extra,
            twin=self.twin,
            backwards=self.backwards,
        )

    def memory(self, probe: Probe) -> bytearray:
        """What the kernel has at the root of a field: the number in the field, noise around it."""
        there = probe.there
        assert probe.evolution.after is not None
        size = size_of(probe.evolution.after) * (probe.access.indices[0] + 1)
        if there is not None:
            size = max(size, -(-(there.bit + there.width) // 8))
        image = bytearray((at * 73 + 0x5A) & 0xFF for at in range(size + 8))
        if there is not None and there.is_number:
            before = probe.number ^ _MASK64 if probe.form.overwrites else probe.number
            there.write(image, before, self.order)
        return image

    def __repr__(self) -> str:
        """C text of both sides, what was changed, and the questions."""
        before = [evolution.before for evolution in self.evolutions]
        changes = [change for evolution in self.evolutions for change in evolution.changes]
        questions = [
            f"{name}: {describe(probe)}; expected: {self.answer(probe)!r}"
            for name, probe in self.probes.items()
        ]
        options = f"{'little' if self.order == '<' else 'big'} endian" + ", twins" * self.twin
        told = _told(before, self.kernel_types, changes)
        return "\n".join([f"Case({options})", *told, *questions])


def _told(before: list[CType], after: list[CType], changes: Sequence[str]) -> list[str]:
    parts = {
        "the program has:": str(Types(before)),
        "the kernel has:": str(Types(after)),
        "changes:": "\n".join(changes) or "none",
    }
    return [
        line
        for title, text in parts.items()
        for line in (title, *("    " + t.replace("\t", "    ") for t in text.splitlines()))
    ]


def describe(probe: Probe) -> str:
    """A question in words."""
    access, kind = probe.access, probe.kind
    if kind in TYPE_KINDS:
        what = f"type of {access.root.__class__.__name__.lower()} {access.root.name}"  # type: ignore[attr-defined]
    elif kind in ENUM_KINDS:
        enum = strip(access.root)
        assert isinstance(enum, Enum)
        what = enum.values[access.indices[0]][0]
    else:
        what = access.text
    asked = "read_bitfield" if probe.form is Form.BITS else kind.name.lower()
    return f"{asked} of {what} ({access}) by {probe.form.value}"


def flavored(type: CType, flavor: str) -> CType:  # noqa: A002
    """Return a record, enum or typedef of the same name with another flavor."""
    assert isinstance(type, (Record, Enum, Typedef))
    return replace(type, name=f"{type.name.split('___')[0]}___{flavor}")


# What programs are made of


def original(probe: Probe, order: str, type_id: int) -> int:
    """The number that the compiler leaves in the instruction, 64 bits, by the program's types."""
    kind = probe.kind
    here = probe.here
    if here is not None:
        number = _number(kind, here, order)
        return 0 if isinstance(number, Verdict) else number
    if kind == CoreKind.LOCAL_TYPE_ID:
        return type_id
    if kind == CoreKind.TYPE_SIZE:
        return size_of(probe.access.root)
    if kind == CoreKind.ENUMVAL_VALUE:
        enum = strip(probe.access.root)
        assert isinstance(enum, Enum)
        return _enum_value(enum, probe.access.indices[0])
    return 0 if kind == CoreKind.TARGET_TYPE_ID else 1


def _code(probe: Probe, type_id: int, order: str) -> list[Insn | tuple[Insn, Insn] | Site]:
    form = probe.form

    def asks(insn: Insn | tuple[Insn, Insn], kind: CoreKind = probe.kind) -> Site:
        return Site(insn, core=(type_id, str(probe.access), kind))

    if form is Form.BITS:
        return _read_bits(probe, order, asks)
    number = original(probe, order, type_id)
    imm = isa.to_s32(number)
    end = isa.exit_()
    if form is Form.MOV:
        return [asks(isa.mov64_imm(0, imm)), end]
    if form is Form.MOV32:
        return [asks(isa.Insn(isa.ALU | isa.ALU_MOV, 0, imm=imm)), end]
    if form is Form.ADD:
        return [isa.mov64_imm(0, 0), asks(isa.alu64_imm(isa.ALU_ADD, 0, imm)), end]
    if form is Form.LDIMM64:
        return [asks(isa.ld_imm64(0, number)), end]
    here = probe.here
    assert here is not None
    size = _SIZES[size_of(here.element)]
    if form is Form.LOAD:
        return [asks(isa.ldx(size, 0, 1, number)), end]
    if form is Form.LOAD_SX:
        return [asks(isa.Insn(isa.LDX | isa.MODE_MEMSX | size, 0, 1, number)), end]
    value = isa.ld_imm64(2, probe.number)
    done = [isa.mov64_imm(0, 0), end]
    if form is Form.STORE:
        return [asks(isa.st(size, 1, number, isa.to_s32(probe.number))), *done]
    if form is Form.STORE_X:
        return [value, asks(isa.stx(size, 1, 2, number)), *done]
    return [isa.mov64_imm(2, 1), asks(isa.atomic(size, isa.ATOMIC_ADD, 1, 2, number)), *done]


def _read_bits(
    probe: Probe, order: str, asks: Callable[..., Site]
) -> list[Insn | tuple[Insn, Insn] | Site]:
    """Load what holds the field, whatever its size, and shift the field to the end."""
    here = probe.here
    assert here is not None

    def constant(dst: int, kind: CoreKind) -> Site:
        number = _number(kind, here, order)
        return asks(isa.mov64_imm(dst, 0 if isinstance(number, Verdict) else number), kind)

    code: list[Insn | tuple[Insn, Insn] | Site] = [
        constant(2, CoreKind.BYTE_OFF),
        isa.alu64_reg(isa.ALU_ADD, 2, 1),
        constant(3, CoreKind.BYTE_SZ),
        isa.mov64_imm(0, 0),
    ]
    for size, code_size in _SIZES.items():
        code += [isa.jmp_imm(isa.JMP_JNE, 3, size, 1), isa.ldx(code_size, 0, 2, 0)]
    return [
        *code,
        constant(4, CoreKind.LSHIFT_U64),
        isa.alu64_reg(isa.ALU_LSH, 0, 4),
        constant(4, CoreKind.RSHIFT_U64),
        constant(5, CoreKind.SIGNED),
        isa.jmp_imm(isa.JMP_JEQ, 5, 0, 2),
        isa.alu64_reg(isa.ALU_ARSH, 0, 4),
        isa.exit_(),
        isa.alu64_reg(isa.ALU_RSH, 0, 4),
        isa.exit_(),
    ]


# What the model says


def _number(kind: CoreKind, place: Place, order: str) -> Answer:
    """What a field relocation gives for a place."""
    if kind == CoreKind.FIELD_EXISTS:
        return 1
    unit = place.unit
    if unit is None:
        return Verdict.REFUSED
    first, size = unit
    if kind == CoreKind.BYTE_OFF:
        return first
    if kind == CoreKind.BYTE_SZ:
        return size
    if not place.named:
        return Verdict.REFUSED
    if kind == CoreKind.SIGNED:
        return int(place.signed)
    if kind == CoreKind.RSHIFT_U64:
        return 64 - place.width & _MASK32
    if order == "<":
        return 64 - (place.bit + place.width - 8 * first) & _MASK32
    return 8 * (8 - size) + place.bit - 8 * first & _MASK32


def _as_seen(number: int, form: Form) -> int:
    """A constant as the register has it in the end."""
    if form is Form.LDIMM64:
        return number & _MASK64
    if form is Form.MOV32:
        return number & _MASK32
    return isa.to_s32(number) & _MASK64


def _field_answer(probe: Probe, order: str) -> Answer:
    here, there, kind = probe.here, probe.there, probe.kind
    assert here is not None
    if kind != CoreKind.FIELD_EXISTS and isinstance(_number(kind, here, order), Verdict):
        return Verdict.REFUSED
    if there is None:
        return 0 if kind == CoreKind.FIELD_EXISTS else Verdict.POISONED
    number = _number(kind, there, order)
    if isinstance(number, Verdict):
        return number
    if probe.form.is_constant:
        return _as_seen(number, probe.form)
    if probe.form is Form.BITS:
        value = probe.number & (1 << there.width) - 1
        if there.signed and value >> there.width - 1:
            value -= 1 << there.width
        return value & _MASK64
    return _memory_answer(probe, here, there, number)


def _memory_answer(probe: Probe, here: Place, there: Place, offset: int) -> Answer:
    """What a load or store of the field does when it is moved, and resized if it may be."""
    if offset > 0x7FFF:
        return Verdict.REFUSED
    if here.bits is not None or there.bits is not None:
        # A bit field has no size that a load could have: between two of them nothing is checked.
        both = here.bits is not None and there.bits is not None
        return Verdict.UNKNOWN if both else Verdict.POISONED
    mine, theirs = size_of(here.element), size_of(there.element)
    if mine != theirs and not (_resizable(here.type) and _resizable(there.type)):
        return Verdict.POISONED
    if not there.is_number:
        return Verdict.UNKNOWN  # an array of them: there is no one value
    mask = (1 << 8 * theirs) - 1
    if probe.form is Form.ATOMIC:
        # There is none of one or two bytes, which nobody checks.
        return probe.number + 1 & mask if theirs >= 4 else Verdict.UNKNOWN
    if probe.form is Form.LOAD_SX:
        value = probe.number & mask
        signed = value - (mask + 1 if value >> 8 * theirs - 1 else 0) & _MASK64
        return signed if theirs < 8 else Verdict.UNKNOWN  # as before: there is none of 8
    if probe.form is Form.STORE:
        return isa.to_s32(probe.number) & mask
    return probe.number & mask


def _resizable(type: CType) -> bool:  # noqa: A002
    return isinstance(type, Int) and type.encoding != _SIGNED


def _enumerator(probe: Probe) -> int | None:
    """Value of the enumerator in the kernel's enum; it is the name that makes it the same."""
    before, after = strip(probe.evolution.before), probe.evolution.after
    assert isinstance(before, Enum)
    assert isinstance(after, Enum)
    name = before.values[probe.access.indices[0]][0].split("___")[0]
    for index, (other, _) in enumerate(after.values):
        if other.split("___")[0] == name:
            return _enum_value(after, index)
    return None


def _enum_value(enum: Enum, index: int) -> int:
    """As 64 bits. Without ENUM64 there are 32, of which libbpf takes the highest as the sign."""
    value = enum.values[index][1]
    return (value if enum.is_wide else isa.to_s32(value)) & _MASK64
