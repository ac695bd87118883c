"""A CONNECT that came before is served by the data plane alone, and nobody can tell but by the counter."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from egress_router.names.answer import Answer
from tests.unit.http_proxy.known_tunnels import (
    Tunnel,
    decided,
    head,
    known_tunnel,
    learnt,
    ping,
    quiet,
    repeated,
    speaks_first,
)
from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import Client, counted, echo, origin, proxy
from tests.waiting import until

if TYPE_CHECKING:
    from egress_router.grammar.acl import AccessList
    from egress_router.settings.policy import Guarded
    from tests.serving import Running

    Proxy = Running[Guarded[AccessList]]


def test_the_second_one_is_served_without_python() -> None:
    with origin(echo) as server, quiet() as (running, port):
        ping(port, head(server.authority))
        assert (decided(running), repeated(running)) == (1, 0)
        learnt(running, port, head(server.authority))
        until(lambda: running.call(running.server.open_connections) == 0)
        assert server.received == b"ping" * int(decided(running) + repeated(running))


def test_while_it_is_open_it_counts_as_any_other() -> None:
    with origin(echo) as server, quiet() as (running, port):
        with known_tunnel(running, port, head(server.authority)):
            assert counted(running, "tunnels_open") == 1
            total = counted(running, "requests_total")
            assert counted(running, "rule_connections_total", rule="127.0.0.0/8") == total
            until(lambda: running.call(running.server.open_connections) == 1)
            status = running.call(running.server.status)
            assert status["destinations"] == [{"destination": server.authority, "open": 1}]
            assert status["rules"][0]["hits"] == total  # type: ignore[index, call-overload]
            assert "open=1" in repr(list(running.call(lambda: list(running.server.worker.known))))  # type: ignore[attr-defined]
        until(lambda: running.call(running.server.open_connections) == 0)
        assert counted(running, "tunnels_open") == 0
        assert counted(running, "rule_bytes_total", direction="sent") == total * 4


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("", "Accept: */*\r\n"),
        ("Proxy-Authorization: Basic eDp5\r\n", "Proxy-Authorization: Basic eDp5\r\n"),
        ("Cookie: a=b\r\n", "Cookie: a=b\r\n"),
        (f"Accept: {'x' * 512}\r\n", f"Accept: {'x' * 512}\r\n"),
    ],
)
def test_other_heads_are_pythons(first: str, second: str) -> None:
    with origin(echo) as server, quiet() as (running, port):
        for more in (first, second):
            ping(port, head(server.authority, more))
        assert (decided(running), repeated(running)) == (2, 0)


def test_bytes_behind_the_head_are_pythons() -> None:
    with origin(echo) as server, quiet() as (running, port):
        learnt(running, port, head(server.authority))
        before = repeated(running)
        for _ in range(3):
            with Client(port) as client:
                client.send(head(server.authority) + b"early")
                client.head()
                assert client.take(5) == b"early"
        assert repeated(running) == before


def test_where_each_request_is_written_down_none_is_repeated() -> None:
    with origin(echo) as server, proxy(access_log="1") as (running, port):
        for _ in range(3):
            ping(port, head(server.authority))
        assert (decided(running), repeated(running)) == (3, 0)


def test_python_decides_anew_again_and_again() -> None:
    with origin(echo) as server, quiet() as (running, port):
        learnt(running, port, head(server.authority))
        before = decided(running)

        def came_to_python_again() -> bool:
            ping(port, head(server.authority))
            return decided(running) > before

        until(came_to_python_again)


def test_other_rules_decide_at_once() -> None:
    with origin(echo) as server, quiet() as (running, port):
        learnt(running, port, head(server.authority))
        before = decided(running)
        running.apply("127.0.0.0/9\n")  # allowed still, by another rule
        ping(port, head(server.authority))
        assert decided(running) == before + 1
        assert counted(running, "rule_connections_total", rule="127.0.0.0/9") == 1
        running.apply("!127.0.0.0/8\n")
        with Client(port) as client:
            client.send(head(server.authority))
            assert client.head().startswith("HTTP/1.1 403")
        assert counted(running, "requests_total", verdict="denied") == 1


def test_tunnels_that_other_rules_deny_are_cut_and_others_stay() -> None:
    with (
        origin(echo) as server,
        origin(echo, "127.0.0.2") as other,
        quiet(drain_seconds=0.1) as (running, port),
    ):
        with contextlib.ExitStack() as stack:
            tunnels = [stack.enter_context(Tunnel(port, head(server.authority)))]
            for each in (server, server, other):
                learnt(running, port, head(each.authority))
                tunnels.append(stack.enter_context(Tunnel(port, head(each.authority))))
            for tunnel in tunnels:
                tunnel.send("ping")
                tunnel.take(4)
            running.apply("127.0.0.2\n")
            for cut in tunnels[:-1]:
                with pytest.raises(ConnectionResetError):
                    cut.rest()
            tunnels[-1].send("ping")
            assert tunnels[-1].take(4) == b"ping"
        until(lambda: running.call(running.server.open_connections) == 0)
        assert counted(running, "tunnels_open") == 0


def test_a_name_is_not_known_longer_than_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    names = know(monkeypatch, a_example="127.0.0.1")
    expires = time.monotonic() + 60
    monkeypatch.setattr(
        names, "answer", lambda _, name, found: Answer(found, expires, stale=False, name=name)
    )
    with origin(echo) as server, quiet("a.example\n") as (running, port):
        first = head(f"a.example:{server.port}")
        learnt(running, port, first)
        before = repeated(running)
        expires = time.monotonic() - 1
        running.apply("*.example\n")
        for _ in range(3):
            ping(port, first)
        assert repeated(running) == before


def test_a_destination_that_is_gone_is_answered_for_by_python() -> None:
    with quiet() as (running, port):
        with origin(echo) as server:
            authority = server.authority
            learnt(running, port, head(authority))
        for _ in range(2):
            with Client(port) as client:
                client.send(head(authority))
                top, body = client.answer()
                assert top.startswith("HTTP/1.1 502")
                assert b"refused the connection" in body
                assert client.rest() == b""
        until(lambda: running.call(running.server.open_connections) == 0)
        assert counted(running, "upstream_failures_total", reason="refused") == 2


def test_a_server_that_speaks_first_is_waited_for() -> None:
    with origin(speaks_first) as server, quiet() as (running, port):
        for _ in range(3):
            with Tunnel(port, head(server.authority)) as tunnel:
                assert tunnel.take(6) == b"220 hi"
        assert decided(running) == 3


def test_a_client_that_only_ends_is_passed_on() -> None:
    with origin(echo) as server, quiet() as (running, port):
        for _ in range(3):
            with Tunnel(port, head(server.authority)) as tunnel:
                tunnel.end()
                assert tunnel.rest() == b""
        until(lambda: running.call(running.server.open_connections) == 0)
        assert counted(running, "requests_total") == 3


def test_limits_of_connections_hold() -> None:
    with origin(echo) as server, quiet(per_client=2) as (running, port):
        learnt(running, port, head(server.authority))
        until(lambda: running.call(running.server.open_connections) == 0)
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                tunnel = stack.enter_context(Tunnel(port, head(server.authority)))
                tunnel.send("x")
                tunnel.take(1)
            with Client(port) as client:
                client.send(head(server.authority))
                assert client.head().startswith("HTTP/1.1 429")
        until(lambda: running.call(running.server.open_connections) == 0)
        learnt(running, port, head(server.authority))


def test_silence_is_counted() -> None:
    with origin(echo) as server, quiet(IDLE_SECONDS="1") as (running, port):
        with known_tunnel(running, port, head(server.authority)) as tunnel:
            assert tunnel.rest() == b""
        until(lambda: counted(running, "idle_closed_total", limit="idle_seconds") == 1)
        assert counted(running, "tunnels_open") == 0
        total = counted(running, "requests_total")
        assert counted(running, "rule_bytes_total", direction="received") == total * 4


def test_a_drain_waits_for_it() -> None:
    with origin(echo) as server, quiet() as (running, port):
        with known_tunnel(running, port, head(server.authority)) as tunnel:
            running.call(running.server.stop_accepting)
            assert running.call(running.server.open_connections) == 1
            tunnel.send("y")
            assert tunnel.take(1) == b"y"
        until(lambda: running.call(running.server.open_connections) == 0)


def test_a_client_that_speaks_late_is_served() -> None:
    with origin(echo) as server, quiet() as (running, port):
        learnt(running, port, head(server.authority))
        before = decided(running)
        with Client(port) as client:
            until(lambda: running.call(running.server.open_connections) == 1)  # Python has it
            client.send(head(server.authority))
            client.head()
            client.send("ping")
            assert client.take(4) == b"ping"
        assert decided(running) == before + 1


def test_a_client_that_has_not_spoken_when_a_drain_begins_is_served() -> None:
    with origin(echo) as server, quiet() as (running, port):
        learnt(running, port, head(server.authority))
        until(lambda: running.call(running.server.open_connections) == 0)
        with Client(port) as client:
            running.call(running.server.stop_accepting)
            assert running.call(running.server.open_connections) == 1
            client.send(head(server.authority))
            assert client.head().startswith("HTTP/1.1 200")


def test_of_many_destinations_only_so_many_are_known() -> None:
    with contextlib.ExitStack() as stack, quiet() as (running, port):
        server = stack.enter_context(origin(echo, "0.0.0.0"))
        for number in range(1100):
            ping(port, head(f"127.0.{number // 250}.{number % 250 + 1}:{server.port}"))
        assert len(running.call(lambda: list(running.server.worker.known))) <= 1000  # type: ignore[attr-defined]
