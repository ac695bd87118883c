"""What the laboratory's name server answers: a zone as data, and ways to misbehave. No sockets."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
from dns.rdatatype import RdataType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.grammar.address import IPAddress

_UDP_WITHOUT_EDNS = 512
_MAX_TCP = 65535
_MAX_ALIASES = 20
_FLOOD = 40


class Behaviour(enum.Enum):
    """How a question is answered; the last four are honest over TCP."""

    HONEST = "honest"
    SILENT = "silent"
    SERVFAIL = "servfail"
    REFUSED = "refused"
    REFERRAL = "referral"  # neither an answer nor recursion
    NO_EDNS = "no-edns"  # FORMERR to queries with EDNS
    TRUNCATED = "truncated"
    LIES = "lies"  # a wrong id, a wrong question, garbage, and never the right answer
    LIES_FIRST = "lies-first"  # the same, then the right answer
    FLOOD = "flood"  # many answers with a wrong id


_HONEST_OVER_TCP = frozenset(
    {Behaviour.TRUNCATED, Behaviour.LIES, Behaviour.LIES_FIRST, Behaviour.FLOOD},
)
_CODES = {
    Behaviour.SERVFAIL: dns.rcode.SERVFAIL,
    Behaviour.REFUSED: dns.rcode.REFUSED,
    Behaviour.NO_EDNS: dns.rcode.FORMERR,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one name, and how questions for it are answered.

    `ttl` and `delay` are seconds; `only` limits delay and misbehaviour to one record type. If there are
    `turns`, each question is answered with one of them, by its random id, and not with `addresses`.
    """

    addresses: tuple[IPAddress, ...]
    alias: str | None
    ttl: int
    delay: float
    behaviour: Behaviour
    only: RdataType | None
    turns: tuple[tuple[IPAddress, ...], ...] = ()

    def addresses_for(self, query: dns.message.Message) -> tuple[IPAddress, ...]:
        """Return the addresses that this query is answered with."""
        return self.turns[query.id % len(self.turns)] if self.turns else self.addresses


Zone = dict[str, Entry]
EVERYTHING_ELSE = "*"  # in a zone: all names that are not in it


def entry(
    *addresses: str,
    alias: str | None = None,
    ttl: int = 30,
    delay: float = 0.0,
    behaviour: str = "honest",
    only: str | None = None,
    turns: Sequence[Sequence[str]] = (),
) -> Entry:
    """Return an entry from text, as it stands in a zone file.

    Raises:
        ValueError: an address or the behaviour is not valid.
        DNSException: the record type is not valid.
    """
    kind = None if only is None else RdataType.from_text(only)
    in_turn = tuple(tuple(map(ip_address, each)) for each in turns)
    return Entry(tuple(map(ip_address, addresses)), alias, ttl, delay, Behaviour(behaviour), kind, in_turn)


def parse_zone(text: str) -> Zone:
    """Read a zone file: a JSON object of names, each an object of `addresses` and the arguments of `entry`.

    Raises:
        ValueError: it is not such an object.
    """
    try:
        return {
            name: entry(*fields.pop("addresses", ()), **fields) for name, fields in json.loads(text).items()
        }
    except (AttributeError, TypeError, dns.exception.DNSException) as error:
        raise ValueError(f"not a zone: {error}") from None


@dataclass(frozen=True, slots=True)
class Reaction:
    """The answer to one query: these messages, after `delay` seconds."""

    messages: tuple[bytes, ...]
    delay: float = 0.0


def react(zone: Zone, query: dns.message.Message, *, tcp: bool, negative_ttl: int | None) -> Reaction:
    """Return how the name server answers one query; `negative_ttl`: see `NameServer`."""
    question = query.question[0]
    name = question.name.to_text(omit_final_dot=True).lower()
    known = zone.get(name) or zone.get(EVERYTHING_ELSE)
    truth = _truth(zone, query, negative_ttl)
    max_size = _MAX_TCP if tcp else max(query.payload, _UDP_WITHOUT_EDNS)
    honest = truth.to_wire(max_size=max_size, prefer_truncation=True)
    if known is None or known.only not in {None, question.rdtype}:
        return Reaction((honest,))
    behaviour = known.behaviour
    if tcp and behaviour in _HONEST_OVER_TCP:
        behaviour = Behaviour.HONEST
    if behaviour is Behaviour.NO_EDNS and query.edns < 0:
        behaviour = Behaviour.HONEST
    return Reaction(_messages(behaviour, query, honest), known.delay)


def _messages(behaviour: Behaviour, query: dns.message.Message, honest: bytes) -> tuple[bytes, ...]:
    if behaviour is Behaviour.HONEST:
        return (honest,)
    if behaviour is Behaviour.SILENT:
        return ()
    if behaviour is Behaviour.LIES:
        return _lies(query, honest)
    if behaviour is Behaviour.LIES_FIRST:
        return (*_lies(query, honest), honest)
    if behaviour is Behaviour.FLOOD:
        return (_with_wrong_id(honest),) * _FLOOD
    reply = dns.message.make_response(query, recursion_available=behaviour is not Behaviour.REFERRAL)
    if behaviour is Behaviour.TRUNCATED:
        reply.flags |= dns.flags.TC
    if behaviour is Behaviour.NO_EDNS:
        reply.use_edns(False)
    reply.set_rcode(_CODES.get(behaviour, dns.rcode.NOERROR))
    return (reply.to_wire(),)


def _lies(query: dns.message.Message, honest: bytes) -> tuple[bytes, ...]:
    elsewhere = dns.message.make_query("elsewhere.example.", RdataType.A, id=query.id)
    forged = dns.message.make_response(elsewhere, recursion_available=True)
    forged.answer.append(dns.rrset.from_text("elsewhere.example.", 3600, "IN", "A", "192.0.2.66"))
    return (_with_wrong_id(honest), forged.to_wire(), query.to_wire(), honest[:2] + b"garbage")


def _with_wrong_id(message: bytes) -> bytes:
    return bytes([message[0] ^ 0xFF]) + message[1:]


def _truth(zone: Zone, query: dns.message.Message, negative_ttl: int | None) -> dns.message.Message:
    """Answer as a recursive server does: the chain of aliases, then the addresses at its end."""
    reply = dns.message.make_response(query, recursion_available=True)
    name = query.question[0].name.to_text(omit_final_dot=True).lower()
    kind = query.question[0].rdtype
    known = zone.get(name)
    for _ in range(_MAX_ALIASES):
        if known is None or known.alias is None:
            break
        reply.answer.append(dns.rrset.from_text(f"{name}.", known.ttl, "IN", "CNAME", f"{known.alias}."))
        name = known.alias
        known = zone.get(name)
    if known is None:
        reply.set_rcode(dns.rcode.NXDOMAIN)
    else:
        # One set for each record: dnspython shuffles larger sets when it writes them.
        reply.answer += [
            dns.rrset.from_text(f"{name}.", known.ttl, "IN", kind, str(address))
            for address in known.addresses_for(query)
            if _KINDS[address.version] is kind
        ]
    if negative_ttl is not None and (known is None or not reply.answer):
        soa = f"ns.invalid. hostmaster.invalid. 1 3600 600 86400 {negative_ttl}"
        reply.authority.append(dns.rrset.from_text(".", negative_ttl, "IN", "SOA", soa))
    return reply


_KINDS = {4: RdataType.A, 6: RdataType.AAAA}
