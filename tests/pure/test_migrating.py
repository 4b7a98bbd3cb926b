"""docs/migrating.md: what it tells to write here exists, and its commands have such arguments."""

import ast
import importlib
import inspect
import re
import shlex

import pytest
from command_lines import assert_parses
from snippets import ROOT

import pybpfload
from pybpfload.cli.failure import UsageError

PAGE = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
# What the page says that its words stand for.
WORDS = {
    "spec": pybpfload.ObjectSpec,
    "obj": pybpfload.Object,
    "program": pybpfload.Program,
    "m": pybpfload.Map,
    "link": pybpfload.Link,
    "variable": pybpfload.Variable,
    "reader": pybpfload.PerfBuffer,
    "btf": pybpfload.Btf,
}
ELEMENTS = {
    ("spec", "maps"): pybpfload.MapSpec,
    ("spec", "programs"): pybpfload.ProgramSpec,
    ("spec", "variables"): pybpfload.VariableSpec,
    ("obj", "maps"): pybpfload.Map,
    ("obj", "programs"): pybpfload.Program,
    ("obj", "variables"): pybpfload.Variable,
}
VALUES = {"kind", "data", "sock", "file", "address", "pid", "print", "len"}
ANYTHING = object()
"""What is known of a value that programs, or users, decide on."""


def table(title):
    """The middle column of a section's tables: pieces of code."""
    (section,) = re.findall(rf"^##+ {title}\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (?!---)(.*) \|$", section, re.MULTILINE)[1:]
    for row in rows:
        _, here, *_ = row.split(" | ")
        pieces = re.findall(r"`([^`]+)`", here)
        assert pieces or here == "nothing", f"neither code nor nothing: {row}"
        yield from pieces


PYTHON = [
    piece
    for title in ("The Python half", "From libbpf", "From cilium/ebpf")
    for piece in table(title)
]
COMMAND_LINES = [
    each for each in [*PYTHON, *table("From the tools")] if each.startswith("pybpfload ")
]
CODE = [each for each in PYTHON if each not in COMMAND_LINES]


def test_the_tables_are_read():
    assert len(CODE) > 150
    assert len(COMMAND_LINES) > 30
    assert "program.attach()" in CODE


def member(owner, name):
    """What an attribute is: a class's, an instance's that it declares, or a module's."""
    if owner is ANYTHING:
        return ANYTHING
    if inspect.ismodule(owner):
        found = getattr(owner, name, None)
        return importlib.import_module(f"{owner.__name__}.{name}") if found is None else found
    known = {*dir(owner)}
    for each in owner.__mro__:
        known |= {*getattr(each, "__annotations__", ()), *getattr(each, "__slots__", ())}
    if name not in known:
        source = inspect.getsource(owner)  # set in __init__, without a declaration
        assert re.search(rf"\bself\.{name}\b", source), f"{owner.__name__} has no {name}"
    return getattr(owner, name, ANYTHING)


def meaning(node):
    """What an expression gives: a class (for an instance of it), function, module, or anything."""
    if isinstance(node, ast.Name):
        if node.id == "pybpfload":
            return pybpfload
        assert node.id in WORDS or node.id in VALUES, f"who is {node.id}?"
        return WORDS.get(node.id, ANYTHING)
    if isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name) and (node.value.id, node.attr) in ELEMENTS:
            return ELEMENTS[node.value.id, node.attr]
        if isinstance(node.value, ast.Attribute) and node.value.attr in ("rodata", "bss"):
            return ANYTHING
        return member(meaning(node.value), node.attr)
    if isinstance(node, ast.Subscript):
        is_element = isinstance(node.value, ast.Attribute) and node.value.attr in {
            name for _, name in ELEMENTS
        }
        owner = meaning(node.value)
        return owner if is_element else ANYTHING
    if isinstance(node, ast.Call):
        return called(node)
    return ANYTHING


def called(node):
    """What a call gives; the function must take such arguments."""
    function = meaning(node.func)
    for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
        meaning(argument)
    if function is ANYTHING:
        return ANYTHING
    if not callable(function):
        return ANYTHING  # values(), items(): methods of mappings that ELEMENTS stand for
    is_method = isinstance(node.func, ast.Attribute) and inspect.isfunction(function)
    owner = meaning(node.func.value) if is_method else None
    first = [None] if inspect.isclass(owner) else []
    inspect.signature(function).bind(
        *first, *node.args, **{keyword.arg: None for keyword in node.keywords}
    )
    return function if inspect.isclass(function) else ANYTHING


@pytest.mark.parametrize("code", sorted(set(CODE)))
def test_code(code):
    (statement,) = ast.parse(code).body
    if isinstance(statement, ast.Assign):
        (target,) = statement.targets
        meaning(target)
        meaning(statement.value)
    else:
        assert isinstance(statement, ast.Expr), code
        meaning(statement.value)


@pytest.mark.parametrize(
    "code", ["m.lookdown(1)", "spec.maps['x'].size = 1", "program.test_run(bata=1)", "nobody.x"]
)
def test_what_is_not_there_is_found(code):
    with pytest.raises((AssertionError, TypeError)):
        test_code(code)


@pytest.mark.parametrize("line", sorted(set(COMMAND_LINES)))
def test_command_line(line):
    assert_parses(shlex.split(line)[1:])


@pytest.mark.parametrize("words", [["map", "got", "1"], ["disasm", "--nothing", "x.o"]])
def test_command_lines_that_do_not_parse_are_found(words):
    with pytest.raises(UsageError):
        assert_parses(words)
