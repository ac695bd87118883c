from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.names.answer import Failure, ResolveError
from egress_router.names.lookup import Found, combined
from egress_router.names.message import Query, Records, Refusal, Truncated, make_query, read_reply
from egress_router.names.wire import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

A = make_query("www.example.com", Kind.A, edns=True)
AAAA = make_query("www.example.com", Kind.AAAA, edns=True)
SOA = ("example.com. 900 SOA ns. host. 1 3600 600 86400 40",)


def reply(
    *lines: str, query: Query = A, authority: tuple[str, ...] = (), rcode: dns.rcode.Rcode = dns.rcode.NOERROR
) -> dns.message.Message:
    made = dns.message.make_response(dns.message.from_wire(query.wire), recursion_available=True)
    made.set_rcode(rcode)
    for section, texts in ((made.answer, lines), (made.authority, authority)):
        for line in texts:
            name, ttl, kind, data = line.split(" ", 3)
            section.append(dns.rrset.from_text(name, int(ttl), "IN", kind, data))
    return made


def read(message: dns.message.Message, query: Query = A) -> object:
    return read_reply(query, message.to_wire(max_size=16384))


def test_a_query_asks_one_question_with_edns() -> None:
    parsed = dns.message.from_wire(A.wire)
    assert [str(question) for question in parsed.question] == ["www.example.com. IN A"]
    assert (parsed.edns, parsed.payload, bool(parsed.flags & dns.flags.RD)) == (0, 1232, True)
    assert dns.message.from_wire(make_query("a.example", Kind.A, edns=False).wire).edns == -1


def test_addresses_come_in_the_servers_order_with_their_ttl() -> None:
    answer = reply(
        "www.example.com. 30 A 192.0.2.9",
        "www.example.com. 30 A 192.0.2.1",
        "www.example.com. 30 A 192.0.2.9",
    )
    assert read(answer) == Records((ip_address("192.0.2.9"), ip_address("192.0.2.1")), 30, exists=True)


def test_ipv4_inside_ipv6_is_ipv4() -> None:
    answer = reply("www.example.com. 30 AAAA ::ffff:192.0.2.1", query=AAAA)
    assert read(answer, AAAA) == Records((ip_address("192.0.2.1"),), 30, exists=True)


def test_a_chain_of_aliases_has_the_least_of_its_ttls() -> None:
    answer = reply(
        "b.example. 7 CNAME c.example.", "www.example.com. 300 CNAME b.example.", "c.example. 60 A 192.0.2.1"
    )
    assert read(answer) == Records((ip_address("192.0.2.1"),), 7, exists=True)


def test_a_chain_that_leaves_the_answer_has_no_address() -> None:
    answer = reply("www.example.com. 300 CNAME b.example.", "c.example. 60 A 192.0.2.66")
    assert isinstance(read(answer), Records)
    assert read(answer).addresses == ()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "lines",
    [
        ["www.example.com. 30 CNAME www.example.com."],
        ["www.example.com. 30 CNAME b.example.", "b.example. 30 CNAME www.example.com."],
        [
            "www.example.com. 30 CNAME 0.example.",
            *(f"{n}.example. 30 CNAME {n + 1}.example." for n in range(30)),
        ],
    ],
    ids=["itself", "two", "endless"],
)
def test_a_chain_without_an_end_is_a_bad_answer(lines: list[str]) -> None:
    assert isinstance(read(reply(*lines)), Refusal)


def test_addresses_of_other_names_are_no_answer() -> None:
    assert read(reply("other.example. 30 A 192.0.2.66", authority=SOA)) == Records((), 40, exists=True)


def test_64_addresses_are_kept() -> None:
    answer = reply(*(f"www.example.com. 30 A 192.0.2.{number}" for number in range(100)))
    assert len(read(answer).addresses) == 64  # type: ignore[attr-defined]


def test_a_negative_ttl_is_that_of_the_soa_record() -> None:
    assert read(reply(authority=SOA)) == Records((), 40, exists=True)
    assert read(reply(authority=SOA, rcode=dns.rcode.NXDOMAIN)) == Records((), 40, exists=False)


@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, dns.rcode.NXDOMAIN])
@pytest.mark.parametrize("authority", [(), ("example.org. 900 SOA ns. host. 1 3600 600 86400 40",)])
def test_without_the_soa_record_of_its_zone_a_denial_has_no_ttl(
    rcode: dns.rcode.Rcode, authority: tuple[str, ...]
) -> None:
    exists = rcode == dns.rcode.NOERROR
    assert read(reply(authority=authority, rcode=rcode)) == Records((), None, exists=exists)


def test_the_upper_part_of_the_response_code_counts() -> None:
    answer = reply("www.example.com. 30 A 192.0.2.1")
    answer.set_rcode(dns.rcode.BADVERS)
    assert read(answer) == Refusal("BADVERS")


def test_a_refusal_may_leave_the_question_out() -> None:
    answer = reply(rcode=dns.rcode.FORMERR)
    answer.question = []
    answer.use_edns(False)
    assert read(answer) == Refusal("FORMERR", lacks_edns=True)


