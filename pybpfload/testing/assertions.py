"""What a test says of an object as a whole: it loads on a kernel, it relocates the same on two.

Both ask no kernel: they need the object and BTF, and run on any system.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pybpfload.btf import Btf
from pybpfload.errors import BpfError, RelocationError
from pybpfload.isa.disasm import disassemble
from pybpfload.object.spec import ExternKind, ObjectSpec, ProgramSpec
from pybpfload.relocate import Target, relocate
from pybpfload.testing.given import as_object, as_target
from pybpfload.check.reach import reachable
from pybpfload.relocate.source import SourceLines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pybpfload.btf import Btf
    from pybpfload.relocate import RelocatedProgram, Relocation
    from pybpfload.testing.given import ObjectLike, TargetLike


__all__ = ["assert_loads", "assert_same_relocation"]

_SHOWN = 20  # differing instructions of a program that a message lists


def assert_loads(
    obj: ObjectLike,
    btf: TargetLike | None = None,
    *,
    modules: Iterable[Btf] = (),
    kconfig: str | None = None,
) -> Relocation:
    """Assert that a kernel would have everything that an object refers to.

    Looks at the programs that loading would load, those with ``autoload``. What it finds:

    * an object that cannot be opened, or has another byte order than the kernel;
    * a relocation for which loading it stops;
    * instructions that relocation made invalid, because the kernel lacks a field, a type or a
      function, in code that can be reached (:mod:`pybpfload.check.reach`);
    * kernel functions and variables that are missing or of another type, unless they are weak;
    * functions, tracepoints and hooks to attach to that are not there;
    * with ``kconfig``, settings that are missing.

    It does not run the verifier, and cannot know of what BTF does not tell: addresses
    (``/proc/kallsyms``), helpers and types of maps and programs.

    Args:
        obj: A spec, a path, or the content of a file.
        btf: BTF of the kernel: a :class:`Btf`, a file that :func:`pybpfload.read_btf` reads, or a
            :class:`Target`. The running kernel's by default.
        modules: BTFs of modules that are loaded.
        kconfig: Configuration of the kernel: the text of its ``/boot/config-*``.

    Returns:
        The relocation, for further questions.

    Raises:
        AssertionError: It would not load; the message has a line for each reason.
    """
    __tracebackhide__ = True
    try:
        spec = as_object(obj)
    except BpfError as error:
        raise AssertionError(f"cannot be opened: {error}") from error
    target = as_target(btf, modules)
    if target.btf is not None and target.btf.byteorder != spec.byteorder:
        raise AssertionError(
            f"{spec.path} would not load on {target.btf.name}: it has the other byte order; "
            f"build it with -target bpfe{'l' if spec.byteorder == '>' else 'b'}"
        )
    relocation, problems = _relocated(spec, target)
    if relocation is not None:
        problems += _missing(relocation, kconfig)
    if problems or relocation is None:
        name = target.btf.name if target.btf is not None else "no BTF"
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise AssertionError(f"{spec.path} would not load against {name}:{lines}")
    return relocation


def assert_same_relocation(
    obj: ObjectLike,
    btf_a: TargetLike,
    btf_b: TargetLike,
    *,
    programs: Iterable[str] | None = None,
) -> None:
    """Assert that an object becomes the same code on two kernels.

    Args:
        obj: A spec, a path, or the content of a file.
        btf_a: BTF of one kernel, as for :func:`assert_loads`.
        btf_b: BTF of the other.
        programs: Names of programs, those with ``autoload`` by default.

    Raises:
        AssertionError: It does not; the message lists the instructions that differ below the source
            lines they come from.
        BpfError: The object cannot be opened, or not relocated against one of them.
    """
    __tracebackhide__ = True
    spec = as_object(obj).copy()
    if programs is not None:
        wanted = {id(spec.programs[name]) for name in programs}
        for program in spec.programs.values():
            program.autoload = id(program) in wanted
    targets = [as_target(btf) for btf in (btf_a, btf_b)]
    first, second = (relocate(spec, target) for target in targets)
    blocks = [
        block
        for name in first.programs
        for block in _differences(spec, first.programs[name], second.programs[name])
    ]
    if blocks:
        names = " and ".join(t.btf.name if t.btf is not None else "no BTF" for t in targets)
        raise AssertionError("\n".join([f"{spec.path} differs between {names}:", *blocks]))


# What both take


# assert_loads


def _relocated(spec: ObjectSpec, target: Target) -> tuple[Relocation | None, list[str]]:
    """Relocate, without the programs that cannot be, so that each of them is told."""
    problems: list[str] = []
    copy = spec.copy()
    while True:
        try:
            return relocate(copy, target), problems
        except RelocationError as error:
            problems.append(_without_file(error))
            failed = [p for p in copy.programs.values() if p.name == error.program and p.autoload]
            if not failed:
                return None, problems  # a function that all programs share, or the object itself
            for program in failed:
                program.autoload = False


def _without_file(error: RelocationError) -> str:
    return str(error).removeprefix(f"{error.file}, ").removeprefix(f"{error.file}: ")


def _missing(relocation: Relocation, kconfig: str | None) -> list[str]:
    spec, target = relocation.object, relocation.target
    problems = []
    missing = set()
    for name in _used_externs(relocation):
        extern = spec.externs[name]
        if extern.kind == ExternKind.KCONFIG or not extern.is_typed:
            continue
        from pybpfload.relocate.externs import resolve_typed

        try:
            if resolve_typed(spec, extern, target) is None:
                missing.add(name)
        except RelocationError as error:
            problems.append(_without_file(error))
        except BpfError as error:
            problems.append(str(error))
    if kconfig is not None:
        problems += _missing_settings(spec, kconfig)
    for program in relocation.programs.values():
        problems += _attach_problem(program.spec, target)
        problems += _poison_problems(program, spec, missing)
    return problems


def _used_externs(relocation: Relocation) -> dict[str, None]:
    used = {r.name for program in relocation.programs.values() for r in program.references}
    return dict.fromkeys(name for name in relocation.object.externs if name in used)


def _missing_settings(spec: ObjectSpec, text: str) -> list[str]:
    from pybpfload.kernel.kconfig import parse_kconfig

    wanted = {
        extern.name: extern
        for extern in spec.externs.values()
        if extern.kind == ExternKind.KCONFIG and extern.name.startswith("CONFIG_")
    }
    try:
        found = parse_kconfig(text.encode(), wanted, {}, "kconfig")
    except BpfError as error:
        return [str(error)]
    return [
        f"{name} is not set in the configuration; declare it __weak if the program can do without"
        for name, extern in wanted.items()
        if name not in found and not extern.weak
    ]


def _attach_problem(program: ProgramSpec, target: Target) -> Iterator[str]:
    from pybpfload.object.places import in_btf

    if program.sec is None or not program.sec.needs_btf_id or program.attach_program is not None:
        return
    if not program.attach_to or target.btf is None:
        return
    prefix, kind, what = in_btf(program)
    module, _, function = program.attach_to.rpartition(":")
    owners = [each for each in target.modules if Path(each.name).name.startswith(module)]
    found = any(owner.find_own(prefix + function, kind) for owner in owners)
    if module and not owners:
        yield (
            f"program {program.name}: there is no BTF of module {module}, whose {what} "
            f"{function!r} it attaches to"
        )
    elif not found and not (not module and target.btf.find(prefix + function, kind)):
        where = f"module {module}" if module else target.btf.name
        yield f"program {program.name}: {where} has no {what} {function!r} to attach to"


def _poison_problems(
    program: RelocatedProgram, spec: ObjectSpec, missing: set[str]
) -> Iterator[str]:
    reasons = dict(program.poisons)
    for reference in program.references:
        if reference.name in missing and program.insns[reference.insn].is_call:
            reasons[reference.insn] = f"the kernel has no {reference.name}()"
    if not reasons:
        return
    alive = reachable(program, spec, missing=missing)
    lines = SourceLines(program, spec)
    for insn in sorted(alive & reasons.keys()):
        line = lines[insn]
        where = f"instruction {insn}" + (f" ({line})" if line is not None else "")
        yield f"program {program.name}, {where}: {reasons[insn]}"


# assert_same_relocation


def _differences(
    spec: ObjectSpec, first: RelocatedProgram, second: RelocatedProgram
) -> Iterator[str]:
    """A block of lines for a program that differs."""
    differing = [
        index
        for index in range(max(len(first.insns), len(second.insns)))
        if first.insns[index : index + 1] != second.insns[index : index + 1]
    ]
    references = set(first.references) ^ set(second.references)
    if not differing and not references:
        return
    lines = SourceLines(first, spec)
    texts = [_texts(program) for program in (first, second)]
    yield f"program {first.name}, {len(differing)} of {len(first.insns)} instructions:"
    shown = None
    for index in differing[:_SHOWN]:
        line = lines[index]
        if line is not None and line != shown:
            yield f"    {line}"
            shown = line
        for sign, text in zip("-+", texts, strict=True):
            if index in text:
                yield f"  {sign} {text[index]}"
    if len(differing) > _SHOWN:
        yield f"  ... and {len(differing) - _SHOWN} more"
    for reference in sorted(references):
        sign = "-" if reference in first.references else "+"
        yield f"  {sign} {reference.insn:8d}: refers to {reference.kind} {reference.name}"


def _texts(program: RelocatedProgram) -> dict[int, str]:
    notes = {insn: _note(decision) for insn, decision in program.core}
    return {line.index: str(line) for line in disassemble(program.insns, names=notes)}


def _note(decision: object) -> str:
    from pybpfload.relocate import CoreDecision

    assert isinstance(decision, CoreDecision)
    return f"{decision.kind_name} {decision.target or decision.reason or decision.local}"
