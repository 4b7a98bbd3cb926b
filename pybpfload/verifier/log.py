"""The verifier's log as data.

The verifier walks through a program depth first: at a conditional jump it goes on with the next
instruction and comes back for the jump later ("from 4 to 6: ..."). At log levels 1 and 2 it writes
each instruction that it looks at, the C line before it, and registers whose state has changed: in a
line of their own before the instruction up to Linux 5.16, behind a semaphore ("; R0_w=...") after
it since 5.17. What is written after the last instruction is why it stopped.

The log is text for people and changes with kernel versions. So nothing here fails: a line that is
not understood is a part of the reason, or nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Log", "Statistics", "Step", "read", "split"]

_MOST_STEPS = 200_000
"""Steps that are kept. A program that is too large logs a million; the last ones are the news."""

# Numbers are as long as they can be: Python refuses to read those of thousands of digits.
_INSN = re.compile(r"(\d{1,9}): \(([0-9a-f]{2})\) (.*)")
_STATE = re.compile(r"\s*(?:frame\d+:\s*)?(?:(?:R\d+|fp-?\d+)(?:_\w+)?=|refs=|$)")
_BEFORE = re.compile(r"(?:\d+:)?\s*(.*)")
_FROM = re.compile(r"from (\d{1,9}) to (\d{1,9})(?: \(speculative execution\))?: ?(.*)")
_SOURCE = re.compile(r"; (.*?)(?: @ ([^@]+:\d+))?$")
_RETURN = re.compile(r"to caller at \d+:")
_FUNCTION = re.compile(r"Validating (\S+?)\(\) func#\d+")
_PROCESSED = re.compile(r"processed (\d{1,9}) insns \(limit (\d{1,9})\)")
_NUMBER = re.compile(r"\b(\w+) (\d{1,9})")
_STACK = re.compile(r"stack depth (\d{1,9}(?:\+\d{1,9})*)")
_TIME = re.compile(r"verification time (\d{1,18}) usec")
_AT_INSN = re.compile(r"\binsn (\d{1,9})\b")
_INVALID = re.compile(r"(\d{1,9}): (<invalid .*)")

# Lines that tell what the verifier did, not why it stopped.
_NOISE = re.compile(
    r"max_states|func#\d+ @|mark_precise: |last_idx |regs=|parent (?:didn't|already|state)|"
    r"Live regs before|Func#\d+ |\d+: safe|\d+: \S*$|arg#\d+ reference type|propagating |"
    r"caller:|callee:|returning from callee:|frame \d+: propagating|hit |(?:cur|old) state: |"
    r"\s*(?:\d+: )?[.\d]{10} |\s*$"
)
# How libbpf, bpftool and loaders that copy their words frame a log.
_BEGIN = re.compile(r".*?(?:prog '([^']+)': )?(?<!-)-+ ?BEGIN PROG LOAD LOG ?-+\s*$")
_END = re.compile(r".*?(?<!-)-+ ?END PROG LOAD LOG ?-+\s*$")
_LIBBPF = re.compile(r"libbpf: (?:prog '([^']+)': )?")
# How ``pybpfload run -v`` does: the log's lines are indented.
_OWN = re.compile(r"verifier log of program (.+):$")


@dataclass(slots=True)
class Step:
    """One instruction that the verifier looked at.

    Attributes:
        insn: Its index, in units of 8 bytes.
        opcode: Its first byte.
        text: What it does, as the verifier spells it.
        source: The C line before it, ``file:line: text`` or only the text; empty if there is none.
        parent: Number of the step before it on the same path, -1 for the first one.
        frame: How deep in calls: 0 in the program itself.
        line: Where it is in the log, from 0.
        before: Registers as the log tells them before the instruction; often empty.
        after: Registers that it changed, as the log tells them; empty before Linux 5.17.
    """

    insn: int
    opcode: int
    text: str
    source: str
    parent: int
    frame: int
    line: int
    before: str = ""
    after: str = ""


@dataclass
class Statistics:
    """What the verifier counts.

    Attributes:
        processed: Instructions that it looked at, all paths together; ``None`` when not told.
        limit: As many it is willing to look at.
        stack: Bytes of stack of the program and of each function, as far as told (Linux 5.3, with
            log level 4 until then not at all).
        microseconds: How long it took, at log level 4.
        others: Further numbers by the verifier's name, such as ``peak_states``.
    """

    processed: int | None = None
    limit: int | None = None
    stack: tuple[int, ...] = ()
    microseconds: int | None = None
    others: dict[str, int] = field(default_factory=dict)


@dataclass
class Log:
    """What a log says.

    Attributes:
        steps: The instructions in the order in which the verifier looked at them; of very long
            logs the last ones, numbered from :attr:`first`.
        first: Number of the first step that is kept.
        visits: How often the verifier looked at each instruction, in the whole log.
        reasons: What the log says behind the last instruction.
        function: Name of the global function that was being verified by itself, or empty.
        statistics: The numbers at the end.
        truncated: Whether the beginning or the end is missing.
        insn: Index of the instruction at which the verifier stopped, or ``None``.
        source: C line of that instruction, or ``None``.
    """

    steps: list[Step] = field(default_factory=list)
    first: int = 0
    visits: Counter[int] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)
    function: str = ""
    statistics: Statistics = field(default_factory=Statistics)
    truncated: bool = False
    insn: int | None = None
    source: str | None = None

    def step(self, number: int) -> Step | None:
        """The step with a number; ``None`` if it is not kept."""
        return self.steps[number - self.first] if number >= self.first and number >= 0 else None

    def path(self) -> list[Step]:
        """The steps that led to the last one, in order, as far as they are kept.

        Where the verifier came back to a jump that it had met several times (in a loop), the log
        does not say to which of them; the latest that is still open is taken.
        """
        found: list[Step] = []
        step = self.steps[-1] if self.steps else None
        while step is not None:
            found.append(step)
            step = self.step(step.parent)
        found.reverse()
        return found


def split(text: str) -> Iterator[tuple[str, str]]:
    """Find verifier logs in the output of a loader.

    Args:
        text: One log, or what pybpfload, libbpf or bpftool printed, with any number of logs in it.

    Yields:
        The program's name, if it is told, and the log.
    """
    lines = text.splitlines()
    if any(_OWN.match(line) for line in lines):
        yield from _split_own(lines)
        return
    if not any(_BEGIN.match(line) for line in lines):
        yield "", text
        return
    name, inside, current = "", False, list[str]()
    for line in lines:
        if begin := _BEGIN.match(line):
            name, inside, current = begin[1] or name, True, []
        elif inside and _END.match(line):
            yield name, "\n".join(current)
            inside = False
        elif inside:
            current.append(line)
        elif program := _LIBBPF.match(line):
            name = program[1] or name
    if inside:
        yield name, "\n".join(current)


def _split_own(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    name, current = "", list[str]()
    for line in lines:
        begin = _OWN.match(line)
        if name and not begin and line.startswith("  "):
            current.append(line[2:])
            continue
        if name:
            yield name, "\n".join(current)
        name, current = (begin[1] if begin else ""), []
    if name:
        yield name, "\n".join(current)


class _Reader:
    """Reads a log line by line."""

    def __init__(self) -> None:
        self.log = Log()
        self.count = 0  # steps so far
        self.parent = -1
        self.frame = 0
        self.source = ""
        self.state = ""
        self.ended = False
        # Conditional jumps whose other way has not been followed yet: their steps by instruction.
        self.open: dict[int, list[tuple[int, int]]] = {}

    def insn(self, index: int, opcode: int, text: str, line: int) -> None:
        after = ""
        at = text.find(";")
        if at > 0 and _STATE.match(text, at + 1):
            text, after = text[:at], text[at + 1 :].strip()
        log, steps = self.log, self.log.steps
        if self.parent >= 0 and (last := log.step(self.parent)) is not None:
            jumps = self.open.get(last.insn)
            if jumps and jumps[-1][0] == self.parent and index != last.insn + 1:
                jumps.pop()  # the verifier knew which way it goes
            if last.text.startswith("call pc"):
                self.frame = last.frame + 1
        steps.append(
            Step(index, opcode, text.rstrip(), self.source, self.parent, self.frame, line,
                 self.state, after)
        )  # fmt: skip
        if text.startswith(("if ", "may_goto")):
            self.open.setdefault(index, []).append((self.count, self.frame))
        self.parent = self.count
        self.count += 1
        self.state = ""
        log.visits[index] += 1
        log.reasons.clear()
        if len(steps) > 2 * _MOST_STEPS:
            del steps[:_MOST_STEPS]
            log.first += _MOST_STEPS

    def back(self, start: int, rest: str) -> None:
        """``from START to ...``: the verifier follows the other way of a jump."""
        if rest == "safe":
            self._reopen(start)
            return
        self.parent, self.frame = self._reopen(start)
        self.state = rest

    def _reopen(self, start: int) -> tuple[int, int]:
        jumps = self.open.get(start)
        return jumps.pop() if jumps else (-1, 0)

    def line(self, text: str, number: int) -> None:
        if found := _INSN.match(text):
            self.insn(int(found[1]), int(found[2], 16), found[3], number)
        elif text.startswith("; "):
            if found := _SOURCE.match(text):
                words, place = found.groups()
                self.source = f"{place}: {words.strip()}" if place else words.strip()
        elif found := _FROM.match(text):
            self.back(int(found[1]), found[3].strip())
        elif found := _INVALID.match(text):  # written by pybpfload or libbpf in place of a poison
            self.insn(int(found[1]), 0x85, found[2], number)
        elif (found := _BEFORE.match(text)) and found[1] and _STATE.match(found[1]):
            self.state = found[1]
        elif _RETURN.match(text):
            self.frame = max(0, self.frame - 1)
        elif found := _FUNCTION.match(text):
            self.log.function = found[1]
            self.parent, self.frame, self.source = -1, 0, ""
        elif text.startswith("func#") or _NOISE.match(text):
            pass
        elif not self.numbers(text):
            self.log.reasons.append(text.strip())

    def numbers(self, text: str) -> bool:
        """Read a line of statistics; whether it is one."""
        statistics = self.log.statistics
        if found := _PROCESSED.search(text):
            if found.start():  # the kernel left out the end of the line before
                self.log.reasons.append(text[: found.start()])
            statistics.processed, statistics.limit = int(found[1]), int(found[2])
            rest = text[found.end() :]
            if stack := _STACK.search(rest):
                statistics.stack = tuple(map(int, stack[1].split("+")))
            statistics.others.update((k, int(v)) for k, v in _NUMBER.findall(rest) if k != "depth")
            self.ended = True
        elif found := _TIME.match(text):
            statistics.microseconds = int(found[1])
        elif found := _STACK.match(text):
            statistics.stack = tuple(map(int, found[1].split("+")))
        else:
            return False
        return True


def read(text: str) -> Log:
    """Read a log of level 1 or 2.

    Args:
        text: The log of one program.
    """
    reader = _Reader()
    for number, line in enumerate(text.splitlines()):
        reader.line(line, number)
    log = reader.log
    last = log.steps[-1] if log.steps else None
    if last is not None:
        log.insn, log.source = last.insn, last.source or None
        # A kernel keeps the end of a log that is too long (6.4) or its beginning (before).
        log.truncated = not reader.ended or (log.first == 0 and _headless(log))
    elif reader.log.reasons and (found := _AT_INSN.search("; ".join(reader.log.reasons))):
        log.insn = int(found[1])
    if log.function and (found := _AT_INSN.search("; ".join(log.reasons))) and last is None:
        log.insn = int(found[1])
    return log


def _headless(log: Log) -> bool:
    """Whether a log begins in the middle of a program."""
    first = log.steps[0]
    return first.insn != 0 and not log.function
