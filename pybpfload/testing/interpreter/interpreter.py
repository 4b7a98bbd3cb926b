"""Running relocated programs without a kernel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pybpfload.btf.values import codec
from pybpfload.errors import BpfError
from pybpfload.object.spec import ExternKind, MapSpec
from pybpfload.testing.interpreter import contexts
from pybpfload.testing.interpreter.environment import Environment
from pybpfload.testing.interpreter.errors import InterpreterError
from pybpfload.testing.interpreter.linker import KCONFIG_MAP, Linker
from pybpfload.testing.interpreter.machine import Machine
from pybpfload.testing.interpreter.maps import EventMap, MapModel, MapOfMaps, ProgArray, make_map
from pybpfload.testing.interpreter.memory import Memory
from pybpfload.uapi import MapType, ProgType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pybpfload.isa.insn import Insn
    from pybpfload.object.variables import VariableSpec
    from pybpfload.relocate import RelocatedProgram, Relocation
    from pybpfload.testing.interpreter.contexts import Given
    from pybpfload.testing.interpreter.helper import Helper

__all__ = ["Interpreter", "Result", "Variable"]

_MAX_ARGS = 5


@dataclass(slots=True)
class Result:
    """What a run gave.

    Attributes:
        value: r0 at the end, unsigned 64 bits; 0 for struct_ops functions that return nothing.
        steps: Instructions executed.
        printk: Lines that ``bpf_trace_printk`` wrote.
        calls: Helpers and kfuncs called, in order: ``(name, arguments, what it returned)``; the
            first 10,000.
        output: What ``bpf_seq_write`` and ``bpf_seq_printf`` wrote.
        ctx_out: The context as the program left it; ``b""`` when an address was given for it.
        data_out: The packet as the program left it.
        memory: The address space.
    """

    value: int
    steps: int
    printk: list[str]
    calls: list[tuple[str, tuple[int, ...], int | None]]
    output: bytes
    ctx_out: bytes
    data_out: bytes
    memory: Memory = field(repr=False)

    @property
    def retval(self) -> int:
        """The low 32 bits of r0, which is what ``BPF_PROG_TEST_RUN`` gives."""
        return self.value & 0xFFFFFFFF


class Variable:
    """A global variable in the interpreter.

    Attributes:
        spec: Its name, type and place in a section.
    """

    __slots__ = ("_map", "spec")

    def __init__(self, spec: VariableSpec, found: MapModel) -> None:
        self.spec = spec
        self._map = found

    @property
    def value(self) -> Any:
        """The value now, by its C type; assign to change it, also that of a constant."""
        return self._codec().decode(self._map.value_region().data, self.spec.offset)

    @value.setter
    def value(self, value: Any) -> None:
        raw = self._codec().encode(value)
        self._map.value_region().data[self.spec.offset : self.spec.offset + len(raw)] = raw

    @property
    def address(self) -> int:
        """Where it is."""
        return self._map.value_region().base + self.spec.offset

    def _codec(self) -> Any:
        return codec(self.spec.btf, self.spec.type_id)

    def __repr__(self) -> str:
        return f"<Variable {self.spec.name} = {self.value!r}>"


class Interpreter:
    """Runs eBPF code over a :class:`Memory`, as an oracle for tests.

    It does what the kernel does with programs that the verifier accepts, and raises
    :class:`InterpreterError` for what the verifier would not accept *on the path that is taken*:
    accesses outside of what is there, registers without a value, helpers that nobody has, records
    that are never submitted. It is bounded in steps and memory, and gives the same result each time
    (stacks start as ``stack_fill``, clocks stand still, random numbers are seeded).

    Maps, global variables and programs of one object belong together and live as long as the
    interpreter: what one run leaves in a map, the next one finds there.

    Speed: 2 to 3 million instructions a second with CPython 3.11 (``tools/bench interpreter``).

    Args:
        relocation: What :meth:`ObjectSpec.relocate` gave: maps, variables, externs and programs of
            the object. ``None`` for bare instructions.
        memory: The address space; by default a new one of the object's byte order.
        maps: Maps by name, besides those of the object or instead of them: definitions, or maps of
            another interpreter that has the same memory.
        helpers: Helpers and kfuncs by name (``"bpf_..."``) or number, besides those that the
            interpreter has or instead of them; :mod:`.helper` says what such a function is.
        kconfig: Values of ``__kconfig`` externs by name. Weak ones that are not here are 0.
        ksyms: Addresses of ``__ksym`` variables by name. Weak ones that are not here are 0.
        environment: The world around programs.
        max_steps: Instructions that a run may take, those of callbacks included.
        stack_fill: The byte that stacks are full of at first. A result that depends on it comes
            from stack that was never written, which the kernel allows since 6.3.

    Attributes:
        relocation, memory, environment, max_steps: As above.
        maps: By name; each is a mapping of Python values, or has methods for what it can.
        variables: Global variables by name.

    Raises:
        FormatError: A map's BTF makes no sense.
        ValueMismatchError: A value does not fit its kconfig extern.
        BpfError: Memory and object have different byte orders.
    """

    def __init__(
        self,
        relocation: Relocation | None = None,
        *,
        memory: Memory | None = None,
        maps: Mapping[str, MapModel | MapSpec] | None = None,
        helpers: Mapping[str | int, Helper] | None = None,
        kconfig: Mapping[str, Any] | None = None,
        ksyms: Mapping[str, int] | None = None,
        environment: Environment | None = None,
        max_steps: int = 1_000_000,
        stack_fill: int = 0,
    ) -> None:
        spec = relocation.object if relocation is not None else None
        order: Any = spec.byteorder if spec is not None else "<"
        self.relocation = relocation
        self.memory = Memory(order) if memory is None else memory
        if spec is not None and self.memory.byteorder != order:
            raise BpfError(f"{spec.name} has byte order {order}, memory {self.memory.byteorder}")
        self.environment = environment if environment is not None else Environment()
        self.max_steps = max_steps
        self.maps: dict[str, MapModel] = {}
        self.variables: dict[str, Variable] = {}
        self._make_maps(maps or {})
        self._set_kconfig(kconfig or {})
        self._machine = Machine(self.memory, self.environment, stack_fill)
        self._linker = Linker(
            self._machine, relocation, self.maps, helpers or {}, kconfig or {}, ksyms or {}
        )

    # Maps

    def _make_maps(self, given: Mapping[str, MapModel | MapSpec]) -> None:
        spec = self.relocation.object if self.relocation is not None else None
        wanted: dict[str, MapModel | MapSpec] = {}
        if spec is not None:
            wanted.update((name, each) for name, each in spec.maps.items() if each.autocreate)
        wanted.update(given)
        btf = spec.btf if spec is not None else None
        for name, each in wanted.items():
            if isinstance(each, MapSpec):
                each = make_map(each, self.memory, self.environment, btf)
            self.maps[name] = each
        by_spec = {id(each.spec): each for each in self.maps.values()}
        for name, variable in spec.variables.items() if spec is not None else ():
            if variable.map.type == MapType.ARRAY and id(variable.map) in by_spec:
                self.variables[name] = Variable(variable, by_spec[id(variable.map)])
        for each in self.maps.values():
            for slot, declared in enumerate(each.spec.values):
                if declared is not None and isinstance(each, ProgArray):
                    each[slot] = declared
                elif declared is not None and isinstance(each, MapOfMaps):
                    each[slot] = self.maps[declared]

    def _set_kconfig(self, values: Mapping[str, Any]) -> None:
        found = next((m for m in self.maps.values() if m.spec.section == KCONFIG_MAP), None)
        if found is None or self.relocation is None:
            return
        spec = self.relocation.object
        data = found.value_region().data
        for name, extern in spec.externs.items():
            if extern.kind == ExternKind.KCONFIG and name in values:
                raw = codec(spec.require_btf("kconfig"), extern.btf_id).encode(values[name])
                data[extern.offset : extern.offset + len(raw)] = raw

    # Running

    def run(
        self,
        program: RelocatedProgram | str | Sequence[Insn],
        data: bytes = b"",
        *,
        ctx: Given = None,
        args: Sequence[int] = (),
        prog_type: ProgType | None = None,
    ) -> Result:
        """Run a program once.

        ``data`` and ``ctx`` mean what they mean to :meth:`pybpfload.Program.test_run`.

        Args:
            program: A relocated program, the name of one of the relocation, or bare instructions.
            data: Packet, for programs that work on packets.
            ctx: The context: an address, bytes, or numbers for 64-bit slots (the arguments that
                raw_tp, tp_btf, fentry, lsm, ... programs get). For programs that work on packets
                ``struct xdp_md`` or ``struct __sk_buff`` is made from ``data``; bytes given for it
                say what it holds besides.
            args: What r1 to r5 hold instead of a context: for freplace programs, which are called
                as the functions that they replace.
            prog_type: Type of bare instructions; tells what context they get.

        Raises:
            InterpreterError: The program does something wrong, or takes too many steps.
            BpfError: There is no such program, or it does not take what was given.
        """
        machine, linker, world = self._machine, self._linker, self.environment
        if not 0 <= world.cpu < world.cpus:
            raise BpfError(f"the environment has CPUs 0 to {world.cpus - 1}, cpu is {world.cpu}")
        if isinstance(program, str):
            program = linker.named(program)
        if len(args) > _MAX_ARGS:
            raise BpfError(f"{len(args)} arguments, at most {_MAX_ARGS} registers hold some")
        bare = not hasattr(program, "insns")
        if bare:
            start = linker.link_bare(program)  # type: ignore[arg-type]
        else:
            start = linker.link(program)  # type: ignore[arg-type]
            prog_type = prog_type or program.spec.prog_type  # type: ignore[union-attr]
        context = None
        try:
            context = contexts.make(self.memory, prog_type, data, ctx)
            value = machine.run(start, context, args or (context.address,), self.max_steps)
            self._check_end(start, value is not None or prog_type == ProgType.STRUCT_OPS)
            return Result(
                value or 0,
                machine.steps,
                machine.printk,
                machine.calls,
                bytes(machine.output),
                context.ctx_out(),
                context.data_out(),
                self.memory,
            )
        finally:
            if context is not None:
                context.release(self.memory)
            self.memory.sweep()
            if bare:
                linker.unlink(start)

    def _check_end(self, start: int, has_value: bool) -> None:
        problem = "" if has_value else "ends without a value in r0"
        for found in self.maps.values():
            if isinstance(found, EventMap) and found.pending:
                found.drop_pending()
                problem = f"ends with a record of map {found.name} neither submitted nor discarded"
        if problem:
            raise InterpreterError(problem, program=self._machine.locate(start)[0].name)
