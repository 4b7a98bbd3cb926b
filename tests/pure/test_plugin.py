"""The pytest plugin as users meet it: their tests in a folder of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pybpfload.btf.build import BtfBuilder
from pybpfload.errors import BpfError
from pybpfload.testing.kernel_types import RUNNING, KernelTypes
from pybpfload.testing.running import load

pytest_plugins = ["pytester"]

OBJECTS = Path(__file__).parents[2] / "fixtures" / "bpfel"


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch) -> pytest.Pytester:
    """A folder for tests; the plugin is there because pybpfload is installed, nothing is cached."""
    monkeypatch.setenv("PYBPFLOAD_CACHE", str(pytester.path / "cache"))
    monkeypatch.delenv("PYBPFLOAD_VM_EVENTS", raising=False)
    folder = pytester.mkdir("kernels")
    for name in ("5.10.btf", "6.1.btf", "vmlinux"):
        made = BtfBuilder("<")
        number = made.add_int("int", 4, 1)
        made.add_struct("task_struct", 8, [(f"of_{name[0]}", number, 0), ("pid", number, 32)])
        (folder / name).write_bytes(made.build())
    pytester.makeconftest(f"OBJECTS = {str(OBJECTS)!r}")
    return pytester


class TestKernelBtf:
    TEST = """
        def test_it(kernel_btf):
            assert kernel_btf.find("task_struct")
        """

    def test_once_for_each_in_the_folder(self, project):
        project.makeini("[pytest]\nkernel_btf_folder = kernels")
        project.makepyfile(self.TEST)
        result = project.runpytest_inprocess("-v")
        result.assert_outcomes(passed=3)
        result.stdout.fnmatch_lines(["*test_it?5.10? PASSED*", "*?6.1?*", "*?vmlinux?*"])

    def test_the_option_wins(self, project):
        project.makepyfile(self.TEST)
        result = project.runpytest_inprocess("--kernel-btf-folder", str(project.path / "kernels"))
        result.assert_outcomes(passed=3)

    def test_those_of_the_ini_file_and_those_of_the_mark(self, project):
        project.makeini("[pytest]\nkernel_btf_folder = kernels\nkernel_btfs = 6.1")
        project.makepyfile(
            self.TEST,
            test_marked="""
            import pytest

            @pytest.mark.kernel_btfs("5.10", "vmlinux")
            def test_marked(kernel_btf):
                assert kernel_btf.name.endswith(("5.10.btf", "vmlinux"))
            """,
        )
        project.runpytest_inprocess("--strict-markers").assert_outcomes(passed=3)

    def test_a_kernel_that_nobody_knows_is_an_error(self, project):
        project.makeini("[pytest]\nkernel_btf_folder = kernels\nkernel_btfs = 4.4")
        project.makepyfile(self.TEST)
        result = project.runpytest_inprocess()
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*no kernel is called '4.4'; there are 5.10, 6.1, vmlinux*"])

    def test_nothing_to_test_on_is_a_skip_with_a_reason(self, project, monkeypatch):
        monkeypatch.setattr(
            "pybpfload.testing.kernel_types._RUNNING_BTF", Path("/there/is/no/such/file")
        )
        project.makepyfile(self.TEST)
        result = project.runpytest_inprocess("-rs")
        result.assert_outcomes(skipped=1)
        result.stdout.fnmatch_lines(["*no kernel's BTF is here: set kernel_btf_folder*"])

    def test_by_name(self, project):
        project.makeini("[pytest]\nkernel_btf_folder = kernels")
        project.makepyfile(
            """
            def test_by_name(kernel_btfs):
                assert set(kernel_btfs) == {"5.10", "6.1", "vmlinux"}
                assert len(kernel_btfs) == 3
                assert kernel_btfs["6.1"] is kernel_btfs["6.1"]
                assert kernel_btfs["6.1"].find("task_struct")
            """
        )
        project.runpytest_inprocess().assert_outcomes(passed=1)


def test_names_without_a_folder(tmp_path, monkeypatch):
    """Those of the cache, else the running kernel's."""
    monkeypatch.setenv("PYBPFLOAD_CACHE", str(tmp_path))
    assert set(KernelTypes()) <= {RUNNING}
    kernel = tmp_path / "kernels" / "6.1"
    kernel.mkdir(parents=True)
    (kernel / "release").write_text("6.1.0-test\n")
    (tmp_path / "btf").mkdir()
    data = BtfBuilder("<")
    number = data.add_int("int", 4, 1)
    (tmp_path / "btf" / "6.1-6.1.0-test.btf").write_bytes(data.build())
    types = KernelTypes()
    assert list(types) == ["6.1"]
    assert types["6.1"].find("int") == number
    assert types["6.1"].name == "6.1"
    with pytest.raises(KeyError, match=r"no kernel is called '1\.0'; there are 6\.1, 5\.10"):
        types["1.0"]


