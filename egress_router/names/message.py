"""DNS messages: one question out, and what a reply says to it. Knows no socket.

Whatever arrives is judged here: RFC 5452 section 9 says what makes a reply one to our question.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, cast

import dns.exception
import dns.flags
import dns.message
import dns.rcode
from dns.rdatatype import RdataType

from egress_router.grammar.address import unmapped
from egress_router.names.answer import MOST_ADDRESSES

if TYPE_CHECKING:
    from dns.rdtypes.IN.A import A

    from egress_router.grammar.address import IPAddress

FAMILIES = (RdataType.A, RdataType.AAAA)

# The size that passes unfragmented nearly everywhere (DNS flag day 2020); fragments can be forged.
_UDP_PAYLOAD = 1232
_HEADER = 12
_CONCLUSIVE = frozenset({dns.rcode.NOERROR, dns.rcode.NXDOMAIN})


@dataclass(frozen=True, slots=True)
class Query:
    """A question with its random id, as an object to compare with and as bytes to send."""

    message: dns.message.Message
    wire: bytes


@dataclass(frozen=True, slots=True)
class Records:
    """A server's conclusive answer: the addresses of one family, for `ttl` seconds.

    No addresses: the name has none of this family, or, where `exists` is False, is none.
    """

    addresses: tuple[IPAddress, ...]
    ttl: int
    exists: bool


@dataclass(frozen=True, slots=True)
class Truncated:
    """The answer did not fit into a datagram; it is to be had over TCP."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server answered, but not the question; `lacks_edns` where it may only have stumbled over EDNS."""

    reason: str
    lacks_edns: bool = False


Reply = Records | Truncated | Refusal


def make_query(name: str, family: RdataType, *, edns: bool) -> Query:
    """Ask for the addresses of one family of an absolute name (without its final dot)."""
    message = dns.message.make_query(
        f"{name}.", family, use_edns=0 if edns else False, payload=_UDP_PAYLOAD, id=secrets.randbits(16)
    )
    return Query(message, message.to_wire())


def read_reply(query: Query, wire: bytes) -> Reply | None:
    """Return what `wire` says to `query`; None where it is no reply to it and may be forged."""
    if len(wire) < _HEADER or wire[:2] != query.wire[:2]:
        return None
    # A server may cut in the middle of a record, so of a truncated answer only the question is read.
    truncated = bool(int.from_bytes(wire[2:4], "big") & dns.flags.TC)
    try:
        message = dns.message.from_wire(wire, question_only=truncated)
    except (dns.exception.DNSException, ValueError):
        return None
    if not isinstance(message, dns.message.QueryMessage) or not query.message.is_response(message):
        return None
    return Truncated() if truncated else _judged(query, message)


def _judged(query: Query, message: dns.message.QueryMessage) -> Reply:
    code = message.rcode()
    if code not in _CONCLUSIVE:
        # RFC 6891 section 7: a server without EDNS says FORMERR (some: NOTIMP) and sends no OPT record.
        stumbled = code in {dns.rcode.FORMERR, dns.rcode.NOTIMP}
        return Refusal(
            dns.rcode.to_text(code), lacks_edns=stumbled and query.message.edns == 0 and message.edns < 0
        )
    try:
        chain = message.resolve_chaining()
    except dns.exception.DNSException as error:
        return Refusal(f"bad answer: {error}")
    if chain.answer is None:
        recursive = message.flags & (dns.flags.RA | dns.flags.AA)
        if code == dns.rcode.NOERROR and not chain.cnames and not recursive:
            return Refusal("refers to other servers")  # it does not know, which is no answer
        return Records((), chain.minimum_ttl, exists=code == dns.rcode.NOERROR)
    found = (unmapped(ip_address(cast("A", record).address)) for record in chain.answer)
    return Records(tuple(dict.fromkeys(found))[:MOST_ADDRESSES], chain.minimum_ttl, exists=True)
