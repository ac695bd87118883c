from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import json
import socket
import subprocess
import threading
from dataclasses import replace
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from egress_router.clock import SYSTEM
from egress_router.http_proxy import own_addresses
from egress_router.http_proxy import server as server_module
from egress_router.http_proxy.lingering_close import LingeringClose
from egress_router.http_proxy.own_addresses import OwnAddresses
from egress_router.http_proxy.server import REAL, Dependencies
from egress_router.names.answer import Failure
from egress_router.policy.access_list import Own
from egress_router.relay.buffered_socket import BufferedSocket, nothing
from egress_router.relay.deadlines import Deadlines
from egress_router.settings.http_proxy import read_http_proxy
from tests.manual_clock import ManualClock
from tests.record_schema import check_record
from tests.serving import LOOPS
from tests.unit.http_proxy.origin import (
    OK,
    Client,
    Peer,
    answering,
    counted,
    know,
    origin,
    proxy,
    sent_at_once,
    worker_of,
)
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.acl import AccessList
    from egress_router.grammar.address import IPAddress
    from egress_router.http_proxy.worker_state import WorkerState
    from egress_router.settings.policy import Guarded
    from tests.logged import Lines
    from tests.serving import Running
    from tests.unit.http_proxy.origin import Origin


def get(server: Origin, *fields: str) -> str:
    return (
        "".join(f"{line}\r\n" for line in (f"GET http://{server.authority}/ HTTP/1.1", "Host: x", *fields))
        + "\r\n"
    )


def has_read(running: Running[Guarded[AccessList]], client: Client) -> None:
    """Wait until the proxy has read what a client has sent."""
    client.delivered()
    for _ in range(2):  # what was ready before a call has been read before the next one
        running.call(lambda: None)


def test_large_heads_are_refused() -> None:
    with origin(answering(OK)) as server, proxy(HEAD_BYTES="2048", HEAD_FIELDS="10") as (running, port):
        with Client(port) as client:
            client.send(get(server, "X: " + "y" * 1900))
            assert client.head().startswith("HTTP/1.1 200")
        for fields in (["X: " + "y" * 3000], ["X: " + "y" * 100_000]):
            with Client(port) as client:
                client.send(get(server, *fields))
                assert client.head().startswith("HTTP/1.1 431")
        with Client(port) as client:
            client.send(get(server, *["X: y"] * 10))
            assert client.head().startswith("HTTP/1.1 431")
        assert counted(running, "limit_hits_total", limit="head_bytes") == 2
        assert counted(running, "limit_hits_total", limit="head_fields") == 1
        assert counted(running, "refused_total", reason="head_too_large") == 2


def test_large_heads_of_answers_count_too() -> None:
    many, large = b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20, b"HTTP/1.1 200 OK\r\nX: " + b"y" * 3000
    with proxy(HEAD_BYTES="2048", HEAD_FIELDS="10") as (running, port):
        for answer in (many, large):
            with origin(answering(answer + b"\r\n")) as server, Client(port) as client:
                client.send(get(server))
                assert client.head().startswith("HTTP/1.1 502")
        assert counted(running, "limit_hits_total", limit="head_bytes") == 1
        assert counted(running, "limit_hits_total", limit="head_fields") == 1


def test_empty_lines_before_a_request_are_overlooked_but_not_for_ever() -> None:
    with origin(answering(OK)) as server, proxy() as (running, port):
        with Client(port) as client:
            client.send("\r\n\r\n" + get(server))
            assert client.answer()[1] == b"ok"
        with Client(port) as client:
            for _ in range(9):
                client.send("\r\n")
                has_read(running, client)
            assert client.head().startswith("HTTP/1.1 400")
        assert counted(running, "refused_total", reason="malformed") == 1


def test_slow_heads_are_refused_and_silent_clients_let_go() -> None:
    with proxy(HEAD_SECONDS="0.2") as (running, port):
        with sent_at_once(running, port, "GET http://a.example/ HT") as client, Client(port) as silent:
            assert client.head().startswith("HTTP/1.1 408")
            assert silent.rest() == b""
        assert counted(running, "limit_hits_total", limit="head_seconds") == 1
        assert counted(running, "limit_hits_total") == 1
        assert counted(running, "idle_closed_total", limit="head_seconds") == 1


