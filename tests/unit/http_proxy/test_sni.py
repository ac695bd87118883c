"""The name in a ClientHello against the host of its CONNECT; nothing goes to the origin before the decision."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from egress_router.http_proxy.connection import ClientConnection
from egress_router.http_proxy.server import REAL, Dependencies
from tests.manual_clock import ManualClock
from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import Client, Peer, counted, echo, origin, proxy, worker_of
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from egress_router.http_proxy.worker_state import WorkerState

# A client may be late on a machine that is busy.
PATIENT = Dependencies(hello_seconds=WAIT_SECONDS)
STEP = 0.04  # time-outs come a little late: see `Deadlines`
ALERT = b"\x15\x03\x01\x00\x02\x02\x31"  # fatal, access_denied


def hello(name: str | None) -> bytes:
    """Return what Python's TLS sends first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def connect(host: str, port: int) -> str:
    return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("mode", ["enforce", "report"])
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("name", ["a.example", "A.Example", None])
def test_a_tunnel_that_names_its_host_goes_on(
    monkeypatch: pytest.MonkeyPatch, mode: str, name: str | None, *, early: bool
) -> None:
    know(monkeypatch, a_example="127.0.0.1")
    sent = hello(name)
    with (
        origin(echo) as server,
        proxy("a.example\n", SNI=mode, needs=PATIENT) as (running, port),
        Client(port) as client,
    ):
        client.send(connect("a.example", server.port).encode() + (sent if early else b""))
        assert client.head().startswith("HTTP/1.1 200")
        if not early:
            client.send(sent)
        assert client.take(len(sent)) == sent
        assert counted(running, "sni_mismatch_total") == 0
        assert counted(running, "tunnels_open") == 1


def test_a_hello_may_come_byte_by_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, a_example="127.0.0.1")
    sent = hello("a.example")
    with (
        origin(echo) as server,
        proxy("a.example\n", SNI="enforce", needs=PATIENT) as (_, port),
        Client(port) as client,
    ):
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.send(connect("a.example", server.port))
        client.head()
        for at in range(len(sent)):
            client.send(sent[at : at + 1])
        client.send("more")
        assert client.take(len(sent) + 4) == sent + b"more"


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(
    "sent",
    [
        hello("b.example"),
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        # Go's TLS reads it: the version of a record says nothing (RFC 8446 5.1).
        b"\x16\x02\x00" + hello("b.example")[3:],
        b"\x16\x03\x09" + hello("b.example")[3:],
        hello("b.example")[:-1],
    ],
    ids=[
        "another name",
        "no ClientHello",
        "SSL 2 in the record",
        "an unknown version in the record",
        "a part",
    ],
)
def test_enforced_nothing_of_another_name_reaches_the_origin(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, *, early: bool
) -> None:
    know(monkeypatch, a_example="127.0.0.1")
    rules = "a.example\nb.example\n"
    with (
        origin(echo) as server,
        proxy(rules, SNI="enforce", needs=PATIENT) as (running, port),
        Client(port) as client,
    ):
        client.send(connect("a.example", server.port).encode() + (sent if early else b""))
        client.head()
        if not early:
            client.send(sent)
        client.end()
        assert client.take(len(ALERT)) == ALERT
        assert client.rest() == b""
        assert counted(running, "sni_mismatch_total", action="closed") == 1
        client.sock.close()
        until(lambda: running.call(running.server.open_connections) == 0)
        until(lambda: all(peer.ended.is_set() for peer in server.peers))
    assert server.received == b""


def test_reported_another_name_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    know(monkeypatch, a_example="127.0.0.1")
    sent = hello("b.example")
    with (
        origin(echo) as server,
        proxy("a.example\n", needs=PATIENT) as (running, port),
        Client(port) as client,
    ):
        client.send(connect("a.example", server.port))
        client.head()
        client.send(sent)
        assert client.take(len(sent)) == sent
        assert counted(running, "sni_mismatch_total", action="reported") == 1
    assert "ClientHello" in caplog.text


