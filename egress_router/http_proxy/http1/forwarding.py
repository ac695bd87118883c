"""Heads as they are forwarded: without hop-by-hop fields, with what a proxy adds (RFC 9110 7.6). Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from egress_router.http_proxy.http1.errors import Fault, MessageError
from egress_router.http_proxy.http1.head import BY_LENGTH, NO_BODY, Framing
from egress_router.http_proxy.http1.passed_fields import NEVER_PASSED

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.http_proxy.http1.request import RequestHead
    from egress_router.http_proxy.http1.response import ResponseHead
    from egress_router.http_proxy.http1.target import RequestTarget

_VIA = (b"Via: 1.0 egress-router\r\n", b"Via: 1.1 egress-router\r\n")  # by the minor version received
_MEMBER = re.compile(rb"[^ \t]+[ \t]+egress-router(?:[ \t].*)?", re.IGNORECASE | re.DOTALL)
_FORWARDS = re.compile(rb"[0-9]{1,9}")

_LIMITED_BY_FORWARDS = frozenset({b"OPTIONS", b"TRACE"})


def check_loop(head: RequestHead) -> None:
    """Refuse a request that has been through this proxy before.

    Raises:
        MessageError: a Via field names this proxy.
    """
    for value in head.special.get(b"via", ()):
        if any(_MEMBER.fullmatch(member.strip(b" \t")) for member in value.split(b",")):
            raise MessageError(502, "the request has been through this proxy before", Fault.LOOP)


def forwards_left(head: RequestHead) -> int | None:
    """Return the Max-Forwards of a TRACE or OPTIONS; None if there is none (RFC 9110 7.6.2).

    Raises:
        MessageError: it is not one number.
    """
    values = head.special.get(b"max-forwards")
    if values is None or head.method not in _LIMITED_BY_FORWARDS:
        return None
    if len(values) > 1 or _FORWARDS.fullmatch(values[0]) is None:
        raise MessageError(400, "the Max-Forwards field is not one number")
    return int(values[0])


def expects_continue(head: RequestHead) -> bool:
    """Say whether the client waits for `100 Continue` before it sends the body.

    Raises:
        MessageError: it expects something else (RFC 9110 10.1.1).
    """
    values = head.special.get(b"expect")
    if values is None or head.minor == 0:
        return False
    if any(value.lower() != b"100-continue" for value in values):
        raise MessageError(417, "no expectation but 100-continue is known here", Fault.UNSUPPORTED)
    return head.framing is not NO_BODY


def wanted_upgrade(head: RequestHead) -> bytes | None:
    """Return the protocols that a request may upgrade to; None if it asks for none that is forwarded.

    h2c is not forwarded: this upgrade is obsolete (RFC 9113 3.1), and the proxy would not see the requests
    inside.
    """
    values = head.special.get(b"upgrade")
    if values is None or b"upgrade" not in head.connection or head.minor == 0:
        return None
    protocols = b", ".join(values)
    if head.framing is not NO_BODY or b"h2c" in protocols.lower():
        return None
    return protocols


def is_wanted_switch(wanted: bytes | None, head: ResponseHead) -> bool:
    """Say whether an answer 101 switches only to protocols that were `wanted` (RFC 9110 7.8)."""
    if wanted is None:
        return False
    taken = _protocols(b",".join(head.special.get(b"upgrade", ())))
    return bool(taken) and taken <= _protocols(wanted)


def _protocols(value: bytes) -> frozenset[bytes]:
    """Return the names of the protocols in an Upgrade field, in lower case, without versions."""
    names = (each.partition(b"/")[0].strip(b" \t") for each in value.lower().split(b","))
    return frozenset(name for name in names if name)


def authenticates_connection(head: RequestHead | ResponseHead) -> bool:
    """Say whether a head belongs to an authentication of its whole connection (RFC 4559 6)."""
    if not head.special:
        return False
    values = head.special.get(b"authorization") or head.special.get(b"www-authenticate")
    return values is not None and any(
        value[:9].lower().startswith((b"ntlm", b"negotiate")) for value in values
    )


def request_bytes(head: RequestHead, target: RequestTarget, upgrade: bytes | None) -> bytes:
    """Return the head for the origin: origin form, Host of the target, Via, and no hop-by-hop field.

    Raises:
        MessageError: an expectation or Max-Forwards is wrong.
    """
    line = b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (head.method, target.origin_form, target.authority)
    lines = [line, head.passed]
    if head.special:
        lines += _special_lines(head)
    if head.framing is not NO_BODY:
        lines.append(_framing(head.framing, head.length))
    if upgrade is not None:
        lines.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % upgrade)
    lines += (_VIA[head.minor], b"\r\n")
    return b"".join(lines)


def _special_lines(head: RequestHead) -> list[bytes]:
    lines = []
    if expects_continue(head):
        lines.append(b"Expect: 100-continue\r\n")
    left = forwards_left(head)
    if left is not None:
        lines.append(b"Max-Forwards: %d\r\n" % (left - 1))
    return lines


def response_bytes(head: ResponseHead, *, chunked: bool, closing: bool, date: Callable[[], bytes]) -> bytes:
    """Return the head for the client.

    `chunked` says that a chunked body stays chunked, `closing` that the connection ends with this answer;
    `date` returns the value of a Date field that the origin left out.
    """
    lines = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.phrase)]
    options = head.connection
    dated = head.status < 200
    for lower, name, value in head.fields:
        if lower not in NEVER_PASSED and lower not in options:
            lines += (name, b": ", value, b"\r\n")
            dated = dated or lower == b"date"
    if not dated:
        lines.append(b"Date: %b\r\n" % date())
    if head.status == 101:
        lines.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % b", ".join(head.special.get(b"upgrade", ())))
    elif closing and head.status >= 200:
        lines.append(b"Connection: close\r\n")
    lines += (_response_framing(head, chunked=chunked), _VIA[head.minor], b"\r\n")
    return b"".join(lines)


def _response_framing(head: ResponseHead, *, chunked: bool) -> bytes:
    if head.framing is BY_LENGTH:
        return _framing(BY_LENGTH, head.length)
    if head.framing is Framing.CHUNKED:
        return _framing(head.framing, 0) if chunked else b""
    # In an answer to HEAD and in 304, the length is that of the body that a GET would get. RFC 9110 8.6: no
    # length in 1xx and 204.
    if head.framing is NO_BODY and head.length >= 0 and head.status not in {101, 204}:
        return b"" if head.status < 200 else _framing(BY_LENGTH, head.length)
    return b""


def _framing(framing: Framing, length: int) -> bytes:
    if framing is BY_LENGTH:
        return b"Content-Length: %d\r\n" % length
    return b"Transfer-Encoding: chunked\r\n"
