"""The access log: two records for each request, one for its decision and one for its end."""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from egress_router.http_proxy.request_info import UNDECIDED
from egress_router.records import Ids, Record, RecordLog

if TYPE_CHECKING:
    import socket

    from egress_router.http_proxy.http1.request import RequestHead
    from egress_router.http_proxy.request_info import RequestInfo, Who

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def traceparent(head: RequestHead) -> str | None:
    """Return the client's `traceparent` if it is valid (W3C Trace Context, 3.2.2)."""
    for value in head.special.get(b"traceparent", ()):
        if _TRACEPARENT.fullmatch(value):
            return value.decode("ascii")
    return None


class AccessLog:
    """Writes the records of requests: of all, or of denied ones only."""

    def __init__(self, *, everything: bool) -> None:
        self.ids = Ids()
        self._records = RecordLog(everything=everything)
        self.everything = everything

    def connected(self, info: RequestInfo, sock: socket.socket) -> None:
        """Write where a request was sent, with its source address."""
        self.note_source(info, sock)
        self.request(info, None)

    def note_source(self, info: RequestInfo, sock: socket.socket) -> None:
        """Note the source address of a request, which costs a system call."""
        if info.source is None:
            with contextlib.suppress(OSError):  # the connection is gone already
                info.source = sock.getsockname()[:2]

    def request(self, info: RequestInfo, failure: str | None) -> None:
        """Write what was decided and where the request was sent, unless this is done already."""
        decision = info.decision
        verdict = "undecided" if decision is UNDECIDED else decision.verdict.value
        if info.recorded or not self._records.wants(verdict):
            return
        info.recorded = True
        reason = failure or (None if decision is UNDECIDED else decision.reason.value)
        self._records.write(self._made("request", info, reason))

    def closed(
        self, info: RequestInfo, status: int, sent: int, received: int, seconds: float, reason: str
    ) -> None:
        """Write the end of a request."""
        record = self._made("closed", info, reason)
        record.status, record.sent, record.received = status, sent, received
        record.seconds = round(seconds, 6)
        self._records.write(record)

    def refused(self, who: Who, status: int, reason: str) -> None:
        """Write both records of a refused request, of which nothing else is known."""
        record = Record(
            event="request",
            id=who.id or self.ids.next(),
            client=who.client,
            client_port=who.client_port,
            local_port=who.local_port,
            verdict="refused",
            reason=reason,
        )
        self._records.write(record)
        self._records.write(replace(record, event="closed", status=status, sent=0, received=0, seconds=0.0))

    def _made(self, event: str, info: RequestInfo, reason: str | None) -> Record:
        if not info.id:  # made only now, since most requests are never logged
            info.id = self.ids.next()
        decision, host = info.decision, info.target.host
        rule = None if decision.rule is None else decision.rule.text
        address = info.address if isinstance(host, str) or info.address is not None else host
        return Record(
            event=event,
            id=info.id,
            client=info.client,
            client_port=info.who.client_port,
            local_port=info.who.local_port,
            method=info.method.decode("ascii"),
            name=host if isinstance(host, str) else None,
            address=None if address is None else str(address),
            port=info.target.port,
            source=None if info.source is None else info.source[0],
            source_port=None if info.source is None else info.source[1],
            verdict="undecided" if decision is UNDECIDED else decision.verdict.value,
            rule=rule if decision.entry is None else decision.entry.described,
            reason=reason,
            dns_seconds=round(info.dns_seconds, 6),
            # A denied request does not dial, nor does one over an open connection.
            connect_seconds=round(info.connect_seconds, 6) if info.connect_seconds else None,
            traceparent=info.traceparent,
        )
