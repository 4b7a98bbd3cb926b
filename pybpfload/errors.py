"""Every error that pybpfload raises on purpose.

One base, :class:`BpfError`, so that ``except pybpfload.BpfError`` catches all of them and nothing
else. ``str()`` of an error is one or two lines; what it knows beyond that is in attributes.

* Bad input is a :class:`FormatError` (it is a ``ValueError`` too).
* A relocation that cannot be done is a :class:`RelocationError` and carries the CO-RE decision.
* A refused system call is a :class:`KernelError` (it is an ``OSError`` too, so ``errno`` works),
  refused for want of privilege a :class:`NotPermittedError` (also a ``PermissionError``), refused
  by the verifier a :class:`VerifierError`.
* What this kernel, architecture or byte order cannot do is a :class:`NotSupportedError`; a system
  call refused for that is a :class:`KernelTooOldError`, which is a :class:`KernelError` too.
"""

from __future__ import annotations

import errno as _errno

TYPE_CHECKING = False  # every start of the command line imports this module; typing costs 13 ms
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from typing_extensions import Self

__all__ = [
    "AttachError",
    "BpfError",
    "FormatError",
    "KernelError",
    "KernelTooOldError",
    "NotPermittedError",
    "NotSupportedError",
    "RelocationError",
    "VerifierError",
]


class BpfError(Exception):
    """Base of all errors of this package.

    Attributes:
        hint: What to do about it, one sentence, or ``None``.
        swallowed: Errors of optional steps that failed earlier without stopping the work, oldest
            first. They are often the true cause of a later failure.
    """

    hint: str | None = None
    swallowed: Sequence[BaseException] = ()

    def with_hint(self, hint: str | None) -> BpfError:
        """Set :attr:`hint` and return the error itself."""
        self.hint = hint
        return self


class _LocatedError(BpfError):
    """An error that knows where in an object it is, and says so before its message."""

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        section: str | None = None,
        offset: int | None = None,
        symbol: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.message = message
        self.file = file
        self.section = section
        self.offset = offset
        self.symbol = symbol
        self.hint = hint
        super().__init__(message)

    def located(
        self,
        *,
        file: str | None = None,
        section: str | None = None,
        offset: int | None = None,
        symbol: str | None = None,
    ) -> Self:
        """Fill in what is not known yet of the place, and return the error itself.

        Inner layers know offsets, outer ones know file names; neither needs to know the other.
        """
        self.file = self.file if self.file is not None else file
        self.section = self.section if self.section is not None else section
        self.offset = self.offset if self.offset is not None else offset
        self.symbol = self.symbol if self.symbol is not None else symbol
        return self

    def _place(self) -> list[str]:
        place = [self.file] if self.file else []
        if self.section:
            place.append(f"section {self.section}")
        if self.offset is not None:
            place.append(f"offset {self.offset:#x}")
        if self.symbol:
            place.append(f"symbol {self.symbol}")
        return place

    def __str__(self) -> str:
        place = ", ".join(self._place())
        line = f"{place}: {self.message}" if place else self.message
        return f"{line}; {self.hint}" if self.hint else line


class FormatError(_LocatedError, ValueError):
    """The input is not what its format demands: damaged, hostile, or not supported.

    Args:
        message: What was found and what was expected, without the place.
        file: Name of the file or object.
        section: Name of the ELF section, or of the part of the file.
        offset: Byte offset inside ``section`` (inside ``file`` when there is no section).
        symbol: Name of the ELF symbol, program, map, variable or type concerned.
        hint: What to do about it.
    """


