"""A line of the data plane that notes what it hears, and a router with such a line."""

from __future__ import annotations

import contextlib
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

from egress_router.relay.dataplane import MAX_NEWS, DataPlane, Forwarding, Limits
from tests.ports import free_port
from tests.serving import listening
from tests.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from egress_router.grammar.address import Target
    from egress_router.relay._plane import Failures
    from egress_router.relay.news import End, Identity
    from tests.unit.relay.relay_thread import RelayThread

REFUSED, NO_ADDRESS, FORBIDDEN, FULL, CLIENT_FULL, LOOP = 6, 10, 11, 12, 13, 15


class Line(Forwarding):
    def __init__(self, connect_seconds: float = 10.0, *, tells: bool = True) -> None:
        super().__init__(connect_seconds, 60.0, 0, tells)
        self.asked = 0
        self.heard: list[tuple[str, Target, Failures]] = []
        self.ends: list[End] = []

    def wanted(self) -> None:
        self.asked += 1

    def connected(
        self, client: str, target: Target, _seconds: float, failures: Failures, _: Identity
    ) -> None:
        self.heard.append((client, target, failures))

    def ended(self, end: End) -> None:
        self.ends.append(end)


class Router:
    """A data plane that listens on one port, and servers on three addresses of one more."""

    def __init__(
        self, relay_thread: RelayThread, limits: Limits | None = None, max_news: int = MAX_NEWS
    ) -> None:
        self.relay_thread = relay_thread
        self.stack = contextlib.ExitStack()
        self.plane = relay_thread.call(lambda: DataPlane(relay_thread.loop, limits, max_news=max_news))
        self.port = free_port()
        self.servers = {
            host: self.stack.enter_context(socket.create_server((host, self.port)))
            for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3")
        }
        self.listener = listening()
        self.address = ("127.0.0.1", self.listener.getsockname()[1])

    def targets(self, *hosts: str) -> tuple[Target, ...]:
        return tuple((ip_address(host), self.port) for host in hosts)

    def listen(self, line: Line, *hosts: str, good: int = -1) -> None:
        good = len(hosts) if good < 0 else good
        self.relay_thread.call(lambda: self.plane.aim(line, self.targets(*hosts), good))
        self.relay_thread.call(lambda: self.plane.listen(self.listener, line))

    def client(self, source: str = "127.0.0.1") -> socket.socket:
        return self.stack.enter_context(socket.create_connection(self.address, WAIT_SECONDS, (source, 0)))

    def served_by(self) -> str:
        """Connect, and return the address that a client came to."""
        with self.client() as client:
            client.sendall(b"x")
            return self.accepted()

    def accepted(self) -> str:
        while True:
            for host, server in self.servers.items():
                server.settimeout(0.01)
                with contextlib.suppress(TimeoutError):
                    server.accept()[0].close()
                    return host

    def close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # a test may have closed either
            self.relay_thread.call(lambda: self.plane.stop_listening(self.listener))
        self.relay_thread.call(self.plane.close)
        self.stack.close()
