"""Will it load there: verdicts on kernels made for the test.

``tests/kernel/test_check_claims.py`` compares verdicts with what running kernels do.
"""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import pytest

import pybpfload
from pybpfload import uapi
from pybpfload.btf.build import BtfBuilder
from pybpfload.check import DEGRADED, FAILS, LOADS, Kernel, check, check_files
from pybpfload.cli import main
from pybpfload.cli.check_report import _short
from pybpfload.kernel.since import first_version, version_pair
from pybpfload.relocate import Target

OBJECTS = Path(__file__).parents[2] / "fixtures" / "bpfel"

ENUMS = {
    "bpf_prog_type": "ProgType",
    "bpf_map_type": "MapType",
    "bpf_attach_type": "AttachType",
    "bpf_link_type": "LinkType",
}


def kernel_btf(version: str, *functions: str, tracepoints: tuple[str, ...] = ()) -> bytes:
    """BTF with the enumerations of a kernel of that age, and some functions."""
    made = BtfBuilder("<")

    def known(enum: str, numbers: range) -> list[tuple[str, int]]:
        found = []
        for number in numbers:
            since = first_version(enum, number)
            if since and version_pair(since) <= version_pair(version):
                found.append((f"{enum}_{number}", number))
        return [*found, (f"__MAX_{enum}", len(found))]

    for name, enum in ENUMS.items():
        made.add_enum(name, 4, known(enum, range(max(map(int, getattr(uapi, enum))) + 1)))
    made.add_enum("bpf_func_id", 4, known("Helper", range(212)))
    proto = made.add_func_proto(made.add_int("int", 4, 1))
    for name in ("sched_switch", *tracepoints):
        made.add_typedef(f"btf_trace_{name}", made.add_ptr(proto))
    for name in ("schedule", *functions):
        made.add_func(name, proto, 1)
    return made.build()


def kernel(version: str, *functions: str, tracepoints: tuple[str, ...] = (), **more) -> Kernel:
    data = kernel_btf(version, *functions, tracepoints=tracepoints)
    return Kernel(version, Target(pybpfload.Btf.from_bytes(data, name=version)), **more)


def opened(name: str) -> pybpfload.ObjectSpec:
    return pybpfload.open(OBJECTS / f"{name}.bpf.o")


def said(found) -> str:
    return "\n".join(map(str, found))


@pytest.mark.parametrize(
    ("version", "age"),
    [("5.10", ("5.10", "5.11")), ("6.1", ("6.1", "6.2")), ("7.2", ("7.2", None))],
)
def test_the_age_of_a_kernel(version, age):
    assert kernel(version).age == age


def test_helpers_and_types_by_the_kernels_own_lists():
    old = check(opened("user_ringbuf"), kernel("5.10"))
    assert old.result == FAILS
    told = said(old.problems)
    assert "program drain: the kernel has no program type syscall (Linux 5.14)" in told
    assert "the kernel has no helper bpf_user_ringbuf_drain (Linux 6.1)" in told
    assert "the kernel has no map type user_ringbuf (Linux 6.1)" in told
    assert check(opened("user_ringbuf"), kernel("6.1")).result == LOADS


def test_the_last_enumerator_counts_the_others():
    """``__MAX_BPF_MAP_TYPE`` has the number of the type that the next kernel brings."""
    assert kernel("6.1").knows("MapType", uapi.MapType.USER_RINGBUF)
    assert kernel("6.1").knows("MapType", uapi.MapType.CGRP_STORAGE) is False


def test_instructions():
    spec = opened("arena")
    told = said(check(spec, kernel("6.6")).problems)
    assert "addr_space_cast" in told
    assert "Linux 6.9" in told


def test_a_btf_that_was_cut_down_tells_less():
    made = BtfBuilder("<")
    made.add_int("int", 4, 1)
    verdict = check(opened("ringbuf"), Kernel("cut", Target(made.btf("cut"))))
    assert not verdict.problems
    assert "whether the kernel has map type ringbuf (Linux 5.8)" in said(verdict.unknown)


def test_what_is_guarded_is_done_without():
    spec = opened("kfuncs")
    for program in spec.programs.values():
        program.autoload = program.name == "call_missing"
    verdict = check(spec, kernel("7.2", tracepoints=("sys_enter", "task_newtask")))
    assert verdict.result == DEGRADED
    assert "the kernel has no pybpfload_missing()" in said(verdict.degraded)
    assert not any(each.remedy for each in verdict.degraded), "what would help has been done"


def test_targets():
    spec = opened("tracepoint")
    verdict = check(spec, kernel("7.2"))
    missing = re.findall(r"no tracepoint '(?:\w+/)?(\w+)'", said(verdict.problems))
    assert missing
    there = check(spec, kernel("7.2", tracepoints=tuple(missing)))
    assert "target" not in {each.kind for each in there.problems}


def test_kprobes_of_functions_that_types_do_not_name_are_not_sure():
    spec = opened("kprobe")
    places = [p.attach_to for p in spec.programs.values() if p.attach_to and p.autoload]
    verdict = check(spec, kernel("7.2"))
    if places:
        assert "the kernel's types have no function" in said(verdict.unknown)
    assert not [each for each in verdict.problems if each.kind == "target"]


def test_the_object_is_left_alone():
    spec = opened("core_refused")
    before = [p.autoload for p in spec.programs.values()]
    assert check(spec, kernel("7.2")).result in (LOADS, FAILS)
    assert [p.autoload for p in spec.programs.values()] == before


