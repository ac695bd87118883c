from __future__ import annotations

from egress_router.http_proxy.server import Dependencies
from tests.unit.http_proxy.asking import get, has_read
from tests.unit.http_proxy.origin import OK, Client, answering, counted, origin, proxy
from tests.waiting import until


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


def test_interim_answers_are_not_passed_on_without_end() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    for count, status in ((32, "200"), (33, "502")):
        with origin(answering(interim * count + OK)) as server, proxy() as (_, port), Client(port) as client:
            client.send(get(server))
            while (head := client.head()).startswith("HTTP/1.1 103"):
                pass
            assert head[9:12] == status


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
