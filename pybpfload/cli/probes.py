"""``pybpfload probes``: where programs can be attached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.cli.common import Parser, print_json
from pybpfload.cli.failure import UsageError, complain, did_you_mean, visible
from pybpfload.cli.sources import SOURCES, read_kernel_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pybpfload.check import Kernel
    from pybpfload.object.places import Place, Wanted

__all__ = ["run"]

_BINARY_KINDS = ("uprobe", "usdt")
_OF_FUNCTIONS = frozenset({"kprobe", "kretprobe", "fentry", "fexit", "fmod_ret", "kfunc"})
_ABSENT = "not there"
_EXAMPLES = f"""\
examples:
  pybpfload probes '*unlink*'               # everything that has it in its name
  pybpfload probes -v 'fentry/vfs_*'        # with arguments and results
  pybpfload probes 'tp/sched/*'
  pybpfload probes -v iter lsm
  pybpfload probes --btf vmlinux-6.1 'tp_btf/sched_*'
  pybpfload probes --btf /boot 'fentry/vfs_*'   # which kernels there have which
  pybpfload probes 'uprobe/libc.so.6:*alloc' 'usdt/python3:*'

A PATTERN is KIND/NAME with * for anything and ? for one character; one without / is one
of names of any kind, or a kind. Kinds: kprobe, tp, fentry (also for fexit and fmod_ret),
tp_btf, raw_tp, iter, lsm, struct_ops, and kfunc for what programs may call. What is
printed is what SEC() takes. Other beginnings of sections (fexit, tracepoint, ...) and
bpftrace's way of writing (tracepoint:sched:*) will do. With --btf the kernels are those of
the SRC, of which there are no kprobe and tp. Functions and USDT probes of executables
and libraries are uprobe/FILE:NAME and usdt/FILE:PROVIDER:NAME.

{SOURCES}A directory has one kernel, or several, as /boot.
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser("probes", "Show where programs can be attached.", _EXAMPLES)
    parser.add_argument("patterns", metavar="PATTERN", nargs="+", help="which places")
    parser.add_argument(
        "--btf",
        metavar="SRC",
        action="append",
        default=[],
        help="kernels instead of this one; may be repeated",
    )
    options = parser.read(arguments)
    if not all(options.patterns):
        raise UsageError("an empty pattern names nothing; '*' is for anything")
    kernels = _kernels(options.btf)
    if len(kernels) > 1:
        found = _compare(kernels, options)
    else:
        found = [_document(place) for place in _unique(_places(options, kernels), options)]
    if options.json:
        print_json(found)
    if not found:
        complain("nothing matches")
    _explain(options.patterns, kernels, {each["name"] for each in found})
    return 0 if found else 1


def _kernels(sources: Sequence[str]) -> list[Kernel]:
    from pybpfload.check import find_kernels

    found = dict.fromkeys(each for source in sources for each in find_kernels(source))
    return [read_kernel_source(each) for each in found]


def _unique(places: Iterator[Place], options: Any) -> Iterator[Place]:
    """Each place once, shown as soon as it is found."""
    seen: set[tuple[str, str]] = set()
    for place in places:
        if (place.section, place.module) not in seen:
            seen.add((place.section, place.module))
            if not options.json:
                _show(place)
            yield place


def _document(place: Place) -> dict[str, Any]:
    return {
        "section": place.section,
        "kind": place.kind,
        "name": place.name,
        "module": place.module or None,
        "prototype": place.prototype or None,
    }


def _compare(kernels: Sequence[Kernel], options: Any) -> list[dict[str, Any]]:
    """Which kernels have which places, with which arguments."""
    from pybpfload.cli.table import table

    names = [each.release for each in kernels]
    if not all(names) or len(set(names)) < len(names):
        names = [each.name for each in kernels]
    found: dict[str, dict[str, Any]] = {}
    for name, kernel in zip(names, kernels, strict=True):
        for place in _places(options, [kernel]):
            entry = found.setdefault(place.section, {**_document(place), "prototypes": {}})
            entry["prototypes"].setdefault(name, place.prototype or None)
    for entry in found.values():
        entry["prototype"] = next(filter(None, entry["prototypes"].values()), None)
    if options.json:
        return list(found.values())
    if not options.verbose:
        rows = [
            [section, *("yes" if name in entry["prototypes"] else None for name in names)]
            for section, entry in found.items()
        ]
        for line in table(["SECTION", *map(visible, names)], rows):
            print(line)
        return list(found.values())
    for section, entry in found.items():
        print(visible(section))
        by_text: dict[str, list[str]] = {}
        for name in names:
            text = entry["prototypes"].get(name, _ABSENT) or ""
            by_text.setdefault(text, []).append(name)
        for text, having in by_text.items():
            print(visible(f"    {', '.join(having)}: {text}"))
    return list(found.values())


