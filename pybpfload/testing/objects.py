"""BPF objects from nothing: :class:`ObjectBuilder`, for tests of what no compiler makes.

    made = ObjectBuilder()
    number = made.btf.add_int("int", 4, 1)
    task = made.btf.add_struct("task_struct", 4, [("pid", number, 0)])
    read = Site(ldx(SIZE_W, 0, 1, 0), core=(task, "0:0", CoreKind.BYTE_OFF))
    made.program("raw_tp", [read, exit_()])
    made.license("GPL")
    spec = pybpfload.open(made.build())

What compilers write comes out: BTF-defined maps, global variables, externs, and ``.BTF.ext`` with
function info, line info and CO-RE relocations. Nothing is checked, because damage is made the same
way: every number of the file can be given, and :attr:`ObjectBuilder.core` and its like take any
record.
"""

from __future__ import annotations

import copy
import struct
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from pybpfload.btf.build import BtfBuilder
from pybpfload.formats import btf as btf_formats
from pybpfload.formats import elf as elf_formats
from pybpfload.isa.insn import Insn, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["ElfBuilder", "ObjectBuilder", "Site", "build_ext"]

# Numbers of the System V ABI: kinds and flags of sections, bindings, kinds and visibilities of
# symbols (its SHT_, SHF_, STB_, STT_ and STV_), and the machine and relocations of BPF.
PROGBITS, SYMTAB, STRTAB, NOBITS, REL = 1, 2, 3, 8, 9
WRITE, ALLOC, EXEC = 1, 2, 4
LOCAL, GLOBAL, WEAK = 0, 1, 2
NOTYPE, OBJECT, FUNC, SECTION = 0, 1, 2, 3
DEFAULT, INTERNAL, HIDDEN = 0, 1, 2
EM_BPF, ET_REL = 247, 1
R_BPF_64_64, R_BPF_64_32 = 1, 10

# Linkage of BTF variables and functions.
_STATIC, _GLOBAL, _EXTERN = 0, 1, 2

_CALL = 0x85


class Site(NamedTuple):
    """An instruction and what the object file says about it.

    Attributes:
        insn: The instruction; both slots for LDIMM64.
        core: CO-RE relocation: type id, access string, :class:`pybpfload.relocate.CoreKind`.
        symbol: Symbol that the instruction refers to, as :class:`ObjectBuilder` numbered it.
        line: Source line: file name, its text, line number, column.
    """

    insn: Insn | tuple[Insn, Insn]
    core: tuple[int, str, int] | None = None
    symbol: int | None = None
    line: tuple[str, str, int, int] | None = None


Code: TypeAlias = "Iterable[Insn | tuple[Insn, Insn] | Site]"


