from __future__ import annotations

import re
from ipaddress import ip_address

import pytest

from egress_router.grammar.acl import parse
from egress_router.http_proxy import replies
from egress_router.http_proxy.http1.errors import Fault, MessageError
from egress_router.names.answer import Failure
from egress_router.policy.access_list import Decision, Reason, Verdict
from egress_router.relay.dial import DialError, DialFailure, DialReason

DATE = b"Tue, 24 Nov 2026 00:00:00 GMT"
# RFC 8941 3.3.3: printable ASCII, with a backslash before quotes and backslashes only.
STRING = re.compile(r'"(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"')


def every() -> list[replies.Reply]:
    rule = parse("RULES", '!bücher.example  # "why"').rules[0]
    found = [replies.denied(Decision(Verdict.DENIED, reason)) for reason in Reason]
    found += [replies.denied(Decision(Verdict.DENIED, Reason.RULE, rule))]
    found += [replies.refused(MessageError(400, "a \\ b", fault)) for fault in Fault]
    found += [replies.bad_answer(MessageError(502, "x", fault)) for fault in Fault]
    found += [replies.unresolved(failure) for failure in Failure]
    address = ip_address("192.0.2.1")
    found += [
        replies.unreached(DialError(reason, (DialFailure(address, 1, reason),))) for reason in DialReason
    ]
    return found + [each for each in vars(replies).values() if isinstance(each, replies.Reply)]


@pytest.mark.parametrize("reply", every(), ids=lambda reply: f"{reply.status}-{reply.reason}")
def test_every_reply_is_well_formed(reply: replies.Reply) -> None:
    head, _, body = reply.encoded(DATE).partition(b"\r\n\r\n")
    lines = head.decode("ascii").split("\r\n")
    assert lines[0].startswith(f"HTTP/1.1 {reply.status} ")
    assert f"Content-Length: {len(body)}" in lines
    assert "Connection: close" in lines
    status = next(line for line in lines if line.startswith("Proxy-Status: "))
    assert re.match(r"Proxy-Status: egress-router; error=[a-z_]+", status)
    assert STRING.fullmatch(status.partition("details=")[2])
    assert body.decode().count("\n") == 1
    assert reply.encoded(DATE, with_body=False) == head + b"\r\n\r\n"


def test_a_rule_in_another_script_is_shown_as_it_was_written() -> None:
    rule = parse("RULES", "!bücher.example").rules[0]
    reply = replies.denied(Decision(Verdict.DENIED, Reason.RULE, rule))
    head, _, body = reply.encoded(DATE).partition(b"\r\n\r\n")
    assert body.decode() == "403 Forbidden: denied: line 1 (!bücher.example) denies it\n"
    assert rb'details="denied: line 1 (!b\\xfccher.example) denies it"' in head


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (replies.unresolved(Failure.NO_SUCH_NAME), 502),
        (replies.unresolved(Failure.TIMEOUT), 504),
        (replies.denied(Decision(Verdict.DENIED, Reason.NO_RULE)), 403),
        (replies.refused(MessageError(400, "x", Fault.LOOP)), 502),
        (replies.refused(MessageError(431, "x", Fault.HEAD_TOO_LARGE)), 431),
        (replies.bad_answer(MessageError(400, "x")), 502),
        (replies.CONNECTIONS_FULL, 503),
        (replies.CLIENT_FULL, 429),
    ],
)
def test_statuses(reply: replies.Reply, status: int) -> None:
    assert reply.status == status
