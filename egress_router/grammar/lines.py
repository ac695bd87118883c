"""Numbered rule lines, and a collector that reports all errors of a text at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Line:
    """One line that carries a rule: its number from 1, its text without comment and outer white space."""

    number: int
    text: str


def rule_lines(text: str) -> Iterator[Line]:
    """Yield the lines of `text` that carry a rule.

    Blank lines and lines that start with `#` are left out; a `#` after white space starts a trailing
    comment. Lines end at LF or CRLF only: `str.splitlines` would also split at form feeds and at U+2028,
    and the numbers would not be those that an editor shows. A byte order mark, which editors on Windows put
    before the text, is ignored.
    """
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        rule = _without_comment(raw).strip()
        if rule:
            yield Line(number, rule)


def _without_comment(raw: str) -> str:
    start = raw.find("#")
    while start > 0 and not raw[start - 1].isspace():
        start = raw.find("#", start + 1)
    return raw if start < 0 else raw[:start]


class Problems:
    """Collects what is wrong in one source, so that the user sees all of it at once."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._found: list[Problem] = []

    def add(self, line: Line | None, reason: str) -> None:
        """Note a problem of `line`, or of the text as a whole where `line` is None."""
        number, text = (None, None) if line is None else (line.number, line.text)
        self._found.append(Problem(self._source, number, text, reason))

    def raise_if_any(self) -> None:
        """Raise one `ConfigError` with everything noted, in the order of the lines."""
        if self._found:
            raise ConfigError(sorted(self._found, key=lambda problem: problem.line or 0))
