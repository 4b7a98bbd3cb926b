"""What an object file says, as plain values to inspect, edit and copy before loading.

Nothing here knows of a kernel. ``ObjectSpec.load()`` is the bridge: it imports the runtime when it
is called.
"""

from __future__ import annotations

import copy as _copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pybpfload.errors import BpfError, FormatError
from pybpfload.object.named import Named, Numbered
from pybpfload.object.variables import SectionVariables, VariableSpec
from pybpfload.uapi import AttachType, MapFlag, MapType, ProgType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from os import PathLike

    from pybpfload.btf import Btf, BtfExt
    from pybpfload.btf.classes import TypeClasses
    from pybpfload.btf.ext import CoreRelo
    from pybpfload.isa.insn import Insn
    from pybpfload.object.sections import SecDef
    from pybpfload.relocate import Relocation, Target
    from pybpfload.runtime.object import Object

__all__ = [
    "ExternKind",
    "ExternSpec",
    "MapKind",
    "MapSpec",
    "Named",
    "ObjectSpec",
    "ProgramSpec",
    "Reloc",
    "RelocKind",
    "SectionVariables",
    "VariableSpec",
]

_NO_ATTACH_TYPE = AttachType(0)  # the kernel has no "none"; 0 is what it wants to see


class RelocKind:
    """What an instruction refers to, numbered in the order of libbpf's ``enum reloc_type``."""

    MAP = 0
    CALL = 1
    MAP_VALUE = 2
    EXTERN = 3
    EXTERN_CALL = 4
    FUNCTION = 5
    JUMP_TABLE = 7


class Reloc(NamedTuple):
    """A reference of one instruction.

    Attributes:
        insn: Index of the instruction in its function.
        kind: One of :class:`RelocKind`.
        index: Index of the map in :attr:`ObjectSpec.maps`, or of the extern in
            :attr:`ObjectSpec.externs`; -1 if neither.
        sym_off: Value of the ELF symbol: byte offset in its section.
        size: Size of the ELF symbol in bytes.
    """

    insn: int
    kind: int
    index: int = -1  # type: ignore[assignment]  # not the method of tuple
    sym_off: int = 0
    size: int = 0


@dataclass(slots=True, eq=False)
class ProgramSpec:
    """One function of an object: an entry program, or a subprogram of ``.text``.

    Attributes:
        name: Name of the function. The kernel keeps its first 15 characters.
        section: ELF section without a leading ``?``.
        insns: Instructions as they are in the file.
        prog_type: Program type; by the section name, ``UNSPEC`` when that says nothing.
        expected_attach_type: As ``prog_type``.
        flags: ``BPF_F_*`` program flags, those of the section name included.
        autoload: Whether :meth:`ObjectSpec.load` loads it. False for ``?`` sections.
        autoattach: Whether :meth:`Object.attach` attaches it.
        attach_program: Program (anything with ``fileno()``, a :class:`ProgramSpec` of the same
            object, an id or a pin path) whose function this one is attached to, instead of a
            kernel function; see :meth:`set_attach_target`.
        attach_function: Name of the function to attach to, instead of what the section says.
        sec: The row of the SEC() table, ``None`` when the section is not in it.
        is_subprogram: Lives in ``.text``: never loaded by itself, appended to the programs that
            call it.
        log_level: ``log_level`` of ``BPF_PROG_LOAD``: 1 basic, 2 verbose, 4 statistics.
        ifindex: Network interface that the program is offloaded or bound to, 0 for none.
        is_global, is_hidden: Linkage and visibility of its ELF symbol.
        section_index, section_name, start: Where it is in the file: index and whole name (``?``
            included) of its section, index of its first instruction there.
        relocs: References of its instructions, in order.
        core_relos: CO-RE relocations as ``(serial, instruction index, record)``.
    """

    name: str
    section: str
    insns: list[Insn]
    prog_type: ProgType = ProgType.UNSPEC
    expected_attach_type: AttachType = _NO_ATTACH_TYPE
    flags: int = 0
    autoload: bool = True
    autoattach: bool = True
    attach_program: Any = None
    attach_function: str | None = None
    sec: SecDef | None = None
    is_subprogram: bool = False
    is_global: bool = True
    is_hidden: bool = False
    log_level: int = 0
    ifindex: int = 0
    section_index: int = 0
    section_name: str = ""
    start: int = 0
    relocs: list[Reloc] = field(default_factory=list)
    core_relos: list[tuple[int, int, CoreRelo]] = field(default_factory=list)

    @property
    def attach_to(self) -> str | None:
        """Target by the section name: ``vfs_unlink`` of ``fentry/vfs_unlink``."""
        if self.attach_function is not None:
            return self.attach_function
        _, slash, rest = self.section.partition("/")
        return rest if slash and self.sec is not None and self.sec.extended else None

    def set_attach_target(self, program: Any = None, function: str | None = None) -> None:
        """Choose what a fentry, fexit, fmod_ret or freplace program is attached to.

        Args:
            program: A BPF program: a loaded one (:class:`pybpfload.Program`, anything with
                ``fileno()``), a :class:`ProgramSpec` of the same object, an id (``int``), or the
                path of a pin. ``None`` for a kernel function.
            function: Name of the function; ``None`` keeps the one in the section name. Of a kernel
                module: ``"module:function"``.

        Raises:
            BpfError: Neither was given, or ``program`` is a name instead of a path.
        """
        if program is None and function is None:
            raise BpfError(f"program {self.name}: give a program, a function, or both")
        if isinstance(program, str) and "/" not in program:
            raise BpfError(
                f"program {self.name}: {program!r} is not the path of a pinned program; "
                f"a kernel function is given as function={program!r}"
            )
        self.attach_program = program
        if function is not None:
            self.attach_function = function

    def __repr__(self) -> str:
        return f"<ProgramSpec {self.name} SEC({self.section!r}) {len(self.insns)} insns>"


