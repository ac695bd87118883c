"""One worker process: a mode's server in an event loop, told what to do by the supervisor."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from egress_router.errors import RefusedError
from egress_router.metrics import Registry
from egress_router.relay.loop import PollerLoop
from egress_router.service import limits, output, process_metrics, shared_memory, signals
from egress_router.service.connection_limiter import ConnectionLimiter
from egress_router.service.control import (
    Assigned,
    Channel,
    Close,
    Drain,
    Listeners,
    Message,
    Report,
    Serve,
    Serving,
    StatusReport,
    StatusRequest,
)
from egress_router.service.mode import WorkerContext
from egress_router.service.recent_errors import RECENT
from egress_router.service.tasks import log_fault

if TYPE_CHECKING:
    from egress_router.relay.poller import Poller
    from egress_router.service.mode import Mode, Server
    from egress_router.service.shared_memory import SharedMemory
    from egress_router.settings.common import ProxySettings

Rules = TypeVar("Rules")
_REPORT_SECONDS = 1.0
_DRAIN_POLL_SECONDS = 0.05
# Allocations minus releases that start a collection. With Python's default, 700, the collector takes 4 % of a
# CONNECT (Python 3.11, docs/decisions/performance.md), and finds nothing.
_COLLECT_AFTER = 10_000
_REMEDY = "raise the limit of open files"


def run(mode: Mode[Rules], settings: ProxySettings, control: socket.socket) -> int:
    """Serve until the supervisor, at the other end of `control`, says to end or is gone."""
    # A terminal signals the whole process group; the supervisor decides what happens on Ctrl-C.
    for number in signals.HELD:
        signal.signal(number, signal.SIG_IGN)
    signals.release()
    registry = Registry()
    RECENT.forget()
    output.start(settings.runtime, registry)
    process_metrics.register(registry)
    loop = PollerLoop()
    loop.set_exception_handler(log_fault)
    worker = Worker(mode, settings, registry, loop, loop.poller, control)
    try:
        loop.run_forever()
    finally:
        worker.close()
        _cancel_tasks(loop)
        loop.close()
        output.finish()
    if worker.fault is not None:
        raise worker.fault
    return 0


class Worker(Generic[Rules]):
    """Carries out the supervisor's messages; stops the loop when everything is done.

    `fault` is why it stopped, if it could not put rules in force: a worker with other rules than the rest
    must not go on.
    """

    def __init__(
        self,
        mode: Mode[Rules],
        settings: ProxySettings,
        registry: Registry,
        loop: asyncio.AbstractEventLoop,
        poller: Poller,
        control: socket.socket,
    ) -> None:
        self._mode = mode
        self._settings = settings
        self._registry = registry
        self._loop = loop
        self._poller = poller
        self._sockets: dict[int, socket.socket] = {}
        self._shared: SharedMemory | None = None
        self._server: Server[Rules] | None = None
        self._open = registry.gauge("connections_open", "Client connections that are open.")
        self.fault: Exception | None = None
        self._channel = Channel(loop, control, self._received, loop.stop)

    def close(self) -> None:
        """Close every connection and the channel to the supervisor."""
        if self._server is not None:
            self._server.close_all()
        self._channel.close()

    def _received(self, message: Message, descriptors: list[int]) -> None:
        match message:
            case Assigned(slot, workers):
                self._shared = shared_memory.mapped(descriptors[0], workers, slot)
                os.close(descriptors[0])
            case Listeners(ports):
                sockets = (socket.socket(fileno=each) for each in descriptors)
                self._sockets |= dict(zip(ports, sockets, strict=True))
            case Serve(rules, ports):
                try:
                    # The supervisor made these rules with `Mode.parse` of the same code.
                    self._serve(cast("Rules", rules), ports)
                except Exception as error:  # noqa: BLE001 (see `fault`)
                    self.fault = error
                    self._loop.stop()
            case StatusRequest(number):
                status = {} if self._server is None else self._server.status()
                self._channel.send(StatusReport(number, {**status, "recent_errors": RECENT.shown()}))
            case Drain():
                self._drain()
            case Close():
                self._loop.stop()
            case _:
                raise AssertionError(f"the supervisor sent {message!r}")

    def _serve(self, rules: Rules, ports: frozenset[int]) -> None:
        self._sockets = {port: each for port, each in self._sockets.items() if port in ports}
        if missing := ports - self._sockets.keys():
            # If it went on, this worker's share of the clients would get no answer.
            raise RefusedError(f"no socket came for {len(missing)} of {len(ports)} ports", _REMEDY)
        if self._server is None:
            self._server = self._built(rules, len(ports))
            self._server.listen(self._sockets)
            # Objects made at start-up live as long as the process. The collector need not visit them: with a
            # list of 50,000 rules that would stop this worker for 30 ms.
            gc.collect()
            gc.freeze()
            # Reference counts free connections; a collection while they are open would find no garbage.
            gc.set_threshold(_COLLECT_AFTER)
            self._channel.send(Serving())
            self._report()
        else:
            self._server.apply(rules)
            self._server.listen(self._sockets)

    def _built(self, rules: Rules, ports: int) -> Server[Rules]:
        settings = self._settings
        shared = self._shared or shared_memory.unshared()
        descriptors = limits.raise_descriptors()
        possible = limits.connections(settings.max_connections, settings.workers, descriptors, ports)
        limiter = ConnectionLimiter(
            self._registry,
            settings.max_connections,
            settings.max_connections_per_client,
            shared,
            possible,
        )
        context = WorkerContext(
            self._loop, self._poller, self._registry, limiter, settings.runtime.drain_seconds, shared
        )
        return self._mode.build(context, rules)

    def _report(self) -> None:
        self._loop.call_later(_REPORT_SECONDS, self._report)
        if self._server is not None:
            self._open.value = self._server.open_connections()
        if self._channel.is_idle:  # a busy supervisor gets the next report
            self._channel.send(Report(self._registry.snapshot()))

    def _drain(self) -> None:
        if self._server is not None:
            self._server.stop_accepting()
        self._end_when_empty()

    def _end_when_empty(self) -> None:
        if self._server is None or not self._server.open_connections():
            self._loop.stop()
        else:
            self._loop.call_later(_DRAIN_POLL_SECONDS, self._end_when_empty)


def _cancel_tasks(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks))
