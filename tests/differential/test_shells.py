"""Completion in zsh and fish, which are fetched from Debian where they are not installed.

bash, and what the scripts have in them, is in ``tests/pure/test_cli_completion.py``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pybpfload.cli import shells
from pybpfload.testing.vm.cache import VirtualMachineError

pytestmark = pytest.mark.differential

TOOLS = str(Path(__file__).parents[2] / "tools" / "lib")


def shell(name: str) -> str:
    """Path of a shell; skips the test if it is not to be had."""
    if found := shutil.which(name):
        return found
    sys.path.insert(0, TOOLS)
    try:
        from corpus import NEWEST, unpacked

        return str(unpacked(NEWEST, [name], [f"usr/bin/{name}"]) / "bin" / name)
    except VirtualMachineError as error:
        pytest.skip(f"{name} is not installed and cannot be fetched: {error}")
    finally:
        sys.path.remove(TOOLS)


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_syntax(name, tmp_path):
    script = tmp_path / "script"
    script.write_text(getattr(shells, name)())
    done = subprocess.run([shell(name), "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    script.write_text(script.read_text() + "\nif (\n")
    assert subprocess.run([shell(name), "-n", script], capture_output=True, check=False).returncode


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("pybpfload ins", {"inspect"}),
        ("pybpfload inspect --color al", {"always"}),
        ("pybpfload inspect ", {"tracer.bpf.o", "vmlinux", "folder/"}),
        ("pybpfload inspect tr", {"tracer.bpf.o"}),
        ("pybpfload relocate --btf v", {"vmlinux"}),
        ("pybpfload map pe", {"peek"}),
        ("pybpfload completion ", {"bash", "zsh", "fish", "man"}),
    ],
)
def test_what_fish_completes(line, found, tmp_path):
    for name in ("tracer.bpf.o", "vmlinux"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "pybpfload.fish").write_text(shells.fish())
    code = f"source home/pybpfload.fish; complete -C '{line}'"
    command = [shell("fish"), "--no-config", "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env={"HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    words = {each.partition("\t")[0] for each in done.stdout.splitlines()}
    assert found <= words <= found | {"home/"}
