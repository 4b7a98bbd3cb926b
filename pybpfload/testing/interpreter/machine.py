"""The machine: registers, frames, and the loop that runs steps.

A program is linked once into *steps*, one Python function per instruction (:mod:`.steps`): it gets
the registers, changes them, and returns the index of the step to go on with. All programs of a
machine share one list of steps, so calls, callbacks and tail calls are indices into it.

A register that holds nothing holds :data:`NOTHING`, with which no operation works: reading one
raises ``TypeError`` from wherever it is used, and costs nothing as long as it does not happen.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import length_hint
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pybpfload.isa import table
from pybpfload.isa.disasm import disassemble
from pybpfload.testing.interpreter.contexts import Context
from pybpfload.testing.interpreter.errors import FaultError, InterpreterError
from pybpfload.testing.interpreter.helper import helper_name
from pybpfload.testing.interpreter.mapmodel import MapModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from pybpfload.btf import Btf
    from pybpfload.isa.insn import Insn
    from pybpfload.relocate import RelocatedProgram
    from pybpfload.testing.interpreter.environment import Environment
    from pybpfload.testing.interpreter.memory import Memory, Region

    Registers: TypeAlias = list[Any]
    Step: TypeAlias = Callable[[Registers], int]

__all__ = ["MAX_FRAMES", "MAX_LOOPS", "NOTHING", "STACK_SIZE", "Image", "Machine", "ThrownError"]

STACK_SIZE: Final = 512
"""Bytes of stack of each function (``MAX_BPF_STACK``)."""

MAX_FRAMES: Final = 8
"""Functions inside functions, the program itself included (``MAX_CALL_FRAMES``)."""

MAX_TAIL_CALLS: Final = 33
"""Tail calls in one run (``MAX_TAIL_CALL_CNT``)."""

MAX_LOOPS: Final = 8 << 20
"""Rounds of ``bpf_loop``, and of ``may_goto`` in one run (``BPF_MAX_LOOPS``)."""

MAX_CALLS: Final = 10_000
"""Calls of helpers that are kept of a run, the first ones."""

_CODE: Final = 0xFFFFFFFFA0000000  # addresses of functions: 8 bytes for each step


class _Nothing:
    """What a register holds before anything was put there."""

    __slots__ = ()

    def _refuse(self, other: object = None) -> NoReturn:
        raise TypeError("a register holds nothing")

    __eq__ = __ne__ = __bool__ = _refuse
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "nothing"


NOTHING: Final[Any] = _Nothing()
_NOTHING_4: Final = [NOTHING] * 4
_NOTHING_5: Final = [NOTHING] * 5


class _Stop(Exception):  # noqa: N818 - the end of a run is no error
    """The function that the loop was started for has returned."""


class ThrownError(Exception):
    """``bpf_throw`` was called (Linux 6.7): ends the program, whatever the depth of calls."""

    def __init__(self, cookie: int) -> None:
        super().__init__(cookie)
        self.cookie = cookie


class Image:
    """A program that was linked.

    Attributes:
        name: Name of the program.
        start: Index of its first step.
        exception_callback: First step of what deals with ``bpf_throw``, or ``None``.
        insns: Its instructions.
        relocated: What it was made of, or ``None``.
        btf: BTF of its object, for source lines.
    """

    __slots__ = ("btf", "exception_callback", "insns", "name", "relocated", "start")

    def __init__(
        self,
        name: str,
        start: int,
        insns: Sequence[Insn],
        relocated: RelocatedProgram | None,
        btf: Btf | None,
    ) -> None:
        self.name = name
        self.start = start
        self.insns = insns
        self.relocated = relocated
        self.btf = btf
        self.exception_callback: int | None = None

    def text(self, index: int) -> str:
        """Instruction as text."""
        if index >= len(self.insns):
            return "behind the last instruction"
        insn = self.insns[index]
        if insn.is_helper_call and (name := helper_name(insn.imm)):
            return f"call {name}"
        return disassemble(self.insns[index : index + 2])[0].text

    def source(self, index: int) -> str | None:
        """C source line of an instruction, ``file:line: text``."""
        program, btf = self.relocated, self.btf
        if program is None or btf is None or not program.line_info:
            return None
        step = program.line_info_rec_size // 4
        starts = list(program.line_info[::step])
        at = bisect_right(starts, index) - 1
        if at < 0:
            return None
        _, file, line, place = program.line_info[at * step : at * step + 4]
        return f"{btf.string(file)}:{place >> 10}: {btf.string(line).strip()}"


class Machine:
    """Runs linked programs; what helpers, also a user's, are given as their first argument.

    Attributes:
        memory: The address space.
        environment: The world around programs.
        code: Steps of all programs; the first ends a run.
        images: The programs, by ascending start.
        printk: Lines that ``bpf_trace_printk`` wrote, of this run.
        calls: Helpers and kfuncs called in this run, as ``(name, arguments, result)``; the first
            :data:`MAX_CALLS`.
        output: What ``bpf_seq_write`` and its like wrote in this run.
        context: The context of this run, with the packet if there is one.
        loops_left: How often ``may_goto`` goes on in this run.
    """

    def __init__(self, memory: Memory, environment: Environment, stack_fill: int = 0) -> None:
        self.memory = memory
        self.environment = environment
        self.code: list[Step] = [_stop]
        self.images: list[Image] = []
        self.printk: list[str] = []
        self.calls: list[tuple[str, tuple[int, ...], int | None]] = []
        self.context = Context(0)
        self.output = bytearray()
        self.loops_left = 0
        self._kept = 0  # bytes of output
        self._max_steps = 0
        self._ended = 0  # loops of steps, each of which takes one step more to end
        self._frames: list[tuple[int, Registers]] = []
        self._budget = iter(range(0))
        self._tail_calls = 0
        self._stacks: list[Region] = []  # by depth, made when first needed
        self._blank = bytes([stack_fill]) * STACK_SIZE

    # Running

    def run(
        self, start: int, context: Context, arguments: Sequence[int], max_steps: int
    ) -> int | None:
        """Run the program whose first step is ``start``, with its arguments in r1 and so on.

        Returns:
            r0, or ``None`` if that holds nothing.

        Raises:
            InterpreterError: It does something wrong, or takes too many steps.
        """
        self._max_steps = max_steps
        self._budget = iter(range(max_steps))
        self._frames.clear()
        self._tail_calls = 0
        self.printk = []
        self.calls = []
        self.output = bytearray()
        self.memory.charge(-self._kept, "output")
        self._kept = 0
        self.loops_left = MAX_LOOPS
        self._ended = 0
        self.context = context
        try:
            value = self._call(start, arguments)
        except ThrownError as thrown:
            self._frames.clear()
            callback = self.locate(start)[0].exception_callback
            if callback is None:
                return thrown.cookie
            value = self._call(callback, (thrown.cookie,))
        return None if value is NOTHING else int(value)

    @property
    def steps(self) -> int:
        """Instructions executed in this run."""
        return self._max_steps - length_hint(self._budget) - self._ended

    def call(self, function: int, *arguments: int) -> int:
        """Call a BPF function from a helper, as ``bpf_loop`` does.

        Args:
            function: Its address, as the program gave it.
            *arguments: At most five.

        Returns:
            What it returns in r0.

        Raises:
            FaultError: There is no function at that address.
        """
        index = self.step_at(function)
        if index is None:
            raise FaultError(f"{function:#x} is no address of a function")
        value = self._call(index, arguments)
        if value is NOTHING:
            raise FaultError("a callback returns without a value in r0")
        return int(value)

    def _call(self, pc: int, arguments: Sequence[int]) -> Any:
        registers = _fresh()
        self.enter(registers, 0)
        registers[1 : 1 + len(arguments)] = arguments
        code = self.code
        try:
            for _ in self._budget:
                pc = code[pc](registers)
        except _Stop:
            self._ended += 1
            return registers[0]
        except FaultError as fault:
            raise self.error(pc, registers, str(fault)) from fault
        except TypeError:
            problem = self._missing(pc, registers)
            if problem is None:
                raise
            raise self.error(pc, registers, problem) from None
        raise self.error(pc, registers, f"takes more than {self._max_steps} instructions")

    # What steps do

    def enter(self, registers: Registers, back: int) -> None:
        """Begin a function: save what the caller keeps, and give it a stack."""
        frames = self._frames
        depth = len(frames)
        if depth == MAX_FRAMES:
            raise FaultError(f"calls functions more than {MAX_FRAMES} deep")
        frames.append((back, registers[6:]))
        registers[0] = NOTHING
        registers[6:10] = _NOTHING_4
        if depth == len(self._stacks):
            self._stacks.append(self.memory.allocate(STACK_SIZE, f"stack of frame {depth}"))
        stack = self._stacks[depth]
        stack.data[:] = self._blank
        registers[10] = stack.base + STACK_SIZE

    def leave(self, registers: Registers) -> int:
        """End a function, and return the step to go on with."""
        back, registers[6:] = self._frames.pop()
        registers[1:6] = _NOTHING_5
        return back

    def address_of(self, step: int) -> int:
        """Address of the function that starts at a step."""
        return _CODE + 8 * step

    def step_at(self, address: int) -> int | None:
        """Step at an address of :meth:`address_of`, ``None`` if there is none."""
        index, rest = divmod(address - _CODE, 8)
        return index if not rest and 0 < index < len(self.code) else None

    def tail_call(self, registers: Registers, start: int) -> int | None:
        """Begin another program in the frame of this one; ``None`` if that were one too many."""
        if self._tail_calls == MAX_TAIL_CALLS:
            return None
        self._tail_calls += 1
        registers[2:10] = [NOTHING] * 8
        registers[0] = NOTHING
        return start

    def keep(self, size: int) -> None:
        """Count bytes of output of this run.

        Raises:
            FaultError: There is no memory for them.
        """
        self.memory.charge(size, "output")
        self._kept += size

    def called(self, name: str, arguments: Sequence[int], result: int | None) -> None:
        """Note the call of a helper."""
        if len(self.calls) < MAX_CALLS:
            self.calls.append((name, tuple(arguments), result))

    def map(self, address: int) -> MapModel:
        """Return the map that a program gave to a helper.

        Raises:
            FaultError: There is none at that address.
        """
        found = self.memory.owner(address)
        if not isinstance(found, MapModel):
            raise FaultError(f"{address:#x} is no map")
        return found

    # Errors

    def locate(self, step: int) -> tuple[Image, int]:
        """Return the program of a step, and the index of the instruction in it."""
        image = self.images[bisect_right(self.images, step, key=lambda each: each.start) - 1]
        return image, step - image.start

    def error(self, step: int, registers: Registers, message: str) -> InterpreterError:
        """Make the error for what happened at a step."""
        image, index = self.locate(step)
        return InterpreterError(
            message,
            program=image.name,
            insn=index,
            text=image.text(index),
            registers=tuple(None if value is NOTHING else value for value in registers),
            source=image.source(index),
            calls=tuple(self._place(back) for back, _ in self._frames if back),
        )

    def _place(self, step: int) -> tuple[str, int]:
        image, index = self.locate(step)
        return image.name, index

    def _missing(self, step: int, registers: Registers) -> str | None:
        """Say which register of an instruction holds nothing, ``None`` if none does."""
        image, index = self.locate(step)
        insn = image.insns[index] if index < len(image.insns) else None
        form = table.find(insn) if insn is not None else None
        if form is None:
            return None
        # The source first: a destination that is only written may hold nothing.
        numbers = [getattr(insn, field) for field in ("src", "dst") if field in form.registers]
        if "cmpxchg" in form.text:
            numbers.append(0)
        if "skb" in form.text:
            numbers.append(6)
        for number in numbers:
            if registers[number] is NOTHING:
                return f"r{number} is read, but nothing was put there"
        return None


def _fresh() -> Registers:
    return [NOTHING] * 11


def _stop(registers: Registers) -> int:
    raise _Stop
