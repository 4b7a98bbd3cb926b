"""``pybpfload relocate``; its JSON is a contract."""

import json
import sys
from pathlib import Path

import pytest

import pybpfload
from pybpfload.btf.build import BtfBuilder
from pybpfload.cli import main, relocation
from pybpfload.isa.insn import decode
from pybpfload.relocate import CoreKind, ReferenceKind, relocate

FIXTURES = Path(__file__).parents[2] / "fixtures"
OBJECTS = sorted(FIXTURES.glob("bpfe?/*.bpf.o"))
LITTLE = FIXTURES / "bpfel"
REFERENCES = {v for k, v in vars(ReferenceKind).items() if k.isupper()}
ORDERS = {"bpfel": "<", "bpfeb": ">"}


def name_of(path):
    return f"{path.parent.name}/{path.name}"


def types_for(path):
    """A BTF that every fixture can be relocated against without a kernel."""
    return str(path.parent / "core_target.bpf.o")


def check_contract(document):
    """Exactly these keys, in this order, of exactly these types."""
    assert list(document) == ["object", "btf", "programs", "maps"]
    assert type(document["object"]) is str
    assert all(type(name) is str for name in document["btf"])
    for program in document["programs"]:
        types = {
            "name": str,
            "section": str,
            "prog_type": int,
            "expected_attach_type": int,
            "insn_count": int,
            "insns": str,
            "references": list,
            "core_relocations": list,
        }
        assert {key: type(value) for key, value in program.items()} == types
        assert not program["section"].startswith("?")
        assert len(bytes.fromhex(program["insns"])) == 8 * program["insn_count"]
        for reference in program["references"]:
            types = {"insn": int, "kind": str, "name": str, "addend": int}
            assert {key: type(value) for key, value in reference.items()} == types
            assert reference["kind"] in REFERENCES
            assert 0 <= reference["insn"] < program["insn_count"]
        for decision in program["core_relocations"]:
            assert list(decision) == ["insn", "kind", "local", "target", "value", "outcome"]
            assert type(decision["insn"]) is int
            assert decision["kind"] in {kind.name.lower() for kind in CoreKind}
            assert type(decision["local"]) is str
            assert type(decision["target"]) in (str, type(None))
            assert type(decision["value"]) in (int, type(None))
            assert decision["outcome"] in ("patched", "poisoned", "unchanged")
            assert (decision["value"] is None) == (decision["outcome"] == "poisoned")
            assert 0 <= decision["insn"] < program["insn_count"]
    for found in document["maps"]:
        assert type(found["name"]) is str
        numbers = ["type", "key_size", "value_size", "max_entries", "flags", "pinning"]
        assert list(found) == ["name", *numbers]
        assert all(type(found[number]) is int for number in numbers)


@pytest.mark.slow
@pytest.mark.parametrize("path", OBJECTS, ids=name_of)
def test_the_contract_holds_for_every_fixture(path, capsys):
    status = main(["relocate", "--json", "--btf", types_for(path), str(path)])
    out, err = capsys.readouterr()
    if status:
        assert status == 1
        assert out == ""
        assert len(err.splitlines()) == 1
        assert path.name.startswith(("bad_", "nobtf_maps", "core_ambiguous", "core_refused")), err
        return
    assert err == ""
    document = json.loads(out)
    check_contract(document)
    spec = pybpfload.open(path)
    assert [p["name"] for p in document["programs"]] == [p.name for p in spec.programs.values()]
    assert [m["name"] for m in document["maps"]] == [m.name for m in spec.maps.values()]
    wanted = relocate(spec, pybpfload.read_btf(types_for(path)), everything=True)
    for program, expected in zip(document["programs"], wanted.programs.values(), strict=True):
        insns = decode(bytes.fromhex(program["insns"]), ORDERS[path.parent.name])
        assert insns == expected.insns
        for reference in program["references"]:
            assert insns[reference["insn"]].imm == 0
            # The addend of a jump table is its place in .jumptables.
            if insns[reference["insn"]].is_ldimm64 and reference["kind"] != "jump_table":
                assert insns[reference["insn"] + 1].imm == reference["addend"]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(LITTLE.glob("*.bpf.o")), ids=name_of)
def test_the_text_shows_every_instruction(path, capsys):
    if main(["relocate", "-v", "--btf", types_for(path), str(path)]):
        return
    out = capsys.readouterr().out
    for program in pybpfload.open(path).programs.values():
        assert f'program {program.name} SEC("{program.section}"), ' in out
    assert "<unknown" not in out
    assert "invalid:" not in out


@pytest.mark.parametrize("name", ["core_kinds", "core_local", "execsnoop", "kfuncs", "minimal"])
@pytest.mark.skipif(
    not Path("/sys/kernel/btf/vmlinux").exists() or sys.byteorder != "little",
    reason="needs /sys/kernel/btf/vmlinux",
)
def test_against_the_running_kernel_by_default(name, capsys):
    assert main(["relocate", "--json", str(LITTLE / f"{name}.bpf.o")]) == 0
    document = json.loads(capsys.readouterr().out)
    check_contract(document)
    assert document["btf"] == ([] if name == "minimal" else ["/sys/kernel/btf/vmlinux"])


