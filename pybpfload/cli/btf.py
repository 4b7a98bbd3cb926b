"""``pybpfload btf``: types of kernels, modules and objects. Offline, but for what is loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pybpfload.cli.common import Parser, open_object, print_json
from pybpfload.cli.failure import UsageError, complain, did_you_mean, visible
from pybpfload.cli.group import Command, run_group
from pybpfload.cli.sources import SOURCES, read_source
from pybpfload.cli.table import table
from pybpfload.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pybpfload.btf.table import Btf

__all__ = ["COMMANDS", "run"]


_EXAMPLES = """\
  pybpfload btf c > vmlinux.h
  pybpfload btf layout vmlinuz-6.1 task_struct
  pybpfload btf find --type 'struct list_head' --size 64
  pybpfload btf diff vmlinuz-6.1 vmlinuz-6.12 --object tracer.bpf.o
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    about = "Types of kernels, modules and objects."
    return run_group("btf", about, COMMANDS, arguments, _EXAMPLES)


def _parser(command: str, description: str, examples: str) -> Parser:
    parser = Parser(f"btf {command}", description, f"{examples}\n{SOURCES}")
    parser.add_argument("--base", metavar="SRC", default="", help="BTF that SRC extends")
    return parser


# Words


def _is_source(word: str) -> bool:
    return word.startswith("id:") or "/" in word or Path(word).is_file()


def _one_type(btf: Btf, text: str) -> int:
    """The type that a name means: ``task_struct``, ``struct task_struct``, ``pid_t``."""
    from pybpfload.btf import types as t

    kinds = {
        "struct": (t.Kind.STRUCT,),
        "union": (t.Kind.UNION,),
        "enum": (t.Kind.ENUM, t.Kind.ENUM64),
        "": (t.Kind.STRUCT, t.Kind.UNION, t.Kind.TYPEDEF, t.Kind.ENUM, t.Kind.ENUM64),
    }
    tag, _, name = text.strip().rpartition(" ")
    for kind in kinds.get(tag.strip(), ()):
        if found := btf.find(name, kind):
            return found
    if tag.strip() not in kinds:
        raise UsageError(f"{text!r} is no name of a type; struct NAME, union NAME, enum NAME, NAME")
    of_kind = (
        i for i, k in zip(btf.own_ids(), btf.own_kinds(), strict=True) if k in kinds[tag.strip()]
    )
    names = {btf.type_name(type_id) for type_id in of_kind}
    raise UsageError(f"{btf.name} has no type {text!r}{did_you_mean(name, names)}")


# Commands


def _dump(arguments: Sequence[str]) -> int:
    parser = _parser(
        "dump",
        "Print all types as they lie in the BTF, in bpftool's form.",
        "examples:\n"
        "  pybpfload btf dump tracer.bpf.o\n"
        "  pybpfload btf dump vmlinuz-6.1 --id 114\n"
        "  pybpfload btf dump --json veth | jq '.types[] | select(.kind == \"STRUCT\")'\n",
    )
    parser.add_argument("source", metavar="SRC", nargs="?", default="", help="where the BTF is")
    parser.add_argument(
        "--id", metavar="N", type=int, action="append", help="only this type; may be repeated"
    )
    options = parser.read(arguments)
    btf = read_source(options.source, base=options.base)

    import json

    from pybpfload.btf.dump import dump_lines, record

    ids = options.id if options.id is not None else btf.own_ids()
    if options.json:
        # A kernel's types at once would take some hundred megabytes.
        sys.stdout.write('{"types": [')
        for number, type_id in enumerate(ids):
            text = json.dumps(record(btf[type_id]), allow_nan=False)
            sys.stdout.write(f",\n{text}" if number else f"\n{text}")
        sys.stdout.write("\n]}\n")
        return 0
    for line in dump_lines(btf, ids):
        print(line)
    return 0


def _c(arguments: Sequence[str]) -> int:
    parser = _parser(
        "c",
        "Print a C header with the definitions of all types: vmlinux.h.",
        "examples:\n"
        "  pybpfload btf c > vmlinux.h                        of the running kernel\n"
        "  pybpfload btf c -o vmlinux.h linux-image-6.1.0.deb\n"
        "  pybpfload btf c --type task_struct --type sock vmlinuz-6.1\n",
    )
    parser.add_argument("source", metavar="SRC", nargs="?", default="", help="where the BTF is")
    parser.add_argument(
        "--type",
        metavar="TYPE",
        action="append",
        help="only this type and what it needs; may be repeated",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="where to; standard output")
    options = parser.read(arguments)
    btf = read_source(options.source, base=options.base)

    import gc

    from pybpfload.btf.cdump import dump_c

    gc.disable()  # a million objects, none of them in circles
    roots = options.type and [_one_type(btf, text) for text in options.type]
    text = dump_c(btf, roots)
    if options.output and options.output != "-":
        Path(options.output).write_text(text, encoding="utf-8")
    elif options.json:
        print_json({"source": btf.name, "c": text})
    else:
        sys.stdout.write(text)
    return 0


