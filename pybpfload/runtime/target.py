"""Finding the function, tracepoint or hook that a program is loaded for, in BTF.

Programs of type TRACING, LSM and EXT are verified against the very function that they will be
attached to, so its BTF id is part of the load (libbpf ``libbpf_find_attach_btf_id``).
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from pybpfload.btf import Btf, Kind
from pybpfload.errors import AttachError, NotSupportedError
from pybpfload.kernel import bpf
from pybpfload.kernel import btf as kernel_btf
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.object.places import in_btf
from pybpfload.object.spec import ProgramSpec
from pybpfload.runtime.handles import open_by
from pybpfload.uapi import AttachType, ProgType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pybpfload.kernel.btf import ModuleBtf
    from pybpfload.runtime.program import Program

__all__ = ["AttachTarget", "resolve_attach_target"]

_VERIFIED_FOR_TARGET = (ProgType.TRACING, ProgType.LSM, ProgType.EXT)

_OF_MANY = (
    AttachType.TRACE_FENTRY_MULTI,
    AttachType.TRACE_FEXIT_MULTI,
    AttachType.TRACE_FSESSION_MULTI,
)


class AttachTarget:
    """What a program is loaded for.

    Attributes:
        name: For people: function, tracepoint or hook, with its module or program.
        btf_id: ``attach_btf_id``, 0 when the program type needs none.
        prog_fd: ``attach_prog_fd``: the BPF program whose function it is, or 0; as long as this is
            not closed.
        btf_fd: ``attach_btf_obj_fd``: BTF of the kernel module, or 0; while loading.
    """

    __slots__ = ("_owned", "btf_fd", "btf_id", "name", "prog_fd")

    def __init__(self, name: str = "", btf_id: int = 0) -> None:
        self.name = name
        self.btf_id = btf_id
        self.prog_fd = 0
        self.btf_fd = 0
        self._owned = ExitStack()

    def own(self, fd: FileDescriptor) -> int:
        """Keep a descriptor as long as this target, and return its number."""
        self._owned.callback(fd.close)
        return fd.fileno()

    def close(self) -> None:
        """Close what it owns."""
        self._owned.close()


def resolve_attach_target(
    spec: ProgramSpec,
    loaded: Mapping[int, Program],
    modules: Callable[[str], list[ModuleBtf]],
    module_fd: Callable[[Btf], int],
) -> AttachTarget:
    """Find what a program is to be attached to, as far as that must be known at load.

    Args:
        spec: The program.
        loaded: Programs of the same object that are loaded already, by ``id()`` of their spec.
        modules: Returns the kernel's modules with BTF whose names begin with something.
        module_fd: Gives the descriptor of a module's BTF.

    Raises:
        AttachError: No target is named, or it does not exist.
    """
    sec = spec.sec
    if spec.attach_program is not None:
        if spec.prog_type not in _VERIFIED_FOR_TARGET:
            raise AttachError(
                "only fentry, fexit, fmod_ret and freplace programs can be attached to the "
                f"function of another program, not SEC({spec.section!r})",
                program=spec.name,
            )
        return _in_program(spec, loaded)
    if sec is not None and spec.expected_attach_type in _OF_MANY:
        return _in_module(spec, modules, module_fd)
    by_section = sec is not None and sec.needs_btf_id and spec.prog_type == sec.prog_type
    by_hand = spec.attach_function is not None and spec.prog_type in _VERIFIED_FOR_TARGET
    if not by_section and not by_hand:
        return AttachTarget()
    if spec.prog_type == ProgType.EXT:
        raise AttachError(
            "freplace needs the program whose function it replaces; "
            "give it with set_attach_target()",
            program=spec.name,
        )
    name = spec.attach_to
    if not name:
        raise AttachError(
            f"SEC({spec.section!r}) names no target; "
            f"write SEC({(spec.section.rstrip('/') + '/NAME')!r}) "
            "or call set_attach_target() before loading",
            program=spec.name,
        )
    return _in_kernel(spec, name, modules, module_fd)


def _in_kernel(
    spec: ProgramSpec,
    name: str,
    modules: Callable[[str], list[ModuleBtf]],
    module_fd: Callable[[Btf], int],
) -> AttachTarget:
    prefix, kind, what = in_btf(spec)
    module_name, colon, function = name.partition(":")
    if not colon:
        module_name, function = "", name
    # Module names are compared as prefixes, that of vmlinux too (libbpf).
    if not colon or "vmlinux".startswith(module_name):
        type_id = kernel_btf.vmlinux().find(prefix + function, kind)
        if type_id:
            return AttachTarget(name, type_id)
    searched = modules(module_name)
    for module in searched:
        type_id = module.btf.find_own(prefix + function, kind)
        if type_id:
            target = AttachTarget(f"{module.name}:{function}", type_id)
            target.btf_fd = module_fd(module.btf)
            return target
    where = f"module {module_name}" if colon else "this kernel or its modules"
    problems = kernel_btf.problems(module_name)
    if colon and problems:
        why = f"its BTF was left out: {problems[-1]}"
    elif colon and not searched:
        why = f"it is not loaded, or has no BTF; load it with modprobe {module_name}"
    else:
        why = "not there, inlined, or under another name"
    raise AttachError(
        f"{what} {function!r} is not in the BTF of {where} ({why})",
        program=spec.name,
        target=name,
    )


def _in_module(
    spec: ProgramSpec,
    modules: Callable[[str], list[ModuleBtf]],
    module_fd: Callable[[Btf], int],
) -> AttachTarget:
    """Of programs for many functions, only the module must be known, if they are of one."""
    pattern = spec.section.partition("/")[2]
    name, colon, _ = pattern.partition(":")
    target = AttachTarget(pattern)
    if colon:
        found = next((each for each in modules(name) if each.name == name), None)
        if found is None:
            raise AttachError(
                f"module {name!r} is not loaded, or has no BTF; load it with modprobe {name}",
                program=spec.name,
                target=pattern,
            )
        target.btf_fd = module_fd(found.btf)
    return target


def _in_program(spec: ProgramSpec, loaded: Mapping[int, Program]) -> AttachTarget:
    target = AttachTarget()
    try:
        target.prog_fd, description, default = _program_fd(spec, loaded, target)
        function = spec.attach_to or default
        info = bpf.prog_info(target.prog_fd)
        if not info.btf_id:
            raise NotSupportedError(
                f"program {spec.name}: its target {description} was loaded without BTF, "
                "so its functions cannot be attached to"
            )
        btf_fd = FileDescriptor(bpf.btf_get_fd_by_id(info.btf_id), f"BTF of {description}")
        with btf_fd:
            btf = Btf.from_bytes(bpf.btf_info(btf_fd.fileno()).data, name=description)
        target.btf_id = btf.find(function or info.name, Kind.FUNC)
        if not target.btf_id:
            functions = [btf.type_name(i) for i in btf if btf.kind(i) == Kind.FUNC]
            raise AttachError(
                f"{description} has no function {function or info.name!r}; "
                f"it has: {', '.join(functions)}",
                program=spec.name,
                target=function,
            )
        target.name = f"{function or info.name} of {description}"
    except BaseException:
        target.close()
        raise
    return target


def _program_fd(
    spec: ProgramSpec, loaded: Mapping[int, Program], target: AttachTarget
) -> tuple[int, str, str | None]:
    """Descriptor of the target program, its description, the function meant by default."""
    source = spec.attach_program
    if isinstance(source, ProgramSpec):
        if id(source) not in loaded:
            raise AttachError(f"its target {source.name} is not loaded", program=spec.name)
        source = loaded[id(source)]
    fd = target.own(open_by("program", source))
    if hasattr(source, "fileno"):
        # Its whole name, if we know it: the kernel keeps only 15 characters.
        name = getattr(source, "name", None)
        return fd, f"program {name or source.fileno()}", name
    return fd, f"program {'id ' * isinstance(source, int)}{source}", None
