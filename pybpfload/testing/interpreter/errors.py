"""Errors of the interpreter."""

from __future__ import annotations

from pybpfload.errors import BpfError

__all__ = ["FaultError", "InterpreterError"]


class FaultError(BpfError):
    """What a program did wrong, without the place.

    Memory and helpers raise it, also helpers that a user wrote; the interpreter knows the place and
    makes an :class:`InterpreterError` of it.
    """


class InterpreterError(BpfError):
    """A program did what no verified program does, or what the interpreter cannot do.

    Attributes:
        message: What it did, without the place.
        program: Name of the program.
        insn: Index of the instruction in it, or ``None`` when it was not running yet.
        text: That instruction, disassembled.
        registers: r0 to r10; ``None`` for those that hold nothing.
        source: C source line of the instruction (``file:line: text``), or ``None``.
        calls: Where the functions around it go on, as ``(program, instruction index)``, the
            innermost last.
    """

    def __init__(
        self,
        message: str,
        *,
        program: str = "",
        insn: int | None = None,
        text: str = "",
        registers: tuple[int | None, ...] = (),
        source: str | None = None,
        calls: tuple[tuple[str, int], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.program = program
        self.insn = insn
        self.text = text
        self.registers = registers
        self.source = source
        self.calls = calls

    def __str__(self) -> str:
        place = [f"program {self.program}"] if self.program else []
        if self.insn is not None:
            place.append(f"instruction {self.insn}: {self.text}")
        if self.source:
            place.append(self.source)
        line = ": ".join([", ".join(place), self.message] if place else [self.message])
        values = [f"r{i}={v:#x}" for i, v in enumerate(self.registers) if v is not None]
        return f"{line}\n{' '.join(values)}" if values else line