def _layout(arguments: Sequence[str]) -> int:
    parser = _parser(
        "layout",
        "Show where the members of a struct or union lie: offset and size in bytes, holes,\n"
        "padding, cache lines.",
        "examples:\n"
        "  pybpfload btf layout task_struct                 on the running kernel\n"
        "  pybpfload btf layout vmlinuz-6.1 'struct sock'\n"
        "  pybpfload btf layout sk_buff --svg -o sk_buff.svg\n",
    )
    parser.add_argument("words", metavar="[SRC] TYPE", nargs="+", help="where the BTF is; a type")
    parser.add_argument(
        "--cacheline", metavar="BYTES", type=int, default=64, help="size of a cache line [64]"
    )
    parser.add_argument(
        "--expand", action="store_true", help="take apart members whose types have names, too"
    )
    parser.add_argument("--svg", action="store_true", help="a picture of it")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to; standard output")
    options = parser.read(arguments)
    if len(options.words) > 2 or options.cacheline < 1:
        raise UsageError(
            f"one source, one type, and a cache line of bytes; see {parser.prog} --help"
        )
    *source, name = options.words
    if not source and _is_source(name):
        raise UsageError(f"{name}: which of its types? see {parser.prog} --help")
    btf = read_source("".join(source), base=options.base)

    from pybpfload.btf.layout import layout

    made = layout(btf, _one_type(btf, name), line=options.cacheline, expand=options.expand)
    if options.json:
        print_json(made.to_dict())
        return 0
    text = made.svg() if options.svg else f"{made}\n"
    if options.output and options.output != "-":
        Path(options.output).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


def _find(arguments: Sequence[str]) -> int:
    parser = _parser(
        "find",
        "Find types by name, size, members, types of members.",
        "examples:\n"
        "  pybpfload btf find 'bpf_*_kern'                       on the running kernel\n"
        "  pybpfload btf find vmlinuz-6.1 --member pid\n"
        "  pybpfload btf find --type 'struct list_head' --size 64\n"
        "\n"
        "NAME and --member may have * and ?. A single word is SRC if it is a file or id:N.\n",
    )
    parser.add_argument("words", metavar="[SRC] [NAME]", nargs="*", help="where; name of a type")
    parser.add_argument("--kind", metavar="KIND", help="kind of the type: struct, typedef, func...")
    parser.add_argument("--member", metavar="NAME", default="", help="that have such a member")
    parser.add_argument(
        "--type", metavar="TYPE", default="", help="that have a member of that type"
    )
    parser.add_argument("--size", metavar="BYTES", type=int, help="of that size")
    options = parser.read(arguments)
    words = list(options.words)
    if len(words) > 2:
        raise UsageError(f"one source and one name; see {parser.prog} --help")
    source = words.pop(0) if len(words) == 2 or (words and _is_source(words[0])) else ""
    name = words.pop() if words else ""
    if not (name or options.kind or options.member or options.type or options.size is not None):
        raise UsageError(f"what to find: a name or an option; see {parser.prog} --help")

    from pybpfload.btf.search import search
    from pybpfload.btf.types import Kind

    kind = options.kind and options.kind.upper()
    if kind and kind not in Kind.__members__:
        close = did_you_mean(kind, Kind.__members__)
        raise UsageError(f"--kind {options.kind}: no such kind{close.lower()}")
    btf = read_source(source, base=options.base)
    try:
        found = search(
            btf,
            name,
            kind=Kind[kind] if kind else None,
            member=options.member,
            member_type=options.type,
            size=options.size,
        )
        results = list(found)
    except FormatError:
        raise
    except ValueError as error:
        raise UsageError(f"--type: {error}") from None
    if options.json:
        print_json([each.to_dict() for each in results])
        return 0
    if not results:
        no_file = f", and there is no file {name!r}" if "." in name and not source else ""
        complain(f"{btf.name} has no such type{no_file}")
        return 1
    rows: list[Iterable[Any]] = []
    for each in results:
        head = (each.id, each.kind.name.lower(), each.name, each.size)
        rows += [(*head, _place(offset), text) for _, offset, text in each.members] or [
            (*head, "", "")
        ]
    for line in table(("id", "kind", "name", "size", "offset", "member"), [tuple(r) for r in rows]):
        print(line)
    return 0


