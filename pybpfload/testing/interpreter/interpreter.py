"""Running relocated programs without a kernel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pybpfload.btf.table import essential_name
from pybpfload.btf.values import codec
from pybpfload.errors import BpfError
from pybpfload.object.spec import ExternKind
from pybpfload.relocate import ReferenceKind
from pybpfload.testing.interpreter import contexts, steps
from pybpfload.testing.interpreter.environment import Environment
from pybpfload.testing.interpreter.errors import FaultError
from pybpfload.testing.interpreter.helpers import HELPERS, arity
from pybpfload.testing.interpreter.machine import NOTHING, Image, Machine
from pybpfload.testing.interpreter.maps import MapModel, ObjectArrayMap, make_map
from pybpfload.testing.interpreter.memory import Memory
from pybpfload.uapi import Helper as HelperNumber
from pybpfload.uapi import MapType, ProgType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pybpfload.isa.insn import Insn
    from pybpfload.object.variables import VariableSpec
    from pybpfload.relocate import Reference, RelocatedProgram, Relocation
    from pybpfload.testing.interpreter.helpers import Helper
    from pybpfload.testing.interpreter.machine import Registers, Step

__all__ = ["Interpreter", "Result", "Variable"]

_TAIL_CALL: Final = 12
_NOTHING_5: Final = [NOTHING] * 5


@dataclass(slots=True)
class Result:
    """What a run gave.

    Attributes:
        value: r0 at the end, unsigned 64 bits.
        steps: Instructions executed.
        printk: Lines that ``bpf_trace_printk`` wrote.
        calls: Helpers and kfuncs called, in order: ``(name, arguments, what it returned)``.
        ctx_out: The context as the program left it.
        data_out: The packet as the program left it.
        memory: The address space.
    """

    value: int
    steps: int
    printk: list[str]
    calls: list[tuple[str, tuple[int, ...], int | None]]
    ctx_out: bytes
    data_out: bytes
    memory: Memory = field(repr=False)

    @property
    def retval(self) -> int:
        """The low 32 bits of r0, which is what ``BPF_PROG_TEST_RUN`` gives."""
        return self.value & 0xFFFFFFFF


class Variable:
    """A global variable in the interpreter: ``value`` reads and sets it by its C type."""

    __slots__ = ("_map", "spec")

    def __init__(self, spec: VariableSpec, map_: MapModel) -> None:
        self.spec = spec
        self._map = map_

    @property
    def value(self) -> Any:
        """The value now."""
        return codec(self.spec.btf, self.spec.type_id).decode(
            self._map.value_region(0).data, self.spec.offset
        )

    @value.setter
    def value(self, value: Any) -> None:
        raw = codec(self.spec.btf, self.spec.type_id).encode(value)
        data = self._map.value_region(0).data
        data[self.spec.offset : self.spec.offset + len(raw)] = raw

    @property
    def address(self) -> int:
        """Where it is."""
        return self._map.value_region(0).base + self.spec.offset

    def __repr__(self) -> str:
        return f"<Variable {self.spec.name} = {self.value!r}>"


class Interpreter:
    """Runs eBPF code over a :class:`Memory`, as an oracle for tests.

    It does what the kernel does with programs that its verifier accepts, and raises
    :class:`InterpreterError` for what the verifier would not accept *on the path that is taken*:
    accesses outside of what is there, registers without a value, a missing helper. It is bounded in
    steps and memory. It runs about 3 million instructions a second (CPython 3.11).

    Maps, global variables and programs of one object belong together and live as long as the
    interpreter: what one run leaves in a map, the next one finds there.

    Args:
        relocation: What :meth:`ObjectSpec.relocate` gave: maps, variables, externs and programs of
            the object. ``None`` for bare instructions.
        memory: The address space; one of the object's byte order by default.
        maps: Maps to use instead of those of the object, by name: of another interpreter, say.
        helpers: Helpers and kfuncs by name (``"bpf_..."``) or number, instead of or besides those
            that are known; see :mod:`.helpers` for what such a function gets and gives.
        kconfig: Values of ``__kconfig`` externs by name.
        ksyms: Addresses of ``__ksym`` variables by name. Weak ones that are not here are 0.
        environment: The world around programs.
        max_steps: Instructions that a run may take, those of callbacks included.

    Attributes:
        memory, environment, max_steps: As above.
        maps: By name.
        variables: Global variables by name.

    Raises:
        FormatError: A map's BTF makes no sense.
        BpfError: Memory and object have different byte orders.
    """

    def __init__(
        self,
        relocation: Relocation | None = None,
        *,
        memory: Memory | None = None,
        maps: Mapping[str, MapModel] | None = None,
        helpers: Mapping[str | int, Helper] | None = None,
        kconfig: Mapping[str, Any] | None = None,
        ksyms: Mapping[str, int] | None = None,
        environment: Environment | None = None,
        max_steps: int = 1_000_000,
    ) -> None:
        self._relocation = relocation
        spec = relocation.object if relocation is not None else None
        order: Any = spec.byteorder if spec is not None else "<"
        self.memory = Memory(order) if memory is None else memory
        if spec is not None and self.memory.byteorder != order:
            raise BpfError(f"{spec.name} has byte order {order}, memory {self.memory.byteorder}")
        self.environment = environment if environment is not None else Environment()
        self.max_steps = max_steps
        self._machine = Machine(self.memory, self.environment, max_steps)
        self._helpers = dict(helpers or {})
        self._kconfig = dict(kconfig or {})
        self._ksyms = dict(ksyms or {})
        self._starts: dict[int, int] = {}  # id of a program -> its first step
        self._kept: list[RelocatedProgram] = []  # so that ids stay good
        self.maps: dict[str, MapModel] = {}
        self.variables: dict[str, Variable] = {}
        if spec is not None:
            self._make_maps(maps or {})
        else:
            self.maps.update(maps or {})

    # Maps

    def _make_maps(self, given: Mapping[str, MapModel]) -> None:
        assert self._relocation is not None
        spec = self._relocation.object
        for name, map_spec in spec.maps.items():
            if name in given:
                self.maps[name] = given[name]
            elif map_spec.autocreate:
                self.maps[name] = make_map(map_spec, self.memory, self.environment, spec.btf)
        for name, variable in spec.variables.items():
            found = next((m for m in self.maps.values() if m.spec is variable.map), None)
            if found is not None and variable.map.type == MapType.ARRAY:
                self.variables[name] = Variable(variable, found)
        for found in self.maps.values():
            for slot, declared in enumerate(found.spec.values):
                if declared is not None and isinstance(found, ObjectArrayMap):
                    is_map = found.spec.type != MapType.PROG_ARRAY
                    found[slot] = self.maps[declared] if is_map else declared
        self._fill_kconfig()

    def _fill_kconfig(self) -> None:
        assert self._relocation is not None
        spec = self._relocation.object
        found = self.maps.get(".kconfig") or next(
            (m for m in self.maps.values() if m.spec.section == ".kconfig"), None
        )
        if found is None:
            return
        data = found.value_region(0).data
        for name, extern in spec.externs.items():
            if extern.kind == ExternKind.KCONFIG and name in self._kconfig:
                raw = codec(spec.require_btf("kconfig"), extern.btf_id).encode(self._kconfig[name])
                data[extern.offset : extern.offset + len(raw)] = raw

    # Running

    def run(
        self,
        program: RelocatedProgram | str | Sequence[Insn],
        data: bytes = b"",
        *,
        ctx: int | bytes | bytearray | None = None,
        prog_type: ProgType | None = None,
    ) -> Result:
        """Run a program once.

        ``data`` and ``ctx`` mean what they mean to :meth:`pybpfload.Program.test_run`.

        Args:
            program: A program of the relocation, its name, or bare instructions.
            data: Packet, for programs that work on packets.
            ctx: The context: its address, or its bytes. For programs that work on packets, the
                ``struct xdp_md`` or ``struct __sk_buff`` is made from ``data``; bytes given for it
                say what it holds besides.
            prog_type: Type of bare instructions; tells what context they get.

        Raises:
            InterpreterError: The program does something wrong, or takes too many steps.
            BpfError: There is no such program.
        """
        if isinstance(program, str):
            program = self._named(program)
        code = self._machine.code
        images, length = len(self._machine.images), len(code)
        bare = not hasattr(program, "insns")
        kind = prog_type if bare or prog_type is not None else program.spec.prog_type  # type: ignore[union-attr]
        start = self._link_bare(program) if bare else self._link(program)  # type: ignore[arg-type]
        context = contexts.make(self.memory, kind, data, ctx)
        machine = self._machine
        machine.max_steps = self.max_steps
        machine.packet = context.packet
        try:
            value = machine.run(start, context.address)
            return Result(
                value,
                machine.steps,
                machine.printk,
                machine.calls,
                context.ctx_out(),
                context.data_out(),
                self.memory,
            )
        finally:
            context.release(self.memory)
            if bare:
                del code[length:], self._machine.images[images:]

    def _named(self, name: str) -> RelocatedProgram:
        programs = self._relocation.programs if self._relocation is not None else {}
        found = programs.get(name)
        if found is None:
            raise BpfError(f"no program {name!r}; there are: {', '.join(programs) or 'none'}")
        return found

    # Linking

    def _link_bare(self, insns: Sequence[Insn]) -> int:
        start = len(self._machine.code)
        special = {
            index: self._helper_step(insn.imm, start + index + 1)
            for index, insn in enumerate(insns)
            if insn.is_helper_call
        }
        self._machine.images.append(Image("", start, insns, None, None))
        self._machine.code += steps.link(self._machine, insns, start, special)
        return start

    def _link(self, program: RelocatedProgram) -> int:
        known = self._starts.get(id(program))
        if known is not None:
            return known
        start = len(self._machine.code)
        btf = self._relocation.object.btf if self._relocation is not None else None
        special: dict[int, Step] = {}
        for index, insn in enumerate(program.insns):
            if index in program.poisons and insn.is_helper_call:
                special[index] = steps.fault(program.poisons[index])
            elif insn.is_helper_call:
                special[index] = self._helper_step(insn.imm, start + index + 1)
        for reference in program.references:
            special[reference.insn] = self._reference_step(program, reference, start)
        self._machine.images.append(Image(program.name, start, program.insns, program, btf))
        self._machine.code += steps.link(self._machine, program.insns, start, special)
        self._starts[id(program)] = start
        self._kept.append(program)
        return start

    def _reference_step(self, program: RelocatedProgram, reference: Reference, start: int) -> Step:
        index, name = reference.insn, reference.name
        insn = program.insns[index]
        following = start + index + 1
        if reference.kind == ReferenceKind.KFUNC and insn.is_call:
            return self._kfunc_step(name, following)
        try:
            address = self._address(reference)
        except BpfError as error:
            return steps.fault(str(error))
        dst, following = insn.dst, following + 1

        def step(registers: Registers) -> int:
            registers[dst] = address
            return following

        return step

    def _address(self, reference: Reference) -> int:
        """What a reference stands for."""
        kind, name = reference.kind, reference.name
        if kind == ReferenceKind.MAP:
            return self._map(name).address
        if kind == ReferenceKind.MAP_VALUE:
            return self._map(name).value_region(reference.addend).base + reference.addend
        if kind in (ReferenceKind.KSYM, ReferenceKind.KSYM_BTF):
            return self._ksym(name)
        if kind == ReferenceKind.KCONFIG:
            return self._kconfig_address(name, reference.addend)
        raise BpfError(f"the interpreter has no {kind} {name}")

    def _map(self, name: str) -> MapModel:
        found = self.maps.get(name)
        if found is None:
            raise BpfError(f"there is no map {name}")
        return found

    def _ksym(self, name: str) -> int:
        for known in (name, essential_name(name)):
            if known in self._ksyms:
                return self._ksyms[known]
        if self._relocation is not None and self._relocation.object.externs[name].weak:
            return 0
        raise BpfError(f"ksym {name} has no address; give it one: Interpreter(ksyms=...)")

    def _kconfig_address(self, name: str, offset: int) -> int:
        assert self._relocation is not None
        if name not in self._kconfig and not self._relocation.object.externs[name].weak:
            raise BpfError(f"kconfig {name} has no value; give it one: Interpreter(kconfig=...)")
        found = next(m for m in self.maps.values() if m.spec.section == ".kconfig")
        return found.value_region(offset).base + offset

    def _helper_step(self, number: int, following: int) -> Step:
        if number == _TAIL_CALL and number not in self._helpers:
            return self._tail_call_step(following)
        member = HelperNumber(number) if number >= 0 else None
        known = member is not None and not member.name.startswith("UNKNOWN")
        name = f"bpf_{member.name.lower()}" if member is not None and known else ""
        function = self._helpers.get(number) or self._helpers.get(name) or HELPERS.get(name)
        label = name or f"helper {number}"
        if function is None:
            return steps.fault(
                f"calls {label}, which the interpreter does not have; "
                f"give it one: Interpreter(helpers={{{name or number!r}: ...}})"
            )
        return self._call_step(label, function, following)

    def _kfunc_step(self, name: str, following: int) -> Step:
        for known in (name, essential_name(name)):
            function = self._helpers.get(known) or HELPERS.get(known)
            if function is not None:
                return self._call_step(known, function, following)
        return steps.fault(
            f"calls kfunc {name}, which the interpreter does not have; "
            f"give it one: Interpreter(helpers={{{name!r}: ...}})"
        )

    def _call_step(self, name: str, function: Helper, following: int) -> Step:
        machine = self._machine
        end = 1 + arity(function)

        def step(registers: Registers) -> int:
            arguments = tuple(registers[1:end])
            try:
                sum(arguments)
            except TypeError:
                missing = next(i for i, value in enumerate(arguments, 1) if value is NOTHING)
                raise FaultError(f"gives {name} r{missing}, but nothing was put there") from None
            result = function(machine, *arguments)
            machine.calls.append((name, arguments, result))
            registers[0] = NOTHING if result is None else result & 0xFFFFFFFFFFFFFFFF
            registers[1:6] = _NOTHING_5
            return following

        return step

    def _tail_call_step(self, following: int) -> Step:
        machine = self._machine

        def step(registers: Registers) -> int:
            found = machine.map(registers[2])
            if not isinstance(found, ObjectArrayMap) or found.spec.type != MapType.PROG_ARRAY:
                raise FaultError(f"tail call through map {found.name}, which holds no programs")
            target = found.get(registers[3] & 0xFFFFFFFF)
            if target is not None:
                program = self._named(target) if isinstance(target, str) else target
                begun = machine.tail_call(registers, self._link(program))
                if begun is not None:
                    return begun
            registers[1:6] = _NOTHING_5
            return following

        return step
