"""Where programs can be attached on the running kernel.

What BTF tells is in :mod:`pybpfload.object.places`; here are the kernel's modules, tracepoints with
their categories, and functions for kprobes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pybpfload.errors import BpfError, KernelError
from pybpfload.kernel import btf as kernel_btf
from pybpfload.kernel import door, tracefs
from pybpfload.object.places import BTF_KINDS, Place, Wanted, places_in_btf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["KINDS", "places"]

KINDS: Final = ("kprobe", "tp", *BTF_KINDS)
"""Kinds of places on a running kernel."""

_NO_FUNCTIONS = ("__pfx_", "__cfi_", tracefs.INVALID)  # the first two: bytes before functions
_SYMBOL = re.compile(rb"^[0-9a-f]+ [tT] (\S+)(?:\s+\[(\S+)\])?$", re.MULTILINE)


def places(
    wanted: Wanted, *, prototypes: bool = False, missing: Callable[[str], None] | None = None
) -> Iterator[Place]:
    """The places of the running kernel and its modules.

    Args:
        wanted: Which ones.
        prototypes: Whether to tell arguments, results and fields.
        missing: Called with a sentence for each source that cannot be read; the others go on.
    """
    say = missing or (lambda _: None)
    for kind, look in (("kprobe", _kprobes), ("tp", _tracepoints)):
        if wanted.kind(kind):
            try:
                yield from look(wanted, prototypes)
            except (BpfError, OSError) as error:
                say(f"{kind}: {error}")
    if any(map(wanted.kind, BTF_KINDS)):
        try:
            yield from places_in_btf(kernel_btf.vmlinux(), wanted, prototypes=prototypes)
            for module in kernel_btf.modules():
                yield from places_in_btf(
                    module.btf, wanted, module=module.name, prototypes=prototypes
                )
        except (BpfError, OSError) as error:
            say(f"{', '.join(filter(wanted.kind, BTF_KINDS))}: {error}")


def _kprobes(wanted: Wanted, prototypes: bool) -> Iterator[Place]:
    """Functions that ftrace knows; without tracefs all functions, some of which are forbidden."""
    try:
        lines = tracefs.lines("available_filter_functions")
        found = [line.split() for line in lines]
        functions = {(words[0], words[1].strip("[]") if len(words) > 1 else "") for words in found}
    except KernelError:
        symbols = door.read_file("/proc/kallsyms")
        functions = {
            (name.decode(errors="replace"), module.decode(errors="replace"))
            for name, module in _SYMBOL.findall(symbols)
        }
    yield from (
        Place("kprobe", *each)
        for each in sorted(functions)
        if wanted.name(each[0]) and not each[0].startswith(_NO_FUNCTIONS)
    )


def _tracepoints(wanted: Wanted, prototypes: bool) -> Iterator[Place]:
    for category in tracefs.tracepoints():
        if category == "ftrace":
            continue  # what tracers print; no program can be attached to that
        for name in tracefs.tracepoints(category):
            whole = f"{category}/{name}"
            if wanted.name(whole) or wanted.name(name):
                text = ""
                if prototypes:
                    fields = tracefs.tracepoint_format(category, name).fields
                    text = "\n".join(
                        f"{each.type} {each.name}"
                        for each in fields
                        if not each.name.startswith("common_")
                    )
                yield Place("tp", whole, "", text)