def test_reported_a_hello_that_stops_half_way_goes_on_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, a_example="127.0.0.1")
    sent = hello("b.example")[:-1]
    with (
        origin(echo) as server,
        proxy("a.example\n", needs=PATIENT) as (running, port),
        Client(port) as client,
    ):
        client.send(connect("a.example", server.port))
        client.head()
        client.send(sent)
        client.end()
        assert client.rest() == sent
        assert counted(running, "sni_mismatch_total", action="reported") == 1


def test_an_answer_to_connect_that_the_kernel_did_not_take_at_once_goes_out_later() -> None:
    with (
        origin(echo) as server,
        proxy(needs=Dependencies(hello_seconds=10 * WAIT_SECONDS)) as (running, port),
        Client(port, receives=4096) as client,
    ):
        until(lambda: running.call(running.server.open_connections) == 1)
        filled = running.call(lambda: fill_send_buffers(worker_of(running)))
        client.send(connect("127.0.0.1", server.port))
        until(lambda: "HELLO" in running.call(lambda: repr(worker_of(running).connections)))
        assert client.take(filled) == b"x" * filled
        assert client.head().startswith("HTTP/1.1 200")
        assert counted(running, "tunnels_open") == 0  # its client has not had to wait for one


def fill_send_buffers(worker: WorkerState) -> int:
    """Send as if it were an answer before, until the kernel takes nothing; return how much it took."""
    took = 0
    for each in worker.connections:
        assert isinstance(each, ClientConnection)
        with contextlib.suppress(BlockingIOError):
            while True:
                took += each.stream.sock.send(b"x" * 4096)
        each.stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # no room for a bit more
    return took


def test_off_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, a_example="127.0.0.1")
    sent = hello("b.example")
    with origin(echo) as server, proxy("a.example\n", SNI="off") as (running, port), Client(port) as client:
        client.send(connect("a.example", server.port))
        client.head()
        client.send(sent)
        assert client.take(len(sent)) == sent
        assert counted(running, "sni_mismatch_total") == 0


@pytest.mark.parametrize(("name", "passes"), [("a.example", True), ("b.example", False)])
def test_behind_an_address_the_list_decides_on_the_name(name: str, *, passes: bool) -> None:
    sent = hello(name)
    rules = "a.example\n!b.example\n127.0.0.1\n"
    with (
        origin(echo) as server,
        proxy(rules, SNI="enforce", needs=PATIENT) as (_, port),
        Client(port) as client,
    ):
        client.send(connect("127.0.0.1", server.port))
        client.head()
        client.send(sent)
        assert client.take(len(sent) if passes else len(ALERT)) == (sent if passes else ALERT)


def test_a_short_name_is_compared_with_what_it_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    names = know(monkeypatch, web="127.0.0.1")
    names.search = {"web": "web.corp.example"}
    with origin(echo) as server, proxy("*.corp.example\n", SNI="enforce", needs=PATIENT) as (_, port):
        for name in ("web", "web.corp.example"):
            sent = hello(name)
            with Client(port) as client:
                client.send(connect("web", server.port))
                client.head()
                client.send(sent)
                assert client.take(len(sent)) == sent


@pytest.mark.parametrize("mode", ["enforce", "report"])
def test_other_protocols_are_not_held_up(mode: str) -> None:
    def greet(peer: Peer) -> None:
        peer.send(b"220 ready")
        echo(peer)

    with proxy(SNI=mode) as (running, port):
        with origin(greet) as server, Client(port) as client:
            client.send(connect("127.0.0.1", server.port))
            client.head()
            assert client.take(9) == b"220 ready"
            client.send("EHLO")
            assert client.take(4) == b"EHLO"
        with origin(echo) as server, Client(port) as client:
            client.send(connect("127.0.0.1", server.port))
            client.head()
            client.send("GET / HTTP/1.1")
            assert client.take(14) == b"GET / HTTP/1.1"
        with origin(echo) as server, Client(port) as client:
            client.send(connect("127.0.0.1", server.port))
            client.head()
            until(lambda: counted(running, "tunnels_open") == 1)  # neither side sends anything
            client.end()
            assert client.rest() == b""


