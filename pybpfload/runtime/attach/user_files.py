"""Finding executables and libraries, and the places in them that probes go to.

Source of the rules: libbpf, ``resolve_full_path()`` and ``elf_find_func_offset_from_file()``.
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.elf.archive import stored_member
from pybpfload.elf.binary import UserBinary
from pybpfload.errors import AttachError, KernelError
from pybpfload.kernel import door
from pybpfload.kernel.errors import kernel_error

if TYPE_CHECKING:
    from pybpfload.elf.binary import Function
    from pybpfload.runtime.program import Program

__all__ = [
    "HINTS",
    "UserFile",
    "explained",
    "find_file",
    "function_offset",
    "open_binary",
    "split_target",
]

HINTS = {
    errno.EINVAL: "it is no regular file, the offset is beyond its end or no place where an "
    "instruction begins, or another probe there has another reference counter",
    errno.ENOEXEC: "no instruction that can be probed begins there",
    errno.EIO: "the file system that it is on cannot have probes",
    errno.ESRCH: "there is no such process",
    524: "the instruction there cannot be probed; try another offset",
}
"""What error numbers mean when a probe is put at an offset of a file."""

_MEMBER = "!/"  # between an archive and a library in it
_MULTIARCH = {
    "x86_64": "x86_64-linux-gnu",
    "aarch64": "aarch64-linux-gnu",
    "s390x": "s390x-linux-gnu",
    "riscv64": "riscv64-linux-gnu",
    "ppc64le": "powerpc64le-linux-gnu",
    "loongarch64": "loongarch64-linux-gnu",
}
_CLOSE_NAMES = 3
_CLOSE_CANDIDATES = 2000  # difflib takes its time


class UserFile(NamedTuple):
    """An executable or library that is to be probed.

    Attributes:
        path: What the kernel shall open.
        start: Where in that file the ELF file begins: not at 0 if it is in an archive.
        binary: The ELF file.
    """

    path: str
    start: int
    binary: UserBinary


def split_target(program: Program, target: object, what: str) -> tuple[str, str]:
    """Split ``path:rest`` at the first colon.

    Args:
        program: The program.
        target: What was asked for; the section's when ``None``.
        what: What should be behind the path, for messages.

    Returns:
        Path and rest; the rest is ``""`` if there is no colon.

    Raises:
        AttachError: There is no path.
    """
    named = target if target is not None else program.spec.attach_to
    if isinstance(named, os.PathLike):
        return os.fspath(named), ""
    path, _, rest = named.partition(":") if isinstance(named, str) else ("", "", "")
    if not path:
        section = program.spec.section
        raise AttachError(
            f"name a file and {what}, as in attach('libc.so.6:{what}')"
            if named
            else f"SEC({section!r}) names no file: name one, as in attach('libc.so.6:{what}')",
            program=program.name,
            target=None if named is None else str(named),
        )
    return path, rest


def _name(program: Program | None) -> str | None:
    return program.name if program is not None else None


def find_file(program: Program | None, path: str) -> str:
    """Find an executable or library that is named without a folder, as the shell and loader do.

    Libraries (``.so`` in the name) in ``LD_LIBRARY_PATH`` and the usual folders, executables in
    ``PATH``. A path is taken as it is; of an archive, the part before ``!/`` counts.

    Args:
        program: The program that is to be attached, for messages.
        path: Path, name, or ``archive!/member``.

    Raises:
        AttachError: There is no such file.
    """
    file = path.partition(_MEMBER)[0]
    if "/" in file:
        if not door.exists(file):
            raise AttachError(f"there is no file {file}", program=_name(program), target=path)
        return path
    is_library = file.endswith(".so") or ".so." in file
    if is_library:
        variable, usual = "LD_LIBRARY_PATH", ["/usr/lib64", "/usr/lib"]
        if triple := _MULTIARCH.get(door.uname().machine):
            usual += [f"/lib/{triple}", f"/usr/lib/{triple}"]
        usual += ["/lib64", "/lib"]
    else:
        variable, usual = "PATH", ["/usr/bin", "/usr/sbin"]
    folders = [*os.environ.get(variable, "").split(":"), *usual]
    for folder in dict.fromkeys(filter(None, folders)):
        found = f"{folder}/{path}"
        whole = f"{folder}/{file}"
        if door.exists(whole) if is_library else door.is_executable(whole):
            return found
    raise AttachError(
        f"there is no {'library' if is_library else 'program'} {file} in {variable}, "
        f"{', '.join(usual)}; name its path",
        program=_name(program),
        target=path,
    )


def open_binary(program: Program | None, path: str) -> UserFile:
    """Find and read an executable or library; ``archive!/member`` is a library in a zip archive.

    Raises:
        AttachError: There is no such file, or no such member.
        FormatError: It is no ELF file, or damaged; a member is compressed.
        KernelError: It cannot be read.
    """
    found = find_file(program, path)
    file, mark, member = found.partition(_MEMBER)
    try:
        data = door.read_file(file)
    except OSError as error:
        raise kernel_error(error.errno or errno.EIO, "open", file) from None
    if not mark:
        return UserFile(file, 0, UserBinary(data, file))
    stored = stored_member(data, member, file)
    if stored is None:
        raise AttachError(f"{file} has no member {member}", program=_name(program), target=path)
    start, content = stored
    return UserFile(file, start, UserBinary(content, found))


def function_offset(program: Program, file: UserFile, name: str) -> int:
    """Offset in the file of a function, ``name``, ``name@VERSION`` or ``name@@VERSION``.

    Raises:
        AttachError: There is none, or several.
        FormatError: A symbol table is damaged.
    """
    found = file.binary.find(name)
    if len(found) == 1:
        return file.start + found[0].offset
    raise AttachError(_problem(file.binary, name, found), program=program.name, target=name)


def _problem(binary: UserBinary, name: str, found: list[Function]) -> str:
    if found:
        places = ", ".join(f"{function.name} at {function.offset:#x}" for function in found[:5])
        return f"{binary.name} has several functions {name} ({places}); name an offset"
    if binary.is_ifunc(name):
        return (
            f"{name} of {binary.name} is chosen when a program starts (ifunc): name one of its "
            "variants, or an offset"
        )
    names = binary.function_names()
    plain = name.partition("@")[0]
    text = f"{binary.name} has no function {name}"
    if plain in names:
        return f"{text}, but one without that version"
    if close := _close(plain, names):
        text += f"; did you mean {' or '.join(close)}?"
    if not any(section.type in ("SHT_SYMTAB", 2) for section in binary.sections):
        text += f"; it is stripped to {len(names)} exported functions, others need an offset"
    return text


def _close(name: str, names: set[str]) -> list[str]:
    import difflib

    start = re.sub(r"\W|_", "", name)[:2]
    similar = [n for n in names if start in n and abs(len(n) - len(name)) < 5]
    return difflib.get_close_matches(name, sorted(similar)[:_CLOSE_CANDIDATES], _CLOSE_NAMES)


def explained(error: KernelError, program: Program, target: str) -> KernelError:
    """Say of a refused probe what it was for, and what the error number means there."""
    error.target = f"program {program.name} to {target}"
    error.hint = HINTS.get(error.errno or 0) or error.hint
    return error
