"""What people read on a terminal; nothing that came from outside can steer it.

Rules, manifests, URLs and the denials of a router hold what others wrote: an escape sequence of theirs could
clear the screen, or type for the reader (CWE-150). Every command prints through `say`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO


def visible(text: str) -> str:
    r"""Return text on one line, with `\x1b`, `\n` and their kind in the place of what cannot be printed."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def visible_lines(text: str) -> str:
    """Return text with its line breaks, and everything else as `visible` does."""
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
