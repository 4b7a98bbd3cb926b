"""Attaching: one module per family, chosen by the SEC() table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.errors import AttachError, NotSupportedError
from pybpfload.uapi import AttachType, ProgType

if TYPE_CHECKING:
    from pybpfload.object.spec import ProgramSpec
    from pybpfload.runtime.link import Link
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["attach", "is_automatic"]

_FAMILIES = {
    "trace": "tracing",
    "lsm": "tracing",
    "raw_tp": "raw_tracepoint",
    "tp": "tracepoint",
    "iter": "iter",
}


def is_automatic(spec: ProgramSpec) -> bool:
    """Whether the section name alone says where to attach."""
    if spec.sec is None or spec.prog_type != spec.sec.prog_type or not spec.sec.auto:
        return False
    if spec.sec.auto == "iter":
        from pybpfload.runtime.attach.iter import needs_parameters

        return not needs_parameters(spec)
    return spec.attach_to is not None or spec.attach_program is not None


def attach(
    program: Program, loaded_for: AttachTarget, target: str | None, options: dict[str, Any]
) -> Link:
    """Attach a program; see :meth:`Program.attach`."""
    from importlib import import_module

    spec = program.spec
    family = spec.sec.auto if spec.sec is not None and spec.prog_type == spec.sec.prog_type else ""
    if not family and loaded_for.btf_id:
        # Loaded for set_attach_target(), in a section of any name.
        is_iterator = spec.expected_attach_type == AttachType.TRACE_ITER
        family = "iter" if is_iterator and spec.prog_type == ProgType.TRACING else "trace"
    if not family:
        raise AttachError(
            f"SEC({spec.section!r}) does not tell what to attach to",
            program=spec.name,
        )
    home = _FAMILIES.get(family)
    if home is None:
        raise NotSupportedError(
            f"program {spec.name}: attaching {family} programs is not built yet"
        )
    module = import_module(f"{__name__}.{home}")
    link: Link = module.attach(program, loaded_for, target, **options)
    return link
