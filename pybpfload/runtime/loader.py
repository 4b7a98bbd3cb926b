"""From a spec to file descriptors: what :meth:`ObjectSpec.load` does, in libbpf's order.

Permission, BTF of the kernel, externs, relocation, BTF of the object, maps, references, programs.
All or nothing: whatever fails, everything opened and every pin made on the way is undone.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

from pybpfload import read_btf
from pybpfload.btf import Btf, Kind
from pybpfload.btf.sanitize import is_empty, sanitize
from pybpfload.errors import (
    BpfError,
    FormatError,
    KernelError,
    NotPermittedError,
    NotSupportedError,
    RelocationError,
)
from pybpfload.isa import insn as isa
from pybpfload.isa.insn import Insn
from pybpfload.kernel import bpf, door, memlock, probe
from pybpfload.kernel import btf as kernel_btf
from pybpfload.kernel.errors import why_not_permitted
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.kernel.probe import Feature
from pybpfload.kernel.progload import load_btf, load_program
from pybpfload.kernel.token import shown
from pybpfload.kernel.version import kernel_version
from pybpfload.object.spec import ExternKind, MapKind, ObjectSpec, ProgramSpec
from pybpfload.relocate import (
    ReferenceKind,
    RelocatedProgram,
    Relocation,
    Target,
    match_struct_ops,
    relocate,
)
from pybpfload.relocate.core.patch import poison
from pybpfload.relocate.ctx_arg import CONTEXT_TAG, rewrite_context_arguments
from pybpfload.relocate.program import KFUNC_POISON, MAP_POISON
from pybpfload.runtime import externs, maps
from pybpfload.runtime.program import Program
from pybpfload.runtime.struct_ops import StructOpsMap
from pybpfload.runtime.target import AttachTarget, resolve_attach_target
from pybpfload.runtime.token import find_token
from pybpfload.uapi import AttachType, ProgType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from os import PathLike

    from pybpfload.kernel.btf import ModuleBtf
    from pybpfload.kernel.token import Token
    from pybpfload.relocate.program import Reference
    from pybpfload.runtime.map import Map

__all__ = ["Loader"]

_NATIVE = "<" if sys.byteorder == "little" else ">"

# Helper -> what stands in for it on kernels before 5.5, which do not have it.
_OLD_HELPERS = {113: 4, 112: 4, 115: 45, 114: 45}


class Loader:
    """Loads one spec once.

    Args:
        spec: The object. It is not changed.
        btf: BTF to relocate against instead of the running kernel's: a :class:`Btf` or the path of
            a file.
        kconfig: Kernel configuration text that wins over the kernel's own.
        pin_root: Folder on a bpffs for maps that are pinned by name.
        log_level: ``log_level`` of every ``BPF_PROG_LOAD``, with that of each program.
        token: As for :func:`~pybpfload.runtime.token.find_token`.

    Attributes:
        token: The BPF token that is shown with every command, or ``None``; owned by whoever takes
            the maps and programs.
        maps: The maps by name, inside :meth:`run`.
        programs: The programs by name, in the order of the file, inside :meth:`run`.
        notes: Errors of optional steps, in the order in which they were swallowed.
    """

    def __init__(
        self,
        spec: ObjectSpec,
        *,
        btf: Btf | str | PathLike[str] | None = None,
        kconfig: str | None = None,
        pin_root: str | PathLike[str] = "/sys/fs/bpf",
        log_level: int = 0,
        token: str | PathLike[str] | bool | None = None,
    ) -> None:
        self.spec = spec
        self.custom_btf = btf
        self.kconfig = kconfig
        self.pin_root = os.fspath(pin_root)
        self.log_level = log_level
        self.token: Token | None = None
        self._token_path = token
        self.maps: dict[str, Map[Any, Any]] = {}
        self.programs: dict[str, Program] = {}
        self.notes: list[BaseException] = []
        self.btf_fd = -1
        self._loaded: dict[int, Program] = {}  # by id() of the spec
        self._module_fds: dict[int, int] = {}  # by id() of the BTF
        self._jump_tables: dict[tuple[int, int], int] = {}  # by id() of the program, and offset
        self._fd_array: list[int] = []

    @contextmanager
    def run(self) -> Iterator[None]:
        """Load everything; undo it if what is done inside the ``with`` fails.

        Raises:
            NotSupportedError: The object is for another byte order, or the kernel lacks something
                it needs.
            NotPermittedError: The kernel does not let this process load BPF, or it cannot have the
                token that was asked for.
            RelocationError, VerifierError, KernelError: As they say.
        """
        if self.spec.byteorder != _NATIVE:
            theirs = "big" if self.spec.byteorder == ">" else "little"
            raise NotSupportedError(
                f"{self.spec.path} is {theirs} endian, this machine is {sys.byteorder} endian; "
                f"compile it with -target bpf{'el' if _NATIVE == '<' else 'eb'}"
            )
        door.follow_logger()
        with ExitStack() as undo:
            try:
                self.token = find_token(self._token_path, self._note)
                if self.token is not None:
                    undo.callback(self.token.close)
                with shown(self.token), ExitStack() as temporary:
                    self._run(undo, temporary)
                yield
            except BpfError as error:
                error.swallowed = (*error.swallowed, *self.notes)
                raise
            undo.pop_all()

    def _run(self, undo: ExitStack, temporary: ExitStack) -> None:
        memlock.ensure()
        if self.token is None:  # which need not delegate what is tried (libbpf 1.8)
            _check_permission()
        self._temporary = temporary
        self._target = self._make_target()
        kernel = self._kernel_target()
        self.externs = externs.resolve(self.spec, kernel, kconfig=self.kconfig)
        self.notes += self.externs.notes
        self._struct_ops = {id(value.map): value for value in match_struct_ops(self.spec, kernel)}
        relocation = relocate(self.spec, self._target, exception_callbacks=self._has_exceptions())
        self._upload_btf(relocation, temporary)
        creator = maps.Creator(
            self.spec,
            self.btf_fd,
            self.pin_root,
            self.externs.kconfig,
            undo,
            self._note,
            self._struct_ops,
            self._module_fd,
        )
        self.maps = creator.create_all()
        for program in self._in_order(relocation.programs.values()):
            self._loaded[id(program.spec)] = self._load_program(program, undo)
        self.programs = {k: self._loaded[id(p.spec)] for k, p in relocation.programs.items()}
        maps.fill_program_arrays(self.spec, self.maps, self.programs)
        for made in self.maps.values():
            if isinstance(made, StructOpsMap):
                value = self._struct_ops[id(self.spec.maps[made.name])]
                made.fill(value, self._loaded)

    def _note(self, error: BaseException) -> None:
        """Keep an error that did not stop the work, without its traceback, which holds all this."""
        self.notes.append(error.with_traceback(None))

    # BTF of the kernel

    def _make_target(self) -> Target:
        custom = self.custom_btf
        if custom is not None:
            return Target(custom if isinstance(custom, Btf) else read_btf(custom))
        if not any(function.core_relos for function in self.spec.functions):
            return Target(None)
        return self._kernel_target()

    def _kernel_target(self) -> Target:
        needed = (
            bool(self.spec.struct_ops)
            or any(e.kind != ExternKind.KCONFIG and e.is_typed for e in self.spec.externs.values())
            or (self.custom_btf is None and any(f.core_relos for f in self.spec.functions))
        )
        if not needed:
            return Target(None)
        return Target(kernel_btf.vmlinux(), lambda: [module.btf for module in self._modules()])

    def _modules(self, prefix: str = "") -> list[ModuleBtf]:
        """BTF of the kernel's modules; what had to be left out becomes a note."""
        found = kernel_btf.modules(prefix)
        for problem in kernel_btf.problems(prefix):
            if problem not in self.notes:
                self._note(problem)
        return found

    def _module_fd(self, owner: Btf) -> int:
        """File descriptor of a module's BTF, open until loading is over; 0 for vmlinux.

        Raises:
            NotPermittedError: The BTF could only be read as a file, so there is no descriptor.
        """
        if owner.base is None:
            return 0
        if id(owner) not in self._module_fds:
            module = next((m for m in kernel_btf.modules() if m.btf is owner), None)
            if module is None:
                raise RelocationError(
                    f"BTF {owner.name} is not that of a loaded module",
                    file=self.spec.path,
                    hint="load that module, or relocate against this kernel's own BTF",
                )
            what = f"BTF of module {module.name}"
            if not module.id:
                hint = "functions of kernel modules need CAP_SYS_ADMIN, which may list BTF objects"
                raise NotPermittedError(errno.EPERM, "BPF_BTF_GET_FD_BY_ID", what, hint=hint)
            fd = FileDescriptor(bpf.btf_get_fd_by_id(module.id), what)
            self._temporary.callback(fd.close)
            self._module_fds[id(owner)] = fd.fileno()
        return self._module_fds[id(owner)]

    def _has_exceptions(self) -> bool:
        """Whether the kernel may read tags that name exception callbacks (libbpf's rule)."""
        btf = self.spec.btf
        needed = btf is not None and Feature.BTF_DECL_TAG in _features_used(btf)
        return not needed or probe.has(Feature.BTF_DECL_TAG)

    # BTF of the object

    def _upload_btf(self, relocation: Relocation, temporary: ExitStack) -> None:
        btf = self.spec.btf
        if btf is None or not probe.has(Feature.BTF):
            return
        if btf.find(CONTEXT_TAG, Kind.DECL_TAG) and not probe.has(Feature.ARG_CTX_TAG):
            btf = rewrite_context_arguments(btf, relocation.programs.values())
        lacks = {feature.name for feature in _features_used(btf) if not probe.has(feature)}
        try:
            clean = sanitize(self._hide_functions(btf), lacks)
            fd = FileDescriptor(load_btf(clean.to_bytes())[0], "BTF")
        except (FormatError, KernelError) as error:
            # Programs run without BTF too, only less well described; struct_ops and what needs it
            # fails later.
            self._note(error)
            return
        temporary.callback(fd.close)
        self.btf_fd = fd.fileno()

    def _hide_functions(self, btf: Btf) -> Btf:
        """Make hidden global subprograms static: the verifier then checks them call by call."""
        hidden = {f.name for f in self.spec.subprograms if f.is_hidden}
        if not hidden:
            return btf
        from pybpfload.btf import types as t
        from pybpfload.btf.edit import BtfEditor

        editor = BtfEditor(btf)
        for name in hidden:
            for type_id in btf.find_all(name, Kind.FUNC):
                described = btf[type_id]
                if isinstance(described, t.Func) and described.linkage == 1:
                    editor.set_func_linkage(type_id, 0)
                    break
        return editor.finish()

    # Programs

    @staticmethod
    def _in_order(programs: Iterable[RelocatedProgram]) -> list[RelocatedProgram]:
        """Programs in the order of the file, but those attached to another one behind that."""
        waiting = list(programs)
        done: set[int] = set()
        ordered = []
        while waiting:
            ready: list[RelocatedProgram] = []
            later: list[RelocatedProgram] = []
            for program in waiting:
                behind = program.spec.attach_program
                is_ready = not isinstance(behind, ProgramSpec) or id(behind) in done
                (ready if is_ready else later).append(program)
            if not ready:
                names = ", ".join(program.name for program in waiting)
                raise BpfError(
                    f"programs {names} are to be attached to programs that are not loaded with "
                    "them; set autoload of those"
                )
            ordered += ready
            done.update(id(program.spec) for program in ready)
            waiting = later
        return ordered

    def _load_program(self, program: RelocatedProgram, undo: ExitStack) -> Program:
        spec = program.spec
        if spec.prog_type == ProgType.UNSPEC:
            raise BpfError(
                f"program {spec.name}: section {spec.section!r} names no program type; "
                "set its prog_type, or autoload = False"
            )
        insns = self._final_code(program)
        attach_type: int = spec.expected_attach_type
        if spec.sec is not None:
            if spec.sec.attach_type_optional and not probe.has(Feature.EXP_ATTACH_TYPE):
                attach_type = AttachType(0)
            if spec.sec.usdt and probe.has(Feature.UPROBE_MULTI_LINK):
                attach_type = AttachType.TRACE_UPROBE_MULTI
        info = self._debug_info(program)
        if spec.prog_type == ProgType.STRUCT_OPS:
            target, attach_type = self._struct_ops_target(spec)
        else:
            target = resolve_attach_target(spec, self._loaded, self._modules, self._module_fd)
        with closing(target):
            fd, log = load_program(
                spec.prog_type,
                isa.encode(insns, self.spec.byteorder),  # type: ignore[arg-type]
                self.spec.license,
                name=spec.name,
                expected_attach_type=attach_type,
                prog_flags=spec.flags,
                kern_version=self.spec.kernel_version or kernel_version(),
                prog_ifindex=spec.ifindex,
                attach_btf_id=target.btf_id,
                attach_prog_fd=target.prog_fd,
                attach_btf_obj_fd=target.btf_fd,
                fd_array=self._fd_array,
                log_level=spec.log_level | self.log_level,
                poisons=program.poisons,
                **info,
            )
        owner = FileDescriptor(fd, f"program {spec.name}")
        loaded = Program(owner, spec, target=target, log=log, maps=self.maps, token=self.token)
        undo.callback(loaded.close)
        self._bind_rodata(loaded)
        return loaded

    def _struct_ops_target(self, spec: ProgramSpec) -> tuple[AttachTarget, int]:
        """The kernel's struct that a program is for, and which of its members."""
        for value in self._struct_ops.values():
            for member in value.members:
                if member.program is spec:
                    struct = value.btf.type_name(member.type_id)
                    target = AttachTarget(f"struct {struct}", member.type_id)
                    target.btf_fd = self._module_fd(value.btf)
                    return target, member.index
        raise BpfError(
            f"program {spec.name}: no struct_ops map that is created names it; "
            "set autoload = False, or autocreate of its map"
        )

    def _debug_info(self, program: RelocatedProgram) -> dict[str, Any]:
        if self.btf_fd < 0 or not probe.has(Feature.BTF_FUNC):
            return {}
        info: dict[str, Any] = {"prog_btf_fd": self.btf_fd}
        if program.func_info is not None:
            info["func_info"] = program.func_info.tobytes()
            info["func_info_rec_size"] = program.func_info_rec_size
        if program.line_info is not None:
            info["line_info"] = program.line_info.tobytes()
            info["line_info_rec_size"] = program.line_info_rec_size
        return info

    def _bind_rodata(self, program: Program) -> None:
        """Tie read-only data to the program, so that tools find it where no instruction does."""
        for name, map_spec in self.spec.maps.items():
            if (
                map_spec.kind == MapKind.RODATA
                and name in self.maps
                and probe.has(Feature.PROG_BIND_MAP)
            ):
                try:
                    bpf.prog_bind_map(program.fileno(), self.maps[name].fileno())
                except KernelError as error:
                    self._note(error)

    # References

    def _final_code(self, program: RelocatedProgram) -> list[Insn]:
        insns = list(program.insns)
        for reference in program.references:
            at = reference.insn
            if reference.kind == ReferenceKind.MAP:
                self._fill_map(program, insns, at, reference.name)
            elif reference.kind == ReferenceKind.MAP_VALUE:
                offset = reference.addend + maps.data_offset(self.spec.maps[reference.name])
                insns[at + 1] = insns[at + 1]._replace(imm=isa.to_s32(offset))
                self._fill_map(program, insns, at, reference.name)
            elif reference.kind == ReferenceKind.KCONFIG:
                kconfig = next(n for n, m in self.spec.maps.items() if m.kind == MapKind.KCONFIG)
                self._fill_map(program, insns, at, kconfig)
            elif reference.kind == ReferenceKind.JUMP_TABLE:
                fd = self._jump_table_fd(program, reference.addend)
                insns[at] = insns[at]._replace(imm=fd)
            else:
                self._fill_symbol(program, insns, reference)
        if probe.probe(Feature.PROBE_READ_KERN)[0] is False:
            for i, insn in enumerate(insns):
                if (
                    insn.code == isa.CALL
                    and not insn.src
                    and not insn.dst
                    and insn.imm in _OLD_HELPERS
                ):
                    insns[i] = insn._replace(imm=_OLD_HELPERS[insn.imm])
        return insns

    def _fill_map(self, program: RelocatedProgram, insns: list[Insn], at: int, name: str) -> None:
        found = self.maps.get(name)
        if found is not None:
            insns[at] = insns[at]._replace(imm=found.fileno())
            return
        # A kernel without global variables; the program may do without if this code is dead.
        poison(insns, at, MAP_POISON + list(self.spec.maps).index(name))
        program.poisons[at] = f"map {name} was not created"

    def _jump_table_fd(self, program: RelocatedProgram, offset: int) -> int:
        """Map with a jump table of a program, made once and open until loading is over."""
        place = id(program), offset
        if place not in self._jump_tables:
            self._jump_tables[place] = maps.create_jump_table(
                program.name, program.jump_tables[offset], self._temporary
            )
        return self._jump_tables[place]

    def _fill_symbol(
        self, program: RelocatedProgram, insns: list[Insn], reference: Reference
    ) -> None:
        at = reference.insn
        symbol = self.externs.symbols.get(reference.name)
        is_call = insns[at].code == isa.CALL
        if is_call:
            if symbol is None:
                number = KFUNC_POISON + list(self.spec.externs).index(reference.name)
                insns[at] = Insn(isa.CALL, imm=number)
                program.poisons[at] = f"kfunc {reference.name} is not in this kernel"
                return
            assert symbol.btf is not None
            insns[at] = insns[at]._replace(imm=symbol.type_id, off=self._fd_index(symbol.btf))
            return
        low, high, src = 0, 0, 0
        if symbol is not None and symbol.btf is not None:
            low, high, src = symbol.type_id, self._module_fd(symbol.btf), isa.PSEUDO_BTF_ID
        elif symbol is not None:
            low, high = isa.to_s32(symbol.address), isa.to_s32(symbol.address >> 32)
        insns[at] = insns[at]._replace(src=src, imm=low)
        insns[at + 1] = insns[at + 1]._replace(imm=high)

    def _fd_index(self, owner: Btf) -> int:
        """Place of a module's BTF in ``fd_array``; 0 stands for vmlinux."""
        fd = self._module_fd(owner)
        if not fd:
            return 0
        if not self._fd_array:
            self._fd_array.append(0)
        if fd not in self._fd_array:
            self._fd_array.append(fd)
        return self._fd_array.index(fd)


