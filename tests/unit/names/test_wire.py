"""Answers as octets: what breaks the format, how much work the worst is, and dnspython as the judge."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import sys
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from dns.rdatatype import RdataType
from hypothesis import given, settings
from hypothesis import strategies as st

from egress_router.grammar.address import unmapped
from egress_router.names import message as message_module
from egress_router.names import wire as wire_module
from egress_router.names.message import FAMILIES, Records, Refusal, Reply, make_query, read_reply
from egress_router.names.wire import (
    HEADER,
    Kind,
    MalformedError,
    Sections,
    TooMuchWorkError,
    domains,
    name_key,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType

    from egress_router.names.message import Query

Trace = Any  # of sys.settrace
READER = {wire_module.__file__, message_module.__file__}
QUERY = make_query("www.example.com", Kind.A, edns=True)
TO_QUESTION = b"\xc0\x0c"  # a pointer to the name that was asked for


def record(owner: bytes, kind: int, data: bytes, ttl: int = 30, group: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", kind, group, ttl, len(data)) + data


def message(records: Iterable[bytes], query: Query = QUERY, before: bytes = b"") -> bytes:
    """Return an answer of these records; `before` holds names for them to point to, in a record of its own."""
    answers = [record(b"\0", 16, before), *records] if before else list(records)
    header = query.wire[:2] + struct.pack("!HHHHH", 0x8180, 1, len(answers), 0, 0)
    return header + query.question + b"".join(answers)


PLACE = HEADER + len(QUERY.question) + 11  # of `before` in `message`


def pointer(place: int) -> bytes:
    return struct.pack("!H", 0xC000 | place)


ADDRESS = record(TO_QUESTION, 1, bytes([192, 0, 2, 1]))


def test_a_name_is_labels_with_their_lengths_in_lower_case() -> None:
    assert name_key("WWW.Example.com") == b"\x03www\x07example\x03com\x00"
    assert list(domains(name_key("a.bc"))) == [b"\x01a\x02bc\x00", b"\x02bc\x00", b"\x00"]


MALFORMED = {
    "a label of a reserved kind": [record(b"\x40a\x00", 1, bytes(4))],
    "the other reserved kind": [record(b"\x80a\x00", 1, bytes(4))],
    "a pointer to itself": [record(pointer(HEADER + len(QUERY.question)), 1, bytes(4))],
    "a pointer to what follows": [record(pointer(1000), 1, bytes(4)), ADDRESS],
    "a pointer into the header": [record(pointer(4), 1, bytes(4))],
    "a name of 256 octets": [record(b"\x3f" + b"a" * 63 + (b"\x3f" + b"a" * 63) * 3 + b"\0", 1, bytes(4))],
    "data behind the end": [ADDRESS[:-1]],
    "a head behind the end": [ADDRESS, b"\xc0\x0c\x00"],
    "a name behind the end": [ADDRESS, b"\x3fa"],
    "half a pointer": [ADDRESS, b"\xc0"],
    "an address of three octets": [record(TO_QUESTION, 1, bytes(3))],
    "an alias that is too short": [record(TO_QUESTION, 5, b"\xc0\x0c\x00")],
    "an alias that is too long": [record(TO_QUESTION, 5, b"\x01a")],
}


@pytest.mark.parametrize("records", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_breaks_the_format_is_a_bad_answer(records: list[bytes]) -> None:
    reply = read_reply(QUERY, message(records))
    assert isinstance(reply, Refusal)
    assert reply.reason.startswith("bad answer: ")


def test_octets_behind_the_last_record_are_a_bad_answer() -> None:
    assert isinstance(read_reply(QUERY, message([ADDRESS])), Records)
    assert isinstance(read_reply(QUERY, message([ADDRESS]) + b"\0"), Refusal)


@pytest.mark.parametrize("owner", [b"\0", b"\x01a\0"])
def test_an_edns_record_has_no_owner_and_is_alone(owner: bytes) -> None:
    options = [record(owner, 41, b"", ttl=0, group=1232)] * (2 if owner == b"\0" else 1)
    with pytest.raises(MalformedError):
        Sections(Kind.A).read(bytes(HEADER) + b"".join(options), HEADER, (0, 0, len(options)))


def test_a_start_of_authority_has_two_names_and_five_numbers() -> None:
    """RFC 1035 3.3.13: the names may be the root's, which are one octet each."""
    Sections(Kind.A).read(bytes(HEADER) + record(b"\0", 6, bytes(22)), HEADER, (0, 1, 0))
    with pytest.raises(MalformedError):
        Sections(Kind.A).read(bytes(HEADER) + record(b"\0", 6, bytes(21)), HEADER, (0, 1, 0))