class ElfBuilder:
    """A relocatable ELF64 file under construction; sections and symbols are numbered from 1.

    Args:
        order: Byte order, ``"<"`` or ``">"``.

    Attributes:
        order: Byte order.
        machine, type: Of the ELF header.
    """

    def __init__(self, order: str = "<") -> None:
        self.order = order
        self.machine, self.type = EM_BPF, ET_REL
        self._sections: list[dict[str, Any]] = [{"name": "", "type": 0}]
        self._symbols: list[tuple[Any, ...]] = [("", 0, 0, 0, 0, 0, 0)]
        self._rels: dict[int, list[tuple[int, int, int]]] = {}

    def section(
        self,
        name: str,
        data: bytes = b"",
        *,
        kind: int = PROGBITS,
        flags: int = ALLOC,
        **fields: int,
    ) -> int:
        """Add a section.

        Args:
            name: Its name.
            data: Its contents.
            kind: ``sh_type``.
            flags: ``sh_flags``.
            **fields: ``size``, ``link``, ``info``, ``entsize`` and ``offset`` of its header, for
                those that shall not be true.

        Returns:
            Its index.
        """
        self._sections.append({"name": name, "data": data, "type": kind, "flags": flags, **fields})
        return len(self._sections) - 1

    def symbol(
        self,
        name: str,
        section: int = 0,
        value: int = 0,
        size: int = 0,
        *,
        kind: int = NOTYPE,
        binding: int = GLOBAL,
        visibility: int = DEFAULT,
    ) -> int:
        """Add a symbol, an undefined one unless a section is given.

        Returns:
            Its index.
        """
        self._symbols.append((name, section, value, size, kind, binding, visibility))
        return len(self._symbols) - 1

    def rel(self, target: int, offset: int, symbol: int, kind: int = R_BPF_64_64) -> None:
        """Add a relocation of a section, at an offset in bytes, to a symbol."""
        self._rels.setdefault(target, []).append((offset, symbol, kind))

    def _added_sections(self) -> list[dict[str, Any]]:
        """Sections that are made when everything else is known."""
        return []

    def build(self, *, symtab: bool = True) -> bytes:
        """Return the file; may be called again after more was added.

        Args:
            symtab: Whether there is a table of symbols.
        """
        sections = [dict(section) for section in self._sections] + self._added_sections()
        layouts = elf_formats.layouts(self.order)
        names = bytearray(b"\0")

        def name_at(name: str) -> int:
            if not name:
                return 0
            names.extend(name.encode() + b"\0")
            return len(names) - len(name.encode()) - 1

        strtab = len(sections) + len(self._rels) + symtab
        table = b"".join(
            layouts.symbol.build(
                {
                    "st_name": name_at(name),
                    "st_info": binding << 4 | kind,
                    "st_other": visibility,
                    "st_shndx": shndx,
                    "st_value": value,
                    "st_size": size,
                }
            )
            for name, shndx, value, size, kind, binding, visibility in self._symbols
        )
        symbols_at = len(sections) + len(self._rels)
        for target, entries in self._rels.items():
            data = b"".join(
                layouts.rel.build({"r_offset": offset, "r_info": symbol << 32 | kind})
                for offset, symbol, kind in entries
            )
            sections.append(
                {
                    "name": ".rel" + sections[target]["name"], "type": REL, "data": data,
                    "entsize": layouts.rel.sizeof(), "link": symbols_at, "info": target,
                }
            )  # fmt: skip
        if symtab:
            sections.append(
                {
                    "name": ".symtab", "type": SYMTAB, "data": table,
                    "entsize": layouts.symbol.sizeof(), "link": strtab,
                }
            )  # fmt: skip
        sections.append({"name": ".strtab", "type": STRTAB})
        for section in sections:
            section["name_at"] = name_at(section["name"])
        sections[-1]["data"] = bytes(names)
        return self._file(sections, strtab)

    def _file(self, sections: list[dict[str, Any]], names_index: int) -> bytes:
        body, headers = bytearray(), bytearray()
        for section in sections:
            data = section.get("data", b"")
            body += bytes(-len(body) % 8)
            headers += struct.pack(
                self.order + "IIQQQQIIQQ",
                section["name_at"],
                section["type"],
                section.get("flags", 0),
                0,
                section.get("offset", 64 + len(body)),
                section.get("size", len(data)),
                section.get("link", 0),
                section.get("info", 0),
                1,
                section.get("entsize", 0),
            )
            body += data
        body += bytes(-len(body) % 8)
        ident = b"\x7fELF\x02" + (b"\x01" if self.order == "<" else b"\x02") + b"\x01" + bytes(9)
        header = struct.pack(
            self.order + "HHIQQQIHHHHHH",
            self.type, self.machine, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(sections),
            names_index,
        )  # fmt: skip
        return ident + header + bytes(body) + bytes(headers)


