"""What CO-RE decides, as data: kinds, accesses on both sides, values, outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.btf import types as t

if TYPE_CHECKING:
    from pybpfload.btf import Btf
    from pybpfload.charts.pair import Pair
    from pybpfload.isa.insn import Insn

__all__ = [
    "ENUMVAL_KINDS",
    "FIELD_KINDS",
    "TYPE_KINDS",
    "Accessor",
    "Budget",
    "CoreDecision",
    "CoreKind",
    "Failure",
    "Outcome",
    "Spec",
    "shown",
]

MAX_SPEC = 64  # BPF_CORE_SPEC_MAX_LEN
_SHOWN = 64
_STEPS = 1 << 18  # of one relocation; matching the largest of the kernel takes 3,000
_OBJECT_STEPS = 1 << 20  # of all relocations, and for each record:
_RECORD_STEPS = 1 << 10  # as many as a large struct has members


class CoreKind(IntEnum):
    """Kind of a CO-RE relocation (``enum bpf_core_relo_kind``); names are those of libbpf's log."""

    BYTE_OFF = 0
    BYTE_SZ = 1
    FIELD_EXISTS = 2
    SIGNED = 3
    LSHIFT_U64 = 4
    RSHIFT_U64 = 5
    LOCAL_TYPE_ID = 6
    TARGET_TYPE_ID = 7
    TYPE_EXISTS = 8
    TYPE_SIZE = 9
    ENUMVAL_EXISTS = 10
    ENUMVAL_VALUE = 11
    TYPE_MATCHES = 12


FIELD_KINDS = frozenset(CoreKind(k) for k in range(6))
TYPE_KINDS = frozenset(CoreKind(k) for k in (6, 7, 8, 9, 12))
ENUMVAL_KINDS = frozenset({CoreKind.ENUMVAL_EXISTS, CoreKind.ENUMVAL_VALUE})


class Outcome:
    """What became of the instruction."""

    PATCHED = "patched"
    POISONED = "poisoned"
    UNCHANGED = "unchanged"


