"""A CONNECT that came before is served by the data plane alone, and nobody can tell but by the counter."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from egress_router.http_proxy.accounting import Accounting
from egress_router.http_proxy.server import REAL
from egress_router.names.answer import Answer
from egress_router.tls.server_name import SniMatch, compare
from tests.unit.http_proxy.origin import LOOPBACK, Client, Peer, counted, know, origin, proxy
from tests.unit.http_proxy.test_sni import ALERT, hello
from tests.unit.tls.hellos import is_taken, with_one_byte_wrong
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.acl import AccessList
    from egress_router.settings.policy import Guarded
    from tests.serving import Running
    from tests.unit.http_proxy.origin import Origin

    Proxy = Running[Guarded[AccessList]]


def echo(peer: Peer) -> None:
    while data := peer.read():
        peer.send(data)


def speaks_first(peer: Peer) -> None:
    peer.send(b"220 hi")
    peer.read_to_the_end()


def head(authority: str, more: str = "") -> bytes:
    return f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{more}\r\n".encode()


@contextlib.contextmanager
def quiet(rules: str = LOOPBACK, *, repeats: bool = True, **others: object) -> Iterator[tuple[Proxy, int]]:
    """A proxy without an access log."""
    needs = replace(REAL, repeats=repeats, accounting=Accounting)  # whatever the log level is
    with proxy(rules, access_log="0", needs=needs, **others) as (running, port):  # type: ignore[arg-type]
        yield running, port


class Tunnel(Client):
    """A client with a tunnel."""

    def __init__(self, port: int, first: bytes) -> None:
        super().__init__(port)
        self.send(first)
        self.answered = self.head()
        assert self.answered == "HTTP/1.1 200 Connection established"


def repeated(running: Proxy) -> float:
    return counted(running, "connects_repeated_total")


def decided(running: Proxy) -> float:
    """How many requests Python has decided on."""
    return counted(running, "requests_total") - repeated(running)


def learnt(running: Proxy, port: int, first: bytes) -> None:
    """Send CONNECTs until one is repeated: none is known for long."""

    def repeats() -> bool:
        before = repeated(running)
        ping(port, first)
        return repeated(running) > before

    until(repeats)


def known_tunnel(running: Proxy, port: int, first: bytes) -> Tunnel:
    """Return a tunnel that Python knows nothing of."""
    for _ in range(100):
        before = repeated(running)
        tunnel = Tunnel(port, first)
        tunnel.send("ping")
        tunnel.take(4)
        if repeated(running) > before:
            return tunnel
        tunnel.sock.close()
        until(lambda: counted(running, "tunnels_open") == 0)
    raise AssertionError("none is repeated")


def ping(port: int, first: bytes, sent: bytes = b"ping") -> None:
    with Tunnel(port, first) as tunnel:
        tunnel.send(sent)
        assert tunnel.take(len(sent)) == sent
        tunnel.end()
        assert tunnel.rest() == b""


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


@pytest.mark.parametrize("mode", ["report", "enforce", "off"])
@pytest.mark.parametrize("name", ["a.example", "A.Example", None])
def test_a_name_in_tls_that_is_right_is_no_matter_for_python(
    monkeypatch: pytest.MonkeyPatch, mode: str, name: str | None
) -> None:
    know(monkeypatch, a_example="127.0.0.1")
    sent = hello(name)
    with origin(echo) as server, quiet("a.example\n", SNI=mode) as (running, port):

        def repeats() -> bool:
            ping(port, head(f"a.example:{server.port}"), sent)
            return repeated(running) > 0

        until(repeats)
        assert counted(running, "sni_mismatch_total") == 0


def test_a_name_in_tls_that_is_wrong_is(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, a_example="127.0.0.1")
    sent = hello("b.example")
    with origin(echo) as server, quiet("a.example\n", SNI="enforce") as (running, port):
        first = head(f"a.example:{server.port}")
        ping(port, first)
        for _ in range(3):
            with Tunnel(port, first) as tunnel:
                tunnel.send(sent)
                assert tunnel.rest() == ALERT
        assert counted(running, "sni_mismatch_total", action="closed") == 3
        assert server.received == b"ping"
        assert repeated(running) == 0
    with origin(echo) as server, quiet("a.example\n", SNI="report") as (running, port):
        first = head(f"a.example:{server.port}")
        ping(port, first)
        for _ in range(3):
            ping(port, first, sent)
        assert counted(running, "sni_mismatch_total", action="reported") == 3
        until(lambda: running.call(running.server.open_connections) == 0)
        assert counted(running, "tunnels_open") == 0


def test_a_hello_in_pieces_is_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, a_example="127.0.0.1")
    sent = hello("a.example")
    with origin(echo) as server, quiet("a.example\n", SNI="enforce") as (running, port):
        first = head(f"a.example:{server.port}")
        ping(port, first)
        with Tunnel(port, first) as tunnel:
            tunnel.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(len(sent)):
                tunnel.send(sent[at : at + 1])
            assert tunnel.take(len(sent)) == sent
        assert repeated(running) == 0


def fits(sent: bytes) -> bool:
    """What Python says of these bytes in a tunnel to a.example; of a part of a ClientHello, at its end, yes."""
    right = {SniMatch.SAME, SniMatch.ABSENT}
    return sent[:1] != b"\x16" or is_taken(
        sent, lambda said: said is None or compare(said, "a.example") in right
    )


def test_no_hello_gets_through_that_python_would_not_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of a right one are changed, doubled and left out."""
    know(monkeypatch, a_example="127.0.0.1")
    right = hello("a.example")
    variants = [hello("b.example"), right + b"early", b"\x16", b"\x15" + right[1:]]
    variants += with_one_byte_wrong(right, right.index(b"a.example"), random.Random(7))
    with origin(echo) as server, quiet("a.example\n", SNI="enforce", HEAD_SECONDS="1") as (running, port):
        first = head(f"a.example:{server.port}")
        for sent in variants:
            with Tunnel(port, first) as tunnel:
                tunnel.send(sent)
                tunnel.end()
                came = tunnel.rest()
            assert came == (sent if fits(sent) else ALERT), sent
        assert repeated(running) > 10


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


