"""Putting programs into a machine: what their references and calls stand for.

Offline there is no kernel that could fill in a reference, so here its instruction gets a step of
its own. What cannot be resolved becomes a step that faults, with a message that says what to give
to :class:`~.interpreter.Interpreter`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pybpfload.btf.table import essential_name
from pybpfload.btf.types import Kind
from pybpfload.errors import BpfError
from pybpfload.object.spec import ExternKind, ExternSpec
from pybpfload.relocate import ReferenceKind
from pybpfload.testing.interpreter.errors import FaultError
from pybpfload.testing.interpreter.helper import helper_name, registers_taken
from pybpfload.testing.interpreter.helpers import HELPERS
from pybpfload.testing.interpreter.machine import NOTHING, Image, Machine, ThrownError
from pybpfload.testing.interpreter.maps import ProgArray
from pybpfload.testing.interpreter.steps import fault, make_steps
from pybpfload.uapi import Helper as HelperNumber

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pybpfload.isa.insn import Insn
    from pybpfload.relocate import Reference, RelocatedProgram, Relocation
    from pybpfload.testing.interpreter.helper import Helper
    from pybpfload.testing.interpreter.machine import Registers, Step
    from pybpfload.testing.interpreter.mapmodel import MapModel

__all__ = ["KCONFIG_MAP", "Linker"]

KCONFIG_MAP: Final = ".kconfig"
"""Section, and suffix of the name, of the map with the values of ``__kconfig`` externs."""

_TAIL_CALL: Final = HelperNumber.TAIL_CALL
_MASK64: Final = 0xFFFFFFFFFFFFFFFF
_NOTHING_5: Final = [NOTHING] * 5


class Linker:
    """Links programs; the arguments are those of :class:`~.interpreter.Interpreter`."""

    def __init__(
        self,
        machine: Machine,
        relocation: Relocation | None,
        maps: Mapping[str, MapModel],
        helpers: Mapping[str | int, Helper],
        kconfig: Mapping[str, Any],
        ksyms: Mapping[str, int],
    ) -> None:
        self._machine = machine
        self._relocation = relocation
        self._maps = maps
        self._helpers = helpers
        self._kconfig = kconfig
        self._ksyms = ksyms
        self._linked: dict[int, tuple[int, RelocatedProgram]] = {}  # by id of the program

    def named(self, name: str) -> RelocatedProgram:
        """Return a program of the relocation.

        Raises:
            BpfError: There is none of that name.
        """
        programs = self._relocation.programs if self._relocation is not None else {}
        found = programs.get(name)
        if found is None:
            raise BpfError(f"no program {name!r}; there are: {', '.join(programs) or 'none'}")
        return found

    def link(self, program: RelocatedProgram) -> int:
        """Return the first step of a program, which is linked when this is first asked for."""
        if id(program) in self._linked:
            return self._linked[id(program)][0]
        start = len(self._machine.code)
        special = self._calls(program.insns, start)
        for index, reason in program.poisons.items():
            if program.insns[index].is_helper_call:
                special[index] = fault(f"is poisoned: {reason}")
        for reference in program.references:
            special[reference.insn] = self._reference(program, reference, start)
        btf = self._relocation.object.btf if self._relocation is not None else None
        image = Image(program.name, start, program.insns, program, btf)
        image.exception_callback = self._exception_callback(program, start)
        self._add(image, special)
        self._linked[id(program)] = start, program
        return start

    def link_bare(self, insns: Sequence[Insn]) -> int:
        """Return the first step of instructions that :meth:`unlink` takes out again."""
        start = len(self._machine.code)
        self._add(Image("", start, insns, None, None), self._calls(insns, start))
        return start

    def unlink(self, start: int) -> None:
        """Take out what was linked last."""
        machine = self._machine
        for program, (first, _) in list(self._linked.items()):
            if first >= start:
                del self._linked[program]
        del machine.code[start:]
        machine.images = [image for image in machine.images if image.start < start]

    def _add(self, image: Image, special: Mapping[int, Step]) -> None:
        self._machine.images.append(image)
        self._machine.code += make_steps(self._machine, image.insns, image.start, special)

    def _exception_callback(self, program: RelocatedProgram, start: int) -> int | None:
        """First step of the function that a declaration tag of the program names."""
        btf = self._relocation.object.btf if self._relocation is not None else None
        for function, position in program.functions[1:] if btf is not None else ():
            assert btf is not None
            for tag in btf.find_all(f"exception_callback:{function.name}", Kind.DECL_TAG):
                if btf.type_name(btf[tag].type) == program.name:  # type: ignore[attr-defined]
                    return start + position
        return None

    # References

    def _reference(self, program: RelocatedProgram, reference: Reference, start: int) -> Step:
        index = reference.insn
        insn = program.insns[index]
        if insn.is_call:
            return self._kfunc(reference.name, start + index + 1)
        try:
            address = self._address(program, reference, start)
        except BpfError as error:
            return fault(str(error))
        dst, following = insn.dst, start + index + 2

        def step(registers: Registers) -> int:
            registers[dst] = address
            return following

        return step

    def _address(self, program: RelocatedProgram, reference: Reference, start: int) -> int:
        """Return what a reference stands for."""
        _, kind, name, addend = reference
        if kind == ReferenceKind.MAP:
            return self._map(name).address
        if kind == ReferenceKind.MAP_VALUE:
            return self._map(name).value_region().base + addend & _MASK64
        if kind == ReferenceKind.JUMP_TABLE:
            return self._jump_table(program.jump_tables[addend], start)
        extern = self._extern(name)
        if kind == ReferenceKind.KCONFIG:
            if name not in self._kconfig and not extern.weak:
                raise BpfError(f"kconfig {name} has no value; give it one by kconfig={{...}}")
            found = next(m for m in self._maps.values() if m.spec.section == KCONFIG_MAP)
            return found.value_region().base + addend
        for known in (name, essential_name(name)):
            if known in self._ksyms:
                return self._ksyms[known]
        if extern.kind == ExternKind.KFUNC:  # only asked whether it is there
            return self._machine.address_of(0) if self._function(name) is not None else 0
        if extern.weak:
            return 0
        raise BpfError(f"ksym {name} has no address; give it one by ksyms={{...}}")

    def _map(self, name: str) -> MapModel:
        found = self._maps.get(name)
        if found is None:
            raise BpfError(f"there is no map {name}")
        return found

    def _extern(self, name: str) -> ExternSpec:
        if self._relocation is None:
            raise BpfError(f"nothing says what extern {name} is; give the relocation")
        return self._relocation.object.externs[name]

    def _jump_table(self, table: Sequence[int], start: int) -> int:
        memory = self._machine.memory
        region = memory.allocate(8 * len(table), "jump table", writable=False)
        for number, target in enumerate(table):
            memory.set_number(region, 8 * number, 8, self._machine.address_of(start + target))
        return region.base

    # Calls

    def _calls(self, insns: Sequence[Insn], start: int) -> dict[int, Step]:
        return {
            index: self._helper(insn.imm, start + index + 1)
            for index, insn in enumerate(insns)
            if insn.is_helper_call
        }

    def _helper(self, number: int, following: int) -> Step:
        known = helper_name(number)
        name = known or f"helper {number}"
        function = self._helpers.get(number) or self._function(name)
        if function is None and number == _TAIL_CALL:
            return self._tail_call(following)
        if function is None:
            return _unknown(name, repr(known or number))
        return self._call(name, function, following)

    def _kfunc(self, name: str, following: int) -> Step:
        function = self._function(name)
        if function is None:
            return _unknown(f"kfunc {name}", repr(name))
        return self._call(name, function, following)

    def _function(self, name: str) -> Helper | None:
        for known in (name, essential_name(name)):
            function = self._helpers.get(known) or HELPERS.get(known)
            if function is not None:
                return function
        return None

    def _call(self, name: str, function: Helper, following: int) -> Step:
        machine = self._machine
        needed, most = registers_taken(function)

        def step(registers: Registers) -> int:
            arguments = registers[1 : 1 + most]
            try:
                sum(arguments)
            except TypeError:  # one of them holds nothing
                first = next(n for n, value in enumerate(arguments) if value is NOTHING)
                if first < needed:
                    message = f"gives {name} r{first + 1}, but nothing was put there"
                    raise FaultError(message) from None
                del arguments[first:]
            try:
                result = function(machine, *arguments)
            except ThrownError:
                machine.called(name, arguments, None)
                raise
            machine.called(name, arguments, result)
            registers[0] = NOTHING if result is None else result & _MASK64
            registers[1:6] = _NOTHING_5
            return following

        return step

    def _tail_call(self, following: int) -> Step:
        machine = self._machine

        def step(registers: Registers) -> int:
            found = machine.map(registers[2])
            if not isinstance(found, ProgArray):
                raise FaultError(f"tail call through map {found.name}, which holds no programs")
            target = found.get(registers[3] & 0xFFFFFFFF)
            if target is not None:
                program = self.named(target) if isinstance(target, str) else target
                begun = machine.tail_call(registers, self.link(program))
                if begun is not None:
                    return begun
            registers[1:6] = _NOTHING_5
            return following

        return step


def _unknown(name: str, key: str) -> Step:
    return fault(
        f"calls {name}, which the interpreter does not have; give it one by helpers={{{key}: ...}}"
    )
