"""``pybpfload gen stubs``: type checkers take what it writes, and find users' mistakes by it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pybpfload
from pybpfload.cli import main

ROOT = Path(__file__).parents[2]
OBJECTS = ROOT / "fixtures" / "bpfel"

# Each line with a mistake says so; the others are right.
USER = """\
from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pybpfload

if TYPE_CHECKING:
    from typing_extensions import assert_type

    import execsnoop_bpf
    import ringbuf_bpf
    from maps_bpf import ObjectSpec, flow, state, stats

spec = cast("ObjectSpec", pybpfload.open("maps.bpf.o"))
spec.variables["target_tgid"].value = 5
spec.bss.target_tgid = 6
spec.bss.target_tgid = "7"  # wrong
spec.maps["flows"].max_entries = 10
spec.maps["flos"].max_entries = 10  # wrong


def show(found: stats) -> int:
    return found.packets + found.pakets  # wrong


with spec.load() as obj:
    flows = obj.maps["flows"]
    found = flows[{"port": 53}]
    if TYPE_CHECKING:
        assert_type(found, stats)
        assert_type(found.state, state)
        assert_type(found.name, str)
        assert_type(obj.maps["percpu_hash"][1].sum(), int)
        assert_type(obj.variables["target_tgid"].value, int)
        assert_type(obj.bss.target_tgid, int)
        assert_type([key for key, _ in flows.items()], "list[flow]")
        assert_type(found._replace(packets=1), stats)
        hashed = obj.maps["hash"]
        assert_type(hashed.get(1), "int | None")
        assert_type(hashed.get(1, "no"), "int | str")
        assert_type(hashed.lookup(1), int)
        assert_type(hashed.pop(1, None), "int | None")
        assert_type(obj.maps["queue"].pop(), int)
        assert_type(hashed.setdefault(1, 5), int)
        ring = cast("ringbuf_bpf.Object", obj).maps["small"].reader()
        assert_type(ring.poll(1), "list[ringbuf_bpf.number]")
        assert_type([each for each in ring], "list[ringbuf_bpf.number]")
        perf = cast("execsnoop_bpf.Object", obj).maps["events"].reader()
        assert_type(perf.consume(), "list[execsnoop_bpf.event]")
    show(found)
    show(7)  # wrong
    key = obj.types["flow"](port=1, protocol=17)
    flows[key] = {"packets": 1, "state": "STATE_NEW"}
    flows[key] = found
    flows[key] = 7  # wrong
    obj.maps["hash"]["one"] = 1  # wrong
    obj.maps["hash"].put("one", 1)  # wrong
    obj.maps["hash"].put(1, "one")  # wrong
    obj.maps["queue"].push("one")  # wrong
    obj.types["flow"](prot=17)  # wrong
    obj.types["stats"](state="STATE_NEW")
    obj.types["stats"](state="STATE_OLD")  # wrong
    obj.programs["store"].attach()
    obj.programs["restore"].attach()  # wrong
"""
WRONG = {number for number, line in enumerate(USER.splitlines(), 1) if line.endswith("# wrong")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("stubs")
    for path in OBJECTS.glob("*.bpf.o"):
        try:
            pybpfload.open(path)
        except pybpfload.BpfError:  # some are damaged on purpose
            continue
        name = path.name.removesuffix(".bpf.o").replace("-", "_").replace(".", "_")
        assert main(["gen", "stubs", str(path), "-o", str(made / f"{name}_bpf.pyi")]) == 0
    assert len(list(made.iterdir())) > 50
    (made / "user.py").write_text(USER)
    return made


def check(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_there_are_mistakes_to_be_found():
    assert len(WRONG) == 12


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_program_and_all_stubs(folder, checker):
    files = [*(path.name for path in sorted(folder.glob("*.pyi"))), "user.py"]
    if checker == "mypy":
        options = ["--strict", "--no-error-summary", "--cache-dir", ".cache"]
        (folder / "mypy.ini").write_text(f"[mypy]\nmypy_path = {ROOT}\n")
        out = check(folder, "mypy", *options, *files)
        found = re.findall(r"^(\S+?):(\d+): error: ", out, re.MULTILINE)
    else:
        some = [name for name in files if name.startswith(("maps", "globals", "latency", "user"))]
        out = check(folder, "pyright", "--pythonpath", sys.executable, *some)
        found = re.findall(r"(\w+\.pyi?):(\d+):\d+ - error: ", out)
    assert {file for file, _ in found} == {"user.py"}, out
    assert {int(line) for _, line in found} == WRONG, out