class ObjectBuilder(ElfBuilder):
    """A BPF object under construction.

    Type ids are those of :attr:`btf`; symbols and sections are the numbers that the methods return.

    Args:
        order: Byte order, ``"<"`` or ``">"``.
        btf: Types to start from, of the same byte order.

    Attributes:
        btf: The object's types; ``.BTF`` is written when there are any.
        core: CO-RE relocations by section name: offset in bytes, type id, access string, kind.
        func_info: By section name: offset in bytes, id of the FUNC.
        line_info: By section name: offset in bytes, string offsets of file and text, and
            ``line << 10 | column``.
        rec_sizes: Bytes of one record of each of these three; what is more than known is filled up.
    """

    def __init__(self, order: str = "<", *, btf: BtfBuilder | None = None) -> None:
        super().__init__(order)
        self.btf = BtfBuilder(order) if btf is None else btf
        self.func_info: dict[str, list[tuple[int, int]]] = {}
        self.line_info: dict[str, list[tuple[int, int, int, int]]] = {}
        self.core: dict[str, list[tuple[int, int, str, int]]] = {}
        self.rec_sizes = {"func_info": 8, "line_info": 16, "core_relo": 16}
        self._datasecs: dict[str, list[tuple[int, int, int]]] = {}
        self._placed: dict[str, int] = {}
        self._number = 0

    # Code

    def code(self, name: str, insns: Iterable[Insn], *, flags: int = ALLOC | EXEC) -> int:
        """Add a section of instructions without a function.

        Returns:
            The section.
        """
        return self.section(name, encode(list(insns), self.order), flags=flags)  # type: ignore[arg-type]

    def program(
        self, section: str, code: Code, name: str = "program", *, func: int = 0, **symbol: int
    ) -> int:
        """Add a program to the code section of that name.

        Args:
            section: Name of the section, such as ``tp_btf/sched_switch``.
            code: Instructions, with or without what the file says about them.
            name: Name of the function.
            func: Id of its FUNC, which gives it function info; 0 for none.
            **symbol: Fields of its symbol other than usual, see :meth:`symbol`.

        Returns:
            Its symbol.
        """
        return self._function(section, code, name, func, symbol)

    def subprogram(self, code: Code, name: str, *, func: int = 0, **symbol: int) -> int:
        """Add a function to ``.text``, for programs to call; arguments as of :meth:`program`.

        Returns:
            Its symbol. ``Site(call(-1, PSEUDO_CALL), symbol=...)`` calls it.
        """
        return self._function(".text", code, name, func, symbol)

    def _function(
        self, label: str, code: Code, name: str, func: int, symbol: dict[str, int]
    ) -> int:
        index = self._place(label, flags=ALLOC | EXEC)
        section = self._sections[index]
        start = len(section["data"])
        slots: list[Insn] = []
        for item in code:
            site = item if isinstance(item, Site) else Site(item)
            at = start + 8 * len(slots)
            if isinstance(site.insn, Insn):
                slots.append(site.insn)
            else:
                slots += site.insn
            if site.core is not None:
                self.core.setdefault(label, []).append((at, *site.core))
            if site.symbol is not None:
                is_call = slots[-1].code == _CALL
                self.rel(index, at, site.symbol, R_BPF_64_32 if is_call else R_BPF_64_64)
            if site.line is not None:
                file, text, line, column = site.line
                strings = self.btf.add_string(file), self.btf.add_string(text)
                self.line_info.setdefault(label, []).append((at, *strings, line << 10 | column))
        section["data"] += encode(slots, self.order)  # type: ignore[arg-type]
        if func:
            self.func_info.setdefault(label, []).append((start, func))
        return self.symbol(name, index, start, 8 * len(slots), **{"kind": FUNC, **symbol})

    # Data

    def map(self, name: str, type: int, *, key: int = 0, value: int = 0, **attributes: int) -> int:  # noqa: A002
        """Define a map in ``.maps``.

        Args:
            name: Its name.
            type: Its type, a :class:`pybpfload.uapi.MapType` or another number.
            key: Type id of keys, 0 for none.
            value: Type id of values, 0 for none.
            **attributes: Anything else that definitions have, as numbers: ``max_entries``,
                ``key_size``, ``value_size``, ``map_flags``, ``numa_node``, ``map_extra``,
                ``pinning``.

        Returns:
            Its symbol. ``Site(ld_imm64(1, 0), symbol=...)`` loads its address.
        """
        members = [("type", self._uint(type))]
        members += [(n, self.btf.add_ptr(of)) for n, of in (("key", key), ("value", value)) if of]
        members += [(attribute, self._uint(number)) for attribute, number in attributes.items()]
        size = 8 * len(members)
        listed = [(attribute, of, 64 * at) for at, (attribute, of) in enumerate(members)]
        definition = self.btf.add_struct("", size, listed)
        return self.variable(name, definition, bytes(size), section=".maps")

    def variable(
        self,
        name: str,
        type_id: int,
        contents: bytes,
        *,
        section: str = ".data",
        static: bool = False,
    ) -> int:
        """Define a global variable, at the next multiple of 8 bytes of its section.

        Args:
            name: Its name.
            type_id: Its type.
            contents: Its initial bytes; for ``.bss`` sections only their number counts.
            section: ``.data``, ``.rodata``, ``.bss``, or one of these followed by a dot and a name.
            static: Known only to its file.

        Returns:
            Its symbol.
        """
        kind = NOBITS if section.split(".")[1] == "bss" else PROGBITS
        flags = ALLOC if section.split(".")[1] == "rodata" else ALLOC | WRITE
        index = self._place(section, kind=kind, flags=flags)
        place = self._sections[index]
        offset = -(-max(place.get("size", 0), len(place["data"])) // 8) * 8
        if kind == NOBITS:
            place["size"] = offset + len(contents)
        else:
            place["data"] = place["data"].ljust(offset, b"\0") + contents
        variable = self.btf.add_var(name, type_id, _STATIC if static else _GLOBAL)
        self._declare(section, variable, offset, len(contents))
        return self.symbol(
            name, index, offset, len(contents), kind=OBJECT, binding=LOCAL if static else GLOBAL
        )

    def extern(
        self, name: str, type_id: int = 0, *, section: str = ".ksyms", weak: bool = False
    ) -> int:
        """Declare something that only a kernel has.

        Args:
            name: Its name.
            type_id: Its type; 0 for a kernel symbol of which only the address is wanted.
            section: ``.ksyms``, or ``.kconfig`` for a configuration value.
            weak: May be missing.

        Returns:
            Its symbol.
        """
        self._declare(section, self.btf.add_var(name, type_id, _EXTERN))
        return self.symbol(name, binding=WEAK if weak else GLOBAL)

    def kfunc(self, name: str, proto: int, *, weak: bool = False) -> int:
        """Declare a kernel function of a given prototype, for programs to call.

        Returns:
            Its symbol. ``Site(call(-1), symbol=...)`` calls it.
        """
        self._declare(".ksyms", self.btf.add_func(name, proto, _EXTERN))
        return self.symbol(name, binding=WEAK if weak else GLOBAL)

    def license(self, text: str = "GPL") -> int:
        """Add the license section. Returns the section."""
        return self.section("license", text.encode() + b"\0", flags=ALLOC | WRITE)

    def _place(self, name: str, **options: int) -> int:
        """The section that functions or variables are added to, made when it is wanted."""
        if name not in self._placed:
            self._placed[name] = self.section(name, **options)  # type: ignore[arg-type]
        return self._placed[name]

    def _declare(self, section: str, type_id: int, offset: int = 0, size: int = 0) -> None:
        self._datasecs.setdefault(section, []).append((type_id, offset, size))

    def _uint(self, number: int) -> int:
        """How definitions of maps spell numbers: ``int (*member)[number]``."""
        self._number = self._number or self.btf.add_int("int", 4, 1)
        return self.btf.add_ptr(self.btf.add_array(self._number, number, self._number))

    # BTF

    def _added_sections(self) -> list[dict[str, Any]]:
        # Completed in a copy, so that more can be added to the object later.
        btf = copy.deepcopy(self.btf) if self._datasecs or self.core else self.btf
        for name, entries in self._datasecs.items():
            btf.add_datasec(name, 0, entries)
        ext = self._ext(btf)
        sections = [{"name": ".BTF", "type": PROGBITS, "data": btf.build()}]
        if ext:
            return [*sections, {"name": ".BTF.ext", "type": PROGBITS, "data": ext}]
        return sections if len(btf) > 1 else []

    def _ext(self, btf: BtfBuilder) -> bytes:
        core = {
            name: [(at, type_id, btf.add_string(text), kind) for at, type_id, text, kind in records]
            for name, records in self.core.items()
        }
        parts: Any = {"func_info": self.func_info, "line_info": self.line_info, "core_relo": core}
        return build_ext(
            btf,
            {
                label: (
                    self.rec_sizes[label],
                    [
                        (name, len(records), [word for record in records for word in record])
                        for name, records in part.items()
                    ],
                )
                for label, part in parts.items()
            },
        )


def build_ext(
    btf: BtfBuilder, parts: Mapping[str, tuple[int, Iterable[tuple[str, int, Sequence[int]]]]]
) -> bytes:
    """Return the content of ``.BTF.ext``, or nothing if there are no records.

    Args:
        btf: The object's types; gets the names of sections.
        parts: By ``func_info``, ``line_info`` and ``core_relo``: bytes of a record, and for each
            section its name, the number of records and their 32-bit words one after the other.
            Records that have fewer words than bytes are filled up.
    """
    layouts = btf_formats.layouts(btf.byteorder)
    header = {"magic": btf_formats.MAGIC, "version": 1, "flags": 0, "hdr_len": 32}
    body = b""
    for label in ("func_info", "line_info", "core_relo"):
        size, blocks = parts.get(label, (0, ()))
        part = b""
        for name, count, words in blocks:
            part += layouts.info_block.build(
                {"sec_name_off": btf.add_string(name), "num_info": count}
            )
            known = len(words) // count
            for at in range(0, len(words), known):
                record = struct.pack(f"{btf.byteorder}{known}I", *words[at : at + known])
                part += record + b"\xee" * (size - len(record))
        if part:
            part = layouts.info_header.build({"rec_size": size}) + part
        header[f"{label}_off"], header[f"{label}_len"] = len(body), len(part)
        body += part
    if not body:
        return b""
    return b"".join((layouts.ext_header.build(header), layouts.ext_header_core.build(header), body))
