"""The set-up that all tools share: a Python, `.venv`, the project and what a tool needs in it.

Only the standard library is used here, and only syntax that any Python 3.7 reads, because this
is what runs first on a machine where nothing has been done yet.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SPHINX = ["-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
OLDEST = (3, 10)
"""The oldest Python that the project supports."""

_STAMP = ".set-up.json"
_ASK = (
    "import json, sys; "
    "print(json.dumps([sys.version_info[:3], sys.executable, sys.prefix != sys.base_prefix]))"
)


class Interpreter:
    """A Python of this machine.

    Attributes:
        path: The program.
        version: For example `(3, 11, 2)`.
        virtual: Whether it is that of a virtual environment.
    """

    def __init__(self, version, path, virtual):
        self.version = tuple(version)
        self.path = path
        self.virtual = virtual

    @property
    def short(self):
        """For example `"3.11"`."""
        return "{}.{}".format(*self.version)

    @classmethod
    def at(cls, path):
        """Ask the program at `path` who it is; None if it is no Python or too old."""
        try:
            answer = subprocess.run(
                [str(path), "-c", _ASK], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL, timeout=60, check=True,
            ).stdout  # fmt: skip
            found = cls(*json.loads(answer.decode()))
        except (OSError, subprocess.SubprocessError, ValueError):
            return None
        return found if found.version >= OLDEST else None


def interpreters():
    """Every Python of this machine that is new enough, one of each version, oldest first."""
    candidates = [_base_of_this_one(), "python3"]
    names = re.compile(r"python3\.\d\d")
    folders = [Path(each) for each in os.environ.get("PATH", "").split(os.pathsep) if each]
    folders += sorted(_pyenv().glob("versions/*/bin"), reverse=True)
    for folder in folders:
        with contextlib.suppress(OSError):
            found = (each for each in folder.iterdir() if names.fullmatch(each.name))
            candidates += sorted(str(each) for each in found)
    chosen = {}
    for candidate in candidates:
        interpreter = Interpreter.at(candidate)
        if interpreter is not None and not interpreter.virtual:
            chosen.setdefault(interpreter.version[:2], interpreter)
    return [chosen[version] for version in sorted(chosen)]


def _pyenv():
    return Path(os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv")))


def _base_of_this_one():
    """The Python that runs, outside of the virtual environment that it may run in."""
    return str(Path(sys.base_prefix) / "bin" / "python{}.{}".format(*sys.version_info))


def _default_interpreter():
    """The Python to make `.venv` with: the one that runs, if new enough, else the newest.

    Exits with advice if there is none.
    """
    running = Interpreter.at(_base_of_this_one())
    if running is not None:
        return running
    every = interpreters()
    if not every:
        sys.exit(
            "Python {}.{} or newer is needed and is not on this machine. On Debian 12 and later:"
            " sudo apt-get install python3 python3-venv".format(*OLDEST)
        )
    return every[-1]


def enter(*groups):
    """Do all set-up, then start the calling script again with the Python of `.venv`.

    Args:
        groups: Dependency groups of pyproject.toml that the calling script needs.
    """
    folder = ROOT / ".venv"
    python = provide(folder, groups)
    if Path(sys.prefix).resolve() != folder.resolve():
        sys.stdout.flush()
        os.execv(python, [python, *sys.argv])


def provide(folder, groups, interpreter=None):
    """Make a virtual environment with the project in it, unless that has been done.

    Args:
        folder: Where.
        groups: Dependency groups of pyproject.toml to install too.
        interpreter: The Python to make it with.

    Returns:
        The path of its Python.
    """
    python = str(folder / "bin" / "python")
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    with _lock(folder):
        done = _read_stamp(folder)
        moved = done["folder"] not in (None, str(folder))
        usable = not moved and Interpreter.at(python) is not None
        if usable and done["pyproject"] == wanted and done["groups"].issuperset(groups):
            return python
        groups = sorted(done["groups"].union(groups))
        started = time.monotonic()
        if not usable:
            interpreter = interpreter or _default_interpreter()
            version = ".".join(str(each) for each in interpreter.version)
            _say(f"making {folder.name} with Python {version}")
            _make(folder, interpreter)
        _say(f"installing pybpfload{' and its tools' if groups else ''} into {folder.name}")
        requirements = [each for name in groups for each in _group(name, python)]
        _run([python, "-m", "pip", "install", "--quiet", "--editable", str(ROOT), *requirements])
        _say(f"{folder.name} is ready after {time.monotonic() - started:.0f} s")
        (folder / _STAMP).write_text(
            json.dumps({"folder": str(folder), "pyproject": wanted, "groups": groups})
        )
    return python


@contextlib.contextmanager
def _lock(folder):
    """Let one process or thread at a time set up a virtual environment."""
    import fcntl

    folder.mkdir(exist_ok=True)
    descriptor = os.open(str(folder), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read_stamp(folder):
    try:
        stamp = json.loads((folder / _STAMP).read_text())
        return {**stamp, "groups": set(stamp["groups"])}
    except (OSError, ValueError):
        return {"folder": None, "pyproject": None, "groups": set()}


def _make(folder, interpreter):
    if folder.is_symlink():
        sys.exit(f"{folder} is a link: making it anew would empty what it leads to; remove it")
    probe = [interpreter.path, "-c", "import ensurepip, venv"]
    if subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode != 0:
        _install_venv(interpreter)
    _run([interpreter.path, "-m", "venv", "--clear", str(folder)])


def _install_venv(interpreter):
    """Install Debian's package with what `python3 -m venv` needs, or say how."""
    package = f"python{interpreter.short}-venv"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(
            f"{interpreter.path} cannot make virtual environments."
            f" On Debian: sudo apt-get install {package}"
        )
    _say(f"installing Debian's package {package}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "--quiet", "--yes", "--no-install-recommends", "install", package]
    _run(["apt-get", "--quiet", "update"], environment)
    _run(install, environment)


def _group(name, python):
    """The requirements of a dependency group; pip reads groups itself only from version 25.1 on."""
    # Python has tomllib from 3.11 on, and pip brings tomli along for the Pythons before.
    read = (
        "import json, pathlib, sys\n"
        "try:\n    import tomllib\n"
        "except ImportError:\n    from pip._vendor import tomli as tomllib\n"
        "print(json.dumps(tomllib.loads(pathlib.Path(sys.argv[1]).read_text())['dependency-groups']))"
    )
    path = str(ROOT / "pyproject.toml")
    groups = json.loads(subprocess.check_output([python, "-c", read, path]).decode())

    def expand(name):
        for each in groups[name]:
            if isinstance(each, str):
                yield each
            else:
                yield from expand(each["include-group"])

    return list(expand(name))


def _run(command, environment=None):
    """Run a step of the set-up quietly; show what it said if it fails."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        env=environment, cwd=str(ROOT), check=False,
    )  # fmt: skip
    if done.returncode != 0:
        sys.stderr.write(done.stdout.decode(errors="replace"))
        sys.exit(f"set-up failed: {' '.join(command)}")


def _say(text):
    print(f"set-up: {text}", file=sys.stderr, flush=True)