def test_a_ttl_with_its_first_bit_set_is_zero() -> None:
    wire = (
        reply("www.example.com. 2147483647 A 192.0.2.1")
        .to_wire()
        .replace(b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff")
    )
    assert read_reply(A, wire) == Records((ip_address("192.0.2.1"),), 0, exists=True)


@pytest.mark.parametrize("code", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.FORMERR, dns.rcode.NOTIMP])
def test_a_refusal_says_its_code(code: dns.rcode.Rcode) -> None:
    refused = read(reply(rcode=code))
    assert refused == Refusal(code.name, lacks_edns=False)


def test_a_referral_is_no_answer() -> None:
    answer = reply(authority=("com. 300 NS ns.example.",))
    answer.flags &= ~dns.flags.RA
    assert read(answer) == Refusal("refers to other servers")


def test_a_server_that_stumbles_over_edns_is_told_from_one_that_does_not() -> None:
    answer = reply(rcode=dns.rcode.FORMERR)
    answer.use_edns(False)
    assert read(answer) == Refusal("FORMERR", lacks_edns=True)


def test_an_answer_that_was_cut_in_the_middle_of_a_record_is_truncated() -> None:
    answer = reply("www.example.com. 30 A 192.0.2.1")
    answer.flags |= dns.flags.TC
    assert read_reply(A, answer.to_wire()[:-20]) == Truncated()


def with_id(message: dns.message.Message) -> dns.message.Message:
    message.id ^= 1
    return message


def without_qr(message: dns.message.Message) -> dns.message.Message:
    message.flags &= ~dns.flags.QR
    return message


def without_question(message: dns.message.Message) -> dns.message.Message:
    message.question = []
    return message


def with_update(message: dns.message.Message) -> dns.message.Message:
    message.set_opcode(5)  # type: ignore[arg-type]
    return message


@pytest.mark.parametrize("change", [with_id, without_qr, without_question, with_update])
def test_what_does_not_match_the_query_is_no_reply(
    change: Callable[[dns.message.Message], dns.message.Message],
) -> None:
    assert read(reply("www.example.com. 30 A 192.0.2.66")) is not None
    assert read(change(reply("www.example.com. 30 A 192.0.2.66"))) is None


@pytest.mark.parametrize("other", [("www.example.com", Kind.AAAA), ("www.example.org", Kind.A)])
def test_a_reply_to_another_question_is_no_reply(other: tuple[str, Kind]) -> None:
    asked = make_query(*other, edns=True)
    asked = replace(asked, wire=A.wire[:2] + asked.wire[2:])
    assert read(reply("www.example.com. 30 A 192.0.2.66", query=asked)) is None


HONEST = reply("www.example.com. 7 CNAME b.example.", "b.example. 30 A 192.0.2.1", authority=SOA).to_wire()


@given(st.binary(max_size=200))
def test_garbage_is_judged_without_an_error(garbage: bytes) -> None:
    assert read_reply(A, garbage) is None or garbage[:2] == A.wire[:2]
    read_reply(A, A.wire[:2] + garbage)


@given(
    st.lists(st.tuples(st.integers(2, len(HONEST) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(2, len(HONEST)),
)
def test_a_damaged_answer_is_judged_without_an_error(damage: list[tuple[int, int]], length: int) -> None:
    wire = bytearray(HONEST)
    for place, value in damage:
        wire[place] = value
    read_reply(A, bytes(wire[:length]))


@pytest.mark.parametrize(
    ("both", "ttl"), [((None, 5), None), ((5, None), None), ((7, 5), 5), ((None, None), None)]
)
def test_a_denial_of_both_families_lasts_as_long_as_the_shorter_one(
    both: tuple[int | None, int | None], ttl: int | None
) -> None:
    assert combined([Records((), each, exists=True) for each in both]) == Found((), ttl, exists=True)


V4 = Records((ip_address("192.0.2.1"),), 300, exists=True)
V6 = Records((ip_address("2001:db8::1"), ip_address("192.0.2.1")), 200, exists=True)
EMPTY = Records((), 5, exists=True)
GONE = Records((), 8, exists=False)
FAULT = ResolveError(Failure.SERVER_FAILURE, "SERVFAIL")


@pytest.mark.parametrize(
    ("both", "found"),
    [
        ((V4, V6), Found((ip_address("192.0.2.1"), ip_address("2001:db8::1")), 200, exists=True)),
        ((V4, EMPTY), Found(V4.addresses, 300, exists=True)),
        ((EMPTY, V6), Found(V6.addresses, 200, exists=True)),
        ((V4, FAULT), Found(V4.addresses, 300, exists=True, incomplete=True)),
        ((EMPTY, EMPTY), Found((), 5, exists=True)),
        ((EMPTY, GONE), Found((), 5, exists=False)),
        ((FAULT, GONE), Found((), 8, exists=False)),
    ],
)
def test_two_families_make_one_answer(both: tuple[Records | BaseException, ...], found: Found) -> None:
    assert combined(both) == found


@pytest.mark.parametrize("both", [(FAULT, EMPTY), (EMPTY, FAULT), (FAULT, FAULT)])
def test_a_family_that_failed_may_have_had_addresses(both: tuple[Records | BaseException, ...]) -> None:
    with pytest.raises(ResolveError):
        combined(both)


def test_our_own_fault_is_not_taken_for_a_servers() -> None:
    with pytest.raises(KeyError):
        combined((V4, KeyError("ours")))
