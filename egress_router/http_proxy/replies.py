"""Answers of the proxy itself: a status, a `Proxy-Status` field (RFC 9209) and one sentence.

They repeat nothing that a client sent, except hosts in normalised form, whose characters are harmless.
"""

from __future__ import annotations

import http
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.http_proxy.http1.errors import Fault
from egress_router.names.answer import Failure
from egress_router.policy.access_list import Reason, explanation
from egress_router.relay.dial import DialReason

if TYPE_CHECKING:
    from egress_router.http_proxy.http1.errors import MessageError
    from egress_router.policy.access_list import Decision
    from egress_router.relay.dial import DialError

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_RETRY_SECONDS = 1
_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to a client: `error` is a type of RFC 9209 2.3, `reason` its name in metrics and records."""

    status: int
    error: str
    reason: str
    sentence: str

    def encoded(self, date: bytes, *, with_body: bool = True) -> bytes:
        """Return the whole answer, after which the connection ends; `with_body=False` is for HEAD."""
        body = f"{self.status} {_PHRASES[self.status]}: {self.sentence}\n".encode()
        retry = f"Retry-After: {_RETRY_SECONDS}\r\n" if self.status in {429, 503} else ""
        head = (
            f"HTTP/1.1 {self.status} {_PHRASES[self.status]}\r\n"
            f"Date: {date.decode('ascii')}\r\n"
            f"Proxy-Status: egress-router; error={self.error}; details={_quoted(self.sentence)}\r\n"
            "Content-Type: text/plain; charset=utf-8\r\n"
            "X-Content-Type-Options: nosniff\r\n"
            "Cache-Control: no-store\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"{retry}"
            "Connection: close\r\n\r\n"
        )
        return head.encode("ascii") + (body if with_body else b"")


def _quoted(text: str) -> str:
    """Return text as a string of RFC 8941 3.3.3, which is ASCII."""
    plain = text.encode("ascii", "backslashreplace").decode("ascii")
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def denied(decision: Decision) -> Reply:
    """Return the answer that says which rule denies, or that none allows."""
    by_address = decision.reason in {Reason.NOT_REMOTE, Reason.OWN_PORT}
    error = "destination_ip_prohibited" if by_address else "http_request_denied"
    return Reply(403, error, decision.reason.value, f"denied: {explanation(decision)}")


def refused(error: MessageError) -> Reply:
    """Return the answer that says what is wrong with the request."""
    if error.fault is Fault.LOOP:
        return Reply(502, "proxy_loop_detected", error.fault.value, error.sentence)
    return Reply(error.status, "http_request_error", error.fault.value, error.sentence)


_UNRESOLVED = {
    Failure.NO_SUCH_NAME: (502, 'dns_error; rcode="NXDOMAIN"', "the host name does not exist"),
    Failure.NO_ADDRESS: (502, "dns_error", "the host name has no address"),
    Failure.SERVER_FAILURE: (502, 'dns_error; rcode="SERVFAIL"', "the name servers failed"),
    Failure.TIMEOUT: (504, "dns_timeout", "the name servers do not answer"),
    Failure.OVER_LIMIT: (503, "dns_error", "too many names are being looked up"),
}


def unresolved(failure: Failure) -> Reply:
    """Return the answer that says why a name has no addresses."""
    status, error, sentence = _UNRESOLVED[failure]
    return Reply(status, error, failure.value, sentence)


_UNREACHED = {
    DialReason.REFUSED: (502, "connection_refused", "the destination refused the connection"),
    DialReason.UNREACHABLE: (502, "destination_ip_unroutable", "the destination is unreachable"),
    DialReason.TIMEOUT: (504, "connection_timeout", "the destination did not accept the connection in time"),
    DialReason.NO_DESCRIPTOR: (
        503,
        "connection_limit_reached",
        "the egress router is out of file descriptors",
    ),
    DialReason.SOURCE_NOT_HELD: (
        503,
        "proxy_internal_error",
        "the egress router does not hold the source address at the moment, or has no free port of it",
    ),
}


def unreached(error: DialError) -> Reply:
    """Return the answer that says why no connection was made."""
    status, name, sentence = _UNREACHED[error.reason]
    return Reply(status, name, error.reason.value, sentence)


OTHER_FAMILY = Reply(
    502,
    "destination_ip_unroutable",
    "other_family",
    "the destination has no address of the family of the rule's source address",
)
HEAD_TOO_SLOW = Reply(408, "http_request_error", "head_too_slow", "the head did not come in time")
NO_ANSWER = Reply(504, "connection_read_timeout", "no_answer", "the origin did not answer in time")
NO_WHOLE_ANSWER = Reply(
    502, "http_response_incomplete", "incomplete", "the origin closed the connection without an answer"
)
TOO_MUCH_HELD = Reply(
    503,
    "connection_limit_reached",
    "held_bytes",
    "the egress router has reached its limit of bytes held for unfinished requests",
)
CONNECTIONS_FULL = Reply(
    503, "connection_limit_reached", "connections", "the egress router has reached its limit of connections"
)
CLIENT_FULL = Reply(
    429,
    "connection_limit_reached",
    "connections_per_client",
    "this client has reached its limit of connections",
)


def bad_answer(error: MessageError) -> Reply:
    """Return the answer that says what is wrong with the origin's answer."""
    large = error.fault in {Fault.HEAD_TOO_LARGE, Fault.TOO_MANY_FIELDS}
    name = "http_response_header_section_size" if large else "http_protocol_error"
    reason = error.fault.value if error.fault is Fault.UNSOLICITED_SWITCH else "bad_answer"
    return Reply(502, name, reason, f"the answer of the origin: {error.sentence}")


def as_final_recipient(method: bytes, date: bytes) -> tuple[int, bytes]:
    """Return status and answer to a TRACE or OPTIONS with Max-Forwards 0 (RFC 9110 7.6.2).

    TRACE does not get its request back: that may hold credentials.
    """
    status = 204 if method == b"OPTIONS" else 405
    line = b"204 No Content" if status == 204 else b"405 Method Not Allowed\r\nContent-Length: 0"
    allow = b"CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
    answer = b"HTTP/1.1 %b\r\nDate: %b\r\nAllow: %b\r\nConnection: close\r\n\r\n" % (line, date, allow)
    return status, answer
