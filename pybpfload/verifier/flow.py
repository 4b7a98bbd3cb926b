"""What an instruction of a verifier log reads and writes, and where a value came from.

The verifier spells instructions in its own way (``kernel/bpf/disasm.c``), which has hardly changed
since 2014. Places are named as the verifier names them: ``R0`` to ``R10`` for registers, ``fp-8``
for 8 bytes of stack.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybpfload.verifier.log import Step

__all__ = ["Effect", "checks", "effect", "origin", "register_state"]

_REGISTER = re.compile(r"\b[rw](10|\d)\b")
_ASSIGN = re.compile(r"[rw](10|\d) ((?:s?(?:>>|<<|/|%)|[-+*&|^])?=) (.*)")
_STACK = re.compile(r"\((?:u8|u16|u32|u64|s8|s16|s32) \*\)\(r10 ([-+]\d{1,9})\)")
_CALLER_SAVED = tuple(f"R{n}" for n in range(6))
_ARGUMENTS = tuple(f"R{n}" for n in range(1, 6))


@dataclass(frozen=True)
class Effect:
    """Places that an instruction reads and writes."""

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


def effect(text: str) -> Effect:
    """Read an instruction as the verifier spells it; what is not understood has no effect."""
    if text.startswith("call "):
        return Effect(_ARGUMENTS, _CALLER_SAVED)
    if text.startswith("exit"):
        return Effect(("R0",))
    if found := _ASSIGN.match(text):
        target, operator, right = f"R{found[1]}", found[2], found[3]
        if slot := _slot(right):
            reads = [slot]
        else:
            reads = _registers(right)
        if operator != "=" and target not in reads:
            reads.insert(0, target)
        return Effect(tuple(reads), (target,))
    if text.startswith("*("):
        left, _, right = text.partition(" = ")
        if slot := _slot(left):
            return Effect(tuple(_registers(right)), (slot,))
    return Effect(tuple(_registers(text)))


def _registers(text: str) -> list[str]:
    return list(dict.fromkeys(f"R{number}" for number in _REGISTER.findall(text)))


def _slot(text: str) -> str:
    """The stack slot that a memory operand of the frame pointer means."""
    found = _STACK.search(text)
    if found is None:
        return ""
    offset = int(found[1])
    return f"fp{offset - offset % 8}"  # by 8 bytes, as the verifier keeps them


def origin(path: Sequence[Step], place: str, most: int = 8) -> list[Step]:
    """The steps that gave a place its value, in order.

    Follows copies, arithmetic, the stack and the arguments of calls back along the path, to where
    the value came into being.

    Args:
        path: Steps up to the one in question, which is the last and is left out.
        place: A register or stack slot, as it is before that last step.
        most: At most so many steps.
    """
    found: dict[int, int] = {}  # instruction -> its latest step; a loop goes over many
    if not path:
        return []
    work = [(place, path[-1].frame, len(path) - 2)]
    seen = set()
    while work and len(found) < most:
        item = work.pop(0)
        if item in seen:
            continue
        seen.add(item)
        at, place, frame = _definition(path, *item)
        if at < 0:
            continue
        step = path[at]
        if found.setdefault(step.insn, at) != at:
            continue  # an earlier turn of a loop
        if step.text.startswith("call "):
            if step.text.startswith("call pc"):
                continue
            # What a helper returns depends on its map or first argument, if on anything.
            if step.text.startswith(("call bpf_map_lookup", "call kfunc")):
                work.append(("R1", frame, at - 1))
            continue
        work.extend((read, frame, at - 1) for read in effect(step.text).reads if read != "R10")
    return [path[index] for index in sorted(found.values())]


def _definition(path: Sequence[Step], place: str, frame: int, at: int) -> tuple[int, str, int]:
    """Where a place was written last, its name there, and in which frame; -1 if nowhere."""
    while at >= 0:
        step = path[at]
        if step.frame > frame:
            # A function that has returned: all that comes out of it is R0.
            if place == "R0" and step.text.startswith("exit"):
                frame = step.frame
            elif place in _ARGUMENTS:
                return -1, place, frame
        elif step.frame < frame:
            # Before the function was called: its arguments were the caller's registers.
            if place not in _ARGUMENTS:
                return -1, place, frame
            frame = step.frame
        elif place in effect(step.text).writes:
            return at, place, frame
        at -= 1
    return -1, place, frame


def checks(path: Sequence[Step], place: str, most: int = 4) -> list[Step]:
    """Conditional jumps on the path that look at a register as it is at the end of the path."""
    found: list[Step] = []
    frame = path[-1].frame if path else 0
    for step in reversed(path[:-1]):
        if step.frame != frame or place in effect(step.text).writes:
            break
        if step.text.startswith("if ") and place in effect(step.text).reads:
            found.append(step)
            if len(found) == most:
                break
    found.reverse()
    return found


_PLACE = re.compile(r"(?:^|\s)(R\d+|fp-?\d+)(?:_\w+)?=")


def register_state(path: Sequence[Step], place: str) -> str:
    """What the log last told of a register or stack slot before the end of the path, or ``""``."""
    for index in range(len(path) - 1, -1, -1):
        step = path[index]
        if index < len(path) - 1:
            told = _told(step.after, place)
            if told or place in effect(step.text).writes:
                return told  # it has changed; a kernel that is silent about that is too old
        if told := _told(step.before, place):
            return told
    return ""


def _told(state: str, place: str) -> str:
    """One place out of a line of register states; values may have blanks inside parentheses."""
    for found in _PLACE.finditer(state):
        if found[1] != place:
            continue
        depth, end = 0, found.end()
        while end < len(state) and (depth or state[end] != " "):
            depth += {"(": 1, ")": -1}.get(state[end], 0)
            end += 1
        return state[found.end() : end]
    return ""