class RelocationError(_LocatedError):
    """An instruction refers to something that cannot be resolved, or cannot take the value found.

    Args:
        message: What went wrong.
        program: Name of the program or subprogram.
        insn: Index of the instruction in it (in units of 8 bytes).
        decision: The CO-RE decision (:class:`pybpfload.relocate.CoreDecision`) that failed, if it
            was CO-RE.
        file: Name of the object.
        section: Name of the ELF section that holds the program, or declares the extern.
        offset: Of the instruction in that section, in bytes.
        symbol: Name of the extern, map or function that it refers to.
        hint: What to do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        program: str | None = None,
        insn: int | None = None,
        decision: Any = None,
        file: str | None = None,
        section: str | None = None,
        offset: int | None = None,
        symbol: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(
            message, file=file, section=section, offset=offset, symbol=symbol, hint=hint
        )
        self.program = program
        self.insn = insn
        self.decision = decision

    def _place(self) -> list[str]:
        place = super()._place()
        if self.program:
            place.append(f"program {self.program}")
        if self.insn is not None:
            place.append(f"instruction {self.insn}")
        return place


class NotSupportedError(BpfError):
    """This kernel, architecture, byte order or build cannot do what was asked.

    Args:
        message: One sentence.
        feature: Short name of what is missing, for example ``"kprobe.multi links"``.
        since: First kernel version that has it, for example ``"5.18"``, or ``None`` when that is
            not the point.
    """

    def __init__(
        self, message: str, *, feature: str | None = None, since: str | None = None
    ) -> None:
        self.message = message
        self.feature = feature
        self.since = since
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.message} (needs Linux {self.since})" if self.since else self.message


class KernelError(BpfError, OSError):
    """A system call failed.

    Args:
        errno: Error number as the kernel gave it.
        operation: What was asked, for example ``"BPF_MAP_CREATE"`` or ``"perf_event_open"``.
        target: On what, for example ``"map events"``.
        hint: Likely cause and remedy.
    """

    def __init__(
        self, errno: int, operation: str, target: str | None = None, *, hint: str | None = None
    ) -> None:
        # 524 is ENOTSUPP, which is the kernel's own and has no strerror text.
        text = "operation not supported by this object" if errno == 524 else os_strerror(errno)
        OSError.__init__(self, errno, text)
        self.operation = operation
        self.target = target
        self.hint = hint

    def __str__(self) -> str:
        name = _errno.errorcode.get(self.errno or 0, "ENOTSUPP" if self.errno == 524 else "")
        where = f"{self.operation} of {self.target}" if self.target else self.operation
        line = f"{where}: {self.strerror} ({name or self.errno})"
        return f"{line}; {self.hint}" if self.hint else line


class KernelTooOldError(KernelError, NotSupportedError):
    """A system call was refused, and asked for something that came later than this kernel.

    Judged by the version, after the kernel has refused: distributions backport.

    Attributes:
        feature: What came later, for example ``"the map type ARENA"``.
        since: First kernel version that has it, for example ``"6.9"``.
    """

    def __init__(
        self,
        errno: int,
        operation: str,
        target: str | None = None,
        *,
        hint: str | None = None,
        feature: str | None = None,
        since: str | None = None,
    ) -> None:
        super().__init__(errno, operation, target, hint=hint)
        self.message = hint or str(self)
        self.feature = feature
        self.since = since


class NotPermittedError(KernelError, PermissionError):
    """The kernel refused for want of privilege or by policy; :attr:`hint` says which."""


class AttachError(BpfError):
    """A program cannot be attached as asked: no target is named, or it does not exist."""

    def __init__(
        self, message: str, *, program: str | None = None, target: str | None = None
    ) -> None:
        self.message = message
        self.program = program
        self.target = target
        super().__init__(message)

    def __str__(self) -> str:
        return f"program {self.program}: {self.message}" if self.program else self.message


class VerifierError(KernelError):
    """The verifier refused a program.

    Attributes:
        program: Name of the program.
        log: The whole verifier log, as the kernel wrote it.
        summary: The verifier's own reason (the last telling line of the log).
        insn: Index of the instruction it stopped at, or ``None``.
        source: C source line of that instruction (``file:line: text``), or ``None``.
        explanation: What the log means, and what helps.
        relocation: The failed CO-RE relocation at that instruction, or ``None``: the instruction
            was poisoned, which only matters because it can be reached.
    """

    def __init__(
        self,
        errno: int,
        program: str,
        log: str,
        *,
        summary: str = "",
        insn: int | None = None,
        source: str | None = None,
        relocation: Any = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(errno, "BPF_PROG_LOAD", f"program {program}", hint=hint)
        self.program = program
        self.log = log
        self.summary = summary
        self.insn = insn
        self.source = source
        self.relocation = relocation

    @property
    def explanation(self) -> Any:
        """The log explained: cause and remedies, registers, the way there; ``str()`` is all of it.

        A :class:`pybpfload.verifier.Explanation`, made when it is first asked for.
        """
        found = self.__dict__.get("_explanation")
        if found is None:
            from importlib import import_module  # this room knows of none above it

            found = import_module("pybpfload.verifier").explain(self.log, program=self.program)
            self.__dict__["_explanation"] = found
        return found

    def __reduce__(self) -> Any:
        # OSError would give back its own two arguments; worker processes send errors by pickle.
        return (type(self), (self.errno, self.program, self.log), self.__dict__)

    def __str__(self) -> str:
        parts = [f"program {self.program}: the verifier refused it"]
        if self.insn is not None:
            parts.append(f" at instruction {self.insn}")
        if self.source:
            parts.append(f" ({self.source})")
        parts.append(f": {self.summary or self.strerror}")
        if self.relocation is not None and str(self.relocation) not in self.summary:
            parts.append(f"; {self.relocation}")
        if self.hint:
            parts.append(f"; {self.hint}")
        return "".join(parts)


def os_strerror(number: int) -> str:
    """Text of an error number, as :func:`os.strerror`."""
    import os

    return os.strerror(number)
