"""What is known of one request, for its records and for later decisions on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from egress_router.grammar.address import printed
from egress_router.policy.access_list import Decision, Reason, Verdict

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress
    from egress_router.grammar.leaving import Leaving
    from egress_router.http_proxy.http1.target import RequestTarget
    from egress_router.service.rule_metrics import RuleNumbers

# The decision on a request whose name could not be resolved.
UNDECIDED = Decision(Verdict.DENIED, Reason.NO_RULE)


class Who(NamedTuple):
    """A client connection: address and port of the client, port of the proxy; an `id` for debug events."""

    client: str
    client_port: int
    local_port: int
    id: str = ""

    def __str__(self) -> str:
        return f"{self.client} port {self.client_port}"


@dataclass(slots=True)
class RequestInfo:
    """What a request asks for, what was decided, and where it went. Times are in seconds.

    `id` is set when something is logged. `numbers` are those of the rule that allows the request. `recorded`
    and `ended` say which of its two records are done.
    """

    who: Who
    method: bytes
    target: RequestTarget
    started: float
    traceparent: str | None
    id: str = ""
    source: tuple[str, int] | None = None
    decision: Decision = UNDECIDED
    address: IPAddress | None = None
    dns_seconds: float = 0.0
    connect_seconds: float = 0.0
    numbers: RuleNumbers | None = None
    recorded: bool = False
    ended: bool = False

    @property
    def leaving(self) -> Leaving:
        """Which source address the connection uses, as the rule that allows it says."""
        return self.decision.leaving

    @property
    def client(self) -> str:
        """The client's address."""
        return self.who.client

    def __str__(self) -> str:
        return f"{self.method.decode()} {printed(self.target.host, self.target.port)}"
