"""Output for a terminal; nothing that came from outside can control the terminal.

Rules, manifests, URLs and the denials of a router hold text of others: an escape sequence in it could clear
the screen, or type commands in the reader's place (CWE-150). Every command prints through `say`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO


def visible(text: str) -> str:
    r"""Return text on one line; escapes such as `\x1b` and `\n` replace what cannot be printed."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def visible_lines(text: str) -> str:
    """Return text with its line breaks; everything else is as in `visible`."""
    return "\n".join(map(visible, text.split("\n")))


def say(text: str, stream: TextIO | None = None, *, end: str = "\n") -> None:
    """Print text, which may have several lines, to stdout or another stream."""
    print(visible_lines(text), end=end, file=stream or sys.stdout, flush=True)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align cells in columns, two blanks apart; the first row is the head."""
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
