"""A view whose answers a test chooses, and the endpoint over it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING

from egress_router.admin.app import Limits, serve
from egress_router.clock import SYSTEM
from egress_router.metrics import LATENCY_BUCKETS, Registry
from egress_router.service import sockets
from tests.ports import free_port
from tests.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from egress_router.clock import Clock
    from egress_router.metrics import Snapshot
    from egress_router.service.mode import Json


class FakeView:
    """Says what it was told to say."""

    def __init__(self) -> None:
        self.registry = Registry()
        requests = "Requests by verdict and reason."
        self.allowed = self.registry.counter("requests_total", requests, verdict="allowed", reason="rule")
        self.registry.counter("requests_total", requests, verdict="denied", reason="no_rule").value = 2
        self.sent = self.registry.counter("bytes_total", "Bytes relayed.", direction="sent")
        self.received = self.registry.counter("bytes_total", "Bytes relayed.", direction="received")
        self.registry.gauge("connections_open", "Client connections that are open.").value = 12
        self.registry.flag("upstream_up", "1 where it answers.", address="203.0.113.9:443").value = 1
        self.latency = self.registry.histogram("connect_seconds", "Time to connect.", LATENCY_BUCKETS)
        self.latency.observe(0.003)
        self.latency.observe(99)
        self.health_problems: tuple[str, ...] = ()
        self.ready_problems: tuple[str, ...] = ()
        self.asked = 0  # how often for its status
        self.snapshots = self.registry.gauge("snapshots", "Which snapshot this is.")
        self.make_status: Callable[[], Awaitable[dict[str, Json]]] | None = None  # in its place
        self.answer: dict[str, Json] = {
            "mode": "http-proxy",
            "version": "1.0.0",
            "started": time.time() - 3 * 86400,
            "interface": {
                "name": "macvlan0",
                "up": True,
                "addresses": ["192.168.12.99"],
                "gateways": [{"address": "192.168.12.1", "answers": True}],
            },
            "workers": [{"index": 0, "pid": 7, "serves": True, "seconds": 9}],
            "ports": [8080],
            "reload": {
                "source": "EGRESS_HTTP_PROXY_DESTINATION_FILE /etc/egress/rules",
                "loaded": 0.0,
                "refused": None,
                "errors": [],
            },
            "rules": [{"line": 1, "text": "*.example.com", "hits": 5}],
            "upstreams": [{"destination": "db.example.com:443", "address": "203.0.113.9:443", "up": True}],
            "denied": [],
        }

    def health(self) -> tuple[str, ...]:
        return self.health_problems

    def ready(self) -> tuple[str, ...]:
        return self.ready_problems

    def snapshot(self) -> Snapshot:
        self.snapshots.value += 1
        return self.registry.snapshot()

    async def status(self) -> dict[str, Json]:
        self.asked += 1
        if self.make_status is not None:
            return await self.make_status()
        return {**self.answer, "health": list(self.health_problems), "ready": list(self.ready_problems)}


@contextlib.contextmanager
def endpoint(view: FakeView, clock: Clock = SYSTEM, limits: Limits | None = None) -> Iterator[int]:
    """Serve a view in a thread; gives the port."""
    port = free_port()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        running = asyncio.run_coroutine_threadsafe(
            serve(view, sockets.listen(port, 1)[0], clock, limits or Limits()), loop
        ).result(WAIT_SECONDS)
        yield port
        asyncio.run_coroutine_threadsafe(running.close(), loop).result(WAIT_SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_SECONDS)
        loop.close()
