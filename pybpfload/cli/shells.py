"""Completion for bash, zsh and fish, made from :mod:`pybpfload.cli.synopsis`.

The scripts hold the words themselves: nothing is started while somebody types.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from pybpfload.cli import COMMANDS
from pybpfload.cli.synopsis import OBJECTS, Argument, Entry, commands_of, entries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["bash", "fish", "zsh"]

_FIRST = ("--help", "--version", "--verbose", "--json", "--color")


def _paths() -> dict[str, dict[str, str]]:
    """Words that may follow a path of commands: ``""``, and those with commands of their own."""
    found = {"": dict(COMMANDS)}
    found |= {name: words for name in COMMANDS if (words := commands_of(name))}
    return found


# bash

_BASH = """\
# Completion of pybpfload for bash, made by "pybpfload completion bash".

_pybpfload() {{
    local IFS=$'\\n' word path= options= takes=files
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}}
    # "--color=always" is three words here.
    if [[ $current == = ]]; then
        current=
    elif [[ $before == = ]]; then
        before=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD - 1}}"; do
        case "${{path:+$path }}$word" in
        {paths}) path="${{path:+$path }}$word" ;;
        esac
    done
    case "$path" in
{cases}
    esac
    [[ $current != -* ]] || takes=$options
    case "$takes" in
    nothing) COMPREPLY=() ;;
    files) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$current")) ;;
    objects)
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -f -X '!*.o' -- "$current"; compgen -d -- "$current"))
        ;;
    *) COMPREPLY=($(compgen -W "${{takes// /$'\\n'}}" -- "$current")) ;;
    esac
}}
complete -F _pybpfload pybpfload
"""


def bash() -> str:
    """Completion for bash 3.2 and later."""
    every = list(entries())
    known = sorted({each.path for each in every} | _paths().keys() - {""})
    cases = [_bash_case(path, " ".join(words), _FIRST, ()) for path, words in _paths().items()]
    for entry in every:
        flags = [flag for option in entry.options for flag in option.flags]
        cases.append(_bash_case(entry.path, _bash_takes(entry), flags, entry.options))
    return _BASH.format(paths=" | ".join(map(shlex.quote, known)), cases="\n".join(cases))


def _bash_case(path: str, takes: str, flags: Iterable[str], options: Iterable[Argument]) -> str:
    lines = [
        f"    {shlex.quote(path)})",
        f"        takes={shlex.quote(takes)} options={shlex.quote(' '.join(flags))}",
    ]
    valued = [each for each in options if each.metavar]
    if valued:
        lines.append('        case "$before" in')
        for option in valued:
            value = " ".join(option.words) or option.takes
            lines.append(f"        {' | '.join(option.flags)}) takes={shlex.quote(value)} ;;")
        lines.append("        esac")
    return "\n".join([*lines, "        ;;"])


def _bash_takes(entry: Entry) -> str:
    """What operands take: the words of the first, and files if others take any."""
    if not entry.operands:
        return "nothing"
    words = [word for operand in entry.operands for word in operand.words]
    kinds = [operand.takes for operand in entry.operands if not operand.words]
    return " ".join(words) if words and not kinds else min(kinds, key=_KINDS.index)


_KINDS = ("objects", "files", "nothing")


# zsh

_ZSH = """\
#compdef pybpfload
# Completion of pybpfload for zsh, made by "pybpfload completion zsh".

_pybpfload() {{
    local curcontext=$curcontext state line
    typeset -A opt_args
{body}
}}

{functions}

if [[ $funcstack[1] == _pybpfload ]]; then
    _pybpfload "$@"
else
    compdef _pybpfload pybpfload
fi
"""


def zsh() -> str:
    """Completion for zsh."""
    functions = []
    for path, words in _paths().items():
        if path:
            functions.append(f"{_function(path)}() {{\n{_zsh_choice(path, words)}\n}}")
    for entry in entries():
        specs = " \\\n".join(f"        {shlex.quote(spec)}" for spec in _zsh_specs(entry))
        functions.append(f"{_function(entry.path)}() {{\n    _arguments -s \\\n{specs}\n}}")
    return _ZSH.format(body=_zsh_choice("", dict(COMMANDS)), functions="\n\n".join(functions))


def _function(path: str) -> str:
    return "_pybpfload_" + path.replace(" ", "_").replace("-", "_")


def _zsh_choice(path: str, words: dict[str, str]) -> str:
    described = "\n".join(
        f"        {shlex.quote(_colons(word) + ':' + about)}" for word, about in words.items()
    )
    cases = "\n".join(f"        {word}) {_function(f'{path} {word}'.strip())} ;;" for word in words)
    options = " ".join(flag for flag in _FIRST if flag != "--color")
    return f"""\
    local -a commands=(
{described}
    )
    _arguments -C {options} '--color=[colour]:when:(auto always never)' \\
        '1: :->command' '*:: :->rest'
    case $state in
    command) _describe command commands ;;
    rest)
        case $words[1] in
{cases}
        esac
        ;;
    esac"""


def _zsh_specs(entry: Entry) -> Iterator[str]:
    for option in entry.options:
        about = _brackets(option.about)
        for flag in option.flags:
            others = "*" if option.many else f"({' '.join(option.flags)})"
            if not option.metavar:
                yield f"{others}{flag}[{about}]"
            else:
                equals = "=" if flag.startswith("--") else "+"
                yield f"{others}{flag}{equals}[{about}]:{option.metavar}:{_zsh_action(option)}"
    for operand in entry.operands:
        place = "*" if operand.many else ""
        yield f"{place}:{_colons(operand.metavar)}:{_zsh_action(operand)}"


def _zsh_action(argument: Argument) -> str:
    if argument.words:
        return f"({' '.join(argument.words)})"
    return {OBJECTS: '_files -g "*.o"', "files": "_files"}.get(argument.takes, " ")


def _colons(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")


def _brackets(text: str) -> str:
    return _colons(text).replace("[", "\\[").replace("]", "\\]")


# fish


def fish() -> str:
    """Completion for fish."""
    lines = [
        '# Completion of pybpfload for fish, made by "pybpfload completion fish".',
        "complete -c pybpfload -e",
        "complete -c pybpfload -f",
    ]
    for path, words in _paths().items():
        when = "; and ".join([*map(_seen, path.split()), f"not {_seen(' '.join(words))}"])
        lines += [
            f"complete -c pybpfload -n {_fish(when)} -a {word} -d {_fish(about)}"
            for word, about in words.items()
        ]
    first = f"not {_seen(' '.join(COMMANDS))}"
    lines += [f"complete -c pybpfload -n {_fish(first)} -l {flag[2:]}" for flag in _FIRST]
    for entry in entries():
        when = "; and ".join(map(_seen, entry.path.split()))
        start = f"complete -c pybpfload -n {_fish(when)}"
        for option in entry.options:
            flags = " ".join(
                f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
                for flag in option.flags
            )
            lines.append(f"{start} {flags}{_fish_takes(option)} -d {_fish(option.about)}")
        lines += [
            f"{start}{takes.replace(' -r', '')}"
            for each in entry.operands
            if (takes := _fish_takes(each)) != " -x"
        ]
    return "\n".join(lines) + "\n"


def _seen(words: str) -> str:
    return f"__fish_seen_subcommand_from {words}"


def _fish_takes(argument: Argument) -> str:
    if not argument.metavar:
        return ""
    if argument.words:
        return f" -x -a {_fish(' '.join(argument.words))}"
    return {OBJECTS: " -k -x -a '(__fish_complete_suffix .o)'", "files": " -r -F"}.get(
        argument.takes, " -x"
    )


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
