"""What the demo prints: tables of what was asked, who answered, and which source was seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.lab.network import Seen

_HEAD = ("ASKED", "ANSWERED BY", "SOURCE SEEN")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table; `is_right` says whether it is what the router promises."""

    asked: str
    answered: str
    source: str
    is_right: bool


def observed(asked: str, ask: Callable[[], Seen], source: str) -> Row:
    """Ask, and return the row; it is right if the server saw `source`."""
    try:
        seen = ask()
    except OSError as error:
        return Row(asked, f"nobody: {_reason(error)}", "-", is_right=False)
    return Row(asked, f"{seen.server} port {seen.port}", seen.source, seen.source == source)


def unanswered(asked: str, ask: Callable[[], Seen], expected: type[OSError]) -> Row:
    """Ask what must not be answered, and return the row; it is right if it failed as `expected`."""
    try:
        seen = ask()
    except OSError as error:
        return Row(asked, _reason(error), "-", isinstance(error, expected))
    return Row(asked, f"{seen.server} port {seen.port}", seen.source, is_right=False)


def _reason(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "refused at once"
    return "no answer" if isinstance(error, TimeoutError) else str(error)


def show(title: str, rows: list[Row]) -> bool:
    """Print rows under a title; return whether all of them are right."""
    cells = [_HEAD, *((row.asked, row.answered, row.source) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    print(f"\n{title}\n")
    for index, line in enumerate(cells):
        mark = "" if index == 0 or rows[index - 1].is_right else "   <- not as promised"
        print("  " + "  ".join(map(str.ljust, line, widths)).rstrip() + mark)
    return all(row.is_right for row in rows)
