"""What is known of one request, for its records and for whoever decides on it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.policy.access_list import Decision, Reason, Verdict

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress
    from egress_router.http_proxy.http1.target import Target

# Stands for the decision of a request whose name could not be resolved.
UNDECIDED = Decision(Verdict.DENIED, Reason.NO_RULE)


@dataclass(slots=True)
class RequestInfo:
    """What a request wants, what was decided, and where it went. Times are in seconds.

    `recorded` and `ended` say which of its two records have been written.
    """

    client: str
    method: bytes
    target: Target
    started: float
    decision: Decision = UNDECIDED
    address: IPAddress | None = None
    dns_seconds: float = 0.0
    connect_seconds: float = 0.0
    recorded: bool = False
    ended: bool = False