def test_idle_connections_are_let_go_and_a_second_head_has_its_time() -> None:
    with (
        origin(answering(OK, OK, OK)) as server,
        proxy(HEAD_SECONDS="0.2", KEEPALIVE_SECONDS="0.2") as (running, port),
    ):
        with sent_at_once(running, port, get(server)) as client:
            client.answer()
            assert client.rest() == b""
        assert counted(running, "limit_hits_total") == 0
        assert counted(running, "idle_closed_total", limit="keepalive_seconds") == 1
        with sent_at_once(running, port, get(server) + "GET ") as client:
            client.answer()
            assert client.head().startswith("HTTP/1.1 408")


def test_silent_origins_time_out() -> None:
    with origin(Peer.read_to_the_end) as server, proxy(ANSWER_SECONDS="0.2") as (running, port):
        with Client(port) as client:
            client.send(get(server))
            head, body = client.answer()
            assert head.startswith("HTTP/1.1 504")
            assert "error=connection_read_timeout" in head
            assert b"did not answer" in body
        assert counted(running, "limit_hits_total", limit="answer_seconds") == 1
        assert server.peers[0].ended.wait(WAIT_SECONDS)


def test_interim_answers_do_not_put_the_answer_off() -> None:
    clock = ManualClock()
    with (
        origin(Peer.read_to_the_end) as server,
        proxy(needs=replace(REAL, clock=clock), ANSWER_SECONDS="0.3") as (_, port),
        Client(port) as client,
    ):
        client.send(get(server))
        until(lambda: b"\r\n\r\n" in server.received)
        for _ in range(2):
            server.peers[0].send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            assert client.head().startswith("HTTP/1.1 103")
            clock.advance(0.2)
        assert client.head().startswith("HTTP/1.1 504")


def test_interim_answers_are_not_passed_on_without_end() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    for count, status in ((32, "200"), (33, "502")):
        with origin(answering(interim * count + OK)) as server, proxy() as (_, port), Client(port) as client:
            client.send(get(server))
            while (head := client.head()).startswith("HTTP/1.1 103"):
                pass
            assert head[9:12] == status


