"""Datagrams and streams that are no answer, too much of one, or somebody else's."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.rrset
import pytest
from dns.rdatatype import RdataType

from egress_router.names.answer import Failure
from tests.ports import free_port
from tests.unit.names.bad_servers import NAME, failure_of, no_leak
from tests.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.names.labs import Lab


@contextlib.contextmanager
def scripted(datagrams: Callable[[bytes], list[bytes]], stream: Callable[[bytes], bytes]) -> Iterator[int]:
    """Answer each datagram and each connection with the bytes that the functions make of the query."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.create_server(("127.0.0.1", free_port())) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        udp.bind(tcp.getsockname())
        stop = threading.Event()

        def serve_udp() -> None:
            while not stop.is_set():
                query, client = udp.recvfrom(4096)
                for answer in datagrams(query) if query else ():
                    # A stranger is another port of the same machine, so only the port tells him apart.
                    sender = stranger if b"stranger" in answer else udp
                    sender.sendto(answer, client)

        def serve_tcp() -> None:
            while not stop.is_set():
                connection, _ = tcp.accept()
                with connection:
                    query = connection.recv(4096)
                    connection.sendall(stream(query[2:]) if query else b"")

        threads = [threading.Thread(target=serve) for serve in (serve_udp, serve_tcp)]
        for thread in threads:
            thread.start()
        try:
            yield tcp.getsockname()[1]
        finally:
            stop.set()
            socket.create_connection(tcp.getsockname()).close()
            stranger.sendto(b"", udp.getsockname())
            for thread in threads:
                thread.join(WAIT_SECONDS)


def cut(query: bytes) -> bytes:
    """Return a truncated answer to a query."""
    answer = dns.message.make_response(dns.message.from_wire(query))
    answer.flags |= dns.flags.TC
    return answer.to_wire()


def good(query: bytes, *addresses: str) -> bytes:
    asked = dns.message.from_wire(query)
    answer = dns.message.make_response(asked, recursion_available=True)
    if asked.question[0].rdtype is RdataType.A:
        answer.answer.append(dns.rrset.from_text(f"{NAME}.", 30, "IN", "A", *addresses))
    return answer.to_wire(max_size=65535)


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


@pytest.mark.parametrize(
    "stream",
    [
        lambda query: b"",
        lambda query: framed(good(query, "192.0.2.1"))[:-5],
        lambda query: framed(cut(query)),
        lambda query: framed(b"xx" + good(query, "192.0.2.1")[2:]),
        lambda query: framed(b""),
    ],
    ids=["closed", "cut short", "truncated again", "wrong id", "empty"],
)
def test_tcp_answers_that_are_none(lab: Lab, stream: Callable[[bytes], bytes]) -> None:
    with scripted(lambda query: [cut(query)], stream) as port:
        resolver = lab.resolver(port)
        with no_leak(lab, resolver):
            assert failure_of(lab, resolver) is Failure.SERVER_FAILURE


def test_of_an_answer_with_a_thousand_addresses_64_are_kept(lab: Lab) -> None:
    many = [f"192.0.{high}.{low}" for high in range(5) for low in range(250)]
    with scripted(lambda query: [cut(query)], lambda query: framed(good(query, *many))) as port:
        assert len(lab.resolve(lab.resolver(port), NAME)) == 64


def test_what_another_sender_answers_never_arrives(lab: Lab) -> None:
    def answers(query: bytes) -> list[bytes]:
        lie = dns.message.from_wire(good(query, "192.0.2.66"))
        lie.additional.append(dns.rrset.from_text(f"{NAME}.", 30, "IN", "TXT", "stranger"))
        return [lie.to_wire(), good(query, "192.0.2.1")]

    with scripted(answers, lambda query: b"") as port:
        assert lab.resolve(lab.resolver(port), NAME) == ["192.0.2.1"]
        assert lab.counted("dns_datagrams_ignored_total") == 0
