"""Probes on many kernel functions by one link: kprobe.multi (Linux 5.18), kprobe.session (6.10).

Source of the rules: libbpf, ``bpf_program__attach_kprobe_multi_opts()``.
"""

from __future__ import annotations

import errno
import re
from collections import Counter
from typing import TYPE_CHECKING

from pybpfload.errors import AttachError, KernelError
from pybpfload.kernel import door, tracefs
from pybpfload.pattern import glob_pattern
from pybpfload.runtime.attach.common import create_link
from pybpfload.uapi import AttachType, KprobeMultiFlag

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pybpfload.runtime.link import Link
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["attach"]

_PATTERN = re.compile(r"[A-Za-z0-9_.*?]+")
_SYMBOL = re.compile(rb"^([0-9a-f]+) [tTwW] (\S+)", re.MULTILINE)
_HINTS = {
    errno.ESRCH: "the kernel has no such function, or it cannot be traced "
    "(available_filter_functions in tracefs)",
    errno.ENOENT: "the kernel has no such function, or it cannot be traced",
    errno.EOPNOTSUPP: "the kernel is built without CONFIG_FPROBE",
    errno.E2BIG: "too many functions",
}


def attach(
    program: Program,
    loaded_for: AttachTarget,
    target: str | Sequence[str] | Sequence[int] | None,
    *,
    cookies: Sequence[int] = (),
    on_return: bool | None = None,
) -> Link:
    """Attach to all functions of a pattern or list, by one link.

    Args:
        program: The program.
        loaded_for: Unused: the functions are chosen at attach.
        target: Pattern with ``*`` and ``?``, names, or addresses; what the section says when
            ``None``.
        cookies: What ``bpf_get_attach_cookie()`` gives, one for each name or address.
        on_return: Fire when functions return; what the section says when ``None``.

    Raises:
        AttachError: Nothing is named, or no function matches.
        NotSupportedError: The kernel has no such links.
        KernelError: The kernel refuses, or tracefs, which a pattern needs, is not mounted.
        ValueError: Cookies with a pattern, or not as many as functions.
    """
    kind = program.spec.section.split("/")[0]
    session = program.spec.expected_attach_type == AttachType.TRACE_KPROBE_SESSION
    if on_return is None:
        on_return = kind.startswith("kret")
    if on_return and session:
        raise ValueError("a session fires at entry and return anyway")
    named = target if target is not None else program.spec.attach_to
    if not named:
        raise AttachError(
            f"SEC({program.spec.section!r}) names no functions: name a pattern or a list",
            program=program.name,
        )
    names, addresses, what = _functions(program, named)
    if cookies and (isinstance(named, str) or len(cookies) != len(names or addresses)):
        raise ValueError("there must be a cookie for each function of a list")
    return create_link(
        program,
        0,
        kind=kind,
        target=what,
        since="6.10" if session else "5.18",
        hints=_HINTS,
        syms=names,
        addrs=addresses,
        cookies=cookies,
        multi_flags=int(KprobeMultiFlag.RETURN) if on_return else 0,
    )


def _functions(
    program: Program, named: str | Sequence[str] | Sequence[int]
) -> tuple[list[str], list[int], str]:
    """Names or addresses, and what to call them all."""
    if not isinstance(named, str):
        if all(isinstance(each, int) for each in named):
            return [], [int(each) for each in named], f"{len(named)} addresses"
        return [str(each) for each in named], [], ", ".join(map(str, named[:3]))
    if not _PATTERN.fullmatch(named):
        raise AttachError(
            f"{named!r} is no pattern of function names", program=program.name, target=named
        )
    if "*" not in named and "?" not in named:
        return [named], [], named
    wanted = glob_pattern(named)
    nothing = AttachError(
        f"no traceable function of the kernel matches {named!r}",
        program=program.name,
        target=named,
    )
    # A name can stand for several functions, so addresses are better where the kernel tells them.
    for file, with_address in (
        ("available_filter_functions_addrs", True),  # Linux 6.5
        ("available_filter_functions", False),
    ):
        try:
            lines = tracefs.lines(file)
        except KernelError as error:
            if with_address and error.errno == errno.ENOENT and "mount" not in (error.hint or ""):
                continue
            raise
        found = list(_matching(lines, wanted, with_address))
        if with_address:
            names: list[str] = []
            addresses = [int(address, 16) for address, _ in found]
        else:
            names, addresses = _resolved([name for _, name in found])
        if not names and not addresses:
            raise nothing
        return names, addresses, f"{named} ({len(names or addresses)} functions)"
    raise nothing


def _resolved(found: list[str]) -> tuple[list[str], list[int]]:
    """Names or addresses of what tracefs lists, as far as kallsyms has it too.

    The kernel refuses all if one name is not there, which happens. Addresses are better, because a
    name can stand for several functions; but if some of these cannot be traced, nobody can say
    which, and so it is left to the kernel to take one of each name.
    """
    listed = Counter(name.encode(errors="surrogateescape") for name in found)
    known: dict[bytes, list[int]] = {}
    try:
        symbols = door.read_file("/proc/kallsyms")
    except OSError:
        return sorted(set(found)), []
    for address, name in _SYMBOL.findall(symbols):
        plain = name if name in listed else name.partition(b".llvm.")[0]
        if plain in listed:
            known.setdefault(plain, []).append(int(address, 16))
    if all(all(places) and len(places) == listed[name] for name, places in known.items()):
        return [], sorted(address for places in known.values() for address in places)
    return sorted(name.decode(errors="surrogateescape") for name in known), []


def _matching(
    lines: Iterable[str], wanted: re.Pattern[str], with_address: bool
) -> Iterable[tuple[str, str]]:
    for line in lines:
        words = line.split(None, 2)
        if len(words) <= with_address or words[with_address].startswith(tracefs.INVALID):
            continue
        if wanted.fullmatch(words[with_address]):
            yield words[0], words[with_address]
