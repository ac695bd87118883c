"""One request and its answer, without I/O: bytes from one peer in, bytes for the other one out.

    exchange = Exchange(head, target, limits, date)   # raises MessageError for what cannot be forwarded
    to_origin = exchange.begin(b"...", reused=False)  # the head, and the part of the body that has come
    to_origin = exchange.from_client(data)
    to_client = exchange.from_origin(data)

After each call `end` says whether the exchange is over, and how; then it must not be fed any more. Bytes that
were not taken are in `unread` (from the client) and `rest` (from the origin). Either they come after the end,
or they have to be fed again: their chunks are so small that other connections should run in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from egress_router.http_proxy.http1.body import body_of
from egress_router.http_proxy.http1.ending import (
    FINISHED,
    NO_ANSWER,
    REPEATED,
    SWITCHED,
    TOO_LATE,
    End,
    Ending,
)
from egress_router.http_proxy.http1.errors import Fault, MessageError
from egress_router.http_proxy.http1.forwarding import (
    authenticates_connection,
    is_wanted_switch,
    request_bytes,
    response_bytes,
    wanted_upgrade,
)
from egress_router.http_proxy.http1.head import NO_BODY, UNTIL_CLOSE
from egress_router.http_proxy.http1.response import AnswerHeads
from egress_router.http_proxy.http1.state import (
    INTO_ANSWER_BODY,
    INTO_ANSWER_DONE,
    INTO_REQUEST_BODY,
    INTO_REQUEST_DONE,
    INTO_SWITCHED,
    INTO_WAITING,
    AnswerState,
    RequestState,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.http_proxy.http1.body import Body
    from egress_router.http_proxy.http1.request import RequestHead
    from egress_router.http_proxy.http1.response import ResponseHead
    from egress_router.http_proxy.http1.target import RequestTarget
    from egress_router.settings.http_proxy import HttpLimits

# The idempotent methods (RFC 9110 9.2.2) without PUT, which carries a body.
_REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"DELETE"})
# Bound once, like the framings in head.py.
_WAITING: Final = RequestState.WAITING
_AWAITED: Final = AnswerState.AWAITED
_ANSWER_BODY: Final = AnswerState.BODY
_ANSWERED: Final = AnswerState.DONE


class Exchange:
    """Made for each request that is not CONNECT.

    `request_done`: the whole request was forwarded. `repeatable`: it may be sent twice, since an idle
    connection may end just when it is used (RFC 9112 9.3.1). `persists`: the client's connection stays open
    after the answer; `origin_persists`: the origin's does. `binds_origin`: from now on the origin's
    connection is authenticated for the user of this client connection. `surplus`: the origin has sent more
    than its answer. `sent` and `received` count bytes of bodies.
    """

    __slots__ = ("_answer", "_date", "_head", "_heads", "_last", "_lost", "_request", "_request_state",
        "_reused", "_started", "_upgrade", "answer_state", "binds_origin", "end", "origin_persists",
        "persists", "received", "repeatable", "request_done", "rest", "sent", "status", "surplus",
        "unread")  # fmt: skip

    def __init__(
        self, head: RequestHead, target: RequestTarget, limits: HttpLimits, date: Callable[[], bytes]
    ) -> None:
        """Prepare the request; `date` returns the value of a Date field that the origin left out.

        Raises:
            MessageError: the head asks for what cannot be forwarded.
        """
        self._head = head
        self._date = date
        self._upgrade = wanted_upgrade(head)
        self._started = request_bytes(head, target, self._upgrade)
        self._request = body_of(head.framing, head.length)
        self.request_done = self._request.done
        self._request_state = _WAITING
        self._heads = AnswerHeads(limits, head.method)
        self._answer: Body | None = None
        self.answer_state = _AWAITED
        self._last = False
        self._lost = False
        self._reused = False
        self.repeatable = head.framing is NO_BODY and head.method in _REPEATABLE
        self.persists = head.persistent
        self.origin_persists = self.binds_origin = self.surplus = False
        self.status = self.sent = self.received = 0
        self.unread = self.rest = b""
        self.end: End | None = None

    # Asked by the caller

    @property
    def answering(self) -> bool:
        """Whether an answer has begun and has not ended."""
        return self.answer_state is _ANSWER_BODY

    @property
    def held(self) -> int:
        """How many bytes of an incomplete answer head are buffered."""
        return self._heads.size

    @property
    def was_last(self) -> bool:
        """Whether the client has said, or its version says, that no request follows this one."""
        return not self._head.persistent

    # From the client

    def begin(self, data: bytes, *, reused: bool) -> bytes:
        """Return the head for the origin, with as much of the body as there is in `data`.

        `reused` says that the connection has carried an answer before. An exchange that ended as REPEATED may
        begin again.
        """
        state = self._request_state
        if state is not _WAITING:
            state = INTO_WAITING[state]
            self.end = None
        self._reused = reused
        if self.request_done:
            self._request_state = INTO_REQUEST_DONE[state]
            self.unread = data
            return self._started
        self._request_state = INTO_REQUEST_BODY[state]
        if not data:
            return self._started
        passed = self.from_client(data)
        return b"" if self.end is not None else self._started + passed

    def from_client(self, data: bytes) -> bytes:
        """Return what to send to the origin for these bytes of the body."""
        try:
            passed, self.unread = self._request.feed(data)
        except MessageError as error:
            self.unread = b""
            self.end = End(Ending.REFUSED if self._answer is None else Ending.CUT, "bad_request", error)
            return b""
        self.sent += len(passed)
        if self._request.done:
            self.request_done = True
            self._request_state = INTO_REQUEST_DONE[self._request_state]
            if self.answer_state is _ANSWERED:
                self.end = FINISHED
        return passed

    def client_ended(self) -> None:
        """Note that the client's stream ended before its request did; the rest may not be needed any more."""
        self.end = FINISHED if self.answer_state is _ANSWERED else End(Ending.CUT, "request_incomplete")

    # From the origin

    def from_origin(self, data: bytes) -> bytes:
        """Return what to send to the client for these bytes of the origin."""
        if self._answer is None:
            return self._answer_head(data)
        if self.answer_state is _ANSWERED:  # bytes after the answer, which nobody asked for
            self.surplus = True
            self.end = FINISHED
            return b""
        try:
            return self._fed(self._answer, data)
        except MessageError as error:
            self.end = End(Ending.CUT, "bad_answer", error)
            return b""

    def origin_ended(self, *, lost: bool) -> None:
        """Note that the origin's stream has ended; `lost`: by a reset."""
        answer = self._answer
        if answer is None:
            repeats = self._reused and self._heads.untouched and self.repeatable
            self.end = REPEATED if repeats else NO_ANSWER
        elif self.answer_state is _ANSWERED:
            self.surplus = True
            self.end = FINISHED
        elif lost or not answer.ends_with_connection():
            self.end = End(Ending.CUT, "answer_incomplete")
        else:
            self._answered()

    def origin_lost(self) -> None:
        """Note that nothing more can be sent to the origin; its answer may have come all the same."""
        self._lost = True
        if self.answer_state is _ANSWERED:
            self.end = FINISHED

    # From the caller

    def last(self) -> None:
        """Let the client's connection end after this answer, unless the answer has begun."""
        self._last = True

    def late(self, *, begun: bool) -> bool:
        """Give up an answer that does not begin, or has `begun` but does not continue; say whether it was so.

        After a complete answer the rest of the request may still be coming; that wait has to end, too.
        """
        if begun is not self.answering or self.end is not None:
            return False
        if begun:
            self.end = End(Ending.CUT, "late")
        else:
            self.end = TOO_LATE if self._answer is None else FINISHED
        return True

    def _answer_head(self, data: bytes) -> bytes:
        """Read heads of the answer: interim ones, and the final one with the part of the body after it."""
        out = b""
        try:
            while True:
                head, data = self._heads.next(data)
                if head is None:
                    return out
                if not head.interim:
                    return out + self._begin_answer(head, data)
                if self._head.minor == 1:
                    out += response_bytes(head, chunked=False, closing=False, date=self._date)
        except MessageError as error:
            self.end = End(Ending.BAD_ANSWER, "bad_answer", error)
            return out

    def _begin_answer(self, head: ResponseHead, rest: bytes) -> bytes:
        if head.status == 101:
            return self._switch(head, rest)
        modern = self._head.minor == 1
        self.status = head.status
        self.origin_persists = head.persistent
        self.binds_origin = authenticates_connection(self._head) or authenticates_connection(head)
        if head.framing is UNTIL_CLOSE or self._last or not (self.request_done or self._takes_rest):
            self.persists = False  # and the head says so: RFC 9112 9.6
        body = body_of(head.framing, head.length, framed=modern)
        out = response_bytes(head, chunked=modern, closing=not self.persists, date=self._date)
        if rest:
            out += self._passed(body, rest)
        self._answer = body
        if body.done:
            self._answered()
        else:
            self.answer_state = INTO_ANSWER_BODY[self.answer_state]
        return out

    def _switch(self, head: ResponseHead, rest: bytes) -> bytes:
        """Act on 101: both connections continue as a tunnel (RFC 9110 7.8)."""
        if not is_wanted_switch(self._upgrade, head):
            sentence = "it switches to a protocol that nobody asked for (an unsolicited 101)"
            raise MessageError(502, sentence, Fault.UNSOLICITED_SWITCH)
        self.status = 101
        self.answer_state = INTO_SWITCHED[self.answer_state]
        self.end = SWITCHED
        return response_bytes(head, chunked=False, closing=False, date=self._date) + rest

    def _fed(self, body: Body, data: bytes) -> bytes:
        passed = self._passed(body, data)
        if body.done:
            self._answered()
        return passed

    def _passed(self, body: Body, data: bytes) -> bytes:
        """Return what to forward of the answer's body; bytes after its end are surplus."""
        passed, rest = body.feed(data)
        self.received += len(passed)
        if body.done:
            self.surplus = bool(rest)
        else:
            self.rest = rest
        return passed

    def _answered(self) -> None:
        """End, because the answer is complete, unless the origin still takes the rest of the request."""
        self.answer_state = INTO_ANSWER_DONE[self.answer_state]
        if self.request_done or not self._takes_rest:
            self.end = FINISHED

    @property
    def _takes_rest(self) -> bool:
        """Whether the origin still takes the rest of the request; one that answers with an error need not."""
        return self.status < 400 and self.origin_persists and not self._lost