def test_an_answer_may_pause_longer_than_it_may_take_to_begin() -> None:
    clock = ManualClock()
    with (
        origin(Peer.read_to_the_end) as server,
        proxy(needs=replace(REAL, clock=clock), ANSWER_SECONDS="0.3") as (running, port),
        Client(port) as client,
    ):
        client.send(get(server))
        until(lambda: b"\r\n\r\n" in server.received)
        server.peers[0].send(b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 8\r\n\r\nhalf")
        assert client.head().startswith("HTTP/1.1 200")
        assert client.take(4) == b"half"
        later = threading.Event()
        running.call(lambda: worker_of(running).deadlines.add(0.3, later.set))
        clock.advance(1.0)
        assert later.wait(WAIT_SECONDS), "the time to begin was over before this one"
        server.peers[0].send(b"half")
        assert client.take(4) == b"half"
        assert counted(running, "limit_hits_total") == 0


def test_an_answer_that_stops_half_way_is_cut() -> None:
    def stop(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        peer.read_to_the_end()

    with origin(stop) as server, proxy(IDLE_SECONDS="0.2") as (running, port), Client(port) as client:
        client.send(get(server))
        with pytest.raises(ConnectionResetError):
            client.rest()
        assert counted(running, "limit_hits_total", limit="idle_seconds") == 1


def resets(client: Client) -> None:
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.sock.close()


@contextlib.contextmanager
def full_queue() -> Iterator[int]:
    """A port whose accept queue is full: the kernel drops further handshakes."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as stack:
        port: int = listener.getsockname()[1]
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        yield port


def test_silent_destinations_time_out(records: list[dict[str, object]]) -> None:
    with full_queue() as silent, proxy(CONNECT_SECONDS="0.3") as (running, port), Client(port) as client:
        client.send(f"CONNECT 127.0.0.1:{silent} HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.head().startswith("HTTP/1.1 504")
        assert counted(running, "limit_hits_total", limit="connect_seconds") == 1
        assert counted(running, "upstream_failures_total", reason="timeout") == 1
        rule = "127.0.0.0/8"
        assert counted(running, "rule_connections_total", rule=rule) == 1
        assert counted(running, "rule_failures_total", rule=rule) == 1
    request = records[0]
    assert (request["address"], request["reason"]) == ("127.0.0.1", "timeout")
    assert isinstance(request["connect_seconds"], float)
    assert request["connect_seconds"] >= 0.3


def test_a_client_that_resets_while_a_connection_is_made_is_let_go(
    records: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = know(monkeypatch)

    async def resolve(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(names, "resolve", resolve)
    # Nothing else ends it in time.
    with full_queue() as silent, proxy("127.0.0.0/8\na.example\n", CONNECT_SECONDS="3600") as (running, port):
        for authority in (f"127.0.0.1:{silent}", "a.example:443"):
            with Client(port) as client:
                client.send(f"CONNECT {authority} HTTP/1.1\r\nHost: x\r\n\r\n")
                until(lambda: running.call(running.server.open_connections) == 1)
                resets(client)
            until(lambda: running.call(running.server.open_connections) == 0)
    assert [(each["event"], each["reason"]) for each in records[1::2]] == [("closed", "abandoned")] * 2
    assert [each["reason"] for each in records[::2]] == ["abandoned"] * 2


def test_a_client_that_ends_its_stream_while_a_connection_is_made_is_not_forgotten() -> None:
    with full_queue() as silent, proxy(CONNECT_SECONDS="0.6") as (_, port), Client(port) as client:
        client.send(f"CONNECT 127.0.0.1:{silent} HTTP/1.1\r\nHost: x\r\n\r\n")
        client.end()
        assert client.head().startswith("HTTP/1.1 504")


def test_connections_beyond_the_limits_are_told_so() -> None:
    with proxy(most=2) as (running, port), Client(port) as first, Client(port):
        until(lambda: running.call(running.server.open_connections) == 2)
        with Client(port) as third:
            third.send("GET http://a.example/ HTTP/1.1\r\nHost: x\r\n\r\n")
            head = third.head()
            assert head.startswith("HTTP/1.1 503")
            assert "Retry-After: 1" in head
            assert "error=connection_limit_reached" in head
        assert counted(running, "limit_hits_total", limit="connections") == 1
        first.end()
        until(lambda: running.call(running.server.open_connections) == 1)
    with proxy(per_client=1) as (running, port), Client(port), Client(port) as second:
        assert second.head().startswith("HTTP/1.1 429")
        assert counted(running, "limit_hits_total", limit="connections_per_client") == 1


def test_clients_beyond_the_limits_in_masses_are_told_so_but_not_waited_for() -> None:
    with proxy(most=1, needs=Dependencies(max_turned_away=1)) as (running, port), Client(port):
        until(lambda: running.call(running.server.open_connections) == 1)
        with Client(port) as second, Client(port) as third:
            for client in (second, third):
                assert client.head().startswith("HTTP/1.1 503")
        assert counted(running, "refused_total", reason="connections") == 2


def test_last_words_arrive_while_the_client_goes_on_sending() -> None:
    with proxy("a.example\n") as (running, port):
        for size in (800_000, 30_000_000):
            with Client(port) as client:
                client.send(f"POST http://127.0.0.1/ HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n")
                for _ in range(10):
                    client.send("x" * (size // 10))
                assert client.head().startswith("HTTP/1.1 403")
        until(lambda: running.call(running.server.open_connections) == 0)


def test_who_goes_on_sending_for_too_long_is_cut() -> None:
    clock = ManualClock()
    with (
        proxy("a.example\n", needs=replace(REAL, clock=clock), LINGER_SECONDS="0.3") as (running, port),
        Client(port) as client,
    ):
        client.send("POST http://127.0.0.1/ HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n")
        assert client.head().startswith("HTTP/1.1 403")
        clock.advance(0.2)
        client.send("x")
        has_read(running, client)
        assert running.call(running.server.open_connections) == 1
        clock.advance(0.2)
        client.send("x")
        until(lambda: counted(running, "limit_hits_total", limit="linger_seconds") == 1)
        until(lambda: running.call(running.server.open_connections) == 0)


def test_last_words_wait_for_a_slow_reader() -> None:
    loop, poller = LOOPS["own"]()
    deadlines = Deadlines(loop)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += ours.send(b"x" * 10_000)
    closed = loop.create_future()
    worker = cast("WorkerState", SimpleNamespace(deadlines=deadlines, clock=SYSTEM))
    stream = BufferedSocket(ours, poller, nothing)
    LingeringClose(worker, stream, b"words", 30.0, lambda: closed.set_result(None))

    def read() -> bytes:
        data = b""
        while piece := theirs.recv(100_000):
            data += piece
        theirs.close()
        return data

    async def both() -> bytes:
        data = await asyncio.to_thread(read)
        await asyncio.wait_for(closed, WAIT_SECONDS)
        return data

    assert loop.run_until_complete(both()) == b"x" * filled + b"words"
    deadlines.close()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_draining_lets_requests_end_and_closes_idle_connections() -> None:
    def patient(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        ready.append(peer)
        peer.read_to_the_end()

    ready: list[Peer] = []
    with (
        origin(patient) as server,
        origin(answering(OK)) as quick,
        proxy() as (running, port),
        Client(port) as idle,
        Client(port) as busy,
        Client(port) as fresh,
    ):
        idle.send(get(quick))
        idle.answer()
        busy.send(get(server))
        until(lambda: bool(ready))
        running.call(running.server.stop_accepting)
        assert idle.rest() == b""
        ready[0].send(OK)
        fresh.send(get(quick))
        for client in (busy, fresh):
            head, body = client.answer()
            assert "Connection: close" in head
            assert body == b"ok"
            assert client.rest() == b""
        until(lambda: running.call(running.server.open_connections) == 0)
        with pytest.raises(ConnectionRefusedError):
            Client(port)


def test_everything_closes_at_once_when_told() -> None:
    with origin(Peer.read_to_the_end) as server, proxy() as (running, port):
        clients = [Client(port) for _ in range(3)]
        clients[0].send(f"CONNECT {server.authority} HTTP/1.1\r\nHost: x\r\n\r\n")
        clients[0].head()
        clients[1].send(get(server))
        until(lambda: len(server.peers) == 2)
        running.call(running.server.close_all)
        assert running.call(running.server.open_connections) == 0
        for client in clients:
            with client, contextlib.suppress(ConnectionResetError):
                assert client.rest() == b""


class FarLoopback(Own):
    """Takes one address of the loopback network for one of somebody else."""

    def is_remote(self, address: IPAddress) -> bool:
        return str(address) == "127.0.0.5" or super().is_remote(address)


def test_report_only_lets_pass_what_is_remote_and_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = Dependencies(look=lambda _: FarLoopback(frozenset(), frozenset()))
    know(monkeypatch, a_example="127.0.0.1 127.0.0.5", b_example="127.0.0.1")
    with (
        origin(answering(OK), "127.0.0.5") as remote,
        proxy("!a.example\n", needs=needs, REPORT_ONLY="1") as (running, port),
    ):
        for name, status in (("a", "200"), ("b", "403")):
            with Client(port) as client:
                client.send(f"CONNECT {name}.example:{remote.port} HTTP/1.1\r\nHost: x\r\n\r\n")
                assert client.head()[9:12] == status
        with Client(port) as client:
            client.send("CONNECT unknown.example:443 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.head()[9:12] == "502"
        assert counted(running, "requests_total", verdict="reported", reason="rule") == 1
        assert counted(running, "requests_total", verdict="denied", reason="no_rule") == 1
        until(lambda: len(remote.peers) == 1)


def test_status_and_metrics() -> None:
    with origin(answering(OK)) as server, proxy("!192.0.2.0/24\n127.0.0.0/8\n") as (running, port):
        for target in (server.authority, "192.0.2.1:80", "192.0.2.1:80", "198.51.100.1:80"):
            with Client(port) as client:
                client.send(f"GET http://{target}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                client.rest()
        status = running.call(running.server.status)
        assert status["rules"] == [
            {"line": 1, "text": "!192.0.2.0/24", "hits": 2},
            {"line": 2, "text": "127.0.0.0/8", "hits": 1},
        ]
        denied = status["denied"]
        assert isinstance(denied, list)
        assert [
            (each["target"], each["rule"], each["reason"]) for each in denied if isinstance(each, dict)
        ] == [
            ("192.0.2.1:80", "line 1: !192.0.2.0/24", "rule"),
            ("192.0.2.1:80", "line 1: !192.0.2.0/24", "rule"),
            ("198.51.100.1:80", None, "no_rule"),
        ]
        assert counted(running, "requests_total", verdict="allowed") == 1
        assert counted(running, "requests_total", verdict="denied") == 3
        assert counted(running, "bytes_total", direction="received") == 2


def test_the_status_of_a_long_list_holds_the_rules_that_decided() -> None:
    rules = "".join(f"!10.{number >> 8}.{number & 255}.0/24\n" for number in range(2000))
    with proxy(rules) as (running, port):
        with Client(port) as client:
            client.send("CONNECT 10.1.2.3:443 HTTP/1.1\r\nHost: x\r\n\r\n")
            client.rest()
        hits = running.call(running.server.status)["rules"]
        assert hits == [{"line": 259, "text": "!10.1.2.0/24", "hits": 1}]


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


def test_own_addresses_are_those_that_ip_lists() -> None:
    listed = json.loads(subprocess.run(["ip", "-json", "address"], capture_output=True, check=True).stdout)
    addresses = {ip_address(each["local"]) for link in listed for each in link["addr_info"]}
    assert ip_address("127.0.0.1") in addresses
    assert own_addresses.seen("macvlan0").addresses == addresses


def test_own_addresses_are_read_again() -> None:
    clock, looks = ManualClock(), 0
    answer: Own | OSError = Own(frozenset(), frozenset())

    def look() -> Own:
        nonlocal looks
        looks += 1
        if isinstance(answer, OSError):
            raise answer
        return answer

    places = OwnAddresses(frozenset({8080}), look, clock)
    places.add_ports(frozenset({18080}))
    assert places.current() == Own(frozenset(), frozenset({8080, 18080}))
    assert looks == 1
    answer = Own(frozenset({ip_address("192.0.2.9")}), frozenset(), frozenset({ip_network("10.0.0.0/24")}))
    clock.advance(5)
    after = places.current()
    assert after == Own(answer.addresses, frozenset({8080, 18080}), answer.neighbours)
    answer = OSError(errno.EMFILE, "too many open files")
    clock.advance(5)
    assert places.current() == after
    assert looks == 3


def test_the_mode_says_what_it_is() -> None:
    settings = read_http_proxy({"EGRESS_HTTP_PROXY_DESTINATION": "*", "EGRESS_HTTP_PROXY_PORT": "3128"})
    made = server_module.mode(settings)
    rules = made.parse("RULES", "!a.example\n*  # rest\n")
    assert (made.name, made.ports(rules), made.summary(rules)) == (
        "http-proxy",
        frozenset({3128}),
        ("!a.example", "*"),
    )


def test_a_head_of_more_reads_than_a_turn_has_comes_to_its_end() -> None:
    with (
        origin(answering(OK, OK)) as server,
        proxy(needs=Dependencies(reads_in_turn=1), BUFFER_BYTES="16384") as (running, port),
        Client(port) as client,
    ):
        client.send(get(server))
        assert client.answer()[1] == b"ok"
        # Sent in one turn of the loop: all of it is there before the first read.
        running.call(lambda: client.send(get(server, f"X: {'a' * 50_000}")))
        assert client.answer()[1] == b"ok"
        assert b"a" * 50_000 in server.received


def test_what_has_ended_leaves_nothing_for_the_collector() -> None:
    with origin(answering(OK, OK)) as server, proxy() as (running, port):
        gc.collect()
        gc.disable()
        try:
            for ask in (
                get(server),
                f"CONNECT {server.authority} HTTP/1.1\r\nHost: x\r\n\r\n",
                "wrong\r\n\r\n",
            ):
                with Client(port) as client:
                    client.send(ask)
                    client.head()
            until(lambda: running.call(running.server.open_connections) == 0)
            client_watch = worker_of(running).client_watch
            until(lambda: not len(client_watch))
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = [type(each) for each in gc.garbage if type(each).__module__.startswith("egress_router.")]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert not left