class MapKind:
    """Where a map comes from."""

    USER = "map"
    DATA = "data"
    RODATA = "rodata"
    BSS = "bss"
    KCONFIG = "kconfig"
    STRUCT_OPS = "struct_ops"


@dataclass(slots=True, eq=False)
class MapSpec:
    """Definition of a map.

    Attributes:
        name: Name for people and for the kernel, which keeps its first 15 characters.
        type: Map type.
        key_size, value_size: In bytes; 0 where the type wants none.
        max_entries: Entries; for ring buffers the size in bytes.
        flags: ``BPF_F_*`` map flags (:class:`pybpfload.uapi.MapFlag`).
        numa_node, map_extra, ifindex: As in ``bpf_attr``.
        pinning: 0 none, 1 by name (``LIBBPF_PIN_BY_NAME``).
        pin_path: Where it is pinned and reused from; set by ``pinning`` at load when ``None``.
        key_type_id, value_type_id: In the object's BTF, 0 when unknown.
        inner: Definition of the inner maps of an array or hash of maps.
        values: Declared initial content: names of maps or programs by slot, ``None`` for an empty
            slot.
        kind: One of :class:`MapKind`; all but ``USER`` are made from a section of the object.
        section: ELF section it comes from.
        offset: Of its definition in that section, in bytes.
        contents: Initial bytes of a map made from a data section, editable until loading;
            ``None`` for all other maps and for ``.kconfig``, whose values the kernel decides.
        autocreate: Whether loading creates it.
        autoattach: For struct_ops: whether :meth:`Object.attach` registers it.
        reuse: An existing map to use instead: anything with ``fileno()``, an id, or the path of a
            pin.
    """

    name: str
    type: MapType = MapType.UNSPEC
    key_size: int = 0
    value_size: int = 0
    max_entries: int = 0
    flags: int = 0
    numa_node: int = 0
    map_extra: int = 0
    ifindex: int = 0
    pinning: int = 0
    pin_path: str | None = None
    key_type_id: int = 0
    value_type_id: int = 0
    inner: MapSpec | None = None
    values: list[str | None] = field(default_factory=list)
    kind: str = MapKind.USER
    section: str = ".maps"
    offset: int = 0
    autocreate: bool = True
    autoattach: bool = True
    reuse: Any = None
    _contents: bytearray | None = field(default=None, repr=False)

    @property
    def contents(self) -> bytearray | None:
        """Initial bytes; see above."""
        if self._contents is None and self.kind == MapKind.BSS:
            # Made on demand: the size comes from a header, nothing in the file backs it.
            self._contents = bytearray(self.value_size)
        return self._contents

    @contents.setter
    def contents(self, contents: bytearray | None) -> None:
        self._contents = contents

    @property
    def is_untouched(self) -> bool:
        """Whether it is a ``.bss`` whose contents nobody has asked for yet: all zeros."""
        return self._contents is None and self.kind == MapKind.BSS

    @property
    def is_internal(self) -> bool:
        """Made from a data section rather than defined in ``.maps``."""
        return self.kind in (MapKind.DATA, MapKind.RODATA, MapKind.BSS, MapKind.KCONFIG)

    @property
    def is_read_only(self) -> bool:
        """Frozen at load: ``.rodata*`` and ``.kconfig``."""
        return self.kind in (MapKind.RODATA, MapKind.KCONFIG)

    def __repr__(self) -> str:
        flags = f" {MapFlag(self.flags)!r}" if self.flags else ""
        return (
            f"<MapSpec {self.name} {MapType(self.type).name} key {self.key_size} "
            f"value {self.value_size} entries {self.max_entries}{flags}>"
        )


