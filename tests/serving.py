"""Runs a mode's server in this process, on loopback ports of its own, so that tests can talk to it."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import uvloop

from egress_router.metrics import Registry
from egress_router.relay.loop import PollerLoop
from egress_router.relay.poller import Poller
from egress_router.service.connection_limiter import ConnectionLimiter
from egress_router.service.mode import Server, WorkerContext
from tests.ports import free_port
from tests.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from egress_router.service.mode import Mode

Rules = TypeVar("Rules")
T = TypeVar("T")


def own_loop() -> tuple[asyncio.AbstractEventLoop, Poller]:
    """Return what a worker has: the standard loop on the poller's epoll set."""
    loop = PollerLoop()
    return loop, loop.poller


def nested_in(loop: asyncio.AbstractEventLoop) -> tuple[asyncio.AbstractEventLoop, Poller]:
    """Return a loop with a set of its own, and a poller nested in it."""
    epoll = select.epoll()
    poller = Poller(epoll, lambda: loop.call_soon(poller.poll, 0.0))
    loop.add_reader(epoll.fileno(), poller.poll, 0.0)
    return loop, poller


LOOPS: dict[str, Callable[[], tuple[asyncio.AbstractEventLoop, Poller]]] = {
    "own": own_loop,
    "standard": lambda: nested_in(asyncio.new_event_loop()),
    "uvloop": lambda: nested_in(uvloop.new_event_loop()),
}


@dataclass(frozen=True)
class Running(Generic[Rules]):
    """A server that serves in a thread; `ports` maps each port of the rules to the one it listens on here.

    `sockets` are those it listens on, by ports of the rules.
    """

    mode: Mode[Rules]
    server: Server[Rules]
    context: WorkerContext
    ports: dict[int, int]
    sockets: dict[int, socket.socket]

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in the server's loop and return what it returns."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.context.loop).result(WAIT_SECONDS)

    def apply(self, text: str) -> None:
        """Put other rules in force; new ports of theirs are not listened on."""
        rules = self.mode.parse("RULES", text)
        self.call(lambda: self.server.apply(rules))


@contextlib.contextmanager
def serving(
    mode: Mode[Rules],
    text: str,
    *,
    loop: str = "own",
    most: int = 10_000,
    per_client: int | None = None,
    drain_seconds: float = 25.0,
) -> Iterator[Running[Rules]]:
    """Serve `text` with `mode` on free loopback ports, IPv4 and IPv6, until the block ends."""
    event_loop, poller = LOOPS[loop]()
    thread = threading.Thread(target=event_loop.run_forever, name=f"{mode.name} under test")
    thread.start()
    try:

        async def build() -> Running[Rules]:
            registry = Registry()
            limiter = ConnectionLimiter(registry, most, per_client)
            context = WorkerContext(event_loop, poller, registry, limiter, drain_seconds)
            rules = mode.parse("RULES", text)
            server = mode.build(context, rules)
            sockets = {port: listening() for port in mode.ports(rules)}
            server.listen(sockets)
            ports = {port: each.getsockname()[1] for port, each in sockets.items()}
            return Running(mode, server, context, ports, sockets)

        running = asyncio.run_coroutine_threadsafe(build(), event_loop).result(WAIT_SECONDS)
        try:
            yield running
        finally:
            running.call(running.server.stop_accepting)
            running.call(running.server.close_all)
            asyncio.run_coroutine_threadsafe(_end_tasks(), event_loop).result(WAIT_SECONDS)
    finally:
        event_loop.call_soon_threadsafe(event_loop.stop)
        thread.join(WAIT_SECONDS)
        event_loop.close()
        poller.close()


async def _end_tasks() -> None:
    """Cancel all tasks and let them end, as a worker does."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def listening() -> socket.socket:
    """Return a non-blocking socket that listens on a free port, for IPv4 and IPv6; no other test gets the port."""
    made = socket.create_server(
        ("::", free_port()), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
    )
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
