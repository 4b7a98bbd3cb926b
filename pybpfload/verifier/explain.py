"""A verifier log explained: where it stopped, why, and how the program got there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pybpfload.verifier.causes import Cause, find
from pybpfload.verifier.flow import checks, effect, origin, register_state
from pybpfload.verifier.log import Log, Step, read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Explanation", "Register", "explain"]

_NAMED = re.compile(r"\bR(10|\d)\b")
_MOST_LINES = 16  # C lines of the path that are shown
_LONGEST_TURN = 12  # C lines of a loop whose turns are told apart
_HOT = 5  # instructions that are named when a limit was hit
_NEARLY = 0.8  # of a limit is worth a remark


@dataclass(frozen=True)
class Register:
    """A register (or stack slot) that the failing instruction uses.

    Attributes:
        name: ``R1``, ``fp-8``.
        state: What the verifier last said of it, such as ``scalar(umax=255)``; may be empty.
        steps: The instructions that gave it its value, in order.
        checks: Conditional jumps on the path that looked at it since.
    """

    name: str
    state: str
    steps: tuple[Step, ...]
    checks: tuple[Step, ...]


@dataclass(frozen=True)
class Explanation:
    """What a verifier log means.

    ``str()`` of it is the whole in words.

    Attributes:
        program: Name of the program, if known.
        log: The log as data.
        reason: The verifier's own sentences, joined by ``"; "``; empty if the log has none, because
            the program was accepted or the end is missing.
        cause: What kind of mistake it is, and remedies; ``None`` if it is not known.
        step: The instruction at which it stopped, or ``None``.
        registers: The registers that matter there.
        path: All steps that led there.
    """

    program: str
    log: Log
    reason: str
    cause: Cause | None
    step: Step | None
    registers: tuple[Register, ...]
    path: tuple[Step, ...]

    @property
    def accepted(self) -> bool:
        """Whether the log has an end, and nothing there says that the program was refused."""
        return not self.reason and self.log.statistics.processed is not None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        numbers = self.log.statistics
        return {
            "program": self.program or None,
            "accepted": self.accepted,
            "reason": self.reason or None,
            "cause": self.cause
            and {"name": self.cause.name, "why": self.cause.why, "remedies": self.cause.remedies},
            "instruction": self.step and _step(self.step),
            "function": self.log.function or None,
            "registers": [
                {
                    "name": each.name,
                    "state": each.state or None,
                    "origin": [_step(step) for step in each.steps],
                    "checks": [_step(step) for step in each.checks],
                }
                for each in self.registers
            ],
            "path": [_step(step) for step in self.path],
            "statistics": {
                "processed": numbers.processed,
                "limit": numbers.limit,
                "stack": list(numbers.stack),
                "microseconds": numbers.microseconds,
                **numbers.others,
            },
            "hottest": [{"insn": insn, "visits": count} for insn, count in self.hottest()],
            "truncated": self.log.truncated,
        }

    def hottest(self) -> list[tuple[int, int]]:
        """Instructions that the verifier looked at most often, and how often: (insn, visits)."""
        return [(insn, n) for insn, n in self.log.visits.most_common(_HOT) if n > 1]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        from importlib import import_module  # the room of commands is above this one

        return str(import_module("pybpfload.cli.notebook").explanation(self))

    def lines(self, *, every_step: bool = False) -> Iterator[str]:
        """The explanation in words, line by line.

        Args:
            every_step: Show each instruction of the path rather than its C lines.
        """
        name = f"program {self.program}: " if self.program else ""
        if self.accepted:
            yield f"{name}accepted"
        elif self.reason:
            yield f"{name}refused: {self.reason}"
        else:
            yield f"{name}the log ends before the verifier says why"
        if self.log.truncated:
            yield (
                "  a part of the log is missing: when the buffer is too small, kernels before 6.4 "
                "lose the end, newer ones the beginning"
            )
        if self.reason:
            yield from self._where()
            yield from self._why()
            yield from self._values()
            yield from self._way(every_step)
        yield from self._numbers()

    def _where(self) -> Iterator[str]:
        if self.log.function:
            yield f"  in     function {self.log.function}, verified by itself"
        if self.step is None:
            if self.log.insn is not None:
                yield f"  at     {self.log.insn}"
            return
        if self.step.source:
            yield f"  at     {self.step.source}"
            yield f"         {self.step.insn}: {self.step.text}"
        else:
            yield f"  at     {self.step.insn}: {self.step.text}"

    def _why(self) -> Iterator[str]:
        if self.cause is None:
            return
        yield f"  why    {self.cause.why}"
        for position, remedy in enumerate(self.cause.remedies):
            yield f"  {'help' if not position else '':6} {remedy}"

    def _values(self) -> Iterator[str]:
        for register in self.registers:
            yield ""
            state = f" is {register.state}" if register.state else ""
            if not register.steps:
                where = "" if state else " has no origin in this log"
                yield f"  {register.name}{state}{where}"
                continue
            yield f"  {register.name}{state}, from"
            yield from _listing(register.steps)
            if register.checks:
                yield "    tested on the way:"
                yield from _listing(register.checks)

    def _way(self, every_step: bool) -> Iterator[str]:
        if every_step and self.path:
            yield ""
            yield "  the way there"
            yield from _listing(self.path)
            return
        places = _places(self.path)
        if len(places) < 2:
            return
        yield ""
        yield "  the way there"
        if len(places) > _MOST_LINES:
            yield f"    ... {len(places) - _MOST_LINES} lines before"
        for place in places[-_MOST_LINES:]:
            yield f"    {place}"

    def _numbers(self) -> Iterator[str]:
        numbers = self.log.statistics
        if numbers.processed is None or numbers.limit is None:
            return
        share = numbers.processed / numbers.limit if numbers.limit else 0
        if self.reason and share < _NEARLY:
            return
        yield ""
        remark = f", {share:.0%} of the limit" if share >= 0.01 else ""
        yield f"  {numbers.processed} instructions looked at{remark}"
        if numbers.stack:
            yield f"  stack  {' + '.join(map(str, numbers.stack))} bytes of 512"
        if share >= _NEARLY:
            for insn, count in self.hottest():
                yield f"    {count:7d} times  {insn}: {self._text(insn)}".rstrip()

    def _text(self, insn: int) -> str:
        step = next((step for step in reversed(self.log.steps) if step.insn == insn), None)
        return "" if step is None else step.text + (f"  ({step.source})" if step.source else "")


def explain(log: str, *, program: str = "") -> Explanation:
    """Explain a verifier log, of any kernel since 5.10; older ones as far as they are alike.

    Makes no system call and never fails: what is not understood is left out.

    Args:
        log: The log of one program; :func:`~pybpfload.verifier.log.split` finds it in the output of
            a loader.
        program: The program's name, if known.
    """
    data = read(log)
    reason = "; ".join(data.reasons[-3:])
    path = data.path() if reason or data.truncated else []
    step = path[-1] if path else None
    registers: list[Register] = []
    if step is not None and reason:
        registers = [_register(path, place) for place in _matter(step, data.reasons)]
    return Explanation(
        program, data, reason, find(data.reasons), step, tuple(registers), tuple(path)
    )


def _matter(step: Step, reasons: Sequence[str]) -> list[str]:
    """The registers that the verifier names, else those that the instruction reads."""
    named = [f"R{number}" for line in reasons for number in _NAMED.findall(line)]
    reads = effect(step.text).reads
    chosen = [place for place in dict.fromkeys(named) if place in reads]
    if not chosen and not step.text.startswith(("call", "exit")):
        chosen = list(reads)
    return [place for place in chosen if place != "R10"]


def _register(path: Sequence[Step], place: str) -> Register:
    return Register(
        place,
        register_state(path, place),
        tuple(origin(path, place)),
        tuple(checks(path, place)),
    )


def _step(step: Step) -> dict[str, Any]:
    return {"insn": step.insn, "text": step.text, "source": step.source or None}


def _listing(steps: Sequence[Step]) -> Iterator[str]:
    width = max(len(f"{step.insn}: {step.text}") for step in steps)
    for step in steps:
        line = f"{step.insn}: {step.text}"
        yield f"    {line:{width}}  {step.source}".rstrip()


def _places(path: Sequence[Step]) -> list[str]:
    """C lines of a path, each once where it is entered, and which way its branches went."""
    found: list[str] = []
    for position, step in enumerate(path):
        text = step.source or f"{step.insn}: {step.text}"
        if not found or found[-1].partition("   -> ")[0] != text:
            found.append(text)
        if step.text.startswith("if ") and position + 1 < len(path) and step.source:
            taken = path[position + 1].insn != step.insn + 1
            found[-1] = f"{text}   -> {step.text.partition(' goto')[0]}: {'yes' if taken else 'no'}"
    return _without_turns(found)


def _without_turns(places: list[str]) -> list[str]:
    """Turns of a loop that look alike, once."""
    found: list[str] = []
    turns: dict[int, int] = {}  # where a turn ends in what is shown -> its length
    for place in places:
        found.append(place)
        for length in range(1, min(_LONGEST_TURN, len(found) // 2) + 1):
            if found[-length:] == found[-2 * length : -length]:
                del found[-length:]
                turns[len(found)] = length
                break
    for end, length in sorted(turns.items(), reverse=True):
        lines = f"the {length} lines above" if length > 1 else "the line above"
        found.insert(end, f"... {lines}, again and again")
    return found
