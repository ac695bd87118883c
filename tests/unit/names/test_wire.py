"""Answers as octets: what breaks their format, and what is stepped over."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from egress_router.names.message import Records, Refusal, read_reply
from egress_router.names.wire import HEADER, Kind, MalformedError, Sections, domains, name_key
from tests.unit.names.wire_answers import ADDRESS, QUERY, TO_QUESTION, message, pointer, record


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
