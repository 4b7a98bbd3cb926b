"""``pybpfload completion``: completion for shells, and the manual page. Offline."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pybpfload.cli.common import Parser, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]

_EXAMPLES = """\
examples:
  source <(pybpfload completion bash)                                   in ~/.bashrc
  pybpfload completion zsh > ~/.zfunc/_pybpfload                        fpath=(~/.zfunc $fpath)
  pybpfload completion fish > ~/.config/fish/completions/pybpfload.fish
  pybpfload completion man > pybpfload.1 && man -l pybpfload.1

They are made from what the commands read their arguments with, so they are those of this version.
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser("completion", "Print completion for a shell, or the manual page.", _EXAMPLES)
    parser.add_argument("what", choices=["bash", "zsh", "fish", "man"], help="for which shell")
    options = parser.read(arguments)
    if options.what == "man":
        from pybpfload.cli.manpage import page as made
    else:
        from pybpfload.cli import shells

        made = getattr(shells, options.what)
    text = made()
    if options.json:
        print_json({"for": options.what, "text": text})
    else:
        sys.stdout.write(text)
    return 0
