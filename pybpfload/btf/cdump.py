"""C headers made from BTF, such as ``vmlinux.h``: every type defined before it is needed.

:func:`dump_c` writes what clang reads back with the same layout when it compiles for BPF:

* A definition follows those of all types that it contains; what it only points to is declared. The
  order is found by a walk with a stack of its own, as types may nest as deep as a file says.
* Tags (of structs, unions and enums) and identifiers (of typedefs and enumerators) are two name
  spaces, and in each a second use of a name becomes ``NAME___2``, which CO-RE takes for the same
  name. What is no identifier of C gets underscores.
* BTF has offsets, C has alignment. Each definition is laid out as clang does it: where C would come
  to another offset, bit fields without name fill the gap, and where it could not come to the offset
  at all the struct is packed.
* Types without a name are written out where they are used.
* Functions that the kernel lets programs call (kfuncs) have prototypes at the end, which the macro
  ``BPF_NO_KFUNC_PROTOTYPES`` hides from programs that have their own.

The names are libbpf's (``btf_dump.c``); the order, and the layout of unions that are larger than
their members, are not. Other functions and variables are left out.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, TypeAlias

from pybpfload.btf import types as t
from pybpfload.btf.bulk import Bulk, identifier
from pybpfload.btf.cdecl import Declarer, room_for
from pybpfload.btf.placing import Placing
from pybpfload.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pybpfload.btf.bulk import Member
    from pybpfload.btf.table import Btf

__all__ = ["CHeader", "dump_c"]

_HEAD = """\
#ifndef __VMLINUX_H__
#define __VMLINUX_H__

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)
#endif

"""
_TAIL = """\
#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif

#endif /* __VMLINUX_H__ */
"""

_WORDS_OF_C = frozenset({
    "char", "short", "int", "long", "signed", "unsigned", "float", "double", "void", "bool",
    "_Bool", "_Complex", "__int128", "_Float16", "_Float32", "_Float64", "_Float128", "__float128",
})  # fmt: skip
_KFUNCS_HEAD = """\
#ifndef BPF_NO_KFUNC_PROTOTYPES
#ifndef __ksym
#define __ksym __attribute__((section(".ksyms")))
#endif
#ifndef __weak
#define __weak __attribute__((weak))
#endif
#ifndef __bpf_fastcall
#if __has_attribute(bpf_fastcall)
#define __bpf_fastcall __attribute__((bpf_fastcall))
#else
#define __bpf_fastcall
#endif
#endif

"""
_KFUNCS_TAIL = """\
#endif /* BPF_NO_KFUNC_PROTOTYPES */

