"""One request and its answer over one connection to the origin, streamed both ways.

Each direction reads only while what it read before is written: a slow reader holds its writer back, and at
most one receive is held for it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from egress_router.http_proxy import replies
from egress_router.http_proxy.guard import guarded
from egress_router.http_proxy.http1.body import body_of
from egress_router.http_proxy.http1.errors import Fault, MessageError
from egress_router.http_proxy.http1.forwarding import is_wanted_switch, response_bytes
from egress_router.http_proxy.http1.head import UNTIL_CLOSE, authenticates_connection
from egress_router.http_proxy.http1.heads import AnswerHeads
from egress_router.http_proxy.outgoing import Pumped, RequestStream
from egress_router.relay.buffered_socket import TURNS, nothing

if TYPE_CHECKING:
    import socket

    from egress_router.http_proxy.http1.body import Body
    from egress_router.http_proxy.http1.head import RequestHead, ResponseHead
    from egress_router.http_proxy.ledger import RequestInfo
    from egress_router.http_proxy.upstream import ClientUpstreams, Upstream
    from egress_router.http_proxy.worker_state import WorkerState
    from egress_router.relay.buffered_socket import BufferedSocket


class Owner(Protocol):
    """The client's connection, as an exchange sees it."""

    worker: WorkerState
    wire: BufferedSocket
    kept: ClientUpstreams
    holds: bool

    def account(self) -> None:
        """Note how many bytes are held."""

    def await_more(self) -> None:
        """Let the time for more of an answer begin anew."""

    def await_answer(self) -> None:
        """Let the time until an answer begins begin anew."""

    def dial_again(self) -> None:
        """Repeat the exchange over a new connection."""

    def next_request(self, *, persists: bool, complete: bool) -> None:
        """Go on after an exchange."""

    def open_tunnel(self, info: RequestInfo, upstream: socket.socket, to_client: bytes) -> None:
        """Hand the connection over to a tunnel."""

    def answer_and_close(self, reply: replies.Reply) -> None:
        """Answer with the proxy's own words and close."""

    def abort(self) -> None:
        """Close so that the client sees that its answer is cut short."""

    def fault(self, error: Exception) -> None:
        """Close, because of something that must not happen."""


