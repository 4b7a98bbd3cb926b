"""Machine code as text, by a disassembler that is installed: objdump (binutils) or capstone.

objdump runs as a process of its own; what it prints is AT&T syntax on x86, as the kernel's
developers read it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from typing import Any, NamedTuple

from pybpfload.errors import NotSupportedError
from pybpfload.kernel import door

__all__ = ["MachineInsn", "disassemble"]

_PATIENCE = 30.0  # seconds

_OBJDUMP = {
    "x86_64": "i386:x86-64",
    "aarch64": "aarch64",
    "s390x": "s390:64-bit",
    "riscv64": "riscv:rv64",
    "ppc64le": "powerpc:common64",
}
"""What objdump calls a machine of uname(2)."""

_CAPSTONE = {
    "x86_64": (("CS_ARCH_X86",), ("CS_MODE_64",)),
    "aarch64": (("CS_ARCH_AARCH64", "CS_ARCH_ARM64"), ("CS_MODE_ARM",)),
    "s390x": (("CS_ARCH_SYSTEMZ", "CS_ARCH_SYSZ"), ("CS_MODE_BIG_ENDIAN",)),
    "riscv64": (("CS_ARCH_RISCV",), ("CS_MODE_RISCV64", "CS_MODE_RISCVC")),
    "ppc64le": (("CS_ARCH_PPC",), ("CS_MODE_64",)),
}
"""What capstone calls it, in its versions, and its modes, which are added."""

_LINE = re.compile(r"^ *([0-9a-f]+):\t[0-9a-f ]+\t(.*)$", re.MULTILINE)


class MachineInsn(NamedTuple):
    """An instruction of the machine.

    Attributes:
        offset: Where it begins in the code, bytes.
        code: Its bytes.
        text: Operation and operands; addresses are those of the kernel.
    """

    offset: int
    code: bytes
    text: str


def disassemble(code: bytes, address: int) -> list[MachineInsn]:
    """Disassemble code of the machine that this runs on.

    Args:
        code: The code.
        address: Where it is, which jumps and calls are relative to.

    Raises:
        NotSupportedError: No disassembler for this machine is installed.
    """
    machine = door.uname().machine
    found = _by_objdump(code, address, machine)
    if found is None:
        found = _by_capstone(code, address, machine)
    if found is None:
        error = NotSupportedError(f"no disassembler for {machine} is installed")
        error.hint = "install objdump (Debian: apt install binutils), or capstone by pip"
        raise error
    ends = [start for start, _ in found[1:]] + [len(code)]
    return [
        MachineInsn(start, code[start:end], " ".join(text.split()))
        for (start, text), end in zip(found, ends, strict=True)
    ]


def _by_objdump(code: bytes, address: int, machine: str) -> list[tuple[int, str]] | None:
    """Offset and text of each instruction; ``None`` without objdump that knows the machine."""
    program, name = shutil.which("objdump"), _OBJDUMP.get(machine)
    if program is None or name is None:
        return None
    with tempfile.NamedTemporaryFile(prefix="pybpfload-") as file:
        file.write(code)
        file.flush()
        order = ["-EL"] if machine == "ppc64le" else []
        words = ["-D", "-z", "-w", *order, "-b", "binary", "-m", name, f"--adjust-vma={address:#x}"]
        try:
            done = subprocess.run(
                [program, *words, file.name],
                capture_output=True, text=True, env={"LC_ALL": "C"}, timeout=_PATIENCE, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None
    lines = [(int(at, 16) - address, text) for at, text in _LINE.findall(done.stdout)]
    return lines if done.returncode == 0 and lines else None


def _by_capstone(code: bytes, address: int, machine: str) -> list[tuple[int, str]] | None:
    """The same by capstone, if that can be imported."""
    try:
        capstone: Any = __import__("capstone")
    except ImportError:
        return None
    if machine not in _CAPSTONE:
        return None
    names, modes = _CAPSTONE[machine]
    kind = next((getattr(capstone, name) for name in names if hasattr(capstone, name)), None)
    if kind is None:
        return None
    engine = capstone.Cs(kind, sum(getattr(capstone, mode) for mode in modes))
    engine.skipdata = True
    if machine == "x86_64":
        engine.syntax = capstone.CS_OPT_SYNTAX_ATT
    return [
        (at - address, f"{operation} {operands}")
        for at, _, operation, operands in engine.disasm_lite(code, address)
    ]