"""
_BUILTIN = "__builtin_va_list"  # the compiler's own; that of the kernel's architecture is another
_MODES = {1: "byte", 2: "HI", 8: "word"}  # of enums that clang would give 4 bytes
_INLINE_DEPTH = 32  # structs without name in each other
_OUTPUT_RATIO = 8  # characters of text for each byte of BTF; kernels need less than one
_STEPS_PER_TYPE = 8  # kernels need two
_ENTANGLED = "the types are so entangled that their text has no end"

_NUMBERS = frozenset({t.Kind.INT, t.Kind.FLOAT})
_TAGGED = t.COMPOSITE_KINDS | t.ENUM_KINDS | {t.Kind.FWD}
_DEFINED = _TAGGED | {t.Kind.TYPEDEF}
_CHANGED = t.MODIFIERS | {t.Kind.FUNC, t.Kind.VAR, t.Kind.DECL_TAG}  # made of one other type
_KEYWORDS: dict[int, str] = {
    t.Kind.STRUCT: "struct",
    t.Kind.UNION: "union",
    t.Kind.ENUM: "enum",
    t.Kind.ENUM64: "enum",
}
_NEW, _UNDER_WAY, _DONE = range(3)


def dump_c(btf: Btf, roots: Iterable[int] | None = None) -> str:
    """Return a C header with the definitions of types, as ``bpftool btf dump ... format c``.

    Args:
        btf: The types. Of split BTF its own and what they need of the base.
        roots: Ids of the types wanted, with all that they need; all by default.

    Raises:
        FormatError: A type contains itself, has no size where it needs one, or the text would be
            many times longer than the BTF.
    """
    return CHeader(btf).text(roots)


_Need: TypeAlias = "tuple[int, bool]"  # a type, and whether defined or only declared


class CHeader:
    """A header under construction.

    Attributes:
        btf: The types.
        names: The C names of the types that were defined, with keyword: ``struct task_struct``, by
            type id.
    """

    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        self.names: dict[int, str] = {}
        self.bulk = Bulk(btf)
        self._spelling = _Spelling(self)
        self._state = bytearray(len(btf))
        self._declared = bytearray(len(btf))
        self._ready: set[int] = set()  # types of members for which all that they need is there
        self._definitions: dict[tuple[str, bool], int] | None = None
        self._tags: dict[str, int] = {}
        self._identifiers: dict[str, int] = {_BUILTIN: 1}
        self._placing = Placing(btf, self.bulk)
        self._arrays = count(1)
        self._depth = 0
        self._enums_inlined: set[int] = set()
        self._chunks: list[str] = []
        self._left = _OUTPUT_RATIO * (len(btf.to_bytes()) + (1 << 16))  # characters
        self._steps = _STEPS_PER_TYPE * (len(btf) + (1 << 14))  # from type to type

    def text(self, roots: Iterable[int] | None = None) -> str:
        """Return the header, once; the arguments and errors are those of :func:`dump_c`."""
        btf, bulk = self.btf, self.bulk
        self._put(_HEAD)
        if roots is None:
            lonely = []
            for type_id in bulk.ids(_DEFINED, btf.start_id):
                if bulk.name(type_id):
                    self._define(type_id)
                elif bulk.kinds[type_id] in t.ENUM_KINDS:
                    lonely.append(type_id)
            self._define_lonely_enums(lonely)
            self._declare_kfuncs()
        else:
            for type_id in roots:
                self._define(btf.strip(type_id, typedefs=False))
        self._put(_TAIL)
        return "".join(self._chunks)

    def _put(self, text: str) -> None:
        self._spend(len(text))
        self._chunks.append(text)

    def _spend(self, length: int) -> None:
        self._left -= length
        if self._left < 0:
            raise self._error(_ENTANGLED)

    def _error(self, message: str) -> FormatError:
        return FormatError(message, file=self.btf.name, section=".BTF")

    # Order

    def _define(self, root: int) -> None:
        """Write the definition of a type behind those of all that it needs."""
        state = self._state
        if state[root] == _DONE:
            return
        state[root] = _UNDER_WAY
        stack = [(root, self._needs(root))]
        while stack:
            type_id, needs = stack[-1]
            for needed, complete in needs:
                if state[needed] == _DONE:
                    continue
                if not complete:
                    self._declare(needed)
                    continue
                if state[needed] == _UNDER_WAY:
                    raise self._error(f"{self.btf.describe(needed)} contains itself")
                state[needed] = _UNDER_WAY
                stack.append((needed, self._needs(needed)))
                break
            else:
                stack.pop()
                self._write(type_id)
                state[type_id] = _DONE

    def _needs(self, type_id: int) -> Iterator[_Need]:
        """What has to be written before a type; what comes next is only asked for when it is."""
        kind = self.bulk.kinds[type_id]
        if kind in t.COMPOSITE_KINDS:
            ready = self._ready
            for of in self.bulk.member_types(type_id):
                if of not in ready:
                    yield from self._mentioned(of, complete=True)
                    ready.add(of)
        elif kind == t.Kind.TYPEDEF:
            yield from self._mentioned(self.bulk.third(type_id), complete=False)
        elif kind not in _DEFINED and kind not in _NUMBERS:
            yield from self._mentioned(type_id, complete=False)

    def _mentioned(self, type_id: int, *, complete: bool) -> list[_Need]:
        """What the declaration of something of a type needs; complete if it takes up space."""
        kinds, words, starts = self.bulk.kinds, self.bulk.words, self.bulk.starts
        found: list[_Need] = []
        todo = [(type_id, complete)]
        while todo:
            type_id, complete = todo.pop()
            kind = kinds[type_id] if type_id < len(kinds) else self.btf.kind(type_id)  # raises
            if kind == t.Kind.PTR:
                todo.append((words[starts[type_id] + 2], False))
            elif kind in t.COMPOSITE_KINDS:
                found.append((type_id, complete or not self.bulk.name(type_id)))
            elif kind == t.Kind.TYPEDEF:
                found.append((type_id, True))
                if complete:
                    todo.append((words[starts[type_id] + 2], True))
            elif kind == t.Kind.ARRAY:  # C wants its elements complete, even behind a pointer
                todo.append((self.bulk.made_of(type_id), True))
            elif kind == t.Kind.FUNC_PROTO:
                todo.append((words[starts[type_id] + 2], False))
                todo += [(each, False) for each in self.bulk.param_types(type_id)]
            elif kind == t.Kind.FWD:
                found.append((self._resolve(type_id), False))
            elif kind in _NUMBERS:
                found.append((type_id, True))
            elif kind in t.ENUM_KINDS:
                if self.bulk.name(type_id):
                    found.append((type_id, True))
            elif kind in _CHANGED:
                todo.append((words[starts[type_id] + 2], complete))
            self._steps -= 1
            if self._steps < 0:
                raise self._error(_ENTANGLED)
        return found

    def _resolve(self, forward: int) -> int:
        """The definition that belongs to a forward declaration, or itself if there is none."""
        if self._definitions is None:
            self._definitions = {
                (self.bulk.name(type_id), self.bulk.kinds[type_id] == t.Kind.UNION): type_id
                for type_id in reversed(self.bulk.ids(t.COMPOSITE_KINDS))
            }
        found, name = self.btf[forward], self.bulk.name(forward)
        assert isinstance(found, t.Fwd)
        if not name:  # the kernel refuses it, too
            raise self._error(f"{self.btf.describe(forward)} declares nothing: it has no name")
        return self._definitions.get((name, found.is_union), forward)

    # Names

    def name(self, type_id: int) -> str:
        """How C calls a type, with its keyword; only that, or ``""``, if the type has no name."""
        full = self.names.get(type_id)
        if full is None:
            kind, name = self.bulk.kinds[type_id], self.bulk.name(type_id)
            if kind == t.Kind.FWD:
                definition = self._resolve(type_id)
                if definition != type_id:
                    return self.name(definition)
            keyword = self._keyword(type_id)
            if not name:
                return keyword
            if keyword:
                full = f"{keyword} {self._unique(name, self._tags)}"
            else:
                full = self._unique(name, self._identifiers)
            self.names[type_id] = full
        return full

    def _keyword(self, type_id: int) -> str:
        kind = self.bulk.kinds[type_id]
        if kind == t.Kind.FWD:
            found = self.btf[type_id]
            return "union" if isinstance(found, t.Fwd) and found.is_union else "struct"
        return _KEYWORDS.get(kind, "")

    def _unique(self, name: str, taken: dict[str, int]) -> str:
        count = taken[name] = taken.get(name, 0) + 1
        if count == 1:
            return name
        while (numbered := f"{name}___{count}") in taken:
            count += 1
        taken[name] = count
        taken[numbered] = 1
        return numbered

    # Text

    def _declare(self, type_id: int) -> None:
        if not self._declared[type_id] and self.bulk.name(type_id):
            self._declared[type_id] = True
            self._put(f"{self.name(type_id)};\n\n")

    def _write(self, type_id: int) -> None:
        kind = self.bulk.kinds[type_id]
        self._arrays = count(1)
        if kind in t.COMPOSITE_KINDS:
            members = list(self.bulk.members(type_id))
            self._placing.lay_out(type_id, members)
            if self.bulk.name(type_id):
                name = self.name(type_id)
                text = self._composite(type_id, name, members)
                if self._chunks[-1] == f"{name};\n\n":  # only it itself points to it so far
                    self._chunks.pop()
                self._put(f"{text};\n\n")
        elif kind == t.Kind.TYPEDEF:
            of, name = self.bulk.third(type_id), self.name(type_id)
            if name == "__gnuc_va_list" and not self.btf.strip(of):
                before, after = f"{_BUILTIN} ", ""  # some compilers leave it void
            else:
                before, after = self._spelling.parts(of)
            self._put(f"typedef {before}{name}{after};\n\n")
        elif kind == t.Kind.FWD:
            self._declare(self._resolve(type_id))
        elif kind in t.ENUM_KINDS:
            self._put(f"{self._enum(type_id)};\n\n")
        elif kind in _NUMBERS and not _known_to_c(self.btf.type_name(type_id)):
            self._put(f"typedef {_plain(self.btf[type_id])} {self.name(type_id)};\n\n")

    def _define_lonely_enums(self, enums: list[int]) -> None:
        """Enums without name that no type uses: constants that somebody put into an enum."""
        for type_id in enums:
            if type_id not in self._enums_inlined and self.bulk.enumerators(type_id):
                self._put(f"{self._enum(type_id)};\n\n")

    def _declare_kfuncs(self) -> None:
        """Prototypes of the functions that programs may call, by name (tagged since Linux 6.9)."""
        kfuncs = self._tagged_functions("bpf_kfunc")
        if not kfuncs:
            return
        fastcall = self._tagged_functions("bpf_fastcall")
        for proto in kfuncs.values():
            self._define(proto)  # that is, the types that are mentioned in it
        self._put(_KFUNCS_HEAD)
        for name, proto in sorted(kfuncs.items()):
            before, after = self._spelling.parts(proto)
            attribute = "__bpf_fastcall " if name in fastcall else ""
            c_name = self._unique(identifier(name), self._identifiers)
            self._put(f"extern {attribute}{before}{c_name}{after} __weak __ksym;\n")
        self._put(_KFUNCS_TAIL)

    def _tagged_functions(self, tag: str) -> dict[str, int]:
        """Own functions with a tag: their prototypes by name."""
        btf, found = self.btf, {}
        for type_id in btf.find_all(tag, t.Kind.DECL_TAG):
            declared = btf[type_id]
            assert isinstance(declared, t.DeclTag)
            if type_id >= btf.start_id and btf.kind(declared.type) == t.Kind.FUNC:
                function = btf[declared.type]
                assert isinstance(function, t.Func)
                if function.name and btf.kind(function.type) == t.Kind.FUNC_PROTO:
                    found[function.name] = function.type
        return found

    def inline(self, type_id: int) -> str:
        """Write out a type without name."""
        if self.bulk.kinds[type_id] in t.ENUM_KINDS:
            if type_id in self._enums_inlined or not self.bulk.enumerators(type_id):
                return _plain(self.btf[type_id])  # its enumerators are known already
            self._enums_inlined.add(type_id)
            return self._enum(type_id)
        if self._depth >= _INLINE_DEPTH:
            raise self._error(f"{self.btf.describe(type_id)} nests too deep")
        self._depth += 1
        try:
            members = list(self.bulk.members(type_id))
            return self._composite(type_id, self._keyword(type_id), members)
        finally:
            self._depth -= 1

    def _enum(self, type_id: int) -> str:
        bulk, head = self.bulk, self.name(type_id)
        values = bulk.enumerators(type_id)
        if not values:
            return head
        size = bulk.third(type_id)
        highest = (1 << 8 * min(size, 8)) - 1  # a damaged one may be of 4 GB
        suffix = ""
        if bulk.kinds[type_id] == t.Kind.ENUM64:
            suffix = "LL" if bulk.kflag(type_id) else "ULL"
        lines = []
        wide = False
        for name, value in values:
            if value > highest:  # before Linux 6.0 BTF did not say that values are signed
                value -= 1 << 32
            wide = wide or not -(1 << 31) <= value < 1 << 32
            lines.append(f"\t{self._unique(name, self._identifiers)} = {value}{suffix},\n")
        mode = _MODES.get(size)
        tail = f" __attribute__((mode({mode})))" if mode and not wide else ""
        return f"{head} {{\n{''.join(lines)}}}{tail}"

    def _composite(self, type_id: int, head: str, members: list[Member]) -> str:
        """The definition of a struct or union whose layout is known, without ``;``."""
        packed, _, plain = self._placing.layouts[type_id]
        known, room = self._spelling.known, self._left
        lines = []
        for name, of, _, width in members:
            end = f": {width};\n" if width else ";\n"
            parts = known.get(of)
            if name and parts:
                line = f"\t{parts[0]}{name}{parts[1]}{end}"
            else:  # something may be written out here, which takes many lines
                text = self._spelling.text(of, name) if name else self._nameless(of)
                text = text.replace("\n", "\n\t")
                line = f"\t{text}{end}"
            room -= len(line)
            if room < 0:
                raise self._error(_ENTANGLED)
            lines.append(line)
        if not plain:
            lines = self._placing.with_gaps(type_id, members, lines, self._arrays)
        body = "".join(lines)
        tail = "} __attribute__((packed))" if packed else "}"
        self._spend(len(head) + len(body))  # what is written out in others may multiply
        return f"{head} {{\n{body}{tail}" if body else f"{head} {{{tail}"

    def _nameless(self, type_id: int) -> str:
        """Declaration of a member that has no name."""
        # Newer kernels are compiled with -fms-extensions: a struct that has a name may be
        # a member that has none. Written out, it is the same without that option.
        inner = self.btf.strip(type_id)
        if self.bulk.kinds[inner] in t.COMPOSITE_KINDS:
            return self.inline(inner)
        return self._spelling.text(type_id)


class _Spelling(Declarer):
    """Declarations with the names of a header."""

    def __init__(self, header: CHeader) -> None:
        super().__init__(header.btf, room_for(header.btf))
        self._header = header
        self._kind = header.bulk.kinds.__getitem__

    def base(self, type_id: int) -> str:
        """Names of this header; what has none is written out."""
        kind, bulk = self._kind(type_id), self._header.bulk
        if kind in _TAGGED:
            if bulk.name(type_id):
                return self._header.name(type_id)
            self._passing += 1  # enumerators are unique: what has some may not be repeated
            return self._header.inline(type_id)
        if kind == t.Kind.TYPEDEF:
            return self._header.name(type_id)
        found = self._btf[type_id]
        if isinstance(found, (t.Int, t.Float)) and not _known_to_c(found.name):
            return self._header.name(type_id) or _plain(found)
        return super().base(type_id)

    def _made_of(self, type_id: int) -> int:
        return self._header.bulk.made_of(type_id)

    def identifier(self, name: str) -> str:
        """The name, made an identifier of C."""
        return identifier(name)


def _known_to_c(name: str) -> bool:
    return bool(name) and _WORDS_OF_C.issuperset(name.split())


def _plain(found: t.Type) -> str:
    """A type of C itself with the size and sign of another."""
    if isinstance(found, t.Float):
        return {4: "float", 8: "double"}.get(found.size, "long double")
    assert isinstance(found, (t.Int, t.Enum, t.Enum64))
    signed = "" if found.signed else "unsigned "
    sizes = {1: "char", 2: "short", 4: "int", 8: "long long", 16: "__int128"}
    return signed + sizes.get(found.size, "int")
