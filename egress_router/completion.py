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
    local command="${{COMP_WORDS[1]}}"
    local before="${{COMP_WORDS[COMP_CWORD-1]}}" current="${{COMP_WORDS[COMP_CWORD]}}"
    local options="--help" words="" files=""
    case "$command" in
{commands}
    esac
    case "$command $before" in
{values}
    esac
    if [ "$COMP_CWORD" -le 1 ]; then options="--help --version"; words="{names}"; files=""; fi
    case "$current" in -*) words="$options"; files="" ;; esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    if [ -n "$files" ]; then
        local IFS=$'\\n'
        COMPREPLY+=($(compgen -f -- "$current"))
    fi
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
    text = _BASH.format(
        commands="\n".join(_bash_command(name, command, kinds) for name, command in found.items()),
        values="\n".join(each for name, command in found.items() for each in _bash_values(name, command)),
        names=" ".join(found),
    )
    return (_ZSH if shell == "zsh" else "") + text


def _bash_command(name: str, command: argparse.ArgumentParser, kinds: tuple[str, ...]) -> str:
    names = [each for action in options(command) for each in action.option_strings if each.startswith("--")]
    arguments = [action for action in options(command) if not action.option_strings]
    words = [str(each) for action in arguments for each in action.choices or ()]
    words += kinds if name == "check" else ()
    files = "yes" if any(_is_file(action) for action in arguments) else ""
    return f'    {name}) options="{" ".join(names)}"; words="{" ".join(words)}"; files="{files}" ;;'


def _bash_values(name: str, command: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the cases of the options that take a value, with the values to offer."""
    for action in options(command):
        if action.option_strings and action.nargs != 0:
            places = "|".join(f'"{name} {each}"' for each in action.option_strings)
            words = " ".join(map(str, action.choices or ()))
            yield f'    {places}) words="{words}"; files="{"yes" if _is_file(action) else ""}" ;;'


def _is_file(action: argparse.Action) -> bool:
    return action.metavar == "FILE"


def _fish(found: dict[str, argparse.ArgumentParser], kinds: tuple[str, ...]) -> Iterator[str]:
    for name, command in found.items():
        about = (command.description or "").rstrip(".").replace("'", "")
        yield f"complete -c {_PROGRAM} -f -n __fish_use_subcommand -a {name} -d '{about}'\n"
        here = f"-n '__fish_seen_subcommand_from {name}'"
        for action in options(command):
            for option in action.option_strings:
                if option.startswith("--"):
                    values = f" -xa '{' '.join(map(str, action.choices))}'" if action.choices else ""
                    values = values or (" -r" if _is_file(action) else "" if action.nargs == 0 else " -x")
                    yield f"complete -c {_PROGRAM} {here} -l {option[2:]}{values}\n"
        if name == "check":
            yield f"complete -c {_PROGRAM} {here} -a '{' '.join(kinds)}'\n"
