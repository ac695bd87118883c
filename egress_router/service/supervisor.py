"""The first process of a proxy: owns rules and listening sockets, keeps workers running, shuts them down."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Generic, TypeVar

from egress_router import log
from egress_router.clock import SYSTEM
from egress_router.errors import ConfigError, Problem, RefusedError
from egress_router.metrics import Registry, added
from egress_router.net import open_connections
from egress_router.net.open_connections import OpenConnections
from egress_router.net.own import addresses_of
from egress_router.service import limits, loop, output, process_metrics, signals, sockets, source_ports
from egress_router.service.process import Starter
from egress_router.service.router_state import RouterState
from egress_router.service.rule_follower import RuleFollower
from egress_router.service.rule_store import RuleStore
from egress_router.service.seen_by_people import put_together
from egress_router.service.sockets import Listening
from egress_router.service.source_ports import SourcePorts
from egress_router.service.tasks import in_daemon_thread, run_until
from egress_router.service.worker_pool import WorkerPool
from egress_router.settings.catalogue import warn_of_unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from egress_router.metrics import Snapshot
    from egress_router.service.mode import Json, Mode
    from egress_router.service.process import Work
    from egress_router.service.view import ServeAdministration
    from egress_router.settings.common import ProxySettings
    from egress_router.settings.variables import Source

Rules = TypeVar("Rules")
_log = log.get("service")


def run(
    mode: Mode[Rules],
    settings: ProxySettings,
    source: Source,
    work: Work,
    administration: Callable[[], ServeAdministration],
) -> int:
    """Run a proxy until it was shut down by SIGTERM or SIGINT; return the exit status.

    `work` is what a worker runs; `administration` imports the endpoint, which takes longer than a worker
    needs to start serving.

    Raises:
        ConfigError: the rules are wrong.
        RefusedError: a port is not available.
    """
    registry = Registry()
    output.start(settings.runtime, registry)
    warn_of_unknown(os.environ)
    process_metrics.register(registry)
    limits.raise_descriptors()
    rule_store = RuleStore(mode, source, registry)
    starter = Starter(work)
    starter.prepare(settings.workers)

    async def main() -> None:
        supervisor = Supervisor(mode.name, settings, source, registry, rule_store, starter)
        await supervisor.run(administration)

    loop.run(main)
    return 0


class Supervisor(Generic[Rules]):
    """Ties together rules, sockets, workers and signals; answers the administration endpoint."""

    def __init__(
        self,
        name: str,
        settings: ProxySettings,
        source: Source,
        registry: Registry,
        rule_store: RuleStore[Rules],
        starter: Starter,
    ) -> None:
        self._settings = settings
        self._source = source
        self._registry = registry
        self._rule_store = rule_store
        self._state = RouterState(name, settings.interface, rule_store, SYSTEM)
        self._follower = RuleFollower(rule_store, source.paths, self._put_in_force)
        by_client = settings.max_connections_per_client is not None
        self._listening = Listening(settings.workers, by_client=by_client)
        self._pool = WorkerPool(settings.workers, starter, self._listening, registry, SYSTEM)
        admin_port = {settings.runtime.admin_port}
        self._source_ports = SourcePorts(registry, settings.interface, lambda: rule_store.ports, admin_port)
        process_metrics.describe(registry, name, self.ready)
        self._state.describe(registry)

    async def run(self, administration: Callable[[], ServeAdministration]) -> None:
        """Serve until a signal asks to end, then let open connections finish."""
        signals.handle(asyncio.get_running_loop(), self._end_asked, self._follower.reload)
        self._listen(self._rule_store.ports)
        port = self._settings.runtime.admin_port
        own = sockets.listen(port, 1) if port else ()
        if own:
            loop.require_descriptors("load the administration endpoint")
        self._pool.start(self._rule_store.rules, self._rule_store.ports)
        endpoint = await administration()(self, *own) if own else None
        _log.info("started", mode=self._state.mode, pid=os.getpid(), workers=self._settings.workers)
        tasks = [*self._state.monitors(), self._pool.watch(), *self._follower.tasks()]
        tasks.append(self._source_ports.watch())
        try:
            await run_until(self._state.ended, tasks, self._end)
        finally:
            if endpoint is not None:
                await endpoint.close()

    def health(self) -> tuple[str, ...]:
        """See `View`."""
        return self._pool.silent()

    def ready(self) -> tuple[str, ...]:
        """See `View`."""
        return self._state.problems(*self._pool.absent(), *self._pool.silent())

    def snapshot(self) -> Snapshot:
        """See `View`."""
        workers = self._pool.snapshot()
        return added([self._registry.snapshot(), workers])

    async def status(self) -> dict[str, Json]:
        """See `View`."""
        ports = self._rule_store.ports
        others = {self._settings.runtime.admin_port}
        seen, workers = await asyncio.gather(_open_connections(ports, others), self._pool.status())
        return {
            **self._state.status(self.health(), self.ready()),
            "workers": self._pool.processes(),
            "ports": [*sorted(ports)],
            "source_ports": source_ports.shown(seen.ways, addresses_of(self._settings.interface)),
            **put_together(workers, seen),
        }

    def _end_asked(self, name: str) -> None:
        if self._state.ended.is_set():
            _log.warning("asked again to end: every connection is cut", signal=name)
            self._pool.kill()
        else:
            _log.info("asked to end", signal=name, seconds=self._settings.runtime.drain_seconds)
            self._state.standby_monitor.hand_over()
            self._state.ended.set()

    async def _end(self) -> None:
        self._state.ended.set()
        self._follower.stop()
        # Start missing workers: every accept queue needs one that empties it before the end.
        self._pool.complete()
        # Close the sockets here first: connections that arrive before a worker empties its accept queue are
        # still served, and no queue is left without a worker to empty it.
        self._listening.close()
        await self._pool.end(self._settings.runtime.drain_seconds)
        _log.info("ended")

    async def _put_in_force(self, rules: Rules, ports: frozenset[int]) -> None:
        new_ports = self._listen(ports)
        self._pool.serve(rules, ports, new_ports)

    def _listen(self, ports: frozenset[int]) -> frozenset[int]:
        """Listen on exactly these ports; return those that are new. Raises ConfigError or RefusedError."""
        own = self._settings.runtime.admin_port
        if own in ports:
            reason = "is the administration port; set EGRESS_ADMIN_PORT to another one, or to 0"
            raise ConfigError([Problem(self._source.name, None, f"port {own}", reason)])
        return self._listening.change(ports)


async def _open_connections(ports: Collection[int], others: Collection[int]) -> OpenConnections:
    """Return what the kernel's table says; nothing while it cannot be read, which the page shows, too."""
    try:
        return await in_daemon_thread(lambda: open_connections.read(ports, others))
    except RefusedError as error:
        _log.warning("open connections are not counted", error=str(error))
        return OpenConnections()
