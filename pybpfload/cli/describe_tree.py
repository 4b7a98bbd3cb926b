"""The tree of ``pybpfload inspect --tree``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.charts.tree import Tree
from pybpfload.cli.describe_text import initial, map_details, sized
from pybpfload.cli.failure import visible
from pybpfload.cli.style import DIM, NAME, TITLE, paint

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["tree"]


def tree(one: dict[str, Any]) -> Tree:
    """Make a tree of an object that :func:`pybpfload.cli.describe.describe` described.

    Returns:
        The object, and below it what it needs, programs with what they call, use and ask of the
        kernel's types, subprograms, maps, variables by section, externs by kind, notes.
    """
    branches = (
        ("needs", _needs(one["needs"])),
        ("programs", [_program(program) for program in one["programs"]]),
        ("subprograms", [_subprogram(function) for function in one["subprograms"]]),
        ("maps", [_map(found) for found in one["maps"]]),
        ("variables", _variables(one["variables"])),
        ("externs", _externs(one["externs"])),
        ("notes", [_leaf(note) for note in one["notes"]]),
    )
    return Tree(
        paint(visible(one["object"]), TITLE),
        tuple(Tree(paint(what, TITLE), tuple(below)) for what, below in branches if below),
    )


def _leaf(name: str, about: str = "", look: str = "", below: Iterable[Tree] = ()) -> Tree:
    text = paint(visible(name), look)
    return Tree(f"{text}  {paint(visible(about), DIM)}" if about else text, tuple(below))


def _branch(what: str, below: Iterable[Tree]) -> list[Tree]:
    """A branch, or none if nothing is below it."""
    found = tuple(below)
    return [Tree(what, found)] if found else []


def _needs(needs: dict[str, Any]) -> list[Tree]:
    because = [_leaf(each["what"], ", ".join(each["whose"])) for each in needs["because"]]
    may = [_leaf(each["what"], _since(each["since"])) for each in needs["optional"]]
    least = [_leaf(_since(needs["kernel"]), below=because)] if needs["kernel"] else []
    return least + _branch("may use", may)


def _since(version: str | None) -> str:
    return f"Linux {version}" if version else ""


def _program(program: dict[str, Any]) -> Tree:
    facts = [
        program["section"],
        program["type"],
        program["expected_attach_type"],
        program["attach_to"] and f"on {program['attach_to']}",
        _insns(program["insn_count"]),
        program["stack"] and f"{program['stack']} bytes of stack",
        None if program["autoload"] else "not loaded unless asked for",
    ]
    below = [
        *_branch("subprograms", map(_leaf, program["subprograms"] or ())),
        *_branch("helpers", map(_leaf, program["helpers"] or ())),
        *_branch("kernel functions", map(_leaf, program["kfuncs"] or ())),
        *_branch("maps", map(_leaf, program["maps"])),
        *_core(program["core_accesses"]),
    ]
    return _leaf(program["name"], ", ".join(fact for fact in facts if fact), NAME, below)


def _subprogram(function: dict[str, Any]) -> Tree:
    about = f"{'global' if function['global'] else 'static'}, {_insns(function['insn_count'])}"
    return _leaf(function["name"], about, NAME, _core(function["core_accesses"]))


def _insns(count: int) -> str:
    return f"{count} instruction{'s' * (count != 1)}"


def _core(accesses: list[dict[str, Any]]) -> list[Tree]:
    """CO-RE relocations, by type and by what is asked of it."""
    types: dict[str, list[Tree]] = {}
    for each in accesses:
        times = f" x {each['count']}" if each["count"] > 1 else ""
        leaf = _leaf(each["path"] or each["kind"], f"{each['kind']}{times}" if each["path"] else "")
        types.setdefault(each["type"] or "unknown", []).append(leaf)
    return _branch("CO-RE", [_leaf(name, below=below) for name, below in types.items()])


def _map(found: dict[str, Any]) -> Tree:
    facts = [
        found["type"],
        found["max_entries"] and f"max_entries {found['max_entries']}",
        ", ".join(found["flags"]),
        *map_details({**found, "inner": None, "records": None, "values": None}),
    ]
    key = sized(found["key_type"], found["key_size"])
    value = sized(found["value_type"], found["value_size"])
    values = [_leaf(each) for each in found["values"] if each]
    below = [
        *([_leaf("key", key)] if key else []),
        *([_leaf("value", value)] if value else []),
        *_branch("inner", [_map(found["inner"])] if found["inner"] else []),
        *_branch("records", map(_leaf, found["records"] or ())),
        *_branch("values", values),
    ]
    return _leaf(found["name"], ", ".join(fact for fact in facts if fact), NAME, below)


def _variables(variables: list[dict[str, Any]]) -> list[Tree]:
    sections: dict[str, list[Tree]] = {}
    for each in variables:
        text, value = each["declaration"] or each["name"], initial(each)
        leaf = _leaf(text if value is None else f"{text} = {value}")
        sections.setdefault(each["section"], []).append(leaf)
    return [_leaf(section, below=below) for section, below in sections.items()]


def _externs(externs: list[dict[str, Any]]) -> list[Tree]:
    kinds: dict[str, list[Tree]] = {}
    for each in externs:
        about = "weak" if each["weak"] else ""
        kinds.setdefault(each["kind"], []).append(_leaf(each["declaration"] or each["name"], about))
    return [_leaf(kind, below=below) for kind, below in kinds.items()]