class Exchange:
    """Made for each request that is not CONNECT; `start` begins it when there is a connection.

    `repeatable` says whether the request may be sent twice.
    """

    __slots__ = ("_answer", "_client", "_head", "_heads", "_info", "_persists", "_received", "_request",
        "_session", "_status", "_surplus", "_upstream", "over", "repeatable")  # fmt: skip

    def __init__(self, session: Owner, info: RequestInfo, head: RequestHead) -> None:
        """Prepare the request; raises MessageError where the head asks for what cannot be forwarded."""
        self._session = session
        self._client = session.wire
        self._head = head
        self._info = info
        self._request = RequestStream(session.wire, head, info.target)
        self.repeatable = self._request.repeatable
        self._answer: Body | None = None
        self._upstream: Upstream
        self._heads = AnswerHeads(session.worker.limits, head.method)
        self._surplus = False
        self._persists = head.persistent
        self._status = 0
        self._received = 0
        self.over = False

    def start(self, upstream: Upstream) -> None:
        """Send the request over this connection, with as much of its body as is here."""
        self._upstream = upstream
        self.over = False
        try:
            first = self._request.first()
        except MessageError as error:
            self._refuse(error)
            return
        upstream.on_ready = self._client.on_ready = self.pump
        upstream.send(first)
        upstream.watch()
        self._client.watch()
        if not self._request.body.done:
            self.pump()

    @guarded
    def pump(self) -> None:
        """Move what can be moved now."""
        if self._client.gone or self._client.lost:
            self.abort("client_gone")
            return
        if (not self._request.body.done or self._upstream.out) and not self._upstream.lost:
            self._pump_request()
        if not self.over:
            self._pump_answer()
        if self._session.holds and not self.over:
            self._session.account()

    def late(self, *, begun: bool) -> None:
        """Give up an answer that does not begin, or does not go on, or the rest of a request behind it."""
        if begun is not self._answering:
            return
        self._session.worker.ledger.limit("idle_seconds" if begun else "answer_seconds")
        if begun:
            self.abort("late")
        elif self._answer is None:
            self._fail(replies.NO_ANSWER)
        else:
            self._finish()

    def fault(self, error: Exception) -> None:
        """End the session, because of something that must not happen."""
        self._session.fault(error)

    def abort(self, reason: str) -> None:
        """End both connections so that each peer sees that its message was cut short."""
        self._end(reason)
        self._upstream.abort()
        self._session.abort()

    @property
    def held(self) -> int:
        """How many bytes wait on the origin's side, for the origin or for the rest of an answer's head."""
        return len(self._upstream.held) + len(self._upstream.out) + self._heads.size

    def give_way(self) -> None:
        """End, because all connections together hold too much."""
        if self._answer is None:
            self._refuse_with(replies.TOO_MUCH_HELD)
        else:
            self.abort(replies.TOO_MUCH_HELD.reason)

    @property
    def _answering(self) -> bool:
        """Whether an answer has begun and not ended."""
        return self._answer is not None and not self._answer.done

    def _pump_request(self) -> None:
        before = self._request.sent
        try:
            pumped = self._request.pump(self._upstream)
        except MessageError as error:
            self._refuse(error)
            return
        if self._request.sent != before:
            self._touch()
        if pumped is Pumped.BLOCKED:
            self._hold_back(self._client.readable)
        elif pumped is Pumped.ENDED and self._answer is not None and self._answer.done:
            self._finish()  # who has the answer needs to say no more
        elif pumped is Pumped.ENDED:
            self.abort("request_incomplete")

    def _pump_answer(self) -> None:
        client, upstream = self._client, self._upstream
        for _ in range(TURNS):
            if client.out and not client.flush():
                self._hold_back(upstream.readable)
                return
            if client.lost:
                self.abort("client_gone")
                return
            if self._answer is not None and self._answer.done and not self._reads_on():
                self._finish()
                return
            data = upstream.receive()
            if data is None:
                return
            self._came(data)
            if self.over:
                return
        upstream.again()

    def _came(self, data: bytes) -> None:
        """Act on what the origin sent; nothing is the end of its stream."""
        answer = self._answer
        if answer is None and data:
            self._answer_head(data)
        elif answer is None:
            self._no_answer()
        elif answer.done:  # it has ended, or says what nobody asked for
            self._surplus = True
            self._finish()
        elif data:
            self._answer_body(answer, data)
        elif self._upstream.lost or not answer.ends_with_connection():
            self.abort("answer_incomplete")

    def _reads_on(self) -> bool:
        """Say whether the origin takes the rest of a request that it has answered; errors are a last word."""
        upstream = self._upstream
        wanted = self._status < 400 and upstream.persistent and not upstream.lost
        return wanted and not self._request.body.done

    def _hold_back(self, more: bool) -> None:  # noqa: FBT001
        """Count a reader that is slower than its writer."""
        self._session.account()
        if more:
            self._session.worker.ledger.limit("buffer_bytes")

    def _answer_head(self, data: bytes) -> None:
        worker = self._session.worker
        try:
            while True:
                head, data = self._heads.next(data)
                if head is None:
                    self._session.account()
                    return
                if not head.interim:
                    self._begin_answer(head, data)
                    return
                if self._head.minor == 1:
                    self._client.send(response_bytes(head, chunked=False, closing=False, date=worker.date))
        except MessageError as error:
            worker.ledger.met_limit(error)
            self._fail(replies.bad_answer(error))

    def _begin_answer(self, head: ResponseHead, rest: bytes) -> None:
        """Pass on a final head with what of the body came along; raises MessageError for a bad body."""
        worker = self._session.worker
        if head.status == 101:
            self._switch(head, rest)
            return
        modern = self._head.minor == 1
        self._answer_head_seen(head)
        self._persists = self._persists and head.framing is not UNTIL_CLOSE and not worker.draining
        body = body_of(head.framing, head.length, framed=modern)
        out = response_bytes(head, chunked=modern, closing=not self._persists, date=worker.date)
        passed = self._fed(body, rest) if rest else b""
        self._answer = body
        self._client.send(out + passed)
        if not (body.done and self._request.body.done):
            self._touch()

    def _answer_head_seen(self, head: ResponseHead) -> None:
        self._status = head.status
        self._surplus = False
        self._upstream.reused = True
        self._upstream.persistent = head.persistent
        if authenticates_connection(self._head) or authenticates_connection(head):
            self._upstream.bound = True
        self._session.worker.ledger.first_byte.observe(time.monotonic() - self._info.started)

    def _switch(self, head: ResponseHead, rest: bytes) -> None:
        """101: both connections go on as a tunnel (RFC 9110 7.8)."""
        if not is_wanted_switch(self._request.upgrade, head):
            sentence = "it switches to a protocol that nobody asked for (an unsolicited 101)"
            raise MessageError(502, sentence, Fault.UNSOLICITED_SWITCH)
        self._answer_head_seen(head)
        self.over = True
        self._upstream.on_ready = self._client.on_ready = nothing
        out = response_bytes(head, chunked=False, closing=False, date=self._session.worker.date)
        before = self._client.out
        self._session.open_tunnel(self._info, self._upstream.sock, before + out + rest)

    def _answer_body(self, body: Body, data: bytes) -> None:
        try:
            passed = self._fed(body, data)
        except MessageError:
            self.abort("bad_answer")
            return
        if passed:
            self._client.send(passed)
        self._touch()

    def _fed(self, body: Body, data: bytes) -> bytes:
        """Return what goes on of the answer's body."""
        passed, rest = body.feed(data)
        self._received += len(passed)
        if body.done:
            self._surplus = bool(rest)
        else:
            self._upstream.held = rest
        return passed

    def _touch(self) -> None:
        """Note that something moves, but for interim answers: they could put the real one off for ever."""
        if self._answering:
            self._session.await_more()
        else:
            self._session.await_answer()

    def _no_answer(self) -> None:
        """The origin closed before it answered."""
        if self._upstream.reused and self._heads.untouched and self.repeatable:
            self.over = True
            self._upstream.close()
            self._session.dial_again()
            return
        self._fail(replies.NO_WHOLE_ANSWER)

    def _finish(self) -> None:
        upstream = self._upstream
        complete = self._request.body.done
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
        if self._answer is not None:
            self._session.worker.ledger.count_refusal(reply.reason)
            self.abort("bad_request")
        else:
            self._refuse_with(reply, "bad_request")

    def _refuse_with(self, reply: replies.Reply, reason: str | None = None) -> None:
        self._session.worker.ledger.count_refusal(reply.reason)
        self._status = reply.status
        self._end(reason or reply.reason)
        self._upstream.abort()
        self._session.answer_and_close(reply)

    def _fail(self, reply: replies.Reply) -> None:
        """Answer instead of the origin."""
        self._status = reply.status
        self._session.worker.ledger.failed(self._info, reply)
        self._end(reply.reason)
        self._upstream.abort()
        self._session.answer_and_close(reply)

    def _end(self, reason: str) -> None:
        self.over = True
        ledger = self._session.worker.ledger
        ledger.sent.value += self._request.sent
        ledger.received.value += self._received
        ledger.closed(self._info, self._status, self._request.sent, self._received, reason)