def test_what_a_kernel_must_fill_in_is_named(capsys):
    path = str(LITTLE / "kfuncs.bpf.o")
    main(["relocate", "--json", "--btf", types_for(Path(path)), "--program", "call_missing", path])
    (program,) = json.loads(capsys.readouterr().out)["programs"]
    kinds = {(r["kind"], r["name"]) for r in program["references"]}
    assert ("kfunc", "pybpfload_missing") in kinds
    assert ("map_value", "kfuncs.bss") in kinds
    offsets = {r["addend"] for r in program["references"] if r["kind"] == "map_value"}
    assert len(offsets) > 1


def test_the_other_byte_order_is_told(capsys):
    path = FIXTURES / "bpfeb" / "core_bits.bpf.o"
    for btf, told in ("bpfeb", False), ("bpfel", True):
        types = str(FIXTURES / btf / "core_target.bpf.o")
        assert main(["relocate", "--btf", types, str(path)]) == 0
        assert ("the other byte order" in capsys.readouterr().err) == told


def test_names_and_decisions_are_beside_the_instructions(capsys):
    path = LITTLE / "subprogs.bpf.o"
    assert main(["relocate", "--btf", types_for(path), str(path)]) == 0
    out = capsys.readouterr().out
    assert "\nprogram " in out
    path = LITTLE / "core_local.bpf.o"
    assert main(["relocate", "--btf", types_for(path), str(path)]) == 0
    out = capsys.readouterr().out
    assert "; CO-RE byte_off struct ct_ints" in out
    assert "  insn  CO-RE " in out
    path = LITTLE / "execsnoop.bpf.o"
    assert main(["relocate", "-v", "--btf", types_for(path), str(path)]) == 0
    out = capsys.readouterr().out
    assert "; map events\n" in out
    assert "; &target_ppid\n" in out
    assert "; bpf_ringbuf_reserve\n" in out
    assert "; CO-RE byte_off struct task_struct.tgid: poisoned\n" in out
    assert "poisoned: the target has no 'task_struct'\n" in out
    assert " candidates: none\n" in out


def test_one_program_is_not_stopped_by_another(capsys):
    path = str(LITTLE / "core_ambiguous.bpf.o")
    arguments = ["relocate", "--json", "--btf", types_for(Path(path)), path]
    assert main(arguments) == 1
    assert "ambiguous" in capsys.readouterr().err
    statuses = {n: main([*arguments, "--program", n]) for n in pybpfload.open(path).programs}
    assert set(statuses.values()) == {0, 1}, statuses


def test_without_any_btf_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(relocation, "_KERNEL", str(tmp_path / "none"))
    assert main(["relocate", str(LITTLE / "execsnoop.bpf.o")]) == 2
    err = capsys.readouterr().err
    assert "has CO-RE relocations" in err
    assert "--btf FILE" in err
    # An object that needs no types is relocated all the same.
    assert main(["relocate", "--json", str(LITTLE / "minimal.bpf.o")]) == 0
    assert json.loads(capsys.readouterr().out)["btf"] == []


@pytest.mark.parametrize("split", [True, False], ids=["split", "alone"])
def test_further_files_are_modules(split, capsys, tmp_path):
    base = pybpfload.read_btf(types_for(LITTLE / "x"))
    module = BtfBuilder("<", base=base if split else None)
    number = module.add_int("a_number", 4)
    module.add_struct("task_struct", 4, [("tgid", number, 0)])
    files = [str(tmp_path / "base"), str(tmp_path / "module")]
    Path(files[0]).write_bytes(base.to_bytes())
    Path(files[1]).write_bytes(module.build())
    arguments = ["--btf", files[0], "--btf", files[1], str(LITTLE / "execsnoop.bpf.o")]
    assert main(["relocate", "--json", *arguments]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["btf"] == files
    decisions = [r for p in document["programs"] for r in p["core_relocations"]]
    number = len(base) + 1 if split else 2
    targets = {r["target"] for r in decisions if r["target"]}
    assert targets == {f"[{number}] struct task_struct.tgid (0:0 @ offset 0)"}
    assert main(["relocate", *arguments]) == 0
    assert f" in {files[1]}" in capsys.readouterr().out
    if split:
        assert main(["relocate", *arguments[2:]]) == 1
        assert "that of a module comes after it" in capsys.readouterr().err


def test_files_without_btf(capsys, tmp_path):
    (tmp_path / "file").write_bytes(b"nothing")
    path = str(LITTLE / "execsnoop.bpf.o")
    assert main(["relocate", "--btf", str(tmp_path / "file"), path]) == 1
    assert "no BTF in it" in capsys.readouterr().err
    assert main(["relocate", "--btf", str(tmp_path / "missing"), path]) == 1
    assert capsys.readouterr().err.endswith("missing: No such file or directory\n")
    good = types_for(LITTLE / "x")
    assert main(["relocate", "--btf", good, "--btf", str(tmp_path / "file"), path]) == 1
    assert "no BTF in it" in capsys.readouterr().err
