"""CO-RE without object files: types on both sides, instructions, records."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from insns import mov

from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.ext import CoreRelo
from pybpfload.errors import RelocationError
from pybpfload.object.spec import ObjectSpec, ProgramSpec
from pybpfload.relocate import CoreDecision, CoreKind, Target, relocate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pybpfload.btf import Btf
    from pybpfload.isa.insn import Insn

POISON = 195896080

BYTE_OFF, BYTE_SZ, FIELD_EXISTS, SIGNED, LSHIFT, RSHIFT = map(CoreKind, range(6))
LOCAL_ID, TARGET_ID, TYPE_EXISTS, TYPE_SIZE = map(CoreKind, range(6, 10))
ENUM_EXISTS, ENUM_VALUE, TYPE_MATCHES = map(CoreKind, range(10, 13))


class Types(BtfBuilder):
    """A BTF with the usual integers."""

    def __init__(self, order: str = "<", *, base: Btf | None = None) -> None:
        super().__init__(order, base=base)
        if base is None:
            self.int = self.add_int("int", 4, 1)
            self.u8 = self.add_int("unsigned char", 1)
            self.u16 = self.add_int("unsigned short", 2)
            self.u32 = self.add_int("unsigned int", 4)
            self.u64 = self.add_int("unsigned long", 8)
            self.long = self.add_int("long", 8, 1)
            self.bool = self.add_int("_Bool", 1, 4)

    def struct(self, name: str, *members: tuple, size: int | None = None) -> int:
        """Members are ``(name, type, bits)`` or ``(name, type, bits, width)``."""
        if size is None:
            table = self.btf()
            ends = [at // 8 + table.size(of) for _, of, at, *_ in members]
            size = max(ends, default=0)
        return self.add_struct(name, size, members)

    def plain(self, name: str, *members: tuple[str, int]) -> int:
        """A struct of 8-byte slots: each member at the next multiple of 8 bytes."""
        return self.add_struct(
            name, 8 * len(members), [(n, of, 64 * at) for at, (n, of) in enumerate(members)]
        )


def object_of(
    local: Types, records: Iterable[tuple[int, int, str, int]], insns: list[Insn], order: str = "<"
) -> ObjectSpec:
    """An object with one program; records are ``(instruction, type id, access, kind)``."""
    spec = ObjectSpec("case", "case", order, btf=local.btf("local"))
    program = ProgramSpec("main", "tc", insns)
    for serial, (at, *rest) in enumerate(records):
        program.core_relos.append((serial, at, CoreRelo(8 * at, *rest)))
    spec.functions = [program]
    spec.programs.add("main", program, "tc")
    return spec


def run(
    local: Types,
    target: Types | None,
    records: Iterable[tuple[int, int, str, int]],
    insns: list[Insn],
    *,
    modules: Iterable[Btf] = (),
    order: str = "<",
) -> tuple[list[Insn], list[CoreDecision]]:
    """Relocate; returns the instructions and the decisions."""
    btf = target.btf("target") if target is not None else None
    result = relocate(object_of(local, records, insns, order), Target(btf, modules))
    return result.programs["main"].insns, result.decisions


def decide(
    local: Types,
    target: Types,
    type_id: int,
    access: str,
    kind: int,
    original: int = 0,
    **options,
) -> CoreDecision:
    """One record on ``r1 = original``."""
    _, decisions = run(local, target, [(0, type_id, access, kind)], [mov(original)], **options)
    return decisions[0]


def fails(
    local: Types, target: Types, type_id: int, access: str, kind: int, original: int = 0, **options
) -> str:
    """The reason for which one record aborts the relocation of the object."""
    with pytest.raises(RelocationError) as caught:
        decide(local, target, type_id, access, kind, original, **options)
    assert caught.value.decision.reason
    assert (caught.value.program, caught.value.insn) == ("main", 0)
    return caught.value.decision.reason
