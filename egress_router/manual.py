"""Manual pages, from the same parser and the same tables of variables as `--help`.

`python -m egress_router.manual FOLDER` writes one page for the program and one for each command.
"""

from __future__ import annotations

import sys
import textwrap
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router.commands.command_line import make_parser
from egress_router.completion import commands, options
from egress_router.settings.catalogue import VARIABLES
from egress_router.settings.variables import RulesVariable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from typing import TypeAlias

    from egress_router.settings.variables import Variable

    _AnyVariable: TypeAlias = Variable[object] | RulesVariable

_PROGRAM = "egress-router"
_STATUSES = {
    0: "Done.",
    1: "The configuration is wrong, or the answer is no where one was asked for by the exit status.",
    2: "The command line is wrong.",
    3: "The kernel or the network refused; stderr says what to grant or to change.",
}


def pages() -> dict[str, str]:
    """Return the text of each page by the name of its file."""
    parser = make_parser()
    found = {f"{_PROGRAM}.1": _page(_PROGRAM, parser, ())}
    for name, command in commands(parser).items():
        found[f"{_PROGRAM}-{name}.1"] = _page(f"{_PROGRAM}-{name}", command, VARIABLES.get(name, ()))
    return found


def _page(name: str, parser: argparse.ArgumentParser, variables: Sequence[_AnyVariable]) -> str:
    about = (parser.description or "").rstrip(".")
    release = version(_PROGRAM)
    lines = [f'.TH {name.upper()} 1 "" "{_PROGRAM} {release}"', ".SH NAME"]
    lines += [f"{name} \\- {_text(about[:1].lower() + about[1:])}", ".SH SYNOPSIS", _synopsis(parser)]
    lines += [".SH DESCRIPTION", _text(about + ".")]
    if found := commands(parser):
        lines.append(".SH COMMANDS")
        for each, command in found.items():
            lines += [".TP", f"\\fB{_text(each)}\\fR", _text(command.description or "")]
    if shown := [line for action in options(parser) for line in _option(action)]:
        lines += [".SH OPTIONS", *shown]
    if variables:
        lines += [".SH ENVIRONMENT", *(line for each in variables for line in _variable(each))]
    if examples := _examples(parser.epilog or ""):
        lines += [".SH EXAMPLES", ".nf", *map(_text, examples), ".fi"]
    lines.append(".SH EXIT STATUS")
    for status, meaning in _STATUSES.items():
        lines += [".TP", f"\\fB{status}\\fR", _text(meaning)]
    others = [_PROGRAM, *(f"{_PROGRAM}-{each}" for each in commands(make_parser()))]
    lines += [".SH SEE ALSO", ", ".join(f"\\fB{_text(each)}\\fR(1)" for each in others if each != name)]
    return "\n".join(lines) + "\n"


def _synopsis(parser: argparse.ArgumentParser) -> str:
    return _text(parser.format_usage().removeprefix("usage: ").strip())


def _examples(epilog: str) -> list[str]:
    """Return the examples of `--help`, which stand indented below their title."""
    found = epilog.partition("Examples:\n")[2].partition("\n\n")[0]
    return textwrap.dedent(found).splitlines()


def _option(action: argparse.Action) -> Iterator[str]:
    names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    values = "" if not action.choices else " " + "|".join(map(str, action.choices))
    yield ".TP"
    yield f"\\fB{_text(names)}\\fR{_text(values)}"
    yield _text((action.help or "").replace("%(prog)s", _PROGRAM))


def _variable(variable: _AnyVariable) -> Iterator[str]:
    yield ".TP"
    if isinstance(variable, RulesVariable):
        yield f"\\fB{variable.name}\\fR, \\fB{variable.file_name}\\fR"
        remark = " (required)" if variable.required else ""
    else:
        yield f"\\fB{variable.name}\\fR"
        remark = " (required)" if variable.default is None else f" (default: {variable.default or 'none'})"
    yield _text(variable.meaning + remark)


def _text(text: str) -> str:
    """Escape text for roff: no backslash may stay, and no line may begin as a request does."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    escaped = "".join(each if each.isascii() else f"\\[u{ord(each):04X}]" for each in escaped)
    return "\n".join(f"\\&{line}" if line[:1] in {".", "'"} else line for line in escaped.split("\n"))


def main(folder: str) -> None:
    """Write every page into a folder."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (path / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