HELLO = hello("a.example")


def act(dice: random.Random, server: Origin, port: int) -> bytes:
    """Do something with the proxy; return what came of it."""
    first = head(server.authority, dice.choice(["", "", "", "Accept: */*\r\n", "Cookie: a\r\n"]))
    step = dice.randrange(12)
    if step == 0:  # early data
        first += b"early"
    elif step == 1:
        first = head(f"127.0.0.1:{dice.choice([1, 9])}")  # nobody is there
    elif step == 2:
        first = head(f"192.0.2.1:{server.port}")  # denied
    elif step == 3:
        first = b"CONNECT x HTTP/1.1\r\n\r\n"
    with Client(port) as client:
        client.send(first)
        answer, body = client.answer()
        if not answer.startswith("HTTP/1.1 200"):
            return answer.encode().partition(b"\r\nDate")[0] + body
        if step == 4:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return answer.encode()  # reset
        client.send(HELLO if step == 5 else b"x" * dice.choice([1, 100, 200_000]))
        client.end()
        return answer.encode() + client.rest()


def outcome(seed: int, *, repeats: bool) -> tuple[list[bytes], bytes, dict[str, object], float]:
    dice = random.Random(seed)
    with origin(echo) as server, quiet(repeats=repeats) as (running, port):
        said = []
        for _ in range(40):
            if dice.random() < 0.05:
                running.apply(dice.choice([LOOPBACK, "127.0.0.0/9\n", LOOPBACK + "10.0.0.0/8\n"]))
            said.append(act(dice, server, port))
        until(lambda: running.call(running.server.open_connections) == 0)
        until(lambda: all(peer.ended.is_set() for peer in server.peers))
        count = repeated(running)
        snapshot = running.call(running.context.registry.snapshot)
        received = b"".join(sorted(peer.received for peer in server.peers))
    numbers: dict[str, object] = {}
    for name, family in snapshot.items():
        if name != "connects_repeated_total":
            numbers[name] = (
                {labels: value for labels, value in family.numbers.items() if value},
                {labels: sum(counts) for labels, (_, counts, _) in family.histograms.items() if sum(counts)},
            )
    return said, received, numbers, count


@pytest.mark.parametrize("seed", range(5))
def test_with_and_without_it_the_same_happens(seed: int) -> None:
    said, received, numbers, count = outcome(seed, repeats=True)
    assert count > 0
    assert outcome(seed, repeats=False) == (said, received, numbers, 0)
