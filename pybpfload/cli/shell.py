"""``pybpfload shell``: a Python prompt with an object open. Offline."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pybpfload.cli.common import Parser, open_object
from pybpfload.cli.failure import UsageError, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]

_EXAMPLES = """\
examples:
  pybpfload shell tracer.bpf.o
  pybpfload shell --btf vmlinux-6.1 tracer.bpf.o
  echo 'print(*obj.programs)' | pybpfload shell tracer.bpf.o

There are: obj (the ObjectSpec), btf (its types), pybpfload, and with --btf kernel (that BTF).
It is IPython if that is installed. What standard input has is run if it is no terminal.
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser("shell", "Open a Python prompt with an object.", _EXAMPLES)
    parser.add_argument("object", metavar="OBJ", help="a BPF object file")
    parser.add_argument("--btf", metavar="FILE", help="a kernel's BTF, as kernel")
    options = parser.read(arguments)
    if options.json:
        raise UsageError("shell has nothing to print as JSON")

    import pybpfload

    spec = open_object(options.object)
    names: dict[str, Any] = {"pybpfload": pybpfload, "obj": spec, "btf": spec.btf}
    if options.btf:
        names["kernel"] = pybpfload.read_btf(options.btf)
    if not sys.stdin.isatty():
        return _run_text(sys.stdin.read(), names)
    banner = "\n".join(
        [f"pybpfload {pybpfload.__version__}, Python {sys.version.split()[0]}"]
        + [f"  {name:9}  {visible(repr(value))}" for name, value in names.items()]
    )
    _prompt(names, banner)
    return 0


def _run_text(text: str, names: dict[str, Any]) -> int:
    """Run a program as ``python -`` does, so that a failure is its own, with a traceback."""
    import traceback

    try:
        exec(compile(text, "<stdin>", "exec"), {"__name__": "__main__", **names})
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _prompt(names: dict[str, Any], banner: str) -> None:
    from importlib import import_module

    try:
        ipython = import_module("IPython")
    except ImportError:
        pass
    else:
        print(banner)
        ipython.start_ipython(argv=["--no-banner"], user_ns=names)
        return
    import code

    with suppress(ImportError):  # not on every system
        import readline
        import rlcompleter

        readline.set_completer(rlcompleter.Completer(names).complete)
        readline.parse_and_bind("tab: complete")
    code.interact(banner=banner, local=names, exitmsg="")
