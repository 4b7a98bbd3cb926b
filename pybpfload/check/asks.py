"""What an object asks of any kernel: without one at hand, from the object alone.

Code that is only reached where a question to the kernel is answered with yes (CO-RE's "exists", a
weak symbol) is optional; everything else is needed, and the youngest thing that is needed tells the
least kernel. Distributions backport, so the version is that of Linux itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pybpfload.check.needs import Need, map_needs, program_needs
from pybpfload.check.reach import reachable
from pybpfload.check.stack import stack_depth
from pybpfload.errors import BpfError
from pybpfload.kernel.since import version_pair
from pybpfload.object.spec import ExternKind, Named
from pybpfload.relocate import CoreKind, ReferenceKind, relocate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pybpfload.object.spec import ObjectSpec
    from pybpfload.relocate import RelocatedProgram

__all__ = ["Asks", "least", "object_asks"]

_QUESTIONS = frozenset(
    {CoreKind.FIELD_EXISTS, CoreKind.TYPE_EXISTS, CoreKind.TYPE_MATCHES, CoreKind.ENUMVAL_EXISTS}
)


@dataclass
class Asks:
    """What a program asks of the kernel.

    Attributes:
        program: The program with its subprograms, without CO-RE.
        needed: What it cannot do without.
        optional: What it uses if the kernel says that it is there.
        kfuncs: Kernel functions that it calls.
        stack: Bytes of stack along its deepest chain of calls, as far as addresses are constant.
    """

    program: RelocatedProgram
    needed: list[Need] = field(default_factory=list)
    optional: list[Need] = field(default_factory=list)
    kfuncs: list[str] = field(default_factory=list)
    stack: int = 0

    @property
    def helpers(self) -> list[str]:
        """Names of the helpers that it calls."""
        return [n.name for n in (*self.needed, *self.optional) if n.kind == "helper"]


def object_asks(spec: ObjectSpec) -> tuple[dict[str, Asks], list[tuple[str, Need]], str]:
    """Find out what an object asks of a kernel.

    Returns:
        What each program asks, by name, also those with ``autoload`` off; what the maps need, with
        the name of the map; and why programs could not be put together, or ``""``; then there are
        none.
    """
    maps = [(key, need) for key, found in spec.maps.items() for need in map_needs(found)]
    originals = {}
    for function in spec.functions:
        bare = replace(function, core_relos=[])
        originals[id(bare)] = (bare, function)
    bare_of = {id(function): bare for bare, function in originals.values()}
    stripped = replace(
        spec,
        functions=list(bare_of.values()),
        programs=Named("program", [(key, bare_of[id(p)]) for key, p in spec.programs.items()]),
    )
    try:
        programs = relocate(stripped, everything=True).programs
    except BpfError as error:
        return {}, maps, str(error)
    weak = {
        name
        for name, extern in spec.externs.items()
        if extern.weak and extern.kind != ExternKind.KCONFIG
    }
    found = {}
    for key, program in programs.items():
        no: dict[int, int | None] = {}
        unknown: dict[int, int | None] = {}
        for bare, start in program.functions:
            for _, index, record in originals[id(bare)][1].core_relos:
                unknown[start + index] = None
                if record.kind in _QUESTIONS:
                    no[start + index] = 0
        sure = reachable(program, stripped, missing=weak, given={**unknown, **no})
        maybe = reachable(program, stripped, given=unknown)
        needed = list(program_needs(program, sure))
        known = {(need.kind, need.name) for need in needed}
        optional = [n for n in program_needs(program, maybe) if (n.kind, n.name) not in known]
        calls = [r.name for r in program.references if r.kind == ReferenceKind.KFUNC]
        found[key] = Asks(
            program, needed, optional, list(dict.fromkeys(calls)), stack_depth(program)
        )
    return found, maps, ""


def least(needs: Iterable[Need]) -> str | None:
    """The first kernel that has all of some needs; ``None`` if nothing is known."""
    versions = [need.since for need in needs if need.since is not None]
    return max(versions, key=version_pair, default=None)
