"""Redirect mode that stays: follows its rules file, keeps the address announced, and answers questions."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import threading
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from egress_router import log, setup
from egress_router.admin.app import serve
from egress_router.errors import RefusedError
from egress_router.grammar import redirect
from egress_router.kernel import acd, conntrack
from egress_router.kernel.nat import counters, nftables
from egress_router.metrics import Registry
from egress_router.redirect.traffic import Line, Publication, RuleTable
from egress_router.service import output, process_metrics
from egress_router.service.file_watch import changes
from egress_router.service.gateway_monitor import GatewayMonitor
from egress_router.service.rule_store import RuleStore
from egress_router.service.tasks import run_until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from egress_router.grammar.redirect import Redirects
    from egress_router.metrics import Snapshot
    from egress_router.service.mode import Json
    from egress_router.settings.setup import SetupSettings
    from egress_router.settings.variables import RulesSource

ANNOUNCE_INTERVAL = 60.0  # seconds
COUNT_INTERVAL = 5.0  # seconds
_log = log.get("redirect")


class RedirectRules:
    """How redirect rules are read; no port of this process belongs to them."""

    def __init__(self, settings: SetupSettings) -> None:
        self.parse = settings.parse_rules

    @staticmethod
    def ports(_: Redirects) -> frozenset[int]:
        """See `Reader`."""
        return frozenset()

    @staticmethod
    def summary(redirects: Redirects) -> tuple[str, ...]:
        """See `Reader`."""
        return tuple(redirect.printed(redirects).splitlines())


def stay(settings: SetupSettings, source: RulesSource, established: setup.Established) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: the rules became wrong since they were set up.
        RefusedError: the administration port cannot be had.
    """
    registry = Registry()
    output.start(settings.runtime, registry)
    process_metrics.register(registry)
    rule_store = RuleStore(RedirectRules(settings), source, registry, established.rules_text)
    asyncio.run(RedirectServer(settings, source, established, registry, rule_store).run())


class RedirectServer:
    """Ties together rules, announcements and counters; answers the administration endpoint."""

    def __init__(
        self,
        settings: SetupSettings,
        source: RulesSource,
        established: setup.Established,
        registry: Registry,
        rule_store: RuleStore[Redirects],
    ) -> None:
        self._settings = settings
        self._source = source
        self._established = established
        self._registry = registry
        self._rule_store = rule_store
        self._gateway_monitor = GatewayMonitor(settings.interface)
        self._publication = Publication(registry)
        self._table = RuleTable(rule_store.rules, rule_store.text)
        self._lines: list[Line] = []
        self._network_problem: str | None = None
        self._started = time.time()
        self._ended = asyncio.Event()
        process_metrics.describe(registry, "redirect", self.ready)

    async def run(self) -> None:
        """Serve until a signal says to end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_end)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        port = self._settings.runtime.admin_port
        endpoint = await serve(self, port) if port else None
        try:
            await run_until(self._ended, self._tasks(), self._end)
        finally:
            if endpoint is not None:
                await endpoint.close()

    def _asked_to_end(self) -> None:
        if self._ended.is_set():
            os._exit(0)  # asyncio would wait for threads, which may wait for the kernel
        self._ended.set()

    async def _end(self) -> None:
        self._ended.set()
        _log.info("ended; rules and address stay until the pod goes")

    def _tasks(self) -> list[Coroutine[None, None, None]]:
        tasks = [self._gateway_monitor.watch(), self._announce(), self._count()]
        if self._source.path is not None:
            tasks.append(self._watch())
        return tasks

    def health(self) -> tuple[str, ...]:
        """See `View`: this process holds nothing that a restart would repair."""
        return ()

    def ready(self) -> tuple[str, ...]:
        """See `View`."""
        ending = ("the router is ending",) if self._ended.is_set() else ()
        network = () if self._network_problem is None else (self._network_problem,)
        return ending + network + self._gateway_monitor.problems()

    def snapshot(self) -> Snapshot:
        """See `View`."""
        return self._registry.snapshot()

    async def status(self) -> dict[str, Json]:
        """See `View`."""
        return {
            "mode": "redirect",
            "version": version("egress-router"),
            "started": self._started,
            "health": list(self.health()),
            "ready": list(self.ready()),
            "interface": self._gateway_monitor.status(),
            "workers": [],
            "ports": [],
            "reload": self._rule_store.status(),
            "rules": [_shown(line) for line in self._lines],
            "denied": [],
            "upstreams": [],
        }

    async def _watch(self) -> None:
        if self._source.path is not None:
            async for _ in changes(self._source.path):
                self._reload()

    def _reload(self) -> None:
        before = self._rule_store.rules
        self._rule_store.reload(self._put_in_force)
        if self._rule_store.rules is not before:
            self._table = RuleTable(self._rule_store.rules, self._rule_store.text)

    def _put_in_force(self, redirects: Redirects, _: frozenset[int]) -> None:
        setup.put_in_force(self._settings, redirects, self._established)

    async def _announce(self) -> None:
        """Once a minute announce the address, and repair routes and addresses that somebody took away."""
        while True:
            await asyncio.sleep(ANNOUNCE_INTERVAL)
            try:
                await _in_daemon(self._keep_network)
            except RefusedError as error:
                self._network_problem = str(error)
                _log.error("the network is not as it should be", error=str(error))
            else:
                self._network_problem = None

    def _keep_network(self) -> None:
        link, _ = setup.ensure_network(self._settings)
        acd.announce(link, [source.address for source in self._settings.sources])

    async def _count(self) -> None:
        """Read the kernel's counters now and then."""
        sources = [source.address for source in self._settings.sources]
        has_counters = self._established.apply is nftables.apply
        if not has_counters:
            _log.info("traffic is not counted by line: that needs nftables")
        while True:
            try:
                if has_counters:
                    self._show(await asyncio.to_thread(counters.read))
                used = await asyncio.to_thread(conntrack.source_ports, sources)
            except RefusedError as error:
                _log.warning("no counters", error=str(error))
            else:
                self._publication.source_ports(self._table, used)
            self._publication.tracking(conntrack.usage())
            await asyncio.sleep(COUNT_INTERVAL)

    def _show(self, counts: counters.Counts) -> None:
        self._lines = self._table.lines(counts)
        self._publication.traffic(self._lines)


def _in_daemon(work: Callable[[], None]) -> asyncio.Future[None]:
    """Do what `asyncio.to_thread` does, in a thread that does not hold the process when it ends.

    The address's owner may be waited for as long as EGRESS_CLAIM_TIMEOUT.
    """
    outcome: concurrent.futures.Future[None] = concurrent.futures.Future()
    outcome.set_running_or_notify_cancel()  # from here on nobody can cancel it

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (raised again, where it is awaited)
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    threading.Thread(target=run, name="network", daemon=True).start()
    return asyncio.wrap_future(outcome)


def _shown(line: Line) -> Json:
    traffic = line.traffic
    return {
        "line": line.number,
        "text": line.text,
        "hits": traffic.connections,
        "packets": traffic.sent_packets + traffic.received_packets,
        "sent_bytes": traffic.sent_bytes,
        "received_bytes": traffic.received_bytes,
    }