def test_what_nobody_asked_for_is_stepped_over() -> None:
    others = [record(TO_QUESTION, kind, b"\xff" * 9) for kind in (2, 15, 16, 17, 28, 41, 46, 64, 65535)]
    others.append(record(TO_QUESTION, 1, bytes(4), group=3))  # CHAOS
    reply = read_reply(QUERY, message([*others, ADDRESS]))
    assert reply == Records((ip_address("192.0.2.1"),), 30, exists=True)


# --- the bound ---------------------------------------------------------------------------------------------

SHORT_LABELS = b"\x01a" * 127 + b"\0"  # the name that takes the most steps in the fewest octets


def filled(size: int, make: Callable[[int], bytes], before: bytes = b"") -> bytes:
    """Return an answer of about `size` octets, of the records that `make` makes of their numbers."""
    left = size - PLACE - len(before)
    records: list[bytes] = []
    while left > 0:
        records.append(make(len(records)))
        left -= len(records[-1])
    return message(records[:-1], before=before)


def _scattered(kind: int, data: bytes) -> Callable[[int], bytes]:
    """Records whose owners are pointers to ever other labels of 60 long names, the longest tails first."""

    def make(number: int) -> bytes:
        place = PLACE + number % 60 * len(SHORT_LABELS) + number // 60 % 127 * 2
        return record(pointer(place), kind, data)

    return make


POINTERS = b"".join(pointer(PLACE + 2 * number) for number in range(5000))
WORST: dict[str, Callable[[int], bytes]] = {
    "the smallest records": lambda size: filled(size, lambda _: record(b"\0", 16, b"")),
    "names of short labels": lambda size: filled(size, lambda _: record(SHORT_LABELS, 15, b"")),
    "addresses of such names": lambda size: filled(size, lambda _: record(SHORT_LABELS, 1, bytes(4))),
    "addresses of names by pointers": lambda size: filled(size, _scattered(1, bytes(4)), SHORT_LABELS * 60),
    "aliases by pointers": lambda size: filled(size, _scattered(5, pointer(PLACE)), SHORT_LABELS * 60),
    "pointers to pointers": lambda size: filled(
        size,
        lambda number: record(pointer(PLACE + 2 + 2 * (number % 5000)), 1, bytes(4)),
        b"\0\0" + POINTERS,
    ),
    "mail exchangers by pointers": lambda size: filled(
        size, lambda _: record(TO_QUESTION, 15, b"\0\0" + pointer(PLACE)), SHORT_LABELS
    ),
}


@pytest.mark.parametrize("size", [512, 4096, 16384, 65535])
@pytest.mark.parametrize("make", WORST.values(), ids=WORST.keys())
def test_the_worst_answer_costs_a_step_for_each_octet(make: Callable[[int], bytes], size: int) -> None:
    if size < 16384:
        make = WORST["names of short labels"]  # the others do not fit
    wire = make(size)
    assert len(wire) <= size
    start = HEADER + len(QUERY.question)
    counts = struct.unpack_from("!HHH", wire, 6)
    sections = Sections(Kind.A)
    with contextlib.suppress(TooMuchWorkError):
        sections.read(wire, start, counts)
    # What a record adds at once is at most a name.
    assert sections.steps <= len(wire) + 256 + 128


def test_too_much_work_is_a_bad_answer() -> None:
    reply = read_reply(QUERY, WORST["addresses of names by pointers"](65535))
    assert reply == Refusal("bad answer: reading it would be too much work")


def _chained(number: int) -> bytes:
    """Return an alias whose owner is what the one before leads to; the first is that of the question."""
    names = [b"\x07%07d" % each + TO_QUESTION for each in (number, number + 1)]
    return record(names[0] if number else TO_QUESTION, 5, names[1])


def _with_counts(wire: bytes, *counts: int) -> bytes:
    return wire[:4] + struct.pack("!HHHH", *counts) + wire[12:]


def _in_authority(size: int, make: Callable[[int], bytes], before: bytes = b"") -> bytes:
    wire = filled(size, make, before)
    first = bool(before)
    return _with_counts(wire, 1, first, struct.unpack_from("!H", wire, 6)[0] - first, 0)


