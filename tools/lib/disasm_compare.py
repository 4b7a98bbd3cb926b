"""What tools/disasm-compare does."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from environment import ROOT

import pybpfload
from pybpfload.errors import BpfError
from pybpfload.relocate.listing import listings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.isa.disasm import Line
    from pybpfload.object.spec import ObjectSpec

OBJDUMP = "llvm-objdump-22"
_SHOWN = 20

_SECTION = re.compile(r"Disassembly of section (.*):")
_PLACE = re.compile(r"( [-+]0x[0-9a-f]+) <.*>")
_INSN = re.compile(r" +(\d+):\t(.*)")

Code = dict[tuple[str, int], str]
"""Text by section and index of the slot in it."""

OTHERWISE = {
    "with words of RFC 9669 for ld_pseudo": lambda mine, llvm: (
        llvm.startswith("ld_pseudo\t") and re.match(r"r\d+ = (map|var|code)_", mine.text)
    ),
    "with the distance of skb[], which LLVM leaves out": lambda mine, llvm: (
        re.sub(r" [-+] 0x[0-9a-f]+\]", "]", mine.text) == llvm
    ),
    "that no kernel takes, and LLVM reads not": lambda mine, llvm: (
        llvm == "<unknown>" and bool(mine.problems)
    ),
}
"""Where we write more than LLVM does, on purpose: of our line and LLVM's text."""


def main(manual: str) -> int:
    """Run the tool."""
    parser = argparse.ArgumentParser(
        description=manual, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", type=Path, default=[ROOT / "fixtures"])
    parser.add_argument("-v", "--verbose", action="store_true", help="name what is not compared")
    options = parser.parse_args()
    if shutil.which(OBJDUMP) is None:
        print(f"there is no {OBJDUMP} (package llvm-22)", file=sys.stderr)
        return 2
    counts: Counter[str] = Counter()
    differences = 0
    for path in objects(options.paths):
        try:
            spec = pybpfload.open(path)
            mine = ours(spec)
        except BpfError as error:
            counts["objects that we refuse"] += 1
            if options.verbose:
                print(f"{path}: {error}")
            continue
        counts["objects"] += 1
        counts["programs"] += len(spec.programs)
        counts["subprograms"] += len(spec.subprograms)
        counts["instructions"] += len(mine)
        theirs = llvm(path)
        for place, line in mine.items():
            found, other = without_names(line.text), theirs.get(place, "")
            if found == other:
                continue
            rule = next((name for name, holds in OTHERWISE.items() if holds(line, other)), None)
            if rule is not None:
                counts[f"instructions {rule}"] += 1
            else:
                differences += 1
                if differences <= _SHOWN or options.verbose:
                    print(f"{path} {place}: we say {found}, LLVM {other}")
        extra = theirs.keys() - mine.keys()
        counts["instructions of LLVM's outside of functions"] += len(extra)
        if extra and options.verbose:
            print(f"{path}: outside of functions: {sorted(extra)[:5]}")
    for what, count in counts.items():
        print(f"{count:9,d} {what}")
    print(f"{differences:9,d} differences")
    return 2 if not counts["instructions"] else 1 if differences else 0


def objects(paths: list[Path]) -> Iterator[Path]:
    """The files, and the objects in the folders."""
    for path in paths:
        if path.is_dir():
            yield from sorted(path.rglob("*.bpf.o"))
        else:
            yield path


def ours(spec: ObjectSpec) -> dict[tuple[str, int], Line]:
    """What we say of all functions of an object."""
    return {
        (function.section_name, function.start + row.line.index): row.line
        for listing in listings(spec)
        for function in [listing.function]
        for row in listing.rows
    }


def without_names(text: str) -> str:
    """Without the name of the place that a jump goes to: its distance says it all."""
    return _PLACE.sub(r"\1", text)


def llvm(path: Path) -> Code:
    """What llvm-objdump says of all sections of an object."""
    done = subprocess.run(
        [OBJDUMP, "--disassemble", "--no-show-raw-insn", path],
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=True,
    )
    found: Code = {}
    section = ""
    for line in done.stdout.split("\n"):
        if insn := _INSN.fullmatch(line):
            found[section, int(insn[1])] = without_names(insn[2])
        elif named := _SECTION.fullmatch(line):
            section = named[1]
    return found