def test_columns_are_told_apart_in_few_words():
    assert _short(["a/x.btf", "b/y.btf"]) == ["x.btf", "y.btf"]
    assert _short(["/k/5.10/vmlinuz", "/k/6.1/vmlinuz"]) == ["5.10", "6.1"]
    assert _short(["/k/5.10/x", "/k/6.1/x", "/k/6.1/y"]) == ["5.10/x", "6.1/x", "6.1/y"]


class TestManyAtOnce:
    @pytest.fixture
    def kernels(self, tmp_path) -> list[str]:
        paths = []
        for version in ("5.10", "7.2"):
            folder = tmp_path / version
            folder.mkdir()
            (folder / "vmlinux").write_bytes(kernel_btf(version, tracepoints=("sys_enter",)))
            paths.append(str(folder))
        return paths

    def test_every_pair(self, kernels, tmp_path):
        broken = tmp_path / "broken.o"
        broken.write_bytes(b"hello")
        objects = [str(OBJECTS / "arena.bpf.o"), str(OBJECTS / "minimal.bpf.o"), str(broken)]
        serial = {(v.object, v.kernel): v.result for v in check_files(objects, kernels)}
        with ThreadPoolExecutor(2) as executor:
            found = check_files(objects, kernels, executor=executor)
            assert {(v.object, v.kernel): v.result for v in found} == serial
        assert len(serial) == 6
        assert serial[objects[0], kernels[0]] == FAILS
        assert serial[objects[0], kernels[1]] == LOADS
        assert serial[objects[2], kernels[1]] == FAILS

    def test_command(self, kernels, tmp_path, capsys):
        arena, minimal = str(OBJECTS / "arena.bpf.o"), str(OBJECTS / "minimal.bpf.o")
        page, report = tmp_path / "page.html", tmp_path / "report.xml"
        reports = ["--html", str(page), "--junit", str(report)]
        assert main(["check", arena, minimal, "--kernel", *kernels, *reports]) == 1
        out = capsys.readouterr().out
        assert re.search(r"OBJECT +5\.10 +7\.2\n +arena\.bpf\.o +✗ +✓\n", out)
        assert "no map type arena (Linux 6.9)" in out
        suite = ElementTree.parse(report).getroot()
        assert (suite.get("tests"), suite.get("failures")) == ("4", "1")
        assert "no map type arena" in suite.find("testcase/failure").text
        text = page.read_text()
        assert text.count("<td class=") == 4
        assert '<td class="fails"><a href="#p0">' in text
        assert main(["check", minimal, "--kernel", kernels[1], "--json"]) == 0
        [verdict] = json.loads(capsys.readouterr().out)
        assert verdict["result"] == LOADS

    def test_files_are_called_as_they_were_given(self, kernels, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        shutil.copy(OBJECTS / "minimal.bpf.o", tmp_path)
        objects, sources = ["./minimal.bpf.o", ".//minimal.bpf.o"], ["./5.10", "7.2//"]
        names = [(v.object, v.kernel) for v in check_files(objects, sources)]
        assert names == [(path, source) for source in sources for path in objects]
        assert main(["check", "--json", *objects, "--kernel", *sources]) == 0
        assert len(json.loads(capsys.readouterr().out)) == 4
        assert main(["check", *objects, "--kernel", *sources]) == 0

    def test_what_is_no_object(self, kernels, tmp_path):
        broken = tmp_path / "broken.o"
        broken.write_bytes(b"hello")
        found = check_files([broken, tmp_path / "gone.o"], kernels[:1])
        [damaged], [absent] = [each.problems for each in found]
        assert damaged.what.startswith("not an ELF file")
        assert "clang -target bpf" in damaged.remedy
        assert "clang" not in damaged.what
        assert absent.what == "No such file or directory"

    def test_an_object_that_was_compiled_anew_is_read_anew(self, kernels, tmp_path):
        path = tmp_path / "tracer.bpf.o"
        for name, result in (("arena", FAILS), ("minimal", LOADS)):
            shutil.copy(OBJECTS / f"{name}.bpf.o", path)
            assert [each.result for each in check_files([path], kernels[:1])] == [result]

    def test_a_kernel_that_is_none(self, tmp_path, capsys):
        assert main(["check", str(OBJECTS / "minimal.bpf.o"), "--kernel", str(tmp_path)]) == 1
        assert "no vmlinux" in capsys.readouterr().err

    def test_modules_beside_the_kernel(self, tmp_path):
        base_data = kernel_btf("7.2")
        base = pybpfload.Btf.from_bytes(base_data)
        made = BtfBuilder("<", base=base)
        made.add_func("nf_tables_newtable", made.add_func_proto(0), 1)
        (tmp_path / "vmlinux").write_bytes(base_data)
        spec = opened("module_fentry")
        assert check(spec, Kernel.read(tmp_path)).result == FAILS
        (tmp_path / "nf_tables").write_bytes(made.build())
        assert not [p for p in check(spec, Kernel.read(tmp_path)).problems if p.kind == "target"]

    def test_a_configuration_beside_the_kernel(self, tmp_path):
        (tmp_path / "vmlinux").write_bytes(kernel_btf("7.2", tracepoints=("sys_enter",)))
        spec = opened("bad_kconfig_missing")
        assert "the configuration is not known" in said(check(spec, Kernel.read(tmp_path)).unknown)
        (tmp_path / "config").write_text("CONFIG_HZ=250\n")
        assert "is not set" in said(check(spec, Kernel.read(tmp_path)).problems)
