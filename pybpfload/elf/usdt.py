"""Probes that programs declare themselves (USDT): where they are, and where their arguments are.

Source of the rules: libbpf, ``usdt.c``; SystemTap's ``sys/sdt.h``. Beyond libbpf's forms of
arguments, those that compilers are known to write are understood: variables (``8@16+mp_(%rip)``)
if the file still has their symbols, and registers as index on arm64 and s390x.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.errors import FormatError, NotSupportedError
from pybpfload.formats.usdt import ARGUMENTS, NOTE_OWNER, NOTE_TYPE, ArgumentKind, layouts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pybpfload.elf.binary import UserBinary

__all__ = ["Argument", "Probe", "arguments", "parse_arguments", "probes"]

EM_S390, EM_X86_64, EM_AARCH64, EM_RISCV = 22, 62, 183, 243
SECTION = ".note.stapsdt"
BASE_SECTION = ".stapsdt.base"


class Probe(NamedTuple):
    """One site of a probe; a probe is in the file as often as the compiler has copied its code.

    Attributes:
        provider: First half of its name.
        name: Second half of its name.
        address: Of its instruction, less the place where the whole file is loaded.
        offset: Of its instruction in the file, bytes.
        semaphore: Offset in the file of the counter that its program looks at before it works out
            the arguments; 0 if there is none.
        arguments: Where its arguments are, as the compiler has written it.
    """

    provider: str
    name: str
    address: int
    offset: int
    semaphore: int
    arguments: str


class Argument(NamedTuple):
    """Where an argument of a probe is.

    Attributes:
        size: 1, 2, 4 or 8 bytes.
        signed: Whether it is a signed number.
        kind: Which of the following matter.
        value: The constant, or the offset from what the registers say.
        register: Offset of the (base) register in ``struct pt_regs``.
        index: That of the index register.
        scale: Binary logarithm of what the index register is multiplied with.
    """

    size: int
    signed: bool
    kind: ArgumentKind
    value: int = 0
    register: int = 0
    index: int = 0  # type: ignore[assignment]  # not the method of tuple
    scale: int = 0


def probes(binary: UserBinary) -> Iterator[Probe]:
    """The probes of an executable or library, in the order of its notes.

    Raises:
        FormatError: It has no notes of probes, or they are damaged.
    """
    section = binary.section(SECTION)
    if section is None:
        raise FormatError(
            f"it has no USDT probes (no section {SECTION})",
            file=binary.name,
            hint="they may be in a library that it uses, or it was built without them",
        )
    base = binary.section(BASE_SECTION)
    layout = layouts(binary.byteorder)
    description = layout.note if binary.bits == 64 else layout.note32
    try:
        for owner, kind, content in binary.notes(section):
            if owner == NOTE_OWNER and _number(kind) == NOTE_TYPE:
                yield _probe(binary, base.address if base else 0, _parsed(description, content))
    except FormatError as error:
        raise error.located(file=binary.name, section=SECTION) from None


def _number(kind: object) -> object:
    """The type of a note; pyelftools knows type 3 under a name that it has for another owner."""
    return NOTE_TYPE if kind == "NT_GNU_BUILD_ID" else kind


def _parsed(description: object, content: bytes) -> tuple[int, int, int, str, str, str]:
    from construct import ConstructError

    try:
        found = description.parse(content)  # type: ignore[attr-defined]
    except (ConstructError, UnicodeDecodeError):
        raise FormatError("damaged note of a probe") from None
    if not found.provider or not found.name:
        raise FormatError("a probe without a name")
    place = (found.location, found.base, found.semaphore)
    return (*place, found.provider, found.name, found.arguments)


def _probe(binary: UserBinary, base_now: int, note: tuple[int, int, int, str, str, str]) -> Probe:
    location, base, semaphore, provider, name, text = note
    what = f"{provider}:{name}"
    if base_now and base:
        location += base_now - base  # prelinking has moved the code
    code = binary.segment_at(location)
    if code is None or not code.executable:
        raise FormatError(f"its location {location:#x} is not in the code", symbol=what)
    counter = 0
    if semaphore:
        data = binary.segment_at(semaphore)
        if data is None or data.executable:
            raise FormatError(f"its semaphore {semaphore:#x} is not in the data", symbol=what)
        counter = semaphore - data.address + data.offset
    offset = location - code.address + code.offset
    return Probe(provider, name, location, offset, counter, "" if text[:1] == ":" else text)


# Arguments


def arguments(binary: UserBinary, probe: Probe) -> tuple[Argument, ...]:
    """Where the arguments of a probe are.

    Raises:
        FormatError: They are not understood.
        NotSupportedError: There are no rules for the architecture.
    """

    def distance(symbol: str) -> int | None:
        address = binary.address_of(symbol)
        return None if address is None else address - probe.address

    try:
        return parse_arguments(probe.arguments, binary.machine, distance)
    except FormatError as error:
        error.symbol = f"{probe.provider}:{probe.name}"
        raise error.located(file=binary.name, section=SECTION) from None


def parse_arguments(
    text: str, machine: int, distance: Callable[[str], int | None] | None = None
) -> tuple[Argument, ...]:
    """Read what the compiler has written about a probe's arguments, as ``-4@%eax 8@16(%rbp)``.

    Args:
        text: Size, ``@`` and place of each argument.
        machine: ``EM_...`` number of the architecture.
        distance: Tells how far the variable of a name is from the probe, in bytes.

    Raises:
        FormatError: An argument is not understood, or there are too many.
        NotSupportedError: There are no rules for the architecture.
    """
    if machine not in _FORMS:
        raise NotSupportedError(
            f"the arguments of USDT probes of ELF machine {machine} are not understood; known are "
            "x86-64, arm64, s390x and riscv64",
            feature="USDT",
        )
    found: list[Argument] = []
    at = 0
    while rest := _BLANK.match(text, at):
        if rest.end() == len(text):
            return tuple(found)
        if len(found) == ARGUMENTS:
            raise FormatError(f"more than {ARGUMENTS} arguments: {text[:200]!r}")
        argument, at = _argument(text, rest.end(), machine, len(found), distance)
        found.append(argument)
    raise AssertionError("blanks match everywhere")


_BLANK = re.compile(r"\s*")
_SIZE = re.compile(r"(-?\d{1,3})\s*@\s*", re.ASCII)


def _argument(
    text: str,
    start: int,
    machine: int,
    number: int,
    distance: Callable[[str], int | None] | None,
) -> tuple[Argument, int]:
    """One argument, and where it ends."""
    size = _SIZE.match(text, start)
    whole = text[start : start + 80].split("  ")[0]
    if size is None or abs(int(size[1])) not in (1, 2, 4, 8):
        raise FormatError(f"argument {number}, {whole!r}, does not begin with its size")
    for form in _forms(machine):
        if place := form.match(text, size.end()):
            break
    else:
        raise FormatError(f"argument {number}, {whole!r}, is of no known form")
    parts = place.groupdict()
    whole = text[start : place.end()]

    def offset_of(name: str) -> int:
        offset = _REGISTERS[machine].get(parts[name])
        if offset is None:
            raise FormatError(f"argument {number}, {whole!r}: unknown register {parts[name]}")
        return offset

    value = int(parts.get("value") or 0) + int(parts.get("more") or 0)
    kind, register, index, scale = ArgumentKind.CONST, 0, 0, 0
    if parts.get("register"):
        kind, register = ArgumentKind.REG, offset_of("register")
    elif parts.get("symbol"):
        away = distance(parts["symbol"]) if distance is not None else None
        if away is None:
            raise FormatError(
                f"argument {number}, {whole!r}: the file has no symbol {parts['symbol']}",
                hint="it was stripped; its debugging symbols would tell where the variable is",
            )
        kind, register, value = ArgumentKind.REG_DEREF, _INSTRUCTION[machine], value + away
    elif parts.get("base"):
        kind, register = ArgumentKind.REG_DEREF, offset_of("base")
        if parts.get("index"):
            kind, index = ArgumentKind.SIB, offset_of("index")
            scale = int(parts.get("shift") or 0)
            factor = int(parts.get("factor") or 1)
            if factor not in (1, 2, 4, 8):
                raise FormatError(f"argument {number}, {whole!r}: wrong scale")
            scale += factor.bit_length() - 1
    if not -(1 << 63) <= value < 1 << 64:
        raise FormatError(f"argument {number}, {whole!r}: the number is too large")
    width = int(size[1])
    return Argument(abs(width), width < 0, kind, value, register, index, scale), place.end()


# The forms of places for each architecture, in the order in which they are tried: parts in capitals
# are those of _PARTS, those with a question mark may be missing, all else stands for itself. Blanks
# may be anywhere between them.
_FORMS = {
    EM_X86_64: (
        "VALUE? ( % BASE , % INDEX )",
        "VALUE? ( % BASE , % INDEX , FACTOR )",
        "MORE? SYMBOL VALUE? ( % rip )",
        "VALUE? ( % BASE )",
        "% REGISTER",
        "$ VALUE",
    ),
    EM_AARCH64: (
        "[ BASE , VALUE ]",
        "[ BASE , INDEX , lsl SHIFT ]",
        "[ BASE , INDEX ]",
        "[ BASE ]",
        "VALUE",
        "REGISTER",
    ),
    EM_S390: ("VALUE? ( % INDEX , % BASE )", "VALUE? ( % BASE )", "% REGISTER", "VALUE"),
    EM_RISCV: ("VALUE? ( BASE )", "VALUE", "REGISTER"),
}
_NUMBER = r"[+-]?\d{1,20}"
_NAME = r"[a-z0-9]{1,15}"
_PARTS = {
    "VALUE": rf"(?P<value>{_NUMBER})",
    "MORE": rf"(?P<more>{_NUMBER})\s*\+",
    "SYMBOL": r"(?P<symbol>[A-Za-z_.][\w.$@]*)",
    "REGISTER": rf"(?P<register>{_NAME})",
    "BASE": rf"(?P<base>{_NAME})",
    "INDEX": rf"(?P<index>{_NAME})",
    "FACTOR": r"(?P<factor>\d)",
    "SHIFT": r"#?(?P<shift>\d)",
}


@lru_cache(maxsize=4)
def _forms(machine: int) -> tuple[re.Pattern[str], ...]:
    made = []
    for form in _FORMS[machine]:
        parts = [
            f"(?:{_PARTS[part[:-1]]})?" if part[-1] == "?" else _PARTS.get(part) or re.escape(part)
            for part in form.split()
        ]
        made.append(re.compile(r"\s*".join(parts) + r"(?!\S)", re.ASCII))
    return tuple(made)


def _x86_registers() -> dict[str, int]:
    found = {"rip": 128, "eip": 128}
    for letter, offset in {"a": 80, "b": 40, "c": 88, "d": 96}.items():
        wide = {f"{r}{letter}x": offset for r in ("r", "e", "")}
        # The upper half of a 16-bit register is the byte behind the lower one.
        found |= {**wide, f"{letter}l": offset, f"{letter}h": offset + 1}
    for name, offset in {"si": 104, "di": 112, "bp": 32, "sp": 152}.items():
        found |= {f"r{name}": offset, f"e{name}": offset, name: offset, f"{name}l": offset}
    for number, offset in zip(range(8, 16), (72, 64, 56, 48, 24, 16, 8, 0), strict=True):
        found |= {f"r{number}{width}": offset for width in ("", "d", "w", "b")}
    return found


def _riscv_registers() -> dict[str, int]:
    names = "ra sp gp tp t0 t1 t2 s0 s1 a0 a1 a2 a3 a4 a5 a6 a7 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11"
    names += " t3 t4 t5 t6"
    found = {name: 8 * place for place, name in enumerate(names.split(), 1)}
    return {**found, "fp": found["s0"]}


# Names of registers -> their offsets in the kernel's struct pt_regs.
_REGISTERS = {
    EM_X86_64: _x86_registers(),
    EM_AARCH64: {
        **{f"{width}{number}": 8 * number for number in range(31) for width in "xw"},
        "sp": 248,
        "wsp": 248,
    },
    EM_S390: {f"r{number}": 24 + 8 * number for number in range(16)},
    EM_RISCV: _riscv_registers(),
}
_INSTRUCTION = {EM_X86_64: 128}  # that of the instruction pointer
