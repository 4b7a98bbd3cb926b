"""``pybpfload features``: what this kernel can do with BPF."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.cli.common import Parser, print_json
from pybpfload.cli.failure import UsageError, complain, did_you_mean
from pybpfload.cli.style import BAD, DIM, GOOD, TITLE, paint
from pybpfload.cli.table import table

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

    from pybpfload.kernel.features import Answer

__all__ = ["run"]

_EXAMPLES = """\
examples:
  pybpfload features                       # all but what programs may call
  pybpfload features -v map                # how each answer was found out
  pybpfload features --helpers kprobe ringbuf
  pybpfload features --kfuncs xdp -v
  pybpfload features --json | jq '.["program types"].xdp'

Answers are found out by trying, as far as that changes nothing, and "unknown" where that
is not allowed. SINCE is the version of Linux that brought it; distributions backport.
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser("features", "Show what this kernel can do with BPF.", _EXAMPLES)
    parser.add_argument("words", metavar="WORD", nargs="*", help="only what has a word in its name")
    parser.add_argument(
        "--helpers",
        metavar="TYPE",
        action="append",
        default=[],
        help="the helpers that programs of this type may call; may be repeated",
    )
    parser.add_argument(
        "--kfuncs",
        metavar="TYPE",
        action="append",
        default=[],
        help="the functions of the kernel that programs of this type may call; may be repeated",
    )
    options = parser.read(arguments)
    from pybpfload.kernel.token import shown
    from pybpfload.runtime.token import find_token

    token = find_token(None, lambda error: None)
    with shown(token):
        status = _run(options)
    if token is not None:
        token.close()
    return status


def _run(options: Namespace) -> int:
    from pybpfload.kernel import features

    calls = bool(options.helpers or options.kfuncs)
    found = {f"helpers of {name}": features.helpers(_type(name)) for name in options.helpers}
    for name in options.kfuncs:
        answers = features.kfuncs_for(_type(name))
        if answers is None:
            complain(
                "this kernel's BTF does not say which functions programs may call (Linux 6.10)"
            )
            return 1
        found[f"kfuncs of {name}"] = answers
    if not calls:
        found = features.sweep()
    found = {
        area: {
            name: answer
            for name, answer in answers.items()
            if not options.words
            or any(word in name or word in area for word in map(str.lower, options.words))
        }
        for area, answers in found.items()
    }
    settings = [] if calls or options.words else list(features.settings())
    kfuncs = None if calls or options.words else features.kfuncs()
    if options.json:
        print_json(_as_json(found, settings, kfuncs))
    else:
        _print(found, settings, kfuncs, verbose=options.verbose)
    if not any(found.values()):
        complain("nothing has such a word in its name")
        return 1
    return 0


def _print(
    found: Mapping[str, Mapping[str, Answer]],
    settings: Sequence[tuple[str, str | None, str]],
    kfuncs: list[str] | None,
    *,
    verbose: bool,
) -> None:
    for area, answers in found.items():
        if answers:
            _show(area, answers, verbose=verbose)
    if settings:
        print(paint("settings", TITLE))
        rows = [(name, value, meaning) for name, value, meaning in settings]
        print("\n".join(table(("NAME", "VALUE", "MEANING"), rows)))
    if kfuncs:
        print(f"\n{len(kfuncs)} kfuncs" + ("" if verbose else " (-v lists them)"))
        if verbose:
            print("\n".join(f"  {name}" for name in kfuncs))


def _type(name: str) -> Any:
    from pybpfload.uapi import ProgType

    known = {each.name.lower(): each for each in ProgType if each}
    if name not in known:
        raise UsageError(f"unknown program type {name!r}{did_you_mean(name, known)}")
    return known[name]


def _show(area: str, answers: Mapping[str, Answer], *, verbose: bool) -> None:
    counts = [sum(answer.text == text for answer in answers.values()) for text in _TEXTS]
    told = ", ".join(f"{count} {text}" for count, text in zip(counts, _TEXTS, strict=True) if count)
    print(f"{paint(area, TITLE)}: {told}")
    columns = ("NAME", "HAS", "SINCE", *(("WHY",) if verbose else ()))
    rows = [
        (name, answer.text, answer.since, *((answer.why,) if verbose else ()))
        for name, answer in answers.items()
    ]
    print("\n".join(table(columns, rows, _LOOKS)), end="\n\n")


_LOOKS = {"yes": GOOD, "no": BAD, "unknown": DIM}
_TEXTS = tuple(_LOOKS)


def _as_json(
    found: Mapping[str, Mapping[str, Answer]],
    settings: Sequence[tuple[str, str | None, str]],
    kfuncs: list[str] | None,
) -> dict[str, Any]:
    made: dict[str, Any] = {
        area: {
            name: {"has": answer.has, "why": answer.why, "since": answer.since}
            for name, answer in answers.items()
        }
        for area, answers in found.items()
        if answers
    }
    if settings:
        made["settings"] = {name: value for name, value, _ in settings}
        made["kfuncs"] = kfuncs
    return made
