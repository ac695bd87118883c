from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, TypeVar

from egress_router.metrics import Number, Registry
from egress_router.relay.dataplane import QUIET, DataPlane
from egress_router.relay.deadlines import Deadlines
from egress_router.relay.tunnel import Closing, Relay, Tunnel
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.relay.poller import Poller

T = TypeVar("T")


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    near.settimeout(WAIT_SECONDS)
    far.settimeout(WAIT_SECONDS)
    return near, far


class RelayThread:
    """A relay in a thread; the peers of its tunnels are plain blocking sockets in the test."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, poller: Poller, quiet: float = QUIET, most_held: int = 1 << 60
    ) -> None:
        self.loop = loop
        self.thread = threading.Thread(target=loop.run_forever)
        self.thread.start()
        self.closings: list[Closing] = []
        self.closed: dict[Tunnel, Closing] = {}
        self._tunnels: list[Tunnel] = []
        self._peers: list[socket.socket] = []
        self.inner: tuple[int, int] = (-1, -1)
        self.poller = poller
        self.deadlines = self.call(lambda: Deadlines(loop, tick=0.1))
        self.plane = self.call(lambda: DataPlane(loop, quiet=quiet, most_held=most_held))
        self.relay = self.call(lambda: Relay(self.plane, self.poller))
        self.registry = Registry()
        self.sent, self.received = Number(), Number()
        self.plane.count(self.registry, self.sent, self.received)

    def call(self, function: Callable[[], T]) -> T:
        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(WAIT_SECONDS)

    def tunnel(
        self,
        idle: float = 60.0,
        *,
        to_upstream: bytes = b"",
        to_client: bytes = b"",
        send_buffer: int | None = None,
    ) -> tuple[socket.socket, socket.socket, Tunnel]:
        """Return the client, the server and the tunnel between them."""
        client, inner_client = pair()
        inner_server, server = pair()
        self._peers += [client, server]
        for sock in (inner_client, inner_server):
            sock.setblocking(False)
            if send_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self.inner = (inner_client.fileno(), inner_server.fileno())

        def ended(closing: Closing) -> None:
            self.closings.append(closing)
            self.closed[tunnel] = closing

        tunnel = self.call(
            lambda: self.relay.start(
                inner_client, inner_server, idle, ended, to_upstream=to_upstream, to_client=to_client
            )
        )
        self._tunnels.append(tunnel)
        return client, server, tunnel

    def closing(self) -> Closing:
        until(lambda: self.closings)
        assert len(self.closings) == 1
        return self.closings[0]

    def close(self) -> None:
        for tunnel in self._tunnels:
            self.call(tunnel.close)
        for peer in self._peers:
            peer.close()
        self.call(self.plane.close)
        self.call(self.deadlines.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(WAIT_SECONDS)
        self.loop.close()
        self.poller.close()
