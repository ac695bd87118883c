"""Completion of the command line in a shell, made from the parser that reads it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SHELLS = ("bash", "zsh", "fish")
_PROGRAM = "egress-router"
_BASH = """\
_egress_router() {{
    local words
    case "${{COMP_WORDS[1]}}" in
{cases}
    *) words="{commands}" ;;
    esac
    [ "$COMP_CWORD" -gt 1 ] || words="{commands}"
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
    [ ${{#COMPREPLY[@]}} -gt 0 ] || COMPREPLY=($(compgen -f -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o filenames -F _egress_router egress-router
"""
_ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the commands of the program, each with its own parser."""
    for action in parser._actions:  # noqa: SLF001 (argparse shows them nowhere else)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            return dict(action.choices)
    return {}


def options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the options and arguments of a command that its help shows."""
    for action in parser._actions:  # noqa: SLF001
        if action.help != argparse.SUPPRESS and not isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            yield action


def script(shell: str, parser: argparse.ArgumentParser, kinds: tuple[str, ...]) -> str:
    """Return what a shell reads to complete the command line; `kinds` are the words that `check` knows."""
    found = commands(parser)
    if shell == "fish":
        return "".join(_fish(found, kinds))
    cases = "\n".join(
        f'    {name}) words="{" ".join(_words(name, command, kinds))}" ;;' for name, command in found.items()
    )
    text = _BASH.format(cases=cases, commands=" ".join([*found, "--help", "--version"]))
    return (_ZSH if shell == "zsh" else "") + text


def _words(name: str, command: argparse.ArgumentParser, kinds: tuple[str, ...]) -> list[str]:
    words = [each for action in options(command) for each in action.option_strings if each.startswith("--")]
    words += [str(each) for action in options(command) if action.choices for each in action.choices]
    return [*words, *(kinds if name == "check" else ())]


def _fish(found: dict[str, argparse.ArgumentParser], kinds: tuple[str, ...]) -> Iterator[str]:
    for name, command in found.items():
        about = (command.description or "").rstrip(".").replace("'", "")
        yield f"complete -c {_PROGRAM} -f -n __fish_use_subcommand -a {name} -d '{about}'\n"
        here = f"-n '__fish_seen_subcommand_from {name}'"
        for action in options(command):
            for option in action.option_strings:
                if option.startswith("--"):
                    values = f" -xa '{' '.join(map(str, action.choices))}'" if action.choices else ""
                    yield f"complete -c {_PROGRAM} {here} -l {option[2:]}{values}\n"
        if name == "check":
            yield f"complete -c {_PROGRAM} {here} -a '{' '.join(kinds)}'\n"