def _explain(patterns: Sequence[str], kernels: Sequence[Kernel], found: set[str]) -> None:
    """Say what may be meant by names that no kernel has."""
    for pattern in map(_as_section, patterns):
        kind, slash, name = pattern.rpartition("/")
        binary = pattern.startswith(tuple(f"{each}/" for each in _BINARY_KINDS))
        if name in found or "*" in pattern or "?" in pattern or binary or not (slash and name):
            continue
        if kind not in _OF_FUNCTIONS:
            continue
        known = kernels or [read_kernel_source()]
        alike = list(dict.fromkeys(each for k in known for each in k.functions_like(name)))
        made = [each for each in alike if each.startswith(f"{name}.")]
        if made:
            complain(f"{pattern}: the compiler has made {', '.join(made)} of it")
        elif alike:
            complain(f"{pattern}: did you mean {', '.join(alike)}?")


def _places(options: Any, kernels: Sequence[Kernel]) -> Iterator[Place]:
    """Places of one kernel, by default the running one, and of the binaries that are named."""
    prototypes = options.verbose or options.json
    patterns = []
    for pattern in map(_as_section, options.patterns):
        if pattern.startswith(tuple(f"{kind}/" for kind in _BINARY_KINDS)):
            kind, _, rest = pattern.partition("/")
            yield from _in_binary(kind, rest, prototypes)
        else:
            patterns.append(pattern)
    if kernels:
        [kernel] = kernels
        yield from _in_types(kernel, patterns, prototypes)
        return
    from pybpfload.kernel.places import places

    told: set[str] = set()

    def missing(sentence: str) -> None:
        if sentence not in told:
            told.add(sentence)
            complain(sentence)

    for pattern in patterns:
        yield from places(_wanted(pattern), prototypes=prototypes, missing=missing)


def _in_types(kernel: Kernel, patterns: Sequence[str], prototypes: bool) -> Iterator[Place]:
    """Places that the types of a kernel and its modules tell."""
    from pybpfload.check.kernel import module_name
    from pybpfload.object.places import BTF_KINDS, places_in_btf

    btf = kernel.target.btf
    for pattern in patterns:
        wanted = _wanted(pattern)
        if not any(map(wanted.kind, BTF_KINDS)):
            close = did_you_mean(pattern.partition("/")[0], BTF_KINDS)
            told = close or f"; it tells of {', '.join(BTF_KINDS)}"
            complain(f"{pattern}: BTF tells nothing of that kind{told}")
            continue
        if btf is not None:
            yield from places_in_btf(btf, wanted, prototypes=prototypes)
        for module in kernel.target.modules:
            name = module_name(module)
            yield from places_in_btf(module, wanted, module=name, prototypes=prototypes)


def _in_binary(kind: str, rest: str, prototypes: bool) -> Iterator[Place]:
    """Functions or USDT probes of an executable or library."""
    from pybpfload.elf import usdt
    from pybpfload.object.places import Place, Wanted
    from pybpfload.runtime.attach.user_files import open_binary

    path, _, pattern = rest.partition(":")
    if not path:
        raise UsageError(f"{kind}/{rest} names no file: {kind}/FILE:NAME")
    file = open_binary(None, path)
    if kind == "uprobe":
        found = sorted(
            {each.name.partition("@@")[0] for each in file.binary.matching(pattern or "*")}
        )
        yield from (Place(kind, f"{file.path}:{name}") for name in found)
        return
    wanted = Wanted(f"usdt/{pattern or '*'}")
    sites: dict[str, list[str]] = {}
    for probe in usdt.probes(file.binary):
        if wanted.name(f"{probe.provider}:{probe.name}"):
            sites.setdefault(f"{probe.provider}:{probe.name}", []).append(probe.arguments)
    for name, arguments in sites.items():
        told = sorted(set(filter(None, arguments))) if prototypes else ()
        yield Place(kind, f"{file.path}:{name}", "", "\n".join(told))


def _as_section(pattern: str) -> str:
    """A pattern that is written as for bpftrace, the way that sections are."""
    from pybpfload.object.places import ALIASES, BTF_KINDS

    kind, colon, rest = pattern.partition(":")
    if not colon or kind not in (*BTF_KINDS, *ALIASES, *_BINARY_KINDS, "kprobe", "tp"):
        return pattern
    if ALIASES.get(kind, kind) == "tp":
        rest = rest.replace(":", "/", 1)
    return f"{kind}/{rest}"


def _wanted(pattern: str) -> Wanted:
    from pybpfload.object.places import ALIASES, BTF_KINDS, Wanted

    is_kind = pattern in (*BTF_KINDS, *ALIASES, "kprobe", "tp")
    return Wanted(f"{pattern}/*" if is_kind else pattern)


def _show(place: Place) -> None:
    module = f"  [{place.module}]" if place.module else ""
    print(visible(f"{place.section}{module}"))
    for line in place.prototype.splitlines():
        print(visible(f"    {line}"))