@pytest.mark.parametrize("mode", ["enforce", "report"])
def test_a_hello_is_judged_for_250_ms_and_not_after(mode: str) -> None:
    sent, clock = hello("b.example"), ManualClock()
    action = {"enforce": "closed", "report": "reported"}[mode]
    with (
        origin(echo) as server,
        proxy("!b.example\n127.0.0.1\n", SNI=mode, needs=replace(REAL, clock=clock)) as (running, port),
    ):
        with Client(port) as client:
            client.send(connect("127.0.0.1", server.port))
            client.head()
            looked = threading.Event()
            running.call(lambda: worker_of(running).deadlines.add(0.2, looked.set))
            clock.advance(0.249)
            assert looked.wait(WAIT_SECONDS)  # what was due before has had its turn
            client.send(sent)
            assert client.take(len(ALERT)) == (ALERT if mode == "enforce" else sent[: len(ALERT)])
            until(lambda: counted(running, "sni_mismatch_total", action=action) == 1)
        until(lambda: running.call(running.server.open_connections) == 0)
        with Client(port) as client:
            client.send(connect("127.0.0.1", server.port))
            client.head()
            running.call(running.server.open_connections)  # by now its time runs
            clock.advance(0.25 + STEP)
            until(lambda: counted(running, "tunnels_open") == 1)
            client.send(sent)
            assert client.take(len(sent)) == sent
        assert counted(running, "sni_mismatch_total") == 1


@pytest.mark.parametrize("mode", ["enforce", "report"])
def test_a_hello_that_was_begun_is_waited_for_on_any_port(mode: str) -> None:
    sent = hello("b.example")
    with (
        origin(echo) as server,
        proxy("!b.example\n127.0.0.1\n", SNI=mode, HEAD_SECONDS="1", needs=PATIENT) as (running, port),
        Client(port) as client,
    ):
        client.send(connect("127.0.0.1", server.port))
        client.head()
        client.send(sent[:100])
        if mode == "enforce":
            # It has more time than the 250 ms for servers that speak first, but not without limit.
            assert client.rest() == ALERT
            assert server.received == b""
        else:
            assert client.take(100) == sent[:100]
        action = {"enforce": "closed", "report": "reported"}[mode]
        assert counted(running, "sni_mismatch_total", action=action) == 1
        assert counted(running, "limit_hits_total", limit="head_seconds") == 1


def test_unfinished_hellos_in_tunnels_are_bounded_in_all() -> None:
    with (
        origin(echo) as server,
        proxy("127.0.0.1\n", SNI="enforce", HELD_BYTES="1048576") as (running, port),
    ):
        clients = [Client(port) for _ in range(120)]
        for client in clients:
            client.send(connect("127.0.0.1", server.port))
            client.head()
            client.send(b"\x16\x03\x01\x3f\x00\x01\x00\x3e\x00" + bytes(15_000))
        until(lambda: counted(running, "limit_hits_total", limit="held_bytes") >= 5)
        for client in clients:
            client.sock.close()
        until(lambda: running.call(running.server.open_connections) == 0)


def test_a_client_that_leaves_before_it_has_said_anything_leaves_nothing_open() -> None:
    with origin(echo) as server, proxy("127.0.0.1\n", SNI="enforce") as (running, port):
        client = Client(port)
        client.send(connect("127.0.0.1", server.port))
        client.head()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        client.sock.close()
        until(lambda: running.call(running.server.open_connections) == 0)
        until(lambda: all(peer.ended.is_set() for peer in server.peers))
