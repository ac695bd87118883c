"""An answer: what it is, why, and as text or JSON."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress


class Outcome(enum.Enum):
    """What the answer is; `UNDECIDED`: the addresses of a name decide, and they were not looked up."""

    ALLOWED = "allowed"
    DENIED = "denied"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer, the sentences that say why, and the addresses that would be dialled.

    `full_name` is what a short name stands for, if it was looked up.
    """

    target: str
    outcome: Outcome
    lines: tuple[str, ...]
    addresses: tuple[IPAddress, ...] = ()
    full_name: str | None = None


def as_text(found: Explanation) -> str:
    """Return an answer for people."""
    return "\n".join(found.lines)


def as_json(found: Explanation) -> str:
    """Return an answer as one JSON document."""
    document = {
        "target": found.target,
        "outcome": found.outcome.value,
        "addresses": list(map(str, found.addresses)),
        "explanation": list(found.lines),
        "errors": [],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)
