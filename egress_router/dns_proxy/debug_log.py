"""EGRESS_LOG_LEVEL=debug: what Python learns of each connection, as events with its `id`.

The data plane accepts, connects and relays by itself. It reports when a connection to the destination is
made, and how each one ended. With another level this module does nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router import log
from egress_router.dns_proxy.line import LineInForce
from egress_router.grammar.address import printed
from egress_router.relay.dial import REASONS

if TYPE_CHECKING:
    from egress_router.grammar.address import Target
    from egress_router.records import Record
    from egress_router.relay._plane import Failures
    from egress_router.relay.news import End, Identity

_log = log.get("dns_proxy")


class DebugLine(LineInForce):
    """Does the same as its base class, and logs each step."""

    __slots__ = ()

    def wanted(self) -> None:
        """See `LineInForce`."""
        _log.debug(
            "client waits for an address", local_port=self.forward.port, host=str(self.destination.host)
        )
        super().wanted()

    def connected(
        self, client: str, target: Target, seconds: float, failures: Failures, identity: Identity
    ) -> None:
        """See `LineInForce`."""
        record = self.record(client, identity, target)
        _tell_failures(record, failures)
        _log.debug(
            "connected",
            id=record.id,
            client=record.client,
            client_port=record.client_port,
            local_port=record.local_port,
            host=str(self.destination.host),
            address=record.address,
            port=target[1],
            source=record.source,
            source_port=record.source_port,
            seconds=round(seconds, 6),
        )
        super().connected(client, target, seconds, failures, identity)

    def ended(self, end: End) -> None:
        """See `LineInForce`."""
        record = self.record(end.client, end.identity, end.target)
        if end.target is None:
            _tell_failures(record, end.failures)
        _log.debug(
            "connection ended",
            id=record.id,
            client=record.client,
            client_port=record.client_port,
            local_port=record.local_port,
            reason=self.reason_of(end),
            sent=end.sent,
            received=end.received,
            seconds=round(end.seconds, 6),
        )
        super().ended(end)


def _tell_failures(record: Record, failures: Failures) -> None:
    for target, number in failures:
        _log.debug("attempt failed", id=record.id, address=printed(*target), reason=REASONS[number].value)
