"""What a test says of an object as a whole: it loads on a kernel, it relocates the same on two.

Both ask no kernel: they need the object and BTF, and run on any system.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.btf import Btf
from pybpfload.check import Kernel, check
from pybpfload.errors import BpfError
from pybpfload.isa.disasm import disassemble
from pybpfload.relocate import relocate
from pybpfload.relocate.source import SourceLines
from pybpfload.testing.given import as_object, as_target

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pybpfload.btf import Btf
    from pybpfload.object.spec import ObjectSpec
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

    That is what :func:`pybpfload.check.check` finds no problem with: relocations, kernel functions
    and variables, functions and tracepoints to attach to, types of programs and maps, helpers,
    instructions, and with ``kconfig`` settings; in the programs with ``autoload``, and in code that
    can be reached. It does not run the verifier, and cannot know of what BTF does not tell:
    addresses (``/proc/kallsyms``).

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
    name = target.btf.name if target.btf is not None else "no BTF"
    verdict = check(spec, Kernel(name, target, kconfig=kconfig))
    if verdict.problems:
        lines = "".join(f"\n  {problem}" for problem in verdict.problems)
        raise AssertionError(f"{spec.path} would not load against {name}:{lines}")
    return relocate(spec, target)


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
