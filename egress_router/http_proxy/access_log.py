"""The access log: two records for each request, one of its decision and one of its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router import log
from egress_router.http_proxy.request_info import UNDECIDED

if TYPE_CHECKING:
    from egress_router.http_proxy.request_info import RequestInfo


class AccessLog:
    """Writes the records of requests."""

    def __init__(self) -> None:
        self._records = log.records()

    def request(self, info: RequestInfo, failure: str | None) -> None:
        """Write down what was decided and where the request went, unless that has been done."""
        if info.recorded:
            return
        info.recorded = True
        decision = info.decision
        self._records.info(
            "request",
            client=info.client,
            method=info.method.decode("ascii"),
            host=str(info.target.host),
            port=info.target.port,
            address=None if info.address is None else str(info.address),
            verdict="undecided" if decision is UNDECIDED else decision.verdict.value,
            rule=None if decision.rule is None else decision.rule.line,
            reason=None if decision is UNDECIDED else decision.reason.value,
            failure=failure,
            dns_ms=round(info.dns_seconds * 1000, 3),
            connect_ms=round(info.connect_seconds * 1000, 3),
        )

    def closed(
        self, info: RequestInfo, status: int, sent: int, received: int, seconds: float, reason: str
    ) -> None:
        """Write down the end of a request."""
        self._records.info(
            "closed",
            client=info.client,
            method=info.method.decode("ascii"),
            host=str(info.target.host),
            port=info.target.port,
            status=status,
            sent=sent,
            received=received,
            seconds=round(seconds, 6),
            reason=reason,
        )

    def refused(self, client: str, status: int, reason: str) -> None:
        """Write down a request of which nothing is known but that it was refused."""
        self._records.info("request", client=client, verdict="refused", reason=reason)
        self._records.info(
            "closed", client=client, status=status, sent=0, received=0, seconds=0.0, reason=reason
        )