class TestBpfRun:
    TEST = """
        from conftest import OBJECTS

        def test_it(bpf_load, bpf_run):
            loaded = bpf_load(OBJECTS + "/test_run.bpf.o")
            assert bpf_run(loaded["add_arguments"], ctx=[3, 4]).retval == 7
            assert bpf_run(loaded["sum_bytes"], bytes([1] * 64)).retval == 8
            print(type(loaded).__name__)
        """

    @pytest.mark.parametrize(
        ("ini", "arguments", "place"),
        [
            ("", (), "OnInterpreter"),
            ("bpf_run = interpreter", (), "OnInterpreter"),
            ("bpf_run = kernel", ("--bpf-run=interpreter",), "OnInterpreter"),
        ],
    )
    def test_where(self, project, ini, arguments, place):
        project.makeini(f"[pytest]\n{ini}")
        project.makepyfile(self.TEST)
        result = project.runpytest_inprocess("-s", *arguments)
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines([f"*{place}*"])

    def test_there_are_three_places(self, project):
        project.makepyfile(self.TEST)
        result = project.runpytest_inprocess("--bpf-run=moon")
        result.stderr.fnmatch_lines(["*invalid choice: 'moon'*interpreter*kernel*both*"])
        with pytest.raises(ValueError, match="interpreter, kernel, both, not on 'moon'"):
            load(OBJECTS / "test_run.bpf.o", on="moon")

    def test_variables_and_maps_live_as_long_as_what_was_loaded(self):
        packet = bytes(64)
        with load(OBJECTS / "subprogs.bpf.o", btf=task_types()) as loaded:
            assert [loaded["call_data"].run(packet).retval for _ in range(3)] == [1000, 2000, 3000]
            assert loaded.variables["total"].value == 3000
            assert loaded.maps["calls"][1] == 3
            loaded.variables["step"].value = 1
            assert loaded["call_data"].run(packet).retval == 3001

    def test_no_such_program(self):
        with load(OBJECTS / "test_run.bpf.o") as loaded:
            with pytest.raises(BpfError, match="has no program 'missing'; it has: sum_bytes"):
                loaded["missing"]
            with pytest.raises(BpfError, match=r"'compute' of test_run was not loaded.*autoload"):
                loaded["compute"]

    def test_settings(self):
        values = {"CONFIG_PYBPF_U8": 200, "CONFIG_PYBPF_BOOL": True, "CONFIG_PYBPF_TEXT": "text"}
        with load(OBJECTS / "kconfig_types.bpf.o", kconfig=values) as loaded:
            loaded["report"].run(ctx=[0, 0])
            assert loaded.variables["a_u8"].value == 200
            assert loaded.variables["a_bool"].value is True


def task_types():
    made = BtfBuilder("<")
    number = made.add_int("int", 4, 1)
    made.add_struct("task_struct", 8, [("pid", number, 0), ("tgid", number, 32)])
    return made.btf()


