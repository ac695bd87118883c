"""The list changes while a request is on its way."""

from __future__ import annotations

import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.unit.http_proxy.origin import LOOPBACK, OK, Client, answering, counted, origin, proxy
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator


class Busy:
    """A destination whose accept queue is full, until somebody asks for the connection of the proxy."""

    def __init__(self, stack: ExitStack) -> None:
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        self._listener.settimeout(WAIT_SECONDS)
        self._stack = stack
        self.port: int = self._listener.getsockname()[1]
        self._others = [stack.enter_context(socket.socket()) for _ in range(2)]
        for other in self._others:
            other.setblocking(False)
            other.connect_ex(("127.0.0.1", self.port))

    def accept(self) -> socket.socket:
        """Make room and wait for the kernel's next attempt, about a second after the first."""
        known = {other.getsockname() for other in self._others}
        while True:
            sock, peer = self._listener.accept()
            self._stack.enter_context(sock)
            sock.settimeout(WAIT_SECONDS)
            if peer not in known:
                return sock


@contextmanager
def busy() -> Iterator[Busy]:
    with ExitStack() as stack:
        yield Busy(stack)


REQUESTS = ["CONNECT {0} HTTP/1.1\r\nHost: x\r\n\r\n", "GET http://{0}/secret HTTP/1.1\r\nHost: x\r\n\r\n"]


@pytest.mark.parametrize("request_text", REQUESTS)
def test_what_the_list_denies_when_the_connection_is_made_does_not_open(request_text: str) -> None:
    with busy() as server, proxy(LOOPBACK) as (running, port), Client(port) as client:
        client.send(request_text.format(f"127.0.0.1:{server.port}"))
        until(lambda: counted(running, "requests_total", verdict="allowed") == 1)
        running.apply("!127.0.0.0/8\n")
        sock = server.accept()
        head, body = client.answer()
        assert head.startswith("HTTP/1.1 403")
        assert b"line 1 (!127.0.0.0/8) denies it" in body
        assert sock.recv(1000) == b""
        assert client.rest() == b""


def test_a_connection_that_the_changed_list_still_allows_opens() -> None:
    with busy() as server, proxy(LOOPBACK) as (running, port), Client(port) as client:
        client.send(REQUESTS[1].format(f"127.0.0.1:{server.port}"))
        until(lambda: counted(running, "requests_total", verdict="allowed") == 1)
        running.apply("127.0.0.1\n")
        sock = server.accept()
        assert sock.recv(1000).startswith(b"GET /secret HTTP/1.1\r\n")
        sock.sendall(OK)
        assert client.answer()[1] == b"ok"


def test_a_head_that_came_before_is_decided_on_by_the_changed_list() -> None:
    with origin(answering(OK, OK)) as server, proxy() as (running, port), Client(port) as client:
        same = f"GET http://{server.authority}/ HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n"
        for _ in range(2):
            client.send(same)
            assert client.answer()[1] == b"ok"
        running.apply("!127.0.0.0/8\n")
        with Client(port) as other:
            other.send(same)
            assert other.head().startswith("HTTP/1.1 403")
