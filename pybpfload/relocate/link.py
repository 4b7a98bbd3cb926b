"""Appending the subprograms that a program needs, and their function and line info.

A program becomes itself, then its subprograms in the order of their first use, depth first (libbpf
``bpf_object__reloc_code``). Calls are rewritten to where their targets ended up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pybpfload.btf import types as t
from pybpfload.isa import insn as isa
from pybpfload.object.functions import Finder
from pybpfload.object.spec import ObjectSpec, ProgramSpec, Reloc, RelocKind
from pybpfload.relocate.failure import DAMAGED, at_function
from pybpfload.relocate.info import InfoTable

if TYPE_CHECKING:
    from array import array

    from pybpfload.btf import Btf
    from pybpfload.errors import RelocationError
    from pybpfload.isa.insn import Insn

__all__ = ["Linked", "Linker"]

_EXCEPTION_TAG = "exception_callback:"

# Each program has copies of its subprograms; a small file could ask for any number.
LINKED_LIMIT = 1 << 22
_COPY_COST = 128  # what a copy costs besides its instructions, in their unit


@dataclass(slots=True)
class Linked:
    """A program with its subprograms; :class:`RelocatedProgram` explains the fields."""

    insns: list[Insn]
    functions: list[tuple[ProgramSpec, int]]
    relocs: list[Reloc] = field(default_factory=list)
    func_info: array[int] | None = None
    line_info: array[int] | None = None
    func_info_rec_size: int = 0
    line_info_rec_size: int = 0


class Linker:
    """Links the programs of one object.

    Args:
        spec: The object.
        code: Instructions of each function, CO-RE applied, by ``id()`` of its spec. They are not
            changed.
        exception_callbacks: Append what ``exception_callback:`` tags name.
    """

    def __init__(
        self,
        spec: ObjectSpec,
        code: dict[int, list[Insn]],
        *,
        exception_callbacks: bool = True,
    ) -> None:
        self._spec = spec
        self._code = code
        self._finder = Finder(f for f in spec.functions if f.is_subprogram)
        self._text = next((f.section_index for f in spec.functions if f.is_subprogram), -1)
        self._budget = max(LINKED_LIMIT, 64 * sum(map(len, code.values())))
        self._exception_tags = _exception_tags(spec.btf) if exception_callbacks else []
        self._relocs: dict[int, dict[int, Reloc]] = {}
        self._sites: dict[int, list[int]] = {}
        self._info: dict[str, InfoTable] = {}
        if spec.btf_ext is not None:
            self._info["func_info"] = InfoTable(spec, spec.btf_ext.func_info)
            self._info["line_info"] = InfoTable(spec, spec.btf_ext.line_info)

    def link(self, main: ProgramSpec) -> Linked:
        """Link one program.

        Raises:
            RelocationError: It calls something that is not a function of ``.text``, or a subprogram
                lacks the function or line info that the program has.
        """
        linked = Linked(list(self._code[id(main)]), [(main, 0)])
        self._append_info(linked, main, 0)
        linked.relocs.extend(main.relocs)
        positions: dict[int, int] = {}
        self._walk(linked, main, 0, positions)
        callback = self._exception_callback(main)
        if callback is not None and id(callback) not in positions:
            self._append(linked, callback, positions)
            self._walk(linked, callback, positions[id(callback)], positions)
        linked.relocs.sort(key=lambda reloc: (reloc.insn, reloc.kind))
        return linked

    def _walk(
        self, linked: Linked, first: ProgramSpec, start: int, positions: dict[int, int]
    ) -> None:
        # An explicit stack instead of recursion: call chains in a file can be as deep as it has
        # functions.
        stack = [(first, start, 0)]
        while stack:
            function, position, at = stack.pop()
            relocs, calls = self._first_relocs(function), self._calls(function)
            for number in range(at, len(calls)):
                index = calls[number]
                insn = linked.insns[position + index]
                found = relocs.get(index)
                if found is not None and found.kind == RelocKind.EXTERN_CALL:
                    continue
                target = self._target(function, index, insn, found, insn.code == isa.CALL)
                if id(target) not in positions:
                    self._append(linked, target, positions)
                    # Come back to this instruction once the callee and all that it calls are in
                    # place.
                    stack.append((function, position, number))
                    stack.append((target, positions[id(target)], 0))
                    break
                offset = positions[id(target)] - (position + index) - 1
                linked.insns[position + index] = insn._replace(imm=offset)

    def _calls(self, function: ProgramSpec) -> list[int]:
        """Return where a function calls or takes the address of another; its copies are many."""
        found = self._sites.get(id(function))
        if found is None:
            found = self._sites[id(function)] = []
            for index, insn in enumerate(self._code[id(function)]):
                if insn.code == isa.CALL:
                    if insn.src == isa.PSEUDO_CALL and not insn.dst and not insn.off:
                        found.append(index)
                elif insn.code == isa.LDIMM64 and insn.src == isa.PSEUDO_FUNC:
                    found.append(index)
        return found

    def _first_relocs(self, function: ProgramSpec) -> dict[int, Reloc]:
        """Return the relocation of each instruction that has one, the first if there are more."""
        found = self._relocs.get(id(function))
        if found is None:
            found = {reloc.insn: reloc for reloc in reversed(function.relocs)}
            self._relocs[id(function)] = found
        return found

    def _target(
        self, function: ProgramSpec, index: int, insn: Insn, reloc: Reloc | None, is_call: bool
    ) -> ProgramSpec:
        if reloc is not None and reloc.kind not in (RelocKind.CALL, RelocKind.FUNCTION):
            raise self._error(
                function, index, "call with a reference to something that is not a function"
            )
        if reloc is None and not is_call:
            raise self._error(function, index, "address of a function without a relocation")
        if reloc is None:
            # Within one section, clang resolves calls itself: they are relative to the next
            # instruction.
            wanted = function.start + index + insn.imm + 1
        elif is_call:
            wanted = reloc.sym_off // 8 + insn.imm + 1
        else:
            wanted = (reloc.sym_off + insn.imm) // 8
        found = self._finder.by_index(self._text, wanted)
        if found is None:
            raise self._error(function, index, f"no function of .text holds instruction {wanted}")
        return found[0]  # a call into the middle goes to the start, as libbpf has it

    def _append(self, linked: Linked, function: ProgramSpec, positions: dict[int, int]) -> None:
        self._budget -= len(function.insns) + _COPY_COST
        if self._budget < 0:
            raise at_function(
                linked.functions[0][0],
                None,
                f"the programs have more than {LINKED_LIMIT} instructions in all, or more than "
                f"{LINKED_LIMIT // _COPY_COST} copies of subprograms",
                file=self._spec.path,
                hint="switch programs off that are not needed (autoload = False)",
            )
        position = positions[id(function)] = len(linked.insns)
        linked.insns.extend(self._code[id(function)])
        linked.functions.append((function, position))
        linked.relocs.extend(
            reloc._replace(insn=reloc.insn + position) for reloc in function.relocs
        )
        self._append_info(linked, function, position)

    def _error(self, function: ProgramSpec, index: int, message: str) -> RelocationError:
        return at_function(function, index, message, file=self._spec.path, hint=DAMAGED)

    # Function and line info

    def _append_info(self, linked: Linked, function: ProgramSpec, position: int) -> None:
        for label, table in self._info.items():
            so_far: array[int] | None = getattr(linked, label)
            if position and so_far is None:
                continue  # the program itself has none
            records = table.records(function, position)
            if records is None:
                if position:
                    raise at_function(
                        linked.functions[0][0],
                        None,
                        f"{label} is missing for subprogram {function.name}; the program has it",
                        file=self._spec.path,
                        symbol=function.name,
                        hint="compile all files with -g, or none",
                    )
            elif so_far is None:
                setattr(linked, label, records)
                setattr(linked, f"{label}_rec_size", table.rec_size)
            else:
                so_far.extend(records)

    # Exception callbacks

    def _exception_callback(self, main: ProgramSpec) -> ProgramSpec | None:
        """Find the function that an ``exception_callback:`` tag names for this program (6.7)."""
        btf = self._spec.btf
        if btf is None:
            return None
        found: ProgramSpec | None = None
        for tag in self._exception_tags:
            function = btf[tag.type]
            if not isinstance(function, t.Func) or function.linkage != 1:
                raise at_function(
                    main,
                    None,
                    "exception callback tag on something that is not a global function",
                    file=self._spec.path,
                    symbol=btf.type_name(tag.type),
                    hint="remove __exception_cb() from it, or static",
                )
            if function.name != main.name:
                continue
            if found is not None:
                return None  # two callbacks: the verifier complains
            name = tag.name.removeprefix(_EXCEPTION_TAG)
            found = next((f for f in self._spec.subprograms if f.name == name and name), None)
            if found is None or not found.is_global or found.is_hidden:
                raise at_function(
                    main,
                    None,
                    f"exception callback {name!r} is not a global function of .text",
                    file=self._spec.path,
                    symbol=name or None,
                    hint="define it without static, SEC() and hidden visibility",
                )
        return found


def _exception_tags(btf: Btf | None) -> list[t.DeclTag]:
    tags = []
    for type_id in btf if btf is not None else ():
        assert btf is not None
        if btf.kind(type_id) == t.Kind.DECL_TAG:
            tag = btf[type_id]
            assert isinstance(tag, t.DeclTag)
            if tag.component == -1 and tag.name.startswith(_EXCEPTION_TAG):
                tags.append(tag)
    return tags
