"""What is known of one request, for its records and for whoever decides on it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from egress_router.policy.access_list import Decision, Reason, Verdict

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress
    from egress_router.http_proxy.http1.target import Target

# Stands for the decision of a request whose name could not be resolved.
UNDECIDED = Decision(Verdict.DENIED, Reason.NO_RULE)


class Who(NamedTuple):
    """A client connection: address and port of the client, port of this proxy."""

    client: str
    client_port: int
    local_port: int


@dataclass(slots=True)
class RequestInfo:
    """One request on its way: what it wants, what was decided, where it went. Times are in seconds.

    `recorded` and `ended` say which of its two records have been written.
    """

    client: str
    method: bytes
    target: Target
    started: float
    id: str = ""
    client_port: int = 0
    local_port: int = 0
    traceparent: str | None = None
    source: tuple[str, int] | None = None
    decision: Decision = UNDECIDED
    address: IPAddress | None = None
    dns_seconds: float = 0.0
    connect_seconds: float = 0.0
    recorded: bool = False
    ended: bool = False