class ExternKind:
    """Where an extern is found."""

    KCONFIG = "kconfig"
    KSYM = "ksym"
    KFUNC = "kfunc"


@dataclass(slots=True, eq=False)
class ExternSpec:
    """Something that only a running kernel can provide.

    Attributes:
        name: As declared, flavor included.
        kind: ``kconfig``, ``ksym`` (a kernel variable) or ``kfunc`` (a kernel function).
        weak: May be missing.
        btf_id: Its VAR or FUNC in the object's BTF.
        type_id: Its type without modifiers and typedefs; 0 for a typeless ksym.
        size, align: In bytes, of a kconfig value.
        kconfig_type: ``bool``, ``char``, ``int``, ``tristate`` or ``string``.
        signed: Of a kconfig integer.
        offset: Of a kconfig value in the ``.kconfig`` map, in bytes.
        symbol: Index of its ELF symbol.
    """

    name: str
    kind: str
    weak: bool
    btf_id: int
    type_id: int = 0
    size: int = 0
    align: int = 0
    kconfig_type: str = ""
    signed: bool = False
    offset: int = 0
    symbol: int = 0

    @property
    def is_typed(self) -> bool:
        """Whether it has a type to be checked against the kernel's."""
        return self.type_id != 0


@dataclass(slots=True, eq=False)
class ObjectSpec:
    """An object file, parsed: what :func:`pybpfload.open` returns.

    Attributes:
        name: Object name: at most 15 characters of the file's name up to its first dot.
        path: Where it came from, for messages.
        byteorder: ``"<"`` or ``">"``.
        license: Text of the ``license`` section, ``""`` when there is none.
        kernel_version: Content of the ``version`` section, or ``None``.
        functions: All functions in the order of the file, subprograms included.
        programs: Entry programs by name.
        maps: Maps by name: those of ``.maps``, then data sections, ``.kconfig``, struct_ops. One
            that is not wanted is not taken out but has its ``autocreate`` set to False.
        variables: Global variables by name.
        externs: Externs by name; kconfig first, then ksyms and kfuncs.
        btf: BTF of the object, or ``None``.
        btf_ext: Function info, line info and CO-RE relocations, or ``None``.
        jump_tables: Content of ``.jumptables``.
        struct_ops: struct_ops variables (:class:`pybpfload.object.struct_ops.StructOpsSpec`).
        section_indexes: Index of the first ELF section of each name.
        notes: Things that were ignored, in words.
    """

    name: str
    path: str
    byteorder: str
    license: str = ""
    kernel_version: int | None = None
    functions: list[ProgramSpec] = field(default_factory=list)
    programs: Named[ProgramSpec] = field(default_factory=lambda: Named("program"))
    maps: Named[MapSpec] = field(default_factory=lambda: Numbered("map"))
    variables: Named[VariableSpec] = field(default_factory=lambda: Named("variable"))
    externs: Named[ExternSpec] = field(default_factory=lambda: Numbered("extern"))
    btf: Btf | None = None
    btf_ext: BtfExt | None = None
    jump_tables: bytes = b""
    struct_ops: list[Any] = field(default_factory=list)
    section_indexes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<ObjectSpec {self.name}: {len(self.programs)} programs, {len(self.maps)} maps>"

    def _repr_html_(self) -> str:
        from importlib import import_module  # the room of commands is above this one

        return str(import_module("pybpfload.cli.notebook").spec(self))

    def __iter__(self) -> Iterator[ProgramSpec]:
        return iter(self.programs.values())

    @property
    def subprograms(self) -> list[ProgramSpec]:
        """Functions of ``.text``."""
        return [function for function in self.functions if function.is_subprogram]

    @property
    def loaded_programs(self) -> dict[str, ProgramSpec]:
        """Programs that loading the object loads, by name: those with ``autoload`` on.

        Of struct_ops programs that maps name or named in the file, those are loaded that a map with
        ``autocreate`` on names now, whatever their own switch says (libbpf
        ``bpf_map__init_kern_struct_ops``, ``bpf_object_adjust_struct_ops_autoload``).
        """
        wanted: dict[int, bool] = {}
        for each in self.struct_ops:
            for program in each.declared:
                wanted.setdefault(id(program), False)
            for program in each.programs.values():
                if program is not None:
                    wanted[id(program)] = wanted.get(id(program), False) or each.map.autocreate
        return {
            key: program
            for key, program in self.programs.items()
            if wanted.get(id(program), program.autoload)
        }

    @property
    def types(self) -> TypeClasses:
        """C types of the object as Python classes: ``spec.types["event"]``."""
        from pybpfload.btf.classes import TypeClasses

        return TypeClasses(self.btf)

    @property
    def rodata(self) -> SectionVariables:
        """Variables of ``.rodata`` as attributes."""
        return self.section_variables(".rodata")

    @property
    def data(self) -> SectionVariables:
        """Variables of ``.data`` as attributes."""
        return self.section_variables(".data")

    @property
    def bss(self) -> SectionVariables:
        """Variables of ``.bss`` as attributes."""
        return self.section_variables(".bss")

    def section_variables(self, section: str) -> SectionVariables:
        """Return the variables of any data section as attributes."""
        return SectionVariables(
            section, {n: v for n, v in self.variables.items() if v.section == section}
        )

    def copy(self) -> ObjectSpec:
        """Return an independent copy.

        Shared are the BTF, which does not change, and what is loaded and only named here
        (:attr:`ProgramSpec.attach_program`, :attr:`MapSpec.reuse`).
        """
        loaded = [p.attach_program for p in self.functions] + [m.reuse for m in self.maps.values()]
        memo = {id(one): one for one in loaded if not isinstance(one, ProgramSpec)}
        return _copy.deepcopy(self, memo)

    def relocate(
        self,
        target: Target | Btf | None = None,
        *,
        modules: Iterable[Btf] = (),
        everything: bool = False,
    ) -> Relocation:
        """Relocate against the types of a kernel, without asking any kernel; nothing here changes.

        Args:
            target: BTF of the kernel, or a :class:`pybpfload.Target`. Objects without CO-RE
                relocations need none.
            modules: BTFs of modules, searched for types that ``target`` does not have.
            everything: Do all programs, not only :attr:`loaded_programs`.

        Returns:
            The final instructions of every program, with symbolic references, and every CO-RE
            decision.

        Raises:
            RelocationError: Something cannot be resolved or patched.
        """
        from importlib import import_module

        # Relocation is above this room, as the runtime is.
        made: Relocation = import_module("pybpfload.relocate").relocate(
            self, target, modules=modules, everything=everything
        )
        return made

    def load(
        self,
        *,
        btf: Btf | str | PathLike[str] | None = None,
        kconfig: str | None = None,
        pin_root: str | PathLike[str] = "/sys/fs/bpf",
        log_level: int = 0,
        token: str | PathLike[str] | bool | None = None,
    ) -> Object:
        """Load into the running kernel; see :func:`pybpfload.load` for arguments and errors.

        Returns:
            The loaded object, which no longer depends on this spec.
        """
        from importlib import import_module

        # The runtime is above this room; importing it by name keeps the pure half free of it.
        loaded: Object = import_module("pybpfload.runtime").load_object(
            self, btf=btf, kconfig=kconfig, pin_root=pin_root, log_level=log_level, token=token
        )
        return loaded

    def require_btf(self, why: str) -> Btf:
        """Return the BTF or say what needs it.

        Raises:
            FormatError: The object has none.
        """
        if self.btf is None:
            raise FormatError(
                f"the object has no BTF, which {why} needs", file=self.path, hint="compile with -g"
            )
        return self.btf
