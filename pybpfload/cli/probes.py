"""``pybpfload probes``: where programs can be attached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.cli.common import Parser, print_json
from pybpfload.cli.failure import UsageError, complain, visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pybpfload.object.places import Place, Wanted

__all__ = ["run"]

_BINARY_KINDS = ("uprobe", "usdt")
_EXAMPLES = """\
examples:
  pybpfload probes '*unlink*'               # everything that has it in its name
  pybpfload probes -v 'fentry/vfs_*'        # with arguments and results
  pybpfload probes 'tp/sched/*'
  pybpfload probes -v iter lsm
  pybpfload probes --btf vmlinux-6.1 'tp_btf/sched_*'
  pybpfload probes 'uprobe/libc.so.6:*alloc' 'usdt/python3:*'

A PATTERN is KIND/NAME with * for anything and ? for one character; one without / is one
of names of any kind, or a kind. Kinds: kprobe, tp, fentry (also for fexit and fmod_ret),
tp_btf, raw_tp, iter, lsm, struct_ops, and kfunc for what programs may call. What is
printed is what SEC() takes. Other beginnings of sections (fexit, tracepoint, ...) and
bpftrace's way of writing (tracepoint:sched:*) will do. With --btf the kernel is that of
the file, of which there are no kprobe and tp. Functions and USDT probes of executables
and libraries are uprobe/FILE:NAME and usdt/FILE:PROVIDER:NAME.
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser("probes", "Show where programs can be attached.", _EXAMPLES)
    parser.add_argument("patterns", metavar="PATTERN", nargs="+", help="which places")
    parser.add_argument("--btf", metavar="FILE", help="the kernel of this BTF instead of this one")
    options = parser.read(arguments)
    if not all(options.patterns):
        raise UsageError("an empty pattern names nothing; '*' is for anything")
    found: list[Place] = []
    seen: set[tuple[str, str]] = set()
    for place in _places(options):
        if (place.section, place.module) not in seen:
            seen.add((place.section, place.module))
            found.append(place)
            if not options.json:
                _show(place)
    if options.json:
        print_json(
            [
                {
                    "section": place.section,
                    "kind": place.kind,
                    "name": place.name,
                    "module": place.module or None,
                    "prototype": place.prototype or None,
                }
                for place in found
            ]
        )
    if not found:
        complain("nothing matches")
        return 1
    return 0


def _places(options: Any) -> Iterator[Place]:
    prototypes = options.verbose or options.json
    patterns = []
    for pattern in map(_as_section, options.patterns):
        if pattern.startswith(tuple(f"{kind}/" for kind in _BINARY_KINDS)):
            kind, _, rest = pattern.partition("/")
            yield from _in_binary(kind, rest, prototypes)
        else:
            patterns.append(pattern)
    if options.btf:
        import pybpfload
        from pybpfload.object.places import BTF_KINDS, places_in_btf

        btf = pybpfload.read_btf(options.btf)
        for pattern in patterns:
            wanted = _wanted(pattern)
            if not any(map(wanted.kind, BTF_KINDS)):
                kinds = ", ".join(BTF_KINDS)
                complain(f"{pattern}: BTF tells nothing of that kind; it tells of {kinds}")
            yield from places_in_btf(btf, wanted, prototypes=prototypes)
        return
    from pybpfload.kernel.places import places

    told: set[str] = set()

    def missing(sentence: str) -> None:
        if sentence not in told:
            told.add(sentence)
            complain(sentence)

    for pattern in patterns:
        yield from places(_wanted(pattern), prototypes=prototypes, missing=missing)


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
