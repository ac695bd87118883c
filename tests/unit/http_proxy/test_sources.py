"""Rules that end in `from`: what the origin sees as the client's address."""

from __future__ import annotations

import pytest

from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import OK, Client, Peer, counted, origin, proxy
from tests.unit.http_proxy.test_changed_lists import busy
from tests.waiting import until

NOT_HELD = "203.0.113.9"  # of the network that nobody has (RFC 5737)
SOURCES = f"127.0.0.5 127.0.0.6 {NOT_HELD} ::1"
EITHER = "127.0.0.5 127.0.0.6"


def telling(peer: Peer) -> None:
    """Answers every request with the address that the connection came from."""
    seen = peer.sock.getpeername()[0].encode()
    while peer.read_until(b"\r\n\r\n"):
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(seen), seen))


def tells_at_once(peer: Peer) -> None:
    peer.send(peer.sock.getpeername()[0].encode() + b"\n")
    peer.read_to_the_end()


def get(client: Client, authority: str) -> tuple[str, str]:
    """Return the head of the answer, and its body: the source address, where the origin has answered."""
    client.send(f"GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n\r\n")
    head, body = client.answer()
    return head, body.decode()


def test_the_rule_that_allows_says_with_which_source() -> None:
    rules = "127.0.0.1:1\n127.0.0.1 from 127.0.0.6\n127.0.0.0/8 from 127.0.0.5\n[::1]\n"
    with (
        origin(telling) as one,
        origin(telling, "127.0.0.2") as two,
        origin(telling, "::1") as six,
        proxy(rules, sources=SOURCES) as (_, port),
        Client(port) as client,
    ):
        seen = [get(client, each.authority)[1] for each in (one, two, six)]
    assert seen == ["127.0.0.6", "127.0.0.5", "::1"]


def test_a_tunnel_leaves_with_the_source_of_its_rule() -> None:
    with (
        origin(tells_at_once) as server,
        proxy("127.0.0.1 from 127.0.0.6", sources=SOURCES) as (_, port),
        Client(port) as client,
    ):
        client.send(f"CONNECT {server.authority} HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.head().startswith("HTTP/1.1 200")
        assert client.take(10) == b"127.0.0.6\n"


def test_connections_are_spread_over_all_sources() -> None:
    seen: list[bytes] = []
    with origin(tells_at_once) as server, proxy("127.0.0.1 from *", sources=EITHER) as (_, port):
        for _ in range(6):
            with Client(port) as client:
                client.send(f"CONNECT {server.authority} HTTP/1.1\r\nHost: x\r\n\r\n")
                assert client.head().startswith("HTTP/1.1 200")
                seen.append(client.take(9))
    assert sorted(seen) == [b"127.0.0.5"] * 3 + [b"127.0.0.6"] * 3


def test_a_source_that_is_not_held_is_passed_over_where_others_are() -> None:
    with origin(telling) as server, proxy("127.0.0.1 from *", sources=f"{NOT_HELD} 127.0.0.6") as (_, port):
        for _ in range(4):
            with Client(port) as client:
                assert get(client, server.authority)[1] == "127.0.0.6"


def test_a_source_that_is_not_held_is_503() -> None:
    with (
        origin(telling) as server,
        proxy(f"127.0.0.1 from {NOT_HELD}", sources=SOURCES) as (running, port),
        Client(port) as client,
    ):
        head, body = get(client, server.authority)
        assert head.startswith("HTTP/1.1 503")
        assert "Proxy-Status: egress-router; error=proxy_internal_error" in head
        assert "does not hold the source address" in body
        assert counted(running, "upstream_failures_total", reason="source_not_held") == 1
        assert server.peers == []


@pytest.mark.parametrize("leaving", ["::1", "*"])
def test_a_name_without_an_address_of_the_family_is_502(
    monkeypatch: pytest.MonkeyPatch, leaving: str
) -> None:
    know(monkeypatch, db_example_com="127.0.0.1")
    with (
        origin(telling) as server,
        proxy(f"db.example.com from {leaving}", sources="::1") as (running, port),
        Client(port) as client,
    ):
        head, body = get(client, f"db.example.com:{server.port}")
        assert head.startswith("HTTP/1.1 502")
        assert "Proxy-Status: egress-router; error=destination_ip_unroutable" in head
        assert "no address of the family" in body
        assert counted(running, "upstream_failures_total", reason="other_family") == 1
        assert server.peers == []


def test_of_a_name_only_addresses_of_the_family_are_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, db_example_com="::1 127.0.0.1")
    with (
        origin(telling) as server,
        proxy("db.example.com from 127.0.0.6", sources=SOURCES) as (_, port),
        Client(port) as client,
    ):
        assert get(client, f"db.example.com:{server.port}")[1] == "127.0.0.6"


def test_a_kept_connection_serves_only_requests_of_the_same_source() -> None:
    with (
        origin(telling) as server,
        proxy("127.0.0.1 from 127.0.0.5", sources=SOURCES) as (running, port),
        Client(port) as client,
    ):
        assert [get(client, server.authority)[1] for _ in range(2)] == ["127.0.0.5"] * 2
        assert len(server.peers) == 1
        running.apply("127.0.0.1 from 127.0.0.6")
        assert [get(client, server.authority)[1] for _ in range(2)] == ["127.0.0.6"] * 2
        running.apply("127.0.0.1")
        assert get(client, server.authority)[1] == "127.0.0.1"
        assert len(server.peers) == 3


def test_a_source_that_changes_during_the_dial_is_the_new_one() -> None:
    with (
        busy() as server,
        proxy("127.0.0.1 from 127.0.0.5", sources=SOURCES) as (running, port),
        Client(port) as client,
    ):
        client.send(f"GET http://127.0.0.1:{server.port}/ HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: counted(running, "requests_total", verdict="allowed") == 1)
        running.apply("127.0.0.1 from 127.0.0.6")
        assert server.accept().getpeername()[0] == "127.0.0.5"
        sock = server.accept()
        assert sock.getpeername()[0] == "127.0.0.6"
        sock.sendall(OK)
        assert client.answer()[1] == b"ok"