class TestOnKernel:
    TEST = """
        import pytest

        @pytest.fixture
        def only_there():
            raise RuntimeError("set up on the host")

        @pytest.mark.on_kernel("6.1", "sid")
        def test_there(only_there):
            raise RuntimeError("ran on the host")

        @pytest.mark.on_kernel("6.1")
        @pytest.mark.skipif(True, reason="as far as the host is concerned")
        @pytest.mark.kernel("99.0")
        @pytest.mark.parametrize("n", [1, 2])
        def test_numbers(n):
            raise RuntimeError("ran on the host")

        def test_here():
            pass
        """

    @pytest.fixture
    def machines(self, monkeypatch):
        """What was asked of virtual machines; each test passes but one."""
        from pybpfload.testing.vm import matrix

        asked = []

        def run_tests(names, arguments, **options):
            asked.append((names, arguments))
            [name] = names
            run = matrix.KernelRun(name)
            for test in arguments[:-2]:
                run.tests[test] = matrix.TestOutcome("passed")
                if name == "sid":
                    run.tests[test] = matrix.TestOutcome("failed", detail="assert 1 == 2")
                if test.endswith("[2]"):
                    run.tests[test] = matrix.TestOutcome("skipped", detail="no such thing")
            return [run]

        monkeypatch.setattr(matrix, "run_tests", run_tests)
        return asked

    def test_each_kernel_is_booted_once(self, project, machines):
        project.makepyfile(test_mine=self.TEST)
        result = project.runpytest_inprocess("-v", "-rs", "--strict-markers")
        result.assert_outcomes(passed=3, failed=1, skipped=1)
        result.stdout.fnmatch_lines(
            [
                "*test_there?6.1? PASSED*",
                "*test_there?sid? FAILED*",
                "*test_numbers?1-6.1? PASSED*",
                "*test_numbers?2-6.1? SKIPPED*",
                "*test_here PASSED*",
                "failed on kernel sid",
                "assert 1 == 2",
                "SKIPPED * on 6.1: no such thing",
            ]
        )
        result.stdout.no_fnmatch_line("*RuntimeError*")
        assert machines == [
            (
                ["6.1"],
                [
                    "test_mine.py::test_there",
                    "test_mine.py::test_numbers[1]",
                    "test_mine.py::test_numbers[2]",
                    "-m",
                    "on_kernel",
                ],
            ),
            (["sid"], ["test_mine.py::test_there", "-m", "on_kernel"]),
        ]

    def test_only_what_is_selected_is_run_there(self, project, machines):
        project.makepyfile(test_mine=self.TEST)
        project.runpytest_inprocess("-k", "1-6.1").assert_outcomes(passed=1, deselected=4)
        assert machines[0][1][0] == "test_mine.py::test_numbers[1]"
        for mark in ("on_kernel", "boots"):
            result = project.runpytest_inprocess("-m", f"not {mark}")
            result.assert_outcomes(passed=1, deselected=4)
        assert len(machines) == 1

    def test_in_the_machine_it_is_a_test_like_any_other(self, project, machines, monkeypatch):
        pipe = project.path / "events"
        pipe.touch()
        monkeypatch.setenv("PYBPFLOAD_VM_EVENTS", str(pipe))
        project.makepyfile(test_mine=self.TEST)
        result = project.runpytest_inprocess("-m", "on_kernel")
        result.assert_outcomes(errors=1, skipped=2, deselected=1)
        assert machines == []

    def test_a_kernel_that_cannot_be_had_is_a_failure(self, project):
        project.makepyfile(
            """
            import pytest

            @pytest.mark.on_kernel("2.6")
            def test_old(): pass
            """
        )
        result = project.runpytest_inprocess()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["no kernel is called '2.6'; there are 5.10*"])

    def test_a_mark_without_kernels_is_a_mistake(self, project):
        project.makepyfile("import pytest\n@pytest.mark.on_kernel()\ndef test_old(): pass\n")
        result = project.runpytest_inprocess()
        result.stderr.fnmatch_lines(["*test_old: on_kernel() names no kernel*"])


def test_machines_are_made_once(project, monkeypatch):
    project.makepyfile(
        """
        import pytest
        from pybpfload.testing import vm

        def test_it(kernel_vm, monkeypatch):
            monkeypatch.setattr(vm, "VirtualMachine", lambda name, **options: [name, options])
            assert kernel_vm("6.1") is kernel_vm("6.1")
            assert kernel_vm("6.1", memory=512) == ["6.1", {"memory": 512}]
        """
    )
    project.runpytest_inprocess().assert_outcomes(passed=1)
    project.runpytest_inprocess("-m", "not boots").assert_outcomes(deselected=1)


def test_the_plugin_costs_little():
    """It is loaded wherever pybpfload is installed: nothing but its own modules, and pytest's."""
    code = (
        "import sys, pytest, json, platform, pathlib; before = set(sys.modules);"
        "from pybpfload.testing import fixtures, guests, plugin;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "pybpfload",
        "pybpfload.lazy",
        "pybpfload.testing",
        "pybpfload.testing.fixtures",
        "pybpfload.testing.guests",
        "pybpfload.testing.plugin",
    ]
