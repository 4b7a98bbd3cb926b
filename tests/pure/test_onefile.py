"""pybpfload.pyz: runs where nothing but Python is."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pybpfload import __version__

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools" / "lib"))

import onefile  # noqa: E402

BARE = [sys.executable, "-I", "-S"]  # no site-packages, no checkout
OBJECT = str(ROOT / "fixtures" / "bpfel" / "minimal.bpf.o")


@pytest.fixture(scope="module")
def pyz(tmp_path_factory):
    target = tmp_path_factory.mktemp("pyz") / "pybpfload.pyz"
    onefile.build(target)
    return target


def test_it_starts(pyz):
    done = subprocess.run([*BARE, pyz, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"pybpfload {__version__}\n"
    if sys.platform != "win32":
        assert pyz.stat().st_mode & 0o111


def test_commands(pyz):
    """In one process, because each would compile what it imports."""
    commands = [
        ["inspect", OBJECT],
        ["check", "--kernel", OBJECT, "--", OBJECT],
        ["log", str(ROOT / "tests" / "pure" / "verifier-logs.txt")],
    ]
    script = (
        f"import sys; sys.path.insert(0, {str(pyz)!r}); from pybpfload.cli import main\n"
        f"print('statuses', [main(each) for each in {commands!r}])\n"
        "print('from', {str(m.__file__).partition('.pyz')[1] for n, m in sys.modules.items() "
        "if n.partition('.')[0] in ('pybpfload', 'construct', 'elftools')})"
    )
    done = subprocess.run(
        [*BARE, "-c", script], capture_output=True, encoding="utf-8", check=True,
        env={"PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    *_, statuses, where = done.stdout.splitlines()
    assert done.stderr == ""
    assert statuses == "statuses [0, 0, 0]"
    assert where == "from {'.pyz'}"
    assert "count_syscalls" in done.stdout
    assert f"{OBJECT} on {OBJECT}: loads" in done.stdout
    assert "refused: " in done.stdout


def test_it_has_licences_and_no_more_than_it_needs(pyz):
    names = zipfile.ZipFile(pyz).namelist()
    for name in ("pybpfload", *onefile.DEPENDENCIES):
        text = zipfile.ZipFile(pyz).read(f"licenses/{name}/LICENSE").decode()
        assert "copyright" in text.lower()
    assert names == sorted(names)
    assert not [name for name in names if "testing/" in name or "__pycache__" in name]
    declared = (ROOT / "pyproject.toml").read_text().partition("\ndependencies = [")[2]
    declared = declared.partition("]")[0]
    assert declared.count('"') == 2 * len(onefile.DEPENDENCIES)
    assert all(f'"{name}>=' in declared for name in onefile.DEPENDENCIES)


def test_the_same_sources_give_the_same_bytes(pyz, tmp_path):
    onefile.build(tmp_path / "again.pyz")
    assert (tmp_path / "again.pyz").read_bytes() == pyz.read_bytes()


def test_compiled_code_is_passed_over_by_other_pythons(tmp_path):
    """The interpreter's own rule, on which `tools/zipapp --compile` relies."""
    files = {"thing.py": b"value = 'source'\n", "__main__.py": b"import thing; print(thing.value)"}
    code = onefile.compiled({"thing.py": b"value = 'compiled'\n"}, sys.executable)["thing.pyc"]
    for magic, expected in ((code[:4], "compiled"), (b"\0\0\r\n", "source")):
        target = tmp_path / f"{expected}.pyz"
        with zipfile.ZipFile(target, "w") as archive:
            for name, content in {**files, "thing.pyc": magic + code[4:]}.items():
                archive.writestr(name, content)
        done = subprocess.run([*BARE, target], capture_output=True, text=True, check=True)
        assert done.stdout == f"{expected}\n"
