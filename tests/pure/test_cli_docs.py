"""docs/command-line.md has every command, option, key and exit status."""

import re
from pathlib import Path

import pytest

import pybpfload
from pybpfload.cli import COMMANDS, main
from pybpfload.cli.describe import describe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option(command, capsys):
    assert f"\n## {command}\n" in PAGE
    main([command, "--help"])
    for option in set(re.findall(r"--[a-z]+", capsys.readouterr().out)):
        assert f"`{option}" in PAGE, option


def test_every_key_of_inspect():
    def keys(value):
        if isinstance(value, list):
            return set().union(*map(keys, value))
        return set(value).union(*map(keys, value.values())) if isinstance(value, dict) else set()

    described = describe(pybpfload.open(ROOT / "fixtures" / "bpfel" / "maps_inner.bpf.o"))
    described.pop("definitions")
    for variable in described["variables"]:
        variable.pop("value")
    kinds = {*described["btf"].pop("kinds"), *described["core_relocations"].pop("kinds")}
    for key in keys(described) - kinds:
        assert f"`{key}`" in PAGE, key