class Failure(Exception):  # noqa: N818 - internal signal, always turned into a RelocationError
    """A rule says that relocation of the whole object fails here.

    Attributes:
        hint: What to do about it.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class Budget:
    """Bound on the steps of relocating: hostile type graphs make honest rules exponential.

    Args:
        records: Number of relocations that share it.
    """

    __slots__ = ("_all", "left")

    def __init__(self, records: int = 1) -> None:
        self._all = _OBJECT_STEPS + _RECORD_STEPS * records
        self.left = 0
        self.start()

    def start(self) -> None:
        """Begin the next relocation."""
        self._all += self.left
        self.left = min(_STEPS, self._all)
        self._all -= self.left

    def spend(self, steps: int = 1) -> None:
        """Count steps.

        Raises:
            Failure: There were too many.
        """
        self.left -= steps
        if self.left < 0:
            raise Failure(
                f"the types are so entangled that {_STEPS} steps did not suffice",
                "the BTF is damaged or hostile; relocate against another",
            )


class Accessor(NamedTuple):
    """One step of an access: member ``index``, ``name`` of struct ``type_id``; or an element."""

    type_id: int
    index: int  # type: ignore[assignment]  # not the method of tuple
    name: str | None


@dataclass(slots=True)
class Spec:
    """An access in terms of the types of one BTF.

    Attributes:
        btf: The BTF.
        root: Type id as the record or the candidate gives it, not stripped.
        kind: Kind of the relocation.
        accessors: Named members and array elements; unnamed members leave none.
        raw: All indices, those through unnamed members too.
        bit_offset: From the start of the root, in bits.
    """

    btf: Btf
    root: int
    kind: CoreKind
    accessors: list[Accessor] = field(default_factory=list)
    raw: list[int] = field(default_factory=list)
    bit_offset: int = 0

    @property
    def last(self) -> Accessor:
        """The step that names what is accessed."""
        return self.accessors[-1]

    @property
    def declaration(self) -> str:
        """C text of what is accessed: ``pid_t tgid``, ``unsigned int in_iowait:1``.

        Raises:
            FormatError: The type refers to itself without end, or to an id that does not exist.
        """
        from pybpfload.btf.cdecl import declare, printable

        if self.kind in ENUMVAL_KINDS:
            return f"{declare(self.btf, self.root)} {{ {printable(self.last.name or '')} }}"
        named = [accessor for accessor in self.accessors if accessor.name is not None]
        if not named:
            return declare(self.btf, self.root)
        parent = self.btf[named[-1].type_id]
        assert isinstance(parent, t.Composite)
        member = parent.members[named[-1].index]
        bits = f":{member.bitfield_size}" if member.bitfield_size else ""
        return declare(self.btf, member.type, printable(member.name)) + bits

    @property
    def type_name(self) -> str:
        """What it begins at: ``struct task_struct``, ``enum <anon>``, ``typedef pid_t``."""
        kind = self.btf.kind(self.root)
        label = t.Kind(kind).name.lower() if kind in t.Kind._value2member_map_ else str(kind)
        return f"{label} {self.btf.type_name(self.root) or '<anon>'}"

    @property
    def path(self) -> str:
        """The way from there: ``.real_parent.tgid``, ``[1].name``, ``::ENUMERATOR``, or ``""``."""
        if self.kind in TYPE_KINDS:
            return ""
        if self.kind in ENUMVAL_KINDS:
            return f"::{self.last.name}"
        text = ""
        for position, accessor in enumerate(self.accessors):
            if accessor.name is not None:
                text += f".{accessor.name}"
            elif position or accessor.index:
                text += f"[{accessor.index}]"
        return text

    def __str__(self) -> str:
        text = f"[{self.root}] {self.type_name}{self.path}"
        if self.kind in TYPE_KINDS:
            return text
        if self.kind in ENUMVAL_KINDS:
            enum = self.btf[self.accessors[0].type_id]
            assert isinstance(enum, (t.Enum, t.Enum64))
            return f"{text} = {enum.values[self.last.index].value}"
        byte, bit = divmod(self.bit_offset, 8)
        where = f"{byte}.{bit}" if bit else f"{byte}"
        return f"{text} ({':'.join(map(str, self.raw))} @ offset {where})"


@dataclass(slots=True)
class CoreDecision:
    """One CO-RE relocation and what was decided.

    Attributes:
        serial: Its place among the records of the object.
        function: Function that holds the instruction.
        insn: Index of the instruction there.
        kind: What was asked.
        access: Access string of the record.
        local: The access in the object's own types, ``None`` when it was not even readable.
        candidates: What the target had to offer, as ``(name of the BTF, type id)``.
        target: The access in the target's types, ``None`` when nothing matched and for
            ``local_type_id``, which has no target.
        original: Value in the object's own types.
        value: Value for the target; ``None`` when the instruction was poisoned.
        outcome: One of :class:`Outcome`.
        before, after: The instruction, and its second half when it is LDIMM64.
        reason: Why it was poisoned or failed, in words.
    """

    serial: int
    function: str
    insn: int
    kind: CoreKind
    access: str
    local: Spec | None = None
    candidates: list[tuple[str, int]] = field(default_factory=list)
    target: Spec | None = None
    original: int | None = None
    value: int | None = None
    outcome: str = Outcome.UNCHANGED
    before: tuple[Insn, ...] = ()
    after: tuple[Insn, ...] = ()
    reason: str = ""

    @property
    def kind_name(self) -> str:
        """Kind as libbpf's log spells it, for example ``byte_off``."""
        return self.kind.name.lower()

    def picture(self) -> Pair:
        """The types on both sides with an arrow from what is meant to what that is there.

        Raises:
            FormatError: The BTF is damaged.
        """
        from pybpfload.relocate.core.picture import picture

        return picture(self)

    def _repr_svg_(self) -> str:
        return self.picture().svg()

    def __str__(self) -> str:
        return f"<{self.kind_name}> {self.local or shown(self.access)}"


def shown(access: str) -> str:
    """An access string for a message: a damaged one may be long."""
    return access if len(access) <= _SHOWN else access[:_SHOWN] + "..."