# What of BTF came later -> the kinds of types that are concerned.
_BTF_FEATURES = {
    Feature.BTF_FUNC: {Kind.FUNC, Kind.FUNC_PROTO},
    Feature.BTF_GLOBAL_FUNC: {Kind.FUNC},
    Feature.BTF_DATASEC: {Kind.VAR, Kind.DATASEC},
    Feature.BTF_QMARK_DATASEC: {Kind.DATASEC},
    Feature.BTF_FLOAT: {Kind.FLOAT},
    Feature.BTF_DECL_TAG: {Kind.DECL_TAG},
    Feature.BTF_TYPE_TAG: {Kind.TYPE_TAG},
    Feature.BTF_ENUM64: {Kind.ENUM, Kind.ENUM64},
}


def _features_used(btf: Btf) -> list[Feature]:
    """Features that BTF may need, so that no other is probed."""
    kinds = {btf.kind(type_id) for type_id in btf.own_ids()}
    used = [feature for feature, concerned in _BTF_FEATURES.items() if kinds & concerned]
    if Kind.DATASEC in kinds and any(is_empty(btf, type_id) for type_id in btf.own_ids()):
        used.append(Feature.BTF_EMPTY_DATASEC)
    if btf.has_layout:
        used.append(Feature.BTF_LAYOUT)
    return used


def _check_permission() -> None:
    """Load a program that does nothing: a missing privilege shows here, not as a riddle."""
    code = isa.encode([isa.mov64_imm(0, 0), isa.exit_()], _NATIVE)  # type: ignore[arg-type]
    try:
        fd = bpf.prog_load(ProgType.SOCKET_FILTER, code, "GPL")
    except KernelError:
        fd = -1
    if fd < 0:  # outside of the handler, so that the first failure is no context of the second
        try:
            fd = bpf.prog_load(ProgType.TRACEPOINT, code, "GPL", kern_version=kernel_version())
        except KernelError as error:
            error.target = "a trial program"
            if error.errno == errno.EPERM:  # what the object needs, not what was tried
                error.hint = why_not_permitted(errno.EPERM, error.operation)
            raise
    FileDescriptor(fd, "probe").close()
