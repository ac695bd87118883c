"""Mutated requests and answers: whatever comes, nothing is left open."""

from __future__ import annotations

import os
import random
import time

from tests.unit.http_proxy.origin import OK, Client, Peer, forbidden, origin, proxy
from tests.waiting import until

FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS", "3"))  # each; `make fuzz` takes longer
TEMPLATES = [
    "GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\nAccept: */*\r\n\r\n",
    "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 5\r\n\r\nhello",
    "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\nGET / HTTP/1.1\r\n\r\n",
]
NOISE = [b"\r", b"\n", b"\x00", b" ", b":", b"\r\n", b",", b"\xff", b"0", b"chunked", b"\r\n\r\n", b"http://"]


def test_mutated_requests_leave_nothing_open() -> None:
    dice = random.Random(4)
    with origin(forbidden) as server, proxy(HEAD_SECONDS="1", ANSWER_SECONDS="1") as (running, port):
        end = time.monotonic() + FUZZ_SECONDS
        while time.monotonic() < end:
            data = bytearray(dice.choice(TEMPLATES).format(server.authority).encode())
            for _ in range(dice.randint(1, 4)):
                place = dice.randrange(len(data))
                data[place : place + dice.randint(0, 3)] = dice.choice(NOISE)
            with Client(port) as client:
                client.send(bytes(data))
                client.end()
                try:
                    answer = client.rest()
                except ConnectionResetError:
                    continue
                assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
        until(lambda: running.call(running.server.open_connections) == 0)
        running.call(running.server.stop_accepting)  # closes what waits for further requests
        until(lambda: all(peer.ended.is_set() for peer in server.peers))


def test_mutated_answers_leave_nothing_open() -> None:
    dice = random.Random(5)
    valid = [OK, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]

    def liar(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        data = bytearray(dice.choice(valid))
        for _ in range(dice.randint(1, 3)):
            place = dice.randrange(len(data))
            data[place : place + dice.randint(0, 3)] = dice.choice(NOISE)
        peer.send(bytes(data))

    with origin(liar) as server, proxy() as (running, port):
        end = time.monotonic() + FUZZ_SECONDS
        while time.monotonic() < end:
            with Client(port) as client:
                client.send(f"GET http://{server.authority}/ HTTP/1.1\r\nHost: x\r\n\r\n")
                client.end()
                try:
                    answer = client.rest()
                except ConnectionResetError:
                    continue
                assert answer.startswith(b"HTTP/1.1 ")
        until(lambda: running.call(running.server.open_connections) == 0)
        running.call(running.server.stop_accepting)  # closes what waits for further requests
        until(lambda: all(peer.ended.is_set() for peer in server.peers))
