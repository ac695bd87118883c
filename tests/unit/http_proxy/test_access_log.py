from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from egress_router.names.answer import Failure
from tests.record_schema import check_record
from tests.unit.http_proxy.asking import get
from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import OK, Client, Peer, answering, counted, origin, proxy
from tests.waiting import until

if TYPE_CHECKING:
    from tests.logged import Lines


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def records(records: Lines) -> list[dict[str, object]]:
    return records.seen


def test_one_record_for_the_decision_and_one_for_the_end(
    records: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch)
    with origin(answering(OK)) as server, proxy("127.0.0.0/8\na.example\n") as (_, port):
        with Client(port) as client:
            client.send(get(server, "Connection: close", f"traceparent: {TRACE}"))
            client.rest()
        with Client(port) as client:
            client.send("CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: x\r\n\r\n")
            client.rest()
        with Client(port) as client:
            client.send("nonsense\r\n\r\n")
            client.rest()
        with Client(port) as client:
            client.send("CONNECT a.example:443 HTTP/1.1\r\nHost: x\r\n\r\n")
            client.rest()
        until(lambda: len(records) == 8)
    assert [each["event"] for each in records] == ["request", "closed"] * 4
    decision, end, denied, denied_end, refused, refused_end, unknown, unknown_end = records
    for closed, status, reason in (
        (denied_end, 403, "no_rule"), (refused_end, 400, "malformed"), (unknown_end, 502, "no_such_name"),
    ):  # fmt: skip
        assert {"status": status, "sent": 0, "received": 0, "reason": reason}.items() <= closed.items()
    assert {"method": "CONNECT", "address": "192.0.2.1", "port": 443}.items() <= denied_end.items()
    assert {"verdict": "undecided", "reason": "no_such_name", "name": "a.example"}.items() <= unknown.items()
    assert decision["event"] == denied["event"] == refused["event"] == "request"
    expected = {"client": "127.0.0.1", "method": "GET", "address": "127.0.0.1", "port": server.port}
    assert expected.items() <= decision.items()
    assert {
        "verdict": "allowed",
        "rule": "127.0.0.0/8",
        "reason": "rule",
        "source": "127.0.0.1",
        "local_port": 8080,
    }.items() <= decision.items()
    assert {"dns_seconds", "connect_seconds", "client_port", "source_port"} <= decision.keys()
    assert "connect_seconds" not in denied | denied_end, "nothing was dialled"
    ids = [each["id"] for each in records]
    assert ids[::2] == ids[1::2]
    assert len(set(ids)) == 4
    for each in records:
        check_record(each)
    assert end["event"] == "closed"
    assert (decision["traceparent"], end["traceparent"]) == (TRACE, TRACE)
    assert {**expected, "status": 200, "sent": 0, "received": 2}.items() <= end.items()
    assert {"verdict": "denied", "reason": "no_rule", "address": "192.0.2.1"}.items() <= denied.items()
    assert "rule" not in denied
    assert {"verdict": "refused", "reason": "malformed"}.items() <= refused.items()


def test_what_is_denied_is_written_without_being_asked_for(records: list[dict[str, object]]) -> None:
    with origin(answering(OK)) as server, proxy("127.0.0.0/8\n", access_log="0") as (_, port):
        for request in (
            get(server, "Connection: close"),
            f"CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: x\r\ntraceparent: {TRACE}\r\n\r\n",
        ):
            with Client(port) as client:
                client.send(request)
                client.rest()
        until(lambda: len(records) == 2)
    assert [(each["event"], each["verdict"]) for each in records] == [
        ("request", "denied"),
        ("closed", "denied"),
    ]
    assert [each["traceparent"] for each in records] == [TRACE, TRACE]


@pytest.mark.parametrize("failure", list(Failure))
def test_a_name_without_an_address_is_a_request_and_no_failure_of_an_upstream(
    monkeypatch: pytest.MonkeyPatch, failure: Failure
) -> None:
    know(monkeypatch, a_example=failure)
    with proxy("a.example\n") as (running, port), Client(port) as client:
        client.send("CONNECT a.example:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        client.rest()
        assert counted(running, "requests_total", verdict="undecided", reason=failure.value) == 1
        assert counted(running, "requests_total") == 1
        assert counted(running, "upstream_failures_total") == 0


def test_a_request_that_fails_or_is_repeated_has_two_records_as_well(
    records: list[dict[str, object]],
) -> None:
    def once(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        peer.send(OK)
        peer.read_until(b"\r\n\r\n")

    with origin(once) as server, origin(answering(b"nonsense\r\n\r\n")) as wrong, proxy() as (_, port):
        with Client(port) as client:
            for _ in range(2):
                client.send(get(server))
                client.answer()
            client.send(get(wrong))
            client.rest()
        with Client(port) as client:
            client.send(get(server, "Transfer-Encoding: chunked").replace("GET", "POST") + "x")
            client.rest()
        until(lambda: len(records) == 8)
    assert [each["event"] for each in records] == ["request", "closed"] * 4
    assert [each["status"] for each in records[1::2]] == [200, 200, 502, 400]
    assert [each["reason"] for each in records[1::2]] == ["finished", "finished", "bad_answer", "bad_request"]
