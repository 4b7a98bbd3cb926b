"""pybpfload and its dependencies as one zip file that Python runs (PEP 441)."""

from __future__ import annotations

import argparse
import importlib.metadata
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

DEPENDENCIES = ("construct", "pyelftools")
"""Distributions that go in: the dependencies of pyproject.toml, which have none of their own."""

_LEFT_OUT = ("pybpfload/testing/",)  # needs what is not in here: Hypothesis, kernels
_WHEN = (1980, 1, 1, 0, 0, 0)  # the oldest time of a zip file, so that the same is the same

_MAIN = """\
import sys

if sys.version_info < (3, 10):
    sys.exit("pybpfload needs Python 3.10 or later, and this is " + sys.version.split()[0])

from pybpfload.cli import main

if __name__ == "__main__":
    sys.exit(main())
"""

_COMPILE = """\
import py_compile, sys
from pathlib import Path

root = Path(sys.argv[1])
for file in sorted(root.rglob("*.py")):
    name = file.relative_to(root).as_posix()
    py_compile.compile(
        str(file), str(file) + "c", dfile=name, doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
"""
# A zip file keeps no time to the second, so compiled code is not compared with its source; one of
# another Python has another magic number and is passed over.


def contents():
    """What goes into the file: content by name."""
    found = {"__main__.py": _MAIN.encode()}
    for file in sorted((ROOT / "pybpfload").rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        if not name.startswith(_LEFT_OUT):
            found[name] = file.read_bytes()
    found["licenses/pybpfload/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    for name in DEPENDENCIES:
        found |= _distribution(name)
    return found


def _distribution(name):
    distribution = importlib.metadata.distribution(name)
    found = {}
    for file in distribution.files or ():
        path = file.as_posix()
        if path.startswith("..") or "__pycache__" in path:
            continue
        if "LICENSE" in file.name.upper():
            found[f"licenses/{name}/{file.name}"] = file.locate().read_bytes()
        elif file.suffix == ".py":
            found[path] = file.locate().read_bytes()
    if not any(path.startswith("licenses/") for path in found):
        raise SystemExit(f"{name} is installed without its licence")
    return found


def compiled(files, python):
    """The same as `python` compiles it: content by name."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            if name.endswith(".py"):
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        subprocess.run([python, "-I", "-c", _COMPILE, folder], check=True)
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in Path(folder).rglob("*.pyc")
        }


def build(target, python=None):
    """Write the file.

    Args:
        target: Where.
        python: The Python to compile for; not compiled without.
    """
    files = contents()
    if python is not None:
        files |= compiled(files, python)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        out.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in sorted(files):
                about = zipfile.ZipInfo(name, _WHEN)
                about.external_attr = 0o644 << 16
                archive.writestr(about, files[name], zipfile.ZIP_DEFLATED)
    target.chmod(0o755)


def main(about):
    """Run the tool."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist" / "pybpfload.pyz")
    parser.add_argument(
        "--compile", metavar="PYTHON", default=sys.executable, help="the Python to compile for"
    )
    options = parser.parse_args()
    build(options.output, options.compile)
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")
    return 0
