"""fentry.multi, fexit.multi, fsession.multi: trampolines around many functions (Linux 7.2).

Source of the rules: libbpf 1.8, ``bpf_program__attach_tracing_multi()``.
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Any

from pybpfload.btf import Kind
from pybpfload.errors import AttachError
from pybpfload.kernel import btf as kernel_btf
from pybpfload.object.places import traceable
from pybpfload.pattern import glob_pattern
from pybpfload.runtime.attach.common import create_link

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybpfload.btf import Btf
    from pybpfload.runtime.link import Link
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["attach"]

_PATTERN = re.compile(r"(?:([A-Za-z0-9_]+):)?([A-Za-z0-9_.*?]+)")
_HINTS = {
    errno.ENOENT: "one of the functions cannot be traced",
    errno.EINVAL: "one of the functions cannot be traced, or is named twice",
    errno.EBUSY: "one of the functions has as many programs as it can",
}


def attach(
    program: Program,
    loaded_for: AttachTarget,
    target: str | Sequence[str] | None,
    *,
    cookies: Sequence[int] = (),
) -> Link:
    """Attach to all functions of a pattern or list, by one link.

    Args:
        program: The program.
        loaded_for: The module that it was loaded for, if its section names one.
        target: ``pattern`` or ``module:pattern`` with ``*`` and ``?``, or names; what the section
            says when ``None``. A module must be that of the section.
        cookies: What ``bpf_get_attach_cookie()`` gives, one for each name of a list.

    Raises:
        AttachError: Nothing is named, or no function that a trampoline can carry matches.
        NotSupportedError: The kernel has no such links.
        KernelError: The kernel refuses.
        ValueError: Cookies with a pattern, or not as many as functions.
    """
    named: Any = target if target is not None else program.spec.attach_to
    if not named:
        raise AttachError(
            f"SEC({program.spec.section!r}) names no functions: name a pattern or a list",
            program=program.name,
        )
    if isinstance(named, str):
        if cookies:
            raise ValueError("cookies need a list of functions")
        found = _PATTERN.fullmatch(named)
        if not found:
            raise AttachError(
                f"{named!r} is no pattern of function names", program=program.name, target=named
            )
        ids = _matching(_btf(program, found[1]), found[2])
        what = f"{named} ({len(ids)} functions)"
    else:
        if cookies and len(cookies) != len(named):
            raise ValueError("there must be a cookie for each function")
        module = (program.spec.attach_to or "").rpartition(":")[0]
        ids = [_one(program, _btf(program, module), name) for name in named]
        what = ", ".join(named[:3])
    if not ids:
        raise AttachError(
            f"no function that a trampoline can carry matches {named!r}",
            program=program.name,
            target=str(named),
        )
    return create_link(
        program,
        0,
        kind=program.spec.section.split("/")[0],
        target=what,
        since="7.2",
        hints=_HINTS,
        btf_ids=ids,
        cookies=cookies,
    )


def _btf(program: Program, module: str | None) -> Btf:
    if not module or module == "vmlinux":
        return kernel_btf.vmlinux()
    for each in kernel_btf.modules(module):
        if each.name == module:
            return each.btf
    raise AttachError(f"no module {module} with BTF is loaded", program=program.name, target=module)


def _matching(btf: Btf, pattern: str) -> list[int]:
    wanted = glob_pattern(pattern)
    return [
        type_id
        for type_id in btf.own_ids()
        if btf.kind(type_id) == Kind.FUNC
        and wanted.fullmatch(btf.type_name(type_id))
        and traceable(btf, type_id)
    ]


def _one(program: Program, btf: Btf, name: str) -> int:
    found = btf.find(name, Kind.FUNC)
    if not found or not traceable(btf, found):
        raise AttachError(
            f"the kernel has no function {name} that a trampoline can carry",
            program=program.name,
            target=name,
        )
    return found
