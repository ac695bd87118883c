"""Transparent ports: clients speak TLS or HTTP/1 as if the router were the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from egress_router.clock import SYSTEM
from egress_router.http_proxy.access_log import AccessLog
from egress_router.http_proxy.accounting import Accounting
from egress_router.metrics import Registry
from egress_router.names.answer import Failure
from tests.unit.http_proxy.names import InUse, know
from tests.unit.http_proxy.origin import Client, Origin, answering, counted, echo, origin, proxy
from tests.unit.tls.hellos import RECORDED, extension, hello, names, records, sni
from tests.waiting import until

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from egress_router.grammar.acl import AccessList
    from egress_router.settings.policy import Guarded
    from tests.serving import Running

OK = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok"
RULES = "www.example.com\n!denied.example\n127.0.0.0/8\n"


def alert(description: int) -> bytes:
    return bytes((21, 3, 1, 0, 2, 2, description))


def transparent(
    server: Origin, rules: str = RULES, *, head_seconds: str = "", held_bytes: str = "", report_only: str = ""
) -> AbstractContextManager[tuple[Running[Guarded[AccessList]], int]]:
    ports = f"1443:{server.port}"
    return proxy(
        rules,
        TRANSPARENT_PORTS=ports,
        HEAD_SECONDS=head_seconds,
        HELD_BYTES=held_bytes,
        REPORT_ONLY=report_only,
    )


def port_of(running: Running[Guarded[AccessList]]) -> int:
    return running.ports[1443]


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    know(
        monkeypatch,
        www_example_com="127.0.0.1",
        denied_example="127.0.0.1",
        other_example="203.0.113.1",
        gone_example=Failure.NO_SUCH_NAME,
    )


@pytest.mark.parametrize("client", sorted(set(RECORDED) - {"openssl-no-name"}))
def test_tls_of_real_clients_goes_through_unopened(client: str) -> None:
    first = RECORDED[client]
    with origin(echo) as server, transparent(server) as (running, _), Client(port_of(running)) as peer:
        peer.send(first)
        assert peer.take(len(first)) == first
        peer.send(b"more")
        assert peer.take(4) == b"more"
        assert counted(running, "tunnels_open") == 1
    assert server.received == first + b"more"


def test_a_hello_in_single_bytes_and_records() -> None:
    first = records(RECORDED["curl"][5:], 100)
    with origin(echo) as server, transparent(server) as (running, _), Client(port_of(running)) as peer:
        for at in range(len(first)):
            peer.send(first[at : at + 1])
        assert peer.take(len(first)) == first


@pytest.mark.parametrize(
    ("first", "answer", "reason"),
    [
        (hello(sni(b"denied.example")), alert(49), "rule"),
        (hello(sni(b"unlisted.example")), alert(80), None),  # its name does not resolve
        (hello(sni(b"other.example")), alert(49), "no_rule"),
        (hello(sni(b"gone.example")), alert(80), None),
        (hello(), alert(112), "no_sni"),
        (RECORDED["openssl-no-name"], alert(112), "no_sni"),
        (hello(sni(b"127.0.0.1")), alert(112), "sni_is_address"),
        (hello(sni(b"a..example")), alert(112), "sni_is_no_host_name"),
        (hello(extension(0, names((0, b"a.example"), (0, b"b.example")))), alert(50), "malformed"),
        (records(b"\x01\x00\x50\x00" + bytes(20), 16), alert(50), "too_large"),
    ],
)
def test_what_may_not_pass_is_refused_in_words_of_tls(
    first: bytes, answer: bytes, reason: str | None
) -> None:
    with origin(echo) as server, transparent(server) as (running, _), Client(port_of(running)) as peer:
        peer.send(first)
        assert peer.rest() == answer
        until(lambda: running.call(running.server.open_connections) == 0)
        if reason is not None:
            assert counted(running, "transparent_refused_total", reason=reason) == 1
        assert counted(running, "transparent_refused_total") == (reason is not None)
    assert not server.peers


def test_http_goes_where_its_host_says() -> None:
    with (
        origin(answering(OK, OK)) as server,
        transparent(server) as (running, _),
        Client(port_of(running)) as peer,
    ):
        for path in ("/a?b", "/c"):
            # The port in Host decides nothing.
            peer.send(f"GET {path} HTTP/1.1\r\nHost: WWW.example.com:9\r\n\r\n")
            head, body = peer.answer()
            assert head.startswith("HTTP/1.1 200 OK")
            assert body == b"ok"
    assert server.received.startswith(
        b"GET /a?b HTTP/1.1\r\nHost: www.example.com:%d\r\nVia: 1.1" % server.port
    )
    assert b"GET /c HTTP/1.1\r\n" in server.received


@pytest.mark.parametrize(
    ("request_text", "status", "reason"),
    [
        ("GET / HTTP/1.1\r\nHost: denied.example\r\n\r\n", "403", "rule"),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "400", "host_is_address"),
        ("GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n", "400", "host_is_address"),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "400", "no_host"),
        ("GET / HTTP/1.0\r\n\r\n", "400", "no_host"),
        ("GET / HTTP/1.1\r\n\r\n", "400", "no_host"),
        ("CONNECT www.example.com:443 HTTP/1.1\r\nHost: www.example.com:443\r\n\r\n", "400", "unsupported"),
        ("GET /a#b HTTP/1.1\r\nHost: www.example.com\r\n\r\n", "400", "malformed"),
        ("GET /?a#b HTTP/1.1\r\nHost: www.example.com\r\n\r\n", "400", "malformed"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505", "http2_prior_knowledge"),
        ("SSH-2.0-OpenSSH_9\r\n", "400", "malformed"),
    ],
)
def test_http_that_may_not_pass_is_refused(
    request_text: str, status: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        origin(answering(OK)) as server,
        transparent(server) as (running, _),
        Client(port_of(running)) as peer,
    ):
        peer.send(request_text)
        peer.end()
        assert peer.head().startswith(f"HTTP/1.1 {status} ")
        assert counted(running, "transparent_refused_total", reason=reason) == 1
    assert not server.peers
    if reason != "rule":  # which has a record
        assert "HTTP to a transparent port is refused" in caplog.text


def test_each_request_of_a_connection_is_decided() -> None:
    with (
        origin(answering(OK)) as server,
        transparent(server) as (running, _),
        Client(port_of(running)) as peer,
    ):
        peer.send(
            "GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\nGET / HTTP/1.1\r\nHost: denied.example\r\n\r\n"
        )
        assert peer.answer()[0].startswith("HTTP/1.1 200 ")
        assert peer.answer()[0].startswith("HTTP/1.1 403 ")


def test_the_absolute_form_wins_over_host() -> None:
    with (
        origin(answering(OK)) as server,
        transparent(server) as (running, _),
        Client(port_of(running)) as peer,
    ):
        peer.send("GET http://www.example.com:9/x HTTP/1.1\r\nHost: denied.example\r\n\r\n")
        assert peer.answer()[0].startswith("HTTP/1.1 200 ")
    assert server.received.startswith(b"GET /x HTTP/1.1\r\nHost: www.example.com:%d\r\n" % server.port)


def test_a_name_is_looked_up_here(monkeypatch: pytest.MonkeyPatch) -> None:
    known = know(monkeypatch, slow=True, www_example_com="127.0.0.1")
    with origin(echo) as server, transparent(server) as (running, _), Client(port_of(running)) as peer:
        peer.send(RECORDED["go"])
        assert peer.take(5) == RECORDED["go"][:5]
        assert known.asked == ["www.example.com"]


def test_a_hello_that_trickles_is_refused_in_time() -> None:
    with origin(echo) as server, transparent(server, head_seconds="0.2") as (running, _):
        with Client(port_of(running)) as peer:
            peer.send(RECORDED["curl"][:50])
            assert peer.rest() == alert(40)
        assert counted(running, "limit_hits_total", limit="head_seconds") == 1


def test_unfinished_hellos_are_bounded_in_all() -> None:
    with origin(echo) as server, transparent(server, held_bytes="1048576") as (running, _):
        clients = [Client(port_of(running)) for _ in range(120)]
        for client in clients:
            client.send(records(b"\x01\x00\x3f\x00" + bytes(15_000))[:15_000])
        until(lambda: counted(running, "limit_hits_total", limit="held_bytes") >= 5)
        for client in clients:
            client.sock.close()
        until(lambda: running.call(running.server.open_connections) == 0)


def test_early_data_behind_a_hello_that_waits_is_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 8446 2.3: a client may send data at once; with a name that is slow to resolve it waits here."""
    know(monkeypatch, www_example_com="127.0.0.1", slow=True)

    async def resolve(*_: object, **__: object) -> None:
        await running.context.loop.create_future()

    monkeypatch.setattr(InUse.names, "resolve", resolve)
    with origin(echo) as server, transparent(server, held_bytes="1048576") as (running, _):
        clients = [Client(port_of(running)) for _ in range(40)]
        biggest = Client(port_of(running))
        biggest.send(hello(sni(b"www.example.com")) + b"\x17" * 60_000)
        for client in clients:
            client.send(hello(sni(b"www.example.com")) + b"\x17" * 40_000)
        assert biggest.rest() == alert(80)
        until(lambda: counted(running, "limit_hits_total", limit="held_bytes") >= 14)
        until(lambda: counted(running, "refused_total", reason="held_bytes") >= 14)
        for client in (*clients, biggest):
            client.sock.close()
        until(lambda: running.call(running.server.open_connections) == 0)