def _options(size: int) -> bytes:
    """Return an answer whose EDNS record has as many options as it can have (RFC 6891 6.1.2)."""
    options = struct.pack("!HH", 10, 0) * ((size - PLACE - 27) // 4)
    return _with_counts(message([ADDRESS, record(b"\0", 41, options)]), 1, 1, 0, 1)


LONG_ANSWERS: dict[str, Callable[[int], bytes]] = {
    **WORST,
    "addresses": lambda size: filled(size, lambda number: record(TO_QUESTION, 1, struct.pack("!I", number))),
    "addresses of other names": lambda size: filled(
        size, lambda number: record(b"\x04" + struct.pack("!I", number) + TO_QUESTION, 1, bytes(4))
    ),
    "a chain of aliases": lambda size: filled(size, _chained),
    "texts": lambda size: filled(size, lambda _: record(TO_QUESTION, 16, b"\xff" + bytes(255))),
    "persons by pointers": lambda size: filled(
        size, lambda _: record(TO_QUESTION, 17, pointer(PLACE) * 2), SHORT_LABELS
    ),
    "name servers by pointers": lambda size: _in_authority(
        size, lambda number: record(pointer(PLACE + number % 120 * 2), 2, pointer(PLACE)), SHORT_LABELS
    ),
    "zones by pointers": lambda size: _in_authority(
        size, lambda number: record(pointer(PLACE + number % 120 * 2), 6, bytes(22)), SHORT_LABELS
    ),
    "options": _options,
    "cut in the middle": lambda size: WORST["aliases by pointers"](65535)[:size],
    "many questions": lambda size: _with_counts(
        message([QUERY.question] * ((size - PLACE) // len(QUERY.question))), 65535, 0, 0, 0
    ),
}


def lines_run(work: Callable[[], object]) -> int:
    """Return how many lines of the reader's modules a call runs: a measure that needs no clock."""
    ran = 0

    def in_reader(_frame: FrameType, event: str, _argument: object) -> Trace:
        nonlocal ran
        ran += event == "line"
        return in_reader

    def entered(frame: FrameType, _event: str, _argument: object) -> Trace | None:
        return in_reader if frame.f_code.co_filename in READER else None

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        work()
    finally:
        sys.settrace(before)
    return ran


@pytest.mark.parametrize("size", [16384, 65535])
@pytest.mark.parametrize("make", LONG_ANSWERS.values(), ids=LONG_ANSWERS.keys())
def test_the_lines_that_are_run_for_an_answer_are_six_for_each_octet_at_most(
    make: Callable[[int], bytes], size: int
) -> None:
    """`steps` is what the reader counts itself; this is what it does, with the judgement after it."""
    wire = make(size)
    assert size * 0.9 < len(wire) <= size
    assert 0 < lines_run(lambda: read_reply(QUERY, wire)) <= 6 * size


@pytest.mark.parametrize("owner", [TO_QUESTION, QUERY.name, b"\x03WwW\xc0\x10"])
def test_an_honest_answer_needs_less_than_half_of_the_bound(owner: bytes) -> None:
    wire = filled(65535, lambda number: record(owner, 1, struct.pack("!I", 0x0A000000 + number)))
    sections = Sections(Kind.A)
    sections.read(wire, HEADER + len(QUERY.question), struct.unpack_from("!HHH", wire, 6))
    assert len(sections.data[QUERY.name]) > 1500
    assert sections.steps < len(wire) / 2
    reply = read_reply(QUERY, wire)
    assert isinstance(reply, Records)
    assert len(reply.addresses) == 64


# --- dnspython as the judge --------------------------------------------------------------------------------

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
    """Say what dnspython makes of a reply, as this project did while dnspython read for it."""
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


FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS", "1"))  # `make fuzz` takes longer
SEEDS = [
    message([ADDRESS] * 3),
    message([record(TO_QUESTION, 5, b"\x01b\xc0\x10"), record(pointer(PLACE + 1), 1, bytes(4))]),
    filled(600, _scattered(5, pointer(PLACE)), SHORT_LABELS),
    message([record(b"\0", 6, b"\0\0" + bytes(20)), record(b"\0", 41, b"", group=1232)]),
]


def test_mutated_answers_are_judged_within_the_bound() -> None:
    dice = random.Random(6)
    end = time.monotonic() + FUZZ_SECONDS
    while time.monotonic() < end:
        wire = bytearray(dice.choice(SEEDS))
        for _ in range(dice.randint(1, 6)):
            place = dice.randrange(len(wire))
            noise = dice.choice([pointer(dice.randrange(1024)), b"\0", b"\xff", b"\x3f", dice.randbytes(2)])
            wire[place : place + dice.randint(0, 3)] = noise
        wire[:2] = QUERY.wire[:2]
        read_reply(QUERY, bytes(wire))
        sections = Sections(Kind.A)
        counts = struct.unpack_from("!HHH", wire.ljust(HEADER, b"\0"), 6)
        with contextlib.suppress(MalformedError):
            sections.read(bytes(wire), HEADER + len(QUERY.question), counts)
        assert sections.steps <= len(wire) + 256 + 128
