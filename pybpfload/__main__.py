"""``python -m pybpfload``: the command line."""

from __future__ import annotations

import sys

from pybpfload.cli import main

if __name__ == "__main__":
    sys.exit(main())