def _diff(arguments: Sequence[str]) -> int:
    parser = _parser(
        "diff",
        "Show what changed from one kernel's types to another's: what vanished and appeared,\n"
        "members that moved, grew or have another type. Offsets are in bytes.",
        "examples:\n"
        "  pybpfload btf diff vmlinuz-6.1 vmlinuz-6.12 --kind struct\n"
        "  pybpfload btf diff vmlinuz-6.1 vmlinuz-6.12 --name task_struct\n"
        "  pybpfload btf diff vmlinuz-6.1 vmlinuz-6.12 --object tracer.bpf.o\n"
        "\n"
        "With --object only the CO-RE relocations that come to something else are shown.\n",
    )
    from pybpfload.btf.diff import KINDS, diff

    parser.add_argument("before", metavar="SRC", help="the older")
    parser.add_argument("after", metavar="SRC", help="the newer")
    parser.add_argument("--name", metavar="NAME", help="only types of that name; * and ? allowed")
    parser.add_argument(
        "--kind",
        metavar="KIND",
        choices=KINDS,
        action="append",
        help=f"only this kind, may be repeated: {', '.join(KINDS)}",
    )
    parser.add_argument("--object", metavar="OBJ", help="a BPF object: which relocations differ")
    options = parser.read(arguments)
    before = read_source(options.before, base=options.base)
    after = read_source(options.after, base=options.base)
    if options.object:
        return _diff_object(options.object, before, after, as_json=options.json)

    from pybpfload.pattern import glob_pattern

    pattern = glob_pattern(options.name) if options.name else None
    changed = diff(before, after, kinds=options.kind or KINDS, pattern=pattern)
    if options.json:
        print_json([each.to_dict() for each in changed])
        return 0
    for each in changed:
        print(f"{each.kind} {visible(each.name)} {each.what}")
        for change in each.changes:
            print(f"  {visible(str(change))}")
    return 0


def _diff_object(path: str, before: Btf, after: Btf, *, as_json: bool) -> int:
    from pybpfload.relocate import Target
    from pybpfload.relocate.compare import core_changes

    changes = list(core_changes(open_object(path), Target(before), Target(after)))
    if as_json:
        print_json([each.to_dict() for each in changes])
        return 0
    columns = ("program", "insn", "kind", "access", "before", "after")
    rows = [
        (c.function, c.insn, c.kind.name.lower(), c.local, str(c.before), str(c.after))
        for c in changes
    ]
    for line in table(columns, rows):
        print(line)
    return 0


def _min(arguments: Sequence[str]) -> int:
    parser = _parser(
        "min",
        "Write the least BTF that objects need to be relocated: only the types and members that\n"
        "their CO-RE relocations look at. Programs bring it along for kernels without BTF.",
        "examples:\n"
        "  pybpfload btf min tracer.bpf.o --btf vmlinuz-5.4 -o 5.4.btf\n"
        "  pybpfload btf min *.bpf.o -o this-kernel.btf\n",
    )
    parser.add_argument("objects", metavar="OBJ", nargs="+", help="a BPF object file")
    parser.add_argument("--btf", metavar="SRC", default="", help="the kernel's BTF")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="where to")
    options = parser.read(arguments)
    specs = [open_object(path) for path in options.objects]
    btf = read_source(options.btf, base=options.base)

    from pybpfload.relocate import minimize

    try:
        small = minimize(btf, specs).btf
    except ValueError as error:
        raise UsageError(f"--btf: {error}") from None
    data, before = small.to_bytes(), len(btf.to_bytes())
    Path(options.output).write_bytes(data)
    if options.json:
        print_json({"source": btf.name, "types": len(small) - 1, "size": len(data)})
    else:
        print(f"{options.output}: {len(small) - 1} types of {len(btf) - 1}")
        print(f"{len(data)} bytes of {before}")
    return 0


def _loaded(arguments: Sequence[str]) -> int:
    from pybpfload.cli import btf_loaded

    return btf_loaded.run(arguments)


def _place(bits: int) -> int | str:
    return f"{bits // 8}:{bits % 8}" if bits % 8 else bits // 8


COMMANDS = {
    "dump": Command(_dump, "all types as they lie in the BTF"),
    "c": Command(_c, "a C header: vmlinux.h"),
    "layout": Command(_layout, "offsets, holes and cache lines of a struct"),
    "diff": Command(_diff, "what changed from one kernel to another"),
    "find": Command(_find, "types by name, size, members"),
    "min": Command(_min, "the least BTF that objects need"),
    "list": Command(_loaded, "what the running kernel holds, and what uses it"),
    "show": Command(_loaded, "the same"),
}
