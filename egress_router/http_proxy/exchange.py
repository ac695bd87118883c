"""One request and its answer over one connection to the origin, streamed both ways.

Each direction reads only while what it read before is written: a slow reader holds its writer back, and at
most one receive is held for it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from egress_router.http_proxy import replies
from egress_router.http_proxy.body import body_of
from egress_router.http_proxy.errors import MessageError
from egress_router.http_proxy.forwarding import request_bytes, response_bytes, wanted_upgrade
from egress_router.http_proxy.guard import guarded
from egress_router.http_proxy.head import (
    Framing,
    HeadBuffer,
    authenticates_connection,
    parse_response,
)
from egress_router.http_proxy.wire import TURNS, nothing

if TYPE_CHECKING:
    from egress_router.http_proxy.body import Body
    from egress_router.http_proxy.head import RequestHead, ResponseHead
    from egress_router.http_proxy.ledger import Passage
    from egress_router.http_proxy.session import Session
    from egress_router.http_proxy.upstream import Upstream

# RFC 9110 9.2.2, without those that may carry a body.
_REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"DELETE"})


class Exchange:
    """Made for each request that is not CONNECT; `start` begins it when there is a connection."""

    __slots__ = ("_answer", "_body", "_buffer", "_client", "_head", "_interim", "_passage", "_persists",
        "_received", "_request", "_sent", "_session", "_status", "_surplus", "_upgrade",
        "_upstream", "over")  # fmt: skip

    def __init__(self, session: Session, passage: Passage, head: RequestHead) -> None:
        """Prepare the request; raises MessageError where the head asks for what cannot be forwarded."""
        self._session = session
        self._client = session.wire
        self._head = head
        self._passage = passage
        self._upgrade = wanted_upgrade(head)
        self._request = request_bytes(head, passage.target, self._upgrade)
        self._body = body_of(head.framing, head.length)
        self._answer: Body | None = None
        self._upstream: Upstream
        self._buffer = HeadBuffer(session.site.limits.head_bytes, after_lines=False)
        self._interim = False
        self._surplus = False
        self._persists = head.persistent
        self._status = 0
        self._sent = 0
        self._received = 0
        self.over = False

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent twice: an idle connection may end just when it is used (RFC 9112 9.3.1)."""
        return self._head.method in _REPEATABLE and self._head.framing is Framing.NONE

    def start(self, upstream: Upstream) -> None:
        """Send the request over this connection, with as much of its body as is here."""
        self._upstream = upstream
        first = self._request
        if self._client.held and not self._body.done:
            try:
                passed, self._client.held = self._body.feed(self._client.held)
            except MessageError as error:
                self._refuse(error)
                return
            self._sent += len(passed)
            first += passed
        upstream.on_ready = self._client.on_ready = self.pump
        upstream.send(first)
        upstream.watch()
        self._client.watch()
        if not self._body.done:
            self.pump()

    @guarded
    def pump(self) -> None:
        """Move what can be moved now."""
        if self._client.gone or self._client.lost:
            self.abort("client_gone")
            return
        if (not self._body.done or self._upstream.out) and not self._upstream.lost:
            self._pump_request()
        if not self.over:
            self._pump_answer()

    def late(self) -> None:
        """Give up: nothing moved for too long."""
        self._session.site.ledger.limit("answer_seconds")
        if self._answer is None:
            self._fail(replies.NO_ANSWER)
        else:
            self.abort("late")

    def fault(self, error: Exception) -> None:
        """End the session, because of something that must not happen."""
        self._session.fault(error)

    def abort(self, reason: str) -> None:
        """End both connections so that each peer sees that its message was cut short."""
        self._end(reason)
        self._upstream.abort()
        self._session.abort()

    def _pump_request(self) -> None:
        client, upstream = self._client, self._upstream
        for _ in range(TURNS):
            if upstream.out and not upstream.flush():
                self._hold_back(client.readable)
                return
            if self._body.done:
                return
            data = client.receive()
            if data is None:
                return
            if not data:
                self.abort("request_incomplete")
                return
            try:
                passed, client.held = self._body.feed(data)
            except MessageError as error:
                self._refuse(error)
                return
            self._session.touch()
            self._sent += len(passed)
            if passed:
                upstream.send(passed)
            if upstream.lost:
                return  # the answer may be here all the same
        client.again()

    def _pump_answer(self) -> None:
        client, upstream = self._client, self._upstream
        for _ in range(TURNS):
            if client.out and not client.flush():
                self._hold_back(upstream.readable)
                return
            if client.lost:
                self.abort("client_gone")
                return
            if self._answer is not None and self._answer.done:
                self._finish()
                return
            data = upstream.receive()
            if data is None:
                return
            if self._answer is None:
                if not data:
                    self._no_answer()
                    return
                self._answer_head(data)
            elif data:
                self._session.touch()  # interim answers do not: they could put off the real one for ever
                self._answer_body(self._answer, data)
            elif upstream.lost or not self._answer.ends_with_connection():
                self.abort("answer_incomplete")
            if self.over:
                return
        upstream.again()

    def _hold_back(self, more: bool) -> None:  # noqa: FBT001
        """Count a reader that is slower than its writer."""
        if more:
            self._session.site.ledger.limit("buffer_bytes")

    def _answer_head(self, data: bytes) -> None:
        try:
            while True:
                text, data = self._buffer.feed(data)
                if not text:
                    return
                head = parse_response(text, self._head.method, self._session.site.limits.head_fields)
                if head.status >= 200 or head.status == 101:
                    self._begin_answer(head, data)
                    return
                self._interim = True
                if self._head.minor == 1:
                    self._client.send(response_bytes(head, chunked=False, closing=False, date=b""))
        except MessageError as error:
            self._session.site.ledger.met_limit(error)
            self._fail(replies.bad_answer(error))

    def _begin_answer(self, head: ResponseHead, rest: bytes) -> None:
        """Pass on a final head with what of the body came along; raises MessageError for a bad body."""
        site = self._session.site
        if head.status == 101:
            self._switch(head, rest)
            return
        modern = self._head.minor == 1
        self._answer_head_seen(head)
        self._persists = self._persists and head.framing is not Framing.UNTIL_CLOSE and not site.draining
        body = body_of(head.framing, head.length, framed=modern)
        passed, behind = body.feed(rest) if rest else (b"", b"")
        self._surplus = bool(behind)
        out = response_bytes(head, chunked=modern, closing=not self._persists, date=site.date())
        self._answer = body
        self._received += len(passed)
        self._client.send(out + passed)

    def _answer_head_seen(self, head: ResponseHead) -> None:
        self._status = head.status
        self._surplus = False
        self._upstream.reused = True
        self._upstream.persistent = head.persistent
        if authenticates_connection(self._head) or authenticates_connection(head):
            self._upstream.bound = True
        self._session.site.ledger.first_byte.observe(time.monotonic() - self._passage.started)

    def _switch(self, head: ResponseHead, rest: bytes) -> None:
        """101: both connections go on as a tunnel (RFC 9110 7.8)."""
        if self._upgrade is None:
            raise MessageError(502, "it switches to a protocol that nobody asked for")
        self._answer_head_seen(head)
        self.over = True
        self._upstream.on_ready = self._client.on_ready = nothing
        out = response_bytes(head, chunked=False, closing=False, date=b"")
        before = self._client.out
        self._session.open_tunnel(self._passage, self._upstream.sock, before + out + rest)

    def _answer_body(self, body: Body, data: bytes) -> None:
        try:
            passed, behind = body.feed(data)
        except MessageError:
            self.abort("bad_answer")
            return
        self._surplus = bool(behind)
        self._received += len(passed)
        if passed:
            self._client.send(passed)

    def _no_answer(self) -> None:
        """The origin closed before it answered."""
        untouched = not self._buffer.begun and not self._interim
        if self._upstream.reused and untouched and self.repeatable:
            self._upstream.close()
            self._session.dial_again()
            return
        self._fail(replies.NO_WHOLE_ANSWER)

    def _finish(self) -> None:
        upstream = self._upstream
        complete = self._body.done
        self._end("finished")
        clean = not (self._surplus or upstream.lost or upstream.out) and upstream.receive() is None
        if clean and complete and upstream.persistent:
            self._session.kept.put(upstream)
        else:
            upstream.close()
        self._session.next_request(persists=self._persists and complete, complete=complete)

    def _refuse(self, error: MessageError) -> None:
        """The body of the request is malformed: the origin must not take what it got for the whole."""
        reply = replies.refused(error)
        self._session.site.ledger.refused(self._passage.client, reply.reason)
        if self._answer is not None:
            self.abort("bad_request")
            return
        self._status = reply.status
        self._end("bad_request")
        self._upstream.abort()
        self._session.farewell(reply)

    def _fail(self, reply: replies.Reply) -> None:
        """Answer instead of the origin."""
        self._status = reply.status
        self._session.site.ledger.failed(self._passage, reply)
        self._end(reply.reason)
        self._upstream.abort()
        self._session.farewell(reply)

    def _end(self, reason: str) -> None:
        self.over = True
        ledger = self._session.site.ledger
        ledger.sent.value += self._sent
        ledger.received.value += self._received
        ledger.closed(self._passage, self._status, self._sent, self._received, reason)
