"""`python -m pybpfload.testing.vm`: what tools/vm, tools/test-kernels and tools/kernels do."""

from __future__ import annotations

import sys

from pybpfload.testing.vm import cli

_COMMANDS = {"run": cli.run_main, "test": cli.suite_main, "kernels": cli.kernels_main}


def main() -> int:
    """Run the command that the first argument names; returns the exit status."""
    command = _COMMANDS.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if command is None:
        print(
            f"usage: python -m pybpfload.testing.vm {{{','.join(_COMMANDS)}}} ...", file=sys.stderr
        )
        return 2
    return command(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
