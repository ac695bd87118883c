"""EGRESS_LOG_LEVEL=debug: the life of each connection, from the accept to its end, as events with its `id`.

Of a head only method, host and port are logged: paths, queries and fields may hold secrets. With another
level this module does nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from egress_router import log
from egress_router.http_proxy.accounting import TLS_METHOD, Accounting
from egress_router.names.answer import Failure

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from egress_router.clock import Clock
    from egress_router.grammar.address import IPAddress
    from egress_router.http_proxy.access_log import AccessLog
    from egress_router.http_proxy.http1.request import RequestHead
    from egress_router.http_proxy.http1.target import RequestTarget
    from egress_router.http_proxy.replies import Reply
    from egress_router.http_proxy.request_info import RequestInfo, Who
    from egress_router.metrics import Registry
    from egress_router.names.answer import Answer
    from egress_router.policy.access_list import Decision
    from egress_router.relay.dial import DialFailure

_MAX_ADDRESSES: Final = 8  # of a name, in one line
_log = log.get("http_proxy")


@dataclass(slots=True)
class _Connection:
    accepted: float
    requests: int = 0


class DebugAccounting(Accounting):
    """Counts as its base class does, and logs each step.

    The first request of a connection has the id of the connection, later ones have their own.
    """

    def __init__(self, registry: Registry, access_log: AccessLog, clock: Clock) -> None:
        super().__init__(registry, access_log, clock)
        self._open: dict[str, _Connection] = {}

    def accepted(self, who: Who) -> Who:
        """Give a connection its id."""
        who = who._replace(id=self._log.ids.next())
        self._open[who.id] = _Connection(self._clock.monotonic())
        _log.debug(
            "connection accepted",
            id=who.id,
            client=who.client,
            client_port=who.client_port,
            local_port=who.local_port,
        )
        return who

    def left_by(self, who: Who, reason: str) -> None:
        """Log that a connection is closed."""
        connection = self._open.pop(who.id, None)
        if connection is not None:
            seconds = round(self._clock.monotonic() - connection.accepted, 6)
            requests = connection.requests
            _log.debug("connection ended", id=who.id, reason=reason, requests=requests, seconds=seconds)

    def begun(self, who: Who, head: RequestHead, target: RequestTarget) -> RequestInfo:
        """See `Accounting`."""
        return self._told(super().begun(who, head, target))

    def begun_tls(self, who: Who, target: RequestTarget) -> RequestInfo:
        """See `Accounting`."""
        return self._told(super().begun_tls(who, target))

    def _told(self, info: RequestInfo) -> RequestInfo:
        info.id = self._next_id(info.who)
        _log.debug(
            "request read",
            id=info.id,
            connection=info.who.id,
            method=info.method.decode("ascii"),
            host=str(info.target.host),
            port=info.target.port,
        )
        return info

    def decided(self, info: RequestInfo, decision: Decision) -> None:
        """See `Accounting`."""
        super().decided(info, decision)
        _log.debug(
            "request decided",
            id=info.id,
            verdict=decision.verdict.value,
            reason=decision.reason.value,
            rule=None if decision.rule is None else decision.rule.text,
            policy_entry=None if decision.entry is None else decision.entry.number,
            addresses=_listed(decision.addresses),
        )

    def name_asked(self, info: RequestInfo) -> None:
        """Log that a name is looked up, because its addresses are not known."""
        _log.debug("name asked", id=info.id, name=str(info.target.asked))

    def name_answered(self, info: RequestInfo, found: Answer | Failure) -> None:
        """Log the result of a look-up."""
        seconds = round(info.dns_seconds, 6)
        if isinstance(found, Failure):
            _log.debug("name not answered", id=info.id, reason=found.value, seconds=seconds)
        else:
            addresses = _listed(found.addresses)
            _log.debug("name answered", id=info.id, name=found.name, addresses=addresses, seconds=seconds)

    def attempts_failed(self, info: RequestInfo, failures: Iterable[DialFailure]) -> None:
        """Log each address that was tried and did not answer."""
        for each in failures:
            _log.debug(
                "attempt failed",
                id=info.id,
                address=str(each.address),
                port=each.port,
                reason=each.reason.value,
            )

    def connected(self, info: RequestInfo, sock: socket.socket) -> None:
        """See `Accounting`."""
        super().connected(info, sock)
        self._log.note_source(info, sock)
        source, source_port = info.source or (None, None)
        _log.debug(
            "attempt connected",
            id=info.id,
            address=str(info.address),
            port=info.target.port,
            source=source,
            source_port=source_port,
            seconds=round(info.connect_seconds, 6),
        )
        self._exchange_begins(info)

    def reused(self, info: RequestInfo, sock: socket.socket) -> None:
        """See `Accounting`."""
        super().reused(info, sock)
        _log.debug("open connection used again", id=info.id, address=str(info.address), port=info.target.port)
        self._exchange_begins(info)

    def _exchange_begins(self, info: RequestInfo) -> None:
        if not info.target.tunnel and info.method != TLS_METHOD:
            _log.debug("exchange begins", id=info.id)

    def tunnel_opened(self, info: RequestInfo) -> None:
        """See `Accounting`."""
        super().tunnel_opened(info)
        _log.debug("tunnel begins", id=info.id)

    def failed(self, info: RequestInfo, reply: Reply) -> None:
        """See `Accounting`."""
        super().failed(info, reply)
        _log.debug("request failed", id=info.id, status=reply.status, reason=reply.reason)

    def refused(self, who: Who, status: int, reason: str) -> None:
        """See `Accounting`."""
        if who.id:  # without one the client was over a limit, and was never accepted
            who = who._replace(id=self._next_id(who))
        super().refused(who, status, reason)
        _log.debug("request refused", id=who.id or None, client=who.client, status=status, reason=reason)

    def closed(self, info: RequestInfo, status: int, sent: int, received: int, reason: str) -> None:
        """See `Accounting`."""
        super().closed(info, status, sent, received, reason)
        _log.debug(
            "request ended",
            id=info.id,
            reason=reason,
            status=status,
            sent=sent,
            received=received,
            seconds=round(self._clock.monotonic() - info.started, 6),
        )

    def _next_id(self, who: Who) -> str:
        connection = self._open.get(who.id)
        if connection is None:
            return self._log.ids.next()
        connection.requests += 1
        return who.id if connection.requests == 1 else self._log.ids.next()


def _listed(addresses: tuple[IPAddress, ...]) -> str | None:
    more = ["…"] if len(addresses) > _MAX_ADDRESSES else []
    return ",".join([*map(str, addresses[:_MAX_ADDRESSES]), *more]) or None
