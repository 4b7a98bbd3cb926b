"""``pybpfload gen stubs``: what it writes. That type checkers take it is in tests/checkers."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from btf_samples import orders, tables
from hypothesis import given, settings
from test_values import HOSTILE_NAMES, Types

import pybpfload
from pybpfload.btf.build import BtfBuilder
from pybpfload.cli import main, stubs
from pybpfload.cli.stubs import stub_text
from pybpfload.errors import BpfError, FormatError

if TYPE_CHECKING:
    from pybpfload.btf import types as t

OBJECTS = Path(__file__).parents[2] / "fixtures"


def classes(text: str) -> dict[str, ast.ClassDef]:
    """Classes of a module by name; each name is there once."""
    found = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    assert len({node.name for node in found}) == len(found)
    return {node.name: node for node in found}


def literals(found: ast.ClassDef) -> dict[str, str]:
    """What ``[]`` of a class takes and gives."""
    methods = [node for node in found.body if isinstance(node, ast.FunctionDef)]
    annotations: list[Any] = [node.args.posonlyargs[1].annotation for node in methods]
    names = [annotation.slice.value for annotation in annotations]
    gives = [ast.unparse(node.returns) for node in methods if node.returns is not None]
    return dict(zip(names, gives, strict=True))


@pytest.mark.parametrize("order", ["bpfel", "bpfeb"])
def test_it_names_what_is_there(order: str) -> None:
    spec = pybpfload.open(OBJECTS / order / "maps.bpf.o")
    found = classes(stub_text(spec))
    maps = literals(found["Maps"])
    assert list(maps) == list(spec.maps)
    assert maps["hash"] == "_Map[_int, _int, _int, _int]"
    assert maps["flows"] == "_Map[_flow, _stats, _flow_given, _stats_given]"
    assert maps["percpu_hash"] == "_Map[_int, _PerCpu[_int], _int, _int | _list[_int]]"
    assert maps["lpm"] == "_Map[_prefix, _int, _Any, _int]"
    assert maps["untyped"] == "_Map[_bytes, _bytes, _int | _bytes, _int | _bytes]"
    assert set(literals(found["Programs"])) == set(spec.programs)
    assert literals(found["Variables"]) == {"target_tgid": "_Variable[_int, _int]"}
    assert set(literals(found["Types"])) == set(spec.types)
    bss = [node.name for node in found["_Bss"].body if isinstance(node, ast.FunctionDef)]
    assert bss == ["target_tgid", "target_tgid"]


def test_events_and_maps_inside_of_maps() -> None:
    spec = pybpfload.open(OBJECTS / "bpfel" / "execsnoop.bpf.o")
    assert literals(classes(stub_text(spec))["Maps"])["events"] == "_Events[_event]"
    spec = pybpfload.open(OBJECTS / "bpfel" / "maps_inner.bpf.o")
    inner = literals(classes(stub_text(spec))["Maps"])
    assert any(text.startswith("_Map[_int, _Map[") for text in inner.values())
    assert classes(stub_text(pybpfload.open(OBJECTS / "bpfel" / "nobtf.bpf.o")))["Types"]


def test_names_that_python_does_not_take() -> None:
    b = Types()
    taken = ["Object", "Any", "_int", "int", "class", "with space", "é", "\x1b[2J", "self", "event"]
    for name in taken:
        b.add_struct(name, 4, [("event", b.u32, 0)])
        b.add_enum(name, 4, [(each, n) for n, each in enumerate(HOSTILE_NAMES)])
    names = [*HOSTILE_NAMES, "self", "cls", "twice", "twice", "event", "_int"]
    b.add_struct("odd", len(names), [(name, b.u8, 8 * n) for n, name in enumerate(names)])
    spec = pybpfload.open(OBJECTS / "bpfel" / "nobtf.bpf.o")
    spec.btf = b.btf()
    spec.path = '"""\nimport os\n'
    text = stub_text(spec)
    found = classes(text)
    assert "import os" not in text.splitlines()
    assert set(literals(found["Types"])) == set(spec.types)
    odd = {node.name for node in found["odd"].body if isinstance(node, ast.FunctionDef)}
    assert {"from_", "class_", "twice", "twice_2", "self", "mro"} <= odd
    assert not odd & {"_fields", "__class__", "with space", "_int"}
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(FormatError, match="too many members"),
    ):
        patch.setattr(stubs, "_MAX_TEXT", 1000)
        stub_text(spec)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(OBJECTS / "bpfel" / "unlink.bpf.o")
    text = stub_text(pybpfload.open(path))
    assert main(["gen", "stubs", path]) == 0
    assert capsys.readouterr().out == text
    assert main(["gen", "stubs", path, "-o", str(tmp_path / "unlink_bpf.pyi")]) == 0
    assert (tmp_path / "unlink_bpf.pyi").read_text() == text
    assert not capsys.readouterr().out
    assert main(["--json", "gen", "stubs", path]) == 0
    assert json.loads(capsys.readouterr().out) == {"object": path, "stubs": text}
    assert main(["gen", "skeleton", path]) == 2
    assert main(["gen", "stubs", str(tmp_path / "none.o")]) == 1


@settings(max_examples=15)
@given(tables, orders)
def test_hostile_types(types: list[t.Type], order: str) -> None:
    b = BtfBuilder(order)
    for value in types:
        b.add_type(value)
    spec = pybpfload.open(OBJECTS / "bpfel" / "nobtf.bpf.o")
    spec.btf = b.btf()
    try:
        text = stub_text(spec)
    except BpfError:
        return
    assert "ObjectSpec" in classes(text)
