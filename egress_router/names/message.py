"""Makes one question and reads the reply to it. Uses no socket.

Here it is decided whether a reply is used: RFC 5452 section 9 says when it belongs to our question.
"""

from __future__ import annotations

import secrets
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from egress_router.grammar.address import unmapped
from egress_router.names.answer import MAX_ADDRESSES
from egress_router.names.wire import HEADER, Kind, MalformedError, Sections, domains, name_key

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress

FAMILIES: Final = (Kind.A, Kind.AAAA)

# This size passes without fragmentation nearly everywhere (DNS flag day 2020); fragments can be forged.
_UDP_PAYLOAD = 1232
_MAX_CHAIN = 15  # aliases that are followed, one after the other
_HEADER = struct.Struct("!HHHHHH")  # id, flags, and how many records each section has
_RECURSION_DESIRED = 0x0100
_RESPONSE, _OPCODE, _TRUNCATED, _CODE = 0x8000, 0x7800, 0x0200, 0x000F
_KNOWS = 0x0400 | 0x0080  # authoritative, or recursion available
_NOERROR, _FORMERR, _SERVFAIL, _NXDOMAIN, _NOTIMP, _REFUSED = range(6)
# IANA, "DNS RCODEs"; the ones that a resolver may meet in a reply to a question.
_CODES = {
    _FORMERR: "FORMERR",
    _SERVFAIL: "SERVFAIL",
    _NOTIMP: "NOTIMP",
    _REFUSED: "REFUSED",
    9: "NOTAUTH",
    16: "BADVERS",
}
# With these codes a server may leave out the question: it could not read it.
_WITHOUT_QUESTION = {_FORMERR, _SERVFAIL, _NOTIMP, _REFUSED}


@dataclass(frozen=True, slots=True)
class Query:
    """A question for the `kind` records of a name, as it is sent."""

    name: bytes
    kind: Kind
    edns: bool
    wire: bytes

    @property
    def question(self) -> bytes:
        """The question section."""
        return self.wire[HEADER : HEADER + len(self.name) + 4]


@dataclass(frozen=True, slots=True)
class Records:
    """A server's definite answer: the addresses of one family, for `ttl` seconds.

    No addresses: the name has none of this family or, if `exists` is False, does not exist. Such an answer
    with a `ttl` of None does not say for how long, so it is not remembered (RFC 2308 section 5).
    """

    addresses: tuple[IPAddress, ...]
    ttl: int | None
    exists: bool


@dataclass(frozen=True, slots=True)
class Truncated:
    """The answer did not fit into a datagram; it has to be asked for over TCP."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server replied without an answer; `lacks_edns`: it may only have failed to understand EDNS."""

    reason: str
    lacks_edns: bool = False


Reply = Records | Truncated | Refusal


def make_query(name: str, kind: Kind, *, edns: bool) -> Query:
    """Ask for the addresses of one family of an absolute name (without its final dot)."""
    key = name_key(name)
    header = _HEADER.pack(secrets.randbits(16), _RECURSION_DESIRED, 1, 0, 0, int(edns))
    # RFC 6891 6.1.2: the root as owner, the type, the size of datagrams, no flags, no options.
    option = b"\0" + struct.pack("!HHIH", Kind.OPT, _UDP_PAYLOAD, 0, 0) if edns else b""
    return Query(key, kind, edns, header + key + struct.pack("!HH", kind, 1) + option)


def read_reply(query: Query, wire: bytes) -> Reply | None:
    """Return what `wire` answers to `query`; None if it is not a reply to it, and may be forged."""
    start = _after_question(query, wire)
    if start is None:
        return None
    _, flags, _, *counts = _HEADER.unpack_from(wire)
    if flags & _TRUNCATED:
        # A server may cut in the middle of a record, so the rest is not read.
        return Truncated()
    sections = Sections(query.kind)
    try:
        sections.read(wire, start, (counts[0], counts[1], counts[2]))
    except MalformedError as error:
        return Refusal(f"bad answer: {error}")
    return _judged(query, flags, sections)


def _after_question(query: Query, wire: bytes) -> int | None:
    """Return where the records of a reply to `query` begin; None: it is not a reply to it."""
    if len(wire) < HEADER or wire[:2] != query.wire[:2]:
        return None
    _, flags, questions, *_ = _HEADER.unpack_from(wire)
    if not flags & _RESPONSE or flags & _OPCODE:
        return None
    if not questions:
        return HEADER if flags & _CODE in _WITHOUT_QUESTION else None
    end = HEADER + len(query.question)
    # Type and class hold no letters, so lower case changes the name only.
    return end if questions == 1 and wire[HEADER:end].lower() == query.question else None


def _judged(query: Query, flags: int, sections: Sections) -> Reply:
    code = (sections.extended or 0) << 4 | flags & _CODE
    if code not in {_NOERROR, _NXDOMAIN}:
        # RFC 6891 section 7: a server without EDNS says FORMERR (some: NOTIMP) and sends no OPT record.
        lacks_edns = code in {_FORMERR, _NOTIMP} and query.edns and sections.extended is None
        return Refusal(_CODES.get(code, f"response code {code}"), lacks_edns=lacks_edns)
    name, ttls = _followed(query.name, sections)
    if len(ttls) > _MAX_CHAIN:
        return Refusal("bad answer: a chain of aliases without an end")
    found = sections.data.get(name)
    if not found:
        if code == _NOERROR and not ttls and not flags & _KNOWS:
            return Refusal("refers to other servers")  # it does not know the answer
        return Records((), _denied_for(name, ttls, sections), exists=code == _NOERROR)
    if code == _NXDOMAIN:
        return Refusal("bad answer: addresses of a name that does not exist")
    distinct = list(dict.fromkeys(data for _, data in found))[:MAX_ADDRESSES]
    addresses = tuple(unmapped(ip_address(data)) for data in distinct)
    return Records(addresses, min([*ttls, *(ttl for ttl, _ in found)]), exists=True)


def _followed(name: bytes, sections: Sections) -> tuple[bytes, list[int]]:
    """Return where the aliases of `name` lead, and their TTLs; more than `_MAX_CHAIN`: it may be a loop."""
    ttls: list[int] = []
    while name not in sections.data and name in sections.aliases and len(ttls) <= _MAX_CHAIN:
        ttl, name = sections.aliases[name]
        ttls.append(ttl)
    return name, ttls


def _denied_for(name: bytes, ttls: list[int], sections: Sections) -> int | None:
    """Return how long the absence of a name may be remembered; the nearest zone above it says so."""
    for domain in domains(name):
        if domain in sections.denials:
            return min([*ttls, sections.denials[domain]])
    return None
