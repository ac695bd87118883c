"""The error tree: whose fault an error is decides the exit status and the wording.

* `ConfigError`: the user's configuration is wrong; exit status 1, one line for each problem.
* `RefusedError`: the kernel or the network said no; exit status 3, one line, what to grant or change.
* Errors of a peer (a client, an origin, a name server) live in the packages that talk to that peer.
* Anything else is a bug of ours and may show a traceback.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


DONE, CONFIGURATION_ERROR, REFUSED = 0, 1, 3  # exit statuses; 2, a wrong command line, is argparse's


class EgressRouterError(Exception):
    """Base of every error that this program raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in the configuration, with its place.

    `source` is the variable or the file, `line` its line number from 1 (None for a one-line value),
    `text` the offending text, `reason` what is wrong and what was expected.
    """

    source: str
    line: int | None
    text: str | None
    reason: str

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source} line {self.line}"
        return f"{place}: {self.said}"

    @property
    def said(self) -> str:
        """All of it except the place."""
        return self.reason if self.text is None else f"{self.text!r}: {self.reason}"


class ConfigError(EgressRouterError):
    """The configuration is wrong; `problems` holds all of its errors, not only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class RefusedError(EgressRouterError):
    """The kernel or the network refused; one line says what failed and what to grant or change."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}: {remedy}")
        self.what = what
        self.remedy = remedy