@pytest.mark.parametrize(
    ("origin_port", "sent", "answer"),
    [(443, hello(sni(b"www.example.com")), alert(80)), (80, b"GET / HTTP/1.1\r\n", b"HTTP/1.1 429 ")],
)
def test_who_is_over_a_limit_is_told_so_in_its_own_words(
    origin_port: int, sent: bytes, answer: bytes
) -> None:
    with proxy(RULES, per_client=1, TRANSPARENT_PORTS=f"1443:{origin_port}") as (running, _):
        port = port_of(running)
        with Client(port), Client(port) as second:
            second.send(sent)
            assert second.take(len(answer)) == answer
            assert counted(running, "limit_hits_total", limit="connections_per_client") == 1


def test_report_only_covers_transparent_ports() -> None:
    with (
        origin(echo) as server,
        transparent(server, "!*.example.com\n", report_only="1") as (running, _),
        Client(port_of(running)) as peer,
    ):
        peer.send(RECORDED["curl"])
        # Loopback is not remote: it stays denied, as on the proxy's own port.
        assert peer.rest() == alert(49)


def test_the_port_of_the_proxy_stays_what_it_was() -> None:
    with origin(echo) as server, transparent(server) as (running, _):
        with Client(running.ports[8080]) as peer:
            peer.send(RECORDED["curl"])
            assert peer.head().startswith("HTTP/1.1 400 ")
        with Client(running.ports[8080]) as peer:
            peer.send("GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n")
            assert peer.head().startswith("HTTP/1.1 400 ")


@pytest.mark.parametrize("reason", ["loop", "own_port"])
def test_a_name_that_leads_back_is_said(reason: str, caplog: pytest.LogCaptureFixture) -> None:
    accounting = Accounting(Registry(), AccessLog(everything=False), SYSTEM)
    accounting.transparent_refused("rule")
    assert "leads back" not in caplog.text
    accounting.transparent_refused(reason)
    assert "a name leads back to this router" in caplog.text
