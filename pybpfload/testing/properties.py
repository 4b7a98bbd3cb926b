"""Properties of relocation and of reading files, as functions that a test calls.

For objects and BTF of one's own:

    assert_deterministic("tool.bpf.o", "vmlinux.btf")
    assert_idempotent("tool.bpf.o", "vmlinux.btf")
    assert_own_btf_changes_nothing("tool.bpf.o")
    assert check_reads("tool.bpf.o", "vmlinux.btf") > 0
    assert_round_trip("vmlinux.btf")
    assert_only_bpf_errors(damaged)

and for problems that Hypothesis makes up (:mod:`pybpfload.testing.strategies`):

    @given(strategies.cases())
    def test_relocation(case):
        check_case(case)

Each raises :class:`AssertionError` when the property does not hold. An object is a path, the bytes
of a file, or a spec; a BTF is a :class:`pybpfload.Btf`, a path, or bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pybpfload.btf import Btf
from pybpfload.btf import types as t
from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.cdecl import define, type_text
from pybpfload.btf.ext import BtfExt
from pybpfload.btf.table import essential_name
from pybpfload.errors import BpfError, RelocationError
from pybpfload.isa import insn as isa
from pybpfload.object import open_object
from pybpfload.object.spec import ObjectSpec
from pybpfload.relocate import CoreKind, Outcome, relocate
from pybpfload.relocate.core.patch import CORE_POISON
from pybpfload.testing.cases import SHIFTS, Answer, Case, Verdict
from pybpfload.testing.given import as_btf, as_object
from pybpfload.testing.interpreter import Interpreter, Memory
from pybpfload.testing.objects import build_ext

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.btf.ext import CoreRelo
    from pybpfload.relocate import CoreDecision, Relocation
    from pybpfload.testing.cases import Probe
    from pybpfload.testing.given import BtfLike, ObjectLike

__all__ = [
    "assert_deterministic",
    "assert_idempotent",
    "assert_only_bpf_errors",
    "assert_own_btf_changes_nothing",
    "assert_round_trip",
    "assert_same_in_both_orders",
    "check_case",
    "check_reads",
]

_MASK64 = 0xFFFFFFFFFFFFFFFF
_TYPE_ID_KINDS = (CoreKind.LOCAL_TYPE_ID, CoreKind.TARGET_TYPE_ID)


# Problems with known answers


def check_case(case: Case) -> None:
    """Relocate a made-up object and run its programs: everything is as the model says.

    A field that the kernel's type kept is read, and written, where the model put it, whatever else
    changed. What is gone does not exist, and code that uses it is poisoned. Sizes, signs, shifts,
    type ids and enumerators are those of the kernel's types.

    Args:
        case: From :func:`pybpfload.testing.strategies.cases`.

    Raises:
        AssertionError: Something is not so; says which program found what.
    """
    answers = {name: case.answer(probe) for name, probe in case.probes.items()}
    spec = open_object(case.data)
    if Verdict.REFUSED in answers.values():
        refused = [name for name, answer in answers.items() if answer is Verdict.REFUSED]
        try:
            relocate(spec, case.target)
        except RelocationError as error:
            if error.program not in refused:
                raise AssertionError(f"{error}, expected of {' or '.join(refused)}") from error
            return
        raise AssertionError(f"was relocated, although {refused[0]} cannot be")
    relocation = relocate(spec, case.target)
    for name, probe in case.probes.items():
        _check_answer(case, relocation, name, probe, answers[name])


def outcome(case: Case, relocation: Relocation, name: str) -> Answer:
    """Run one program of a relocated case and return what it found, as :meth:`Case.answer` does."""
    probe, program = case.probes[name], relocation.programs[name]
    if program.poisons:
        return Verdict.POISONED
    memory = Memory(case.order)  # type: ignore[arg-type]
    region = memory.allocate(_image(case, probe), "the root")
    value = Interpreter(relocation, memory=memory).run(program, ctx=region.base).value
    if not probe.form.writes:
        return value
    there = probe.there
    assert there is not None
    written = bytearray(_image(case, probe))
    found = there.read(region.data, case.order)
    there.write(written, found, case.order)
    if written != region.data:
        raise AssertionError(f"{name} wrote beside the field")
    return found & (1 << there.width) - 1


def _image(case: Case, probe: Probe) -> bytes:
    return bytes(case.memory(probe)) if probe.there is not None else bytes(64)


def _check_answer(
    case: Case, relocation: Relocation, name: str, probe: Probe, expected: Answer
) -> None:
    if expected is Verdict.UNKNOWN:
        return
    found = outcome(case, relocation, name)
    if found != expected:
        raise AssertionError(f"{name} found {found!r}, expected {expected!r}")
    if expected is Verdict.POISONED:
        insns = relocation.programs[name].insns
        if not any(insn.is_helper_call and insn.imm == CORE_POISON for insn in insns):
            raise AssertionError(f"{name} has no poison among {insns}")


def assert_same_in_both_orders(
    one: ObjectLike, other: ObjectLike, one_btf: BtfLike, other_btf: BtfLike
) -> int:
    """Relocation decides the same for both byte orders of an object.

    Compared is what both ask in a function of the same name. Compilers, and macros such as
    ``BPF_CORE_READ_BITFIELD()``, need not ask the same for both.

    Args:
        one: The object.
        other: The same source built for the other byte order.
        one_btf: BTF to relocate ``one`` against.
        other_btf: The same types in the other byte order.

    Returns:
        How many questions were compared.

    Raises:
        AssertionError: Answers differ in more than the shifts of bit fields, which have to.
        RelocationError: An object cannot be relocated.
    """
    mine, theirs = (
        _answers(relocate(as_object(source), as_btf(btf)).decisions)
        for source, btf in ((one, one_btf), (other, other_btf))
    )
    common = mine.keys() & theirs.keys()
    for question in sorted(common):
        if mine[question] != theirs[question]:
            raise AssertionError(
                f"{question} is {mine[question]} in one byte order, {theirs[question]} in the other"
            )
    return len(common)


def _answers(decisions: list[CoreDecision]) -> dict[tuple[str, str, str], int | str | None]:
    """By function, root and kind, and access; ``None`` for what is poisoned."""
    return {
        (d.function, f"{d.kind_name} {_root(d)}", d.access): (
            "a shift" if d.kind in SHIFTS and d.value is not None else d.value
        )
        for d in decisions
    }


def _root(decision: CoreDecision) -> str:
    local = decision.local
    return local.btf.type_name(local.root) if local is not None else ""


# Objects of one's own


def check_reads(source: ObjectLike, btf: BtfLike) -> int:
    """Every relocated load and field address leads to the field that the program names.

    For each CO-RE relocation of a field's offset, a kernel object is laid out by ``btf`` with a
    number in the field that the program's own types name; the relocated instruction is run on it.
    Bit fields are passed over, because a single instruction does not read one.

    Args:
        source: The object.
        btf: BTF of a kernel.

    Returns:
        How many instructions were checked.

    Raises:
        AssertionError: One reads something else.
        RelocationError: The object cannot be relocated.
    """
    spec, target = as_object(source), as_btf(btf)
    relocation = relocate(spec, target, everything=True)
    done = 0
    for program in relocation.programs.values():
        for at, decision in program.core:
            if decision.kind == CoreKind.BYTE_OFF and decision.value is not None:
                done += _check_read(target, decision, program.insns[at])
    return done


def _check_read(target: Btf, decision: CoreDecision, insn: isa.Insn) -> bool:
    local = decision.local
    assert local is not None
    assert decision.target is not None
    steps = [a.index if a.name is None else a.name for a in local.accessors]
    leaf = _leaf(target, decision.target.root, steps[1:])
    if leaf is None:
        return False  # a bit field, or something that is not a number
    size, number = leaf
    value: Any = number
    for step in reversed(steps[1:]):
        value = {step: value} if isinstance(step, str) else [None] * step + [value]
    memory = Memory(target.byteorder)  # type: ignore[arg-type]
    first, root = steps[0], target.strip(decision.target.root)
    assert isinstance(first, int)
    room = memory.allocate(bytes(target.size(root) * (first + 1) + (1 << 16)), "the root")
    memory.set(target, root, room.base + first * target.size(root), value)
    kind = insn.code & isa.CLASS_MASK
    if kind == isa.LDX:
        code = [insn._replace(dst=0, src=1), isa.exit_()]
        width = memory_size(insn)
    elif kind in (isa.ALU, isa.ALU64) and insn.code & isa.OP_MASK in (isa.ALU_MOV, isa.ALU_ADD):
        load = isa.ldx({1: isa.SIZE_B, 2: isa.SIZE_H, 4: isa.SIZE_W, 8: isa.SIZE_DW}[size], 0, 1)
        code = [isa.alu64_imm(isa.ALU_ADD, 1, insn.imm), load, isa.exit_()]
        width = size
    else:
        return False
    found = Interpreter(memory=memory).run(code, ctx=room.base).value
    mask = (1 << 8 * min(width, size)) - 1
    if (found ^ number) & mask:
        raise AssertionError(
            f"{decision} reads {found & mask:#x} instead of {number & mask:#x} "
            f"from {decision.target} with {insn}"
        )
    return True


def memory_size(insn: isa.Insn) -> int:
    """Bytes that a load or store moves."""
    sizes = {isa.SIZE_B: 1, isa.SIZE_H: 2, isa.SIZE_W: 4, isa.SIZE_DW: 8}
    return sizes[insn.code & isa.SIZE_MASK]


def _leaf(btf: Btf, type_id: int, steps: list[int | str]) -> tuple[int, int] | None:
    """Size of the number at the end of a path, and a number that fits; ``None`` for others."""
    for step in steps:
        of = btf[btf.strip(type_id)]
        if isinstance(step, str):
            found = _member(btf, of, step)
            if found is None or found.bitfield_size:
                return None
            type_id = found.type
        else:
            assert isinstance(of, t.Array)
            type_id = of.type
    leaf = btf[btf.strip(type_id)]
    size = btf.size(type_id) if isinstance(leaf, (t.Int, t.Ptr)) else 0
    if size not in (1, 2, 4, 8):
        return None
    if isinstance(leaf, t.Int) and leaf.is_bool:
        return size, 1
    return size, 0x6B5A493827160513 & (1 << 8 * size - 1) - 1


def _member(btf: Btf, of: t.Type, name: str) -> t.Member | None:
    """Find a member by name, in anonymous members too."""
    todo: list[t.Type] = [of]
    for composite in todo:
        for member in composite.members if isinstance(composite, t.Composite) else ():
            if member.name == name:
                return member
            if not member.name:
                todo.append(btf[btf.strip(member.type)])
    return None


def assert_deterministic(source: ObjectLike, btf: BtfLike) -> None:
    """Relocating an object again gives the same, and leaves the spec as it was.

    Also compared: the same file opened anew, a copy of the spec, and BTF parsed anew.

    Args:
        source: The object.
        btf: BTF to relocate it against.

    Raises:
        AssertionError: Two results differ.
    """
    spec, target = as_object(source), as_btf(btf)
    # A split BTF stays what it is: what it extends is not to be read from its bytes.
    anew = Btf.from_bytes(target.to_bytes(), base=target.base, name=target.name)
    before = _result(spec.copy(), target)
    results = [_result(spec, target), _result(spec, target), _result(spec.copy(), anew)]
    if not isinstance(source, ObjectSpec):
        results.append(_result(as_object(source), anew))
    for other in results:
        if other != before:
            raise AssertionError(f"{spec.name} was relocated in two ways")


def _result(spec: ObjectSpec, target: Btf) -> Any:
    """All that relocating gives, or the words in which it is refused."""
    try:
        relocation = relocate(spec, target, everything=True)
    except RelocationError as error:
        return str(error)
    programs = [
        (name, p.insns, p.references, p.func_info, p.line_info, p.poisons)
        for name, p in relocation.programs.items()
    ]
    return programs, [(str(d), d.value, d.outcome, d.reason) for d in relocation.decisions]


def assert_idempotent(source: ObjectLike, btf: BtfLike) -> int:
    """Relocated code, taken for what a compiler made with the kernel's types, stays as it is.

    The object gets ``btf`` for its own types, and each CO-RE relocation the type and the access
    that were found there; relocating it again must not change an instruction. Left out are
    relocations that found nothing, ids of the object's own types, types of which ``btf`` has
    several flavors, constants that were cut to the 32 bits of their instruction, and
    ``bpf_core_type_matches()``, by whose rules a type with a float in it does not match itself.

    Args:
        source: The object.
        btf: BTF of a kernel.

    Returns:
        How many CO-RE relocations were done twice.

    Raises:
        AssertionError: An instruction changed again.
        RelocationError: The object cannot be relocated.
    """
    spec, target = as_object(source).copy(), as_btf(btf)
    decisions = relocate(spec, target, everything=True).decisions
    by_serial = {decision.serial: decision for decision in decisions}
    spec.btf, spec.btf_ext = target, None
    for function in spec.functions:
        again = []
        for serial, at, record in function.core_relos:
            decision = by_serial[serial]
            function.insns[at : at + len(decision.after)] = decision.after
            found = decision.target
            if found is None or _is_cut(decision) or not _is_reflexive(target, record, found.root):
                continue
            access = ":".join(map(str, found.raw)) or "0"
            again.append((serial, at, record._replace(type_id=found.root, access_str=access)))
        function.core_relos = again
    try:
        second = relocate(spec, target, everything=True).decisions
    except RelocationError as error:
        raise AssertionError(f"what was relocated is refused: {error}") from error
    for decision in second:
        if decision.before != decision.after:
            raise AssertionError(f"{decision}: {decision.before} became {decision.after}")
    return len(second)


def _is_cut(decision: CoreDecision) -> bool:
    """Whether there is no value, or the instruction has only a part of it."""
    value, insn = decision.value, decision.before[0]
    if value is None or insn.code == isa.LDIMM64:
        return value is None
    return value != isa.to_s32(value) & _MASK64


def assert_own_btf_changes_nothing(source: ObjectLike) -> int:
    """Relocating an object against its own BTF leaves its instructions as the compiler made them.

    Instructions with type ids and bit fields may change, because compilers leave other numbers
    there. Passed over are types of which the object has several flavors, for one is a candidate for
    the other, and ``bpf_core_type_matches()``, by whose rules a type with a float in it does not
    match itself.

    Args:
        source: The object; it must have BTF.

    Returns:
        How many CO-RE relocations were checked.

    Raises:
        AssertionError: An instruction was changed.
    """
    spec = as_object(source).copy()
    own = spec.require_btf("this check")
    for function in spec.functions:
        function.core_relos = [
            (serial, at, record)
            for serial, at, record in function.core_relos
            if _is_reflexive(own, record, record.type_id)
        ]
    decisions = relocate(spec, own, everything=True).decisions
    for decision in decisions:
        free = decision.kind in _TYPE_ID_KINDS or _is_bit_field(decision)
        if decision.outcome != Outcome.UNCHANGED and not (free and decision.value is not None):
            raise AssertionError(
                f"{decision}: {decision.before} became {decision.after} {decision.reason}"
            )
        if decision.value != decision.original:
            raise AssertionError(f"{decision}: {decision.original} became {decision.value}")
    return len(decisions)


def _is_reflexive(btf: Btf, record: CoreRelo, type_id: int) -> bool:
    """Whether a type finds itself: alone of its name, and asked for by a rule that lets it."""
    flavors = btf.find_essential(essential_name(btf.type_name(type_id)))
    rivals = sum(btf.kind(flavor) == btf.kind(type_id) for flavor in flavors)
    return rivals <= 1 and record.kind != CoreKind.TYPE_MATCHES


def _is_bit_field(decision: CoreDecision) -> bool:
    assert decision.local is not None
    if not decision.local.accessors or decision.local.last.name is None:
        return False
    parent = decision.local.btf[decision.local.last.type_id]
    return isinstance(parent, t.Composite) and bool(
        parent.members[decision.local.last.index].bitfield_size
    )


# Files


def assert_round_trip(source: BtfLike | ObjectSpec) -> None:
    """Types that are decoded, built anew and parsed are the same; so are the records of .BTF.ext.

    Args:
        source: BTF, or an object, of which also function info, line info and CO-RE relocations are
            compared.

    Raises:
        AssertionError: Something was lost or changed.
        FormatError: The source cannot be read.
    """
    ext: BtfExt | None = None
    if isinstance(source, Btf) or not _is_object(source):
        btf = as_btf(source)  # type: ignore[arg-type]
    else:
        spec = as_object(source)
        btf, ext = spec.require_btf("this check"), spec.btf_ext
    if ext is not None:
        _check_ext(ext, _rebuilt(btf))
    built = _rebuilt(btf).build()
    again = Btf.from_bytes(built, base=btf.base, name=btf.name)
    if len(again) != len(btf):
        raise AssertionError(f"{len(btf) - 1} types became {len(again) - 1}")
    for type_id in btf.own_ids():
        if btf[type_id] != again[type_id]:
            raise AssertionError(f"{btf[type_id]} became {again[type_id]}")
    if _rebuilt(again).build() != built:
        raise AssertionError("types that were built and parsed are built in another way")


def _is_object(source: BtfLike | ObjectSpec) -> bool:
    """Whether it is an object: an ELF file may also be a kernel that has BTF."""
    if isinstance(source, (Btf, ObjectSpec)):
        return isinstance(source, ObjectSpec)
    head = source[:20] if isinstance(source, bytes) else Path(source).read_bytes()[:20]
    # e_machine is EM_BPF (247), or none, as older compilers left it.
    return head.startswith(b"\x7fELF") and head[18:20] in (b"\xf7\0", b"\0\xf7", b"\0\0")


def _rebuilt(btf: Btf) -> BtfBuilder:
    builder = BtfBuilder(btf.byteorder, base=btf.base)
    for type_id in btf.own_ids():
        builder.add_type(btf[type_id])
    return builder


def _check_ext(ext: BtfExt, builder: BtfBuilder) -> None:
    built = build_ext(
        builder,
        {
            label: (part.rec_size, [(b.section, b.count, b.words) for b in part.blocks])
            for label, part in _parts(ext)
        },
    )
    again = BtfExt(built, builder.btf())
    for (label, mine), (_, theirs) in zip(_parts(ext), _parts(again), strict=True):
        if mine != theirs:
            raise AssertionError(f"{label} changed")


def _parts(ext: BtfExt) -> Iterator[tuple[str, Any]]:
    for label in ("func_info", "line_info", "core_relo"):
        yield label, getattr(ext, label)


def assert_only_bpf_errors(data: bytes, btf: BtfLike | None = None) -> BpfError | None:
    """Whatever is wrong with a file, a :class:`pybpfload.BpfError` says so, and nothing else does.

    An ELF file is opened as an object and relocated, against its own types and against ``btf``;
    anything else is read as BTF, of which all types are decoded and written as C.

    Args:
        data: The file.
        btf: BTF to relocate it against.

    Returns:
        The error, or ``None`` if there was none.

    Raises:
        AssertionError: Something else was raised; it is the cause.
    """
    try:
        if data.startswith(b"\x7fELF"):
            spec = open_object(data)
            for target in (spec.btf, btf):
                if target is not None:
                    relocate(spec, as_btf(target), everything=True)
        else:
            _read_all(Btf.from_bytes(data))
    except BpfError as error:
        if not str(error):
            raise AssertionError(f"{error!r} does not say what is wrong") from error
        return error
    except Exception as error:
        raise AssertionError(f"{len(data)} bytes raise {error!r}") from error
    return None


def _read_all(btf: Btf) -> None:
    btf.validate()
    for type_id in btf:
        type_text(btf, type_id)
        if isinstance(btf[type_id], (t.Composite, t.Enum, t.Enum64)):
            define(btf, type_id)
