"""Random answers: dnspython is the judge of well-formed ones, and of others none is an error."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
from dns.rdatatype import RdataType
from hypothesis import given, settings
from hypothesis import strategies as st

from egress_router.grammar.address import unmapped
from egress_router.names.message import FAMILIES, Records, Refusal, Reply, make_query, read_reply
from tests.unit.names.wire_answers import ADDRESS, QUERY, SHORT_LABELS, pointer, record

if TYPE_CHECKING:
    from egress_router.names.wire import Kind

NAMES = ["www.example.com.", "a.example.com.", "B.Example.COM.", "c.example.org.", "d.e.f.example.net.", "."]
OWNERS = st.sampled_from([*NAMES, "WWW.example.com."])
TTLS = st.one_of(st.integers(0, 100), st.integers(0, 0x7FFFFFFF))
ADDRESSES_4 = st.integers(0, 0xFFFFFFFF).map(lambda number: ("A", str(ip_address(number))))
ADDRESSES_6 = st.one_of(st.integers(0, 2**128 - 1), st.integers(0xFFFF00000000, 0xFFFFFFFFFFFF)).map(
    lambda number: ("AAAA", ip_address(number.to_bytes(16, "big")).compressed)
)
OTHERS = st.sampled_from(
    [("MX", "10 a.example.com."), ("NS", "b.example.com."), ("TXT", '"text"'), ("RP", "a.example.com. .")]
)
ALIAS = OWNERS.map(lambda name: ("CNAME", name))
SOA = st.integers(0, 0x7FFFFFFF).map(lambda minimum: ("SOA", f"ns. host. 1 2 3 4 {minimum}"))
ANSWERS = st.lists(st.tuples(OWNERS, TTLS, st.one_of(ADDRESSES_4, ADDRESSES_6, ALIAS, OTHERS)), max_size=12)
AUTHORITIES = st.lists(
    st.tuples(st.sampled_from([*NAMES, "com.", "example.com."]), TTLS, st.one_of(SOA, OTHERS)), max_size=4
)
CODES = st.sampled_from([dns.rcode.NOERROR] * 6 + [dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL, dns.rcode.BADVERS])
FLAGS = st.sampled_from([dns.flags.RA, dns.flags.AA, dns.flags.Flag(0)])
Lines = list[tuple[str, int, tuple[str, str]]]


def _well_formed(lines: Lines) -> Lines:
    """Leave out what RFC 2181 forbids: a second CNAME or SOA record of one owner."""
    seen: set[tuple[str, str]] = set()
    kept: Lines = []
    for owner, ttl, (kind, data) in lines:
        if kind in {"CNAME", "SOA"} and (owner.lower(), kind) in seen:
            continue
        seen.add((owner.lower(), kind))
        kept.append((owner, ttl, (kind, data)))
    return kept


def _judged(wire: bytes) -> Reply:
    """Return what dnspython reads in a reply."""
    parsed = dns.message.from_wire(wire)
    assert isinstance(parsed, dns.message.QueryMessage)
    if parsed.rcode() not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
        return Refusal(dns.rcode.to_text(parsed.rcode()))
    try:
        chain = parsed.resolve_chaining()
    except dns.exception.DNSException:
        return Refusal("bad answer")
    exists = parsed.rcode() == dns.rcode.NOERROR
    if chain.answer is None:
        if exists and not chain.cnames and not parsed.flags & (dns.flags.RA | dns.flags.AA):
            return Refusal("refers to other servers")
        above = [chain.canonical_name]
        while above[-1] != dns.name.root:
            above.append(above[-1].parent())
        has_soa = any(each.rdtype is RdataType.SOA and each.name in above for each in parsed.authority)
        return Records((), chain.minimum_ttl if has_soa else None, exists=exists)
    found = dict.fromkeys(unmapped(ip_address(each.to_text())) for each in chain.answer)
    return Records(tuple(found)[:64], chain.minimum_ttl, exists=True)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(FAMILIES), ANSWERS, AUTHORITIES, CODES, FLAGS)
def test_of_well_formed_answers_dnspython_says_the_same(
    kind: Kind, answers: Lines, authorities: Lines, code: dns.rcode.Rcode, flags: dns.flags.Flag
) -> None:
    query = make_query("www.example.com", kind, edns=True)
    made = dns.message.make_response(dns.message.from_wire(query.wire))
    made.flags |= flags
    for section, lines in ((made.answer, answers), (made.authority, authorities)):
        for owner, ttl, (rdtype, data) in _well_formed(lines):
            section.append(dns.rrset.from_text(owner, ttl, "IN", rdtype, data))
    made.set_rcode(code)
    wire = made.to_wire(max_size=65535)
    ours = read_reply(query, wire)
    expected = _judged(wire)
    if isinstance(ours, Refusal) and isinstance(expected, Refusal):
        assert ours.reason.startswith(expected.reason)
    else:
        assert ours == expected


@given(st.binary(max_size=300), st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)))
def test_whatever_follows_the_question_is_judged_without_an_error(
    garbage: bytes, counts: tuple[int, int, int]
) -> None:
    header = QUERY.wire[:2] + struct.pack("!HHHHH", 0x8180, 1, *counts)
    read_reply(QUERY, header + QUERY.question + garbage)


PIECES = st.one_of(
    st.binary(min_size=1, max_size=4),
    st.integers(0, 400).map(pointer),
    st.sampled_from(
        [SHORT_LABELS, ADDRESS, record(b"\0", 5, pointer(30)), record(pointer(30), 6, bytes(22))]
    ),
)


@given(st.lists(PIECES, max_size=60), st.integers(0, 60), st.integers(0, 20))
def test_pieces_of_records_are_judged_without_an_error(
    pieces: list[bytes], answers: int, authorities: int
) -> None:
    header = QUERY.wire[:2] + struct.pack("!HHHHH", 0x8180, 1, answers, authorities, 0)
    read_reply(QUERY, header + QUERY.question + b"".join(pieces))
