"""A request on its way to an origin: what goes on of its head and its body, streamed."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from egress_router.http_proxy.http1.body import body_of
from egress_router.http_proxy.http1.forwarding import request_bytes, wanted_upgrade
from egress_router.http_proxy.http1.head import NO_BODY
from egress_router.relay.buffered_socket import TURNS

if TYPE_CHECKING:
    from egress_router.http_proxy.http1.head import RequestHead
    from egress_router.http_proxy.http1.target import Target
    from egress_router.relay.buffered_socket import BufferedSocket

# RFC 9110 9.2.2, without those that may carry a body.
_REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"DELETE"})


class Pumped(enum.Enum):
    """How pumping stopped: nothing to do now, a slow origin, the end of the client's stream."""

    WAIT = "wait"
    BLOCKED = "blocked"
    ENDED = "ended"


class RequestStream:
    """Made for each request that is not CONNECT; `sent` counts the bytes of the body that went on.

    `repeatable` says whether it may be sent twice: an idle connection may end just when it is used (RFC 9112
    9.3.1).
    """

    __slots__ = ("_client", "_first", "body", "repeatable", "sent", "upgrade")

    def __init__(self, client: BufferedSocket, head: RequestHead, target: Target) -> None:
        """Prepare the request; raises MessageError where the head asks for what cannot be forwarded."""
        self._client = client
        self.upgrade = wanted_upgrade(head)
        self._first = request_bytes(head, target, self.upgrade)
        self.body = body_of(head.framing, head.length)
        self.sent = 0
        self.repeatable = head.framing is NO_BODY and head.method in _REPEATABLE

    def first(self) -> bytes:
        """Return the head, with as much of the body as is here; raises MessageError for a bad body."""
        client = self._client
        if self.body.done or not client.held:
            return self._first
        passed, client.held = self.body.feed(client.held)
        self.sent += len(passed)
        return self._first + passed

    def pump(self, upstream: BufferedSocket) -> Pumped:
        """Move what can be moved now; raises MessageError for a bad body."""
        client = self._client
        for _ in range(TURNS):
            if upstream.out and not upstream.flush():
                return Pumped.BLOCKED
            if self.body.done:
                return Pumped.WAIT
            data = client.receive()
            if data is None:
                return Pumped.WAIT
            if not data:
                return Pumped.ENDED
            passed, client.held = self.body.feed(data)
            self.sent += len(passed)
            if passed:
                upstream.send(passed)
            if upstream.lost:
                return Pumped.WAIT  # the answer may be here all the same
        client.again()
        return Pumped.WAIT
