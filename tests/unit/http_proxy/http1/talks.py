"""Whole exchanges of bytes, without a socket: a client's requests, an origin's answers, what each gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from egress_router.http_proxy.http1.ending import End, Ending
from egress_router.http_proxy.http1.exchange import Exchange
from egress_router.http_proxy.http1.request import RequestHeads
from egress_router.http_proxy.http1.target import absolute_target
from egress_router.settings.http_proxy import HttpLimits

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMITS = HttpLimits(head_bytes=4096, head_fields=50)
SIZES = [1 << 20, 1]  # whole, and byte by byte
VIA = b"Via: 1.1 egress-router\r\n"
OK = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok"
PASSED_OK = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n" + VIA + b"\r\nok"


def date() -> bytes:
    return b"now"


@dataclass
class Talk:
    """What went to the client, what went over each request's connection to the origin, and how each ended."""

    to_client: bytes = b""
    to_origin: list[bytes] = field(default_factory=list)
    ends: list[End | None] = field(default_factory=list)
    left: bytes = b""
    persists: bool = True


class Stream:
    """The bytes of one peer, in pieces; after them its stream ends."""

    def __init__(self, data: bytes, size: int) -> None:
        self.data = data
        self.size = size

    def piece(self) -> bytes:
        taken, self.data = self.data[: self.size], self.data[self.size :]
        return taken

    def give_back(self, data: bytes) -> None:
        self.data = data + self.data


def talk(
    sent: bytes, answers: Sequence[bytes], size: int, *, early: bool = False, reused: bool = False
) -> Talk:
    """Do what the connection does with two sockets; `early` answers come before the body of the request."""
    client, said = Stream(sent, size), Talk()
    heads = RequestHeads(LIMITS)
    for answer in answers:
        head, behind = None, b""
        while head is None:
            data = client.piece()
            if not data:
                return said
            head, behind = heads.next(data)
        client.give_back(behind)
        exchange = Exchange(head, absolute_target(head.method, head.target), LIMITS, date)
        said.to_origin.append(exchange.begin(b"" if early else client.piece(), reused=reused))
        client.give_back(exchange.unread)
        origin = Stream(answer, size)
        steps = [(_answer, origin), (_request, client)] if early else [(_request, client), (_answer, origin)]
        for step, stream in steps:
            step(exchange, said, stream)
        said.ends.append(exchange.end)
        said.persists = exchange.persists and exchange.request_done
        if exchange.end is None or exchange.end.ending is not Ending.FINISHED or not said.persists:
            break
    said.left = client.data
    return said


def _request(exchange: Exchange, said: Talk, client: Stream) -> None:
    while not exchange.request_done and exchange.end is None:
        data = client.piece()
        if not data:
            exchange.client_ended()
            return
        said.to_origin[-1] += exchange.from_client(data)
        client.give_back(exchange.unread)


def _answer(exchange: Exchange, said: Talk, origin: Stream) -> None:
    while exchange.end is None:
        data = origin.piece()
        if not data:
            if exchange.request_done:
                exchange.origin_ended(lost=False)
            return
        said.to_client += exchange.from_origin(data)
        origin.give_back(exchange.rest)
        exchange.rest = b""


def get(path: str = "/", *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    lines = [f"{method} http://a.example{path} HTTP/{version}", "Host: a.example", *fields, "", ""]
    return "\r\n".join(lines).encode()
