"""With known CONNECTs and without them the same happens, whatever clients and rules do."""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING

import pytest

from tests.unit.http_proxy.known_tunnels import head, quiet, repeated
from tests.unit.http_proxy.origin import LOOPBACK, Client, echo, origin
from tests.unit.http_proxy.test_sni import hello
from tests.waiting import until

if TYPE_CHECKING:
    from tests.unit.http_proxy.origin import Origin


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
