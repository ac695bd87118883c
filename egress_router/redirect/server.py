"""The process of redirect mode: follows its rules file, keeps the address announced, answers questions."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.admin.app import serve
from egress_router.clock import SYSTEM
from egress_router.kernel import flows
from egress_router.kernel.nat import nftables
from egress_router.metrics import Registry
from egress_router.names.resolver import Resolver
from egress_router.records import RecordLog
from egress_router.redirect.admin_rules import AdminRules
from egress_router.redirect.enforced import EnforcedPolicy
from egress_router.redirect.flow_log import FlowLog
from egress_router.redirect.line_counts import LineCounts
from egress_router.redirect.names import LineNames
from egress_router.redirect.rejections import Rejections
from egress_router.redirect.rules import RedirectRules
from egress_router.redirect.updates import NameUpdates
from egress_router.redirect.upkeep import Upkeep
from egress_router.redirect.usable import Usable
from egress_router.service import loop, output, process_metrics, signals, sockets
from egress_router.service.recent_errors import RECENT
from egress_router.service.router_state import RouterState
from egress_router.service.rule_follower import RuleFollower
from egress_router.service.rule_store import RuleStore
from egress_router.service.tasks import in_daemon_thread, run_until
from egress_router.setup import nat_rules
from egress_router.upstreams.report import UpstreamReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.grammar.redirect import Redirects
    from egress_router.metrics import Snapshot
    from egress_router.redirect.intervals import Intervals
    from egress_router.redirect.lines import Departure, Resolved
    from egress_router.service.mode import Json
    from egress_router.settings.policy import Guarded, GuardedSource
    from egress_router.settings.setup import SetupSettings
    from egress_router.setup.nat_rules import Established
    from egress_router.standby.agent import Agent

_ENDED_POLL_SECONDS = 0.01
_log = log.get("redirect")


def stay(
    settings: SetupSettings, source: GuardedSource, established: Established, intervals: Intervals
) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: the rules have become wrong since they were set up.
        RefusedError: the administration port is not available.
    """
    registry = Registry()
    output.start(settings.runtime, registry)
    process_metrics.register(registry)
    rule_store = RuleStore(RedirectRules(settings, source), source, registry, established.rules_text)

    async def main() -> None:
        await RedirectServer(settings, source, established, registry, rule_store, intervals).run()

    loop.run(main)


class RedirectServer:
    """Ties together rules, announcements and counters; answers the administration endpoint."""

    def __init__(
        self,
        settings: SetupSettings,
        source: GuardedSource,
        established: Established,
        registry: Registry,
        rule_store: RuleStore[Guarded[Redirects]],
        intervals: Intervals,
    ) -> None:
        self._settings = settings
        self._upkeep = Upkeep(
            settings, established, lambda: rule_store.rules.rules, self._put_again, intervals
        )
        self._admin_rules = AdminRules(
            settings.admin_rules, lambda: nat_rules.read_admin_rules(settings, established.apply)
        )
        self._registry = registry
        self._rule_store = rule_store
        self._state = RouterState("redirect", settings.interface, rule_store, SYSTEM)
        self._follower = RuleFollower(rule_store, source.paths, self._put_in_force)
        self._updates = NameUpdates(
            self._put, self._move, lambda: rule_store.rules, registry, established.resolved
        )
        resolver = _resolver(settings, registry, established.resolved)
        usable = Usable(settings.router, settings.interface, lambda: rule_store.rules.rules)
        self._names = LineNames(resolver, UpstreamReport(registry, _log), usable, self._updates.changed)
        policy, on_change = rule_store.rules.policy, self._updates.policy_changed
        self._policy = EnforcedPolicy(
            registry, resolver, settings.drain_seconds, policy, established, on_change
        )
        self._records = RecordLog(everything=settings.access_log)
        self._has_counters = has_counters = established.apply is nftables.apply
        destinations = self._names.destinations
        self._counts = LineCounts(
            source, rule_store, registry, destinations, intervals.count, has_counters=has_counters
        )
        self._rejections = Rejections(self._records, self._counts.line_of, self._policy.entry_of, SYSTEM)
        self._agent = _agent(settings, established)
        process_metrics.describe(registry, "redirect", self.ready)
        self._state.describe(registry)

    async def run(self) -> None:
        """Serve until a signal says to end."""
        signals.handle(asyncio.get_running_loop(), self._end_asked, self._follower.reload)
        if self._has_counters:
            await self._rejections.look()
        port = self._settings.runtime.admin_port
        endpoint = await serve(self, sockets.listen(port, 1)[0]) if port else None
        tasks = [*self._state.monitors(), *self._follower.tasks()]
        tasks += [self._upkeep.run(), self._updates.run(self._names), *self._admin_rules.tasks()]
        tasks += [self._counts.run(self._sources, self._policy), self._policy.cut()]
        if self._has_counters:
            tasks.append(self._rejections.run())
        if self._settings.access_log:
            flows = FlowLog(self._registry, self._records, self._counts.line_of, SYSTEM)
            # Also those that it does not hold yet: one that another station has may be claimed later.
            tasks.append(flows.run([each.address for each in self._settings.sources]))
        if self._agent is not None:
            self._agent.start()
            tasks.append(self._agent.until_failure())
        try:
            await run_until(self._state.ended, tasks, self._end)
        finally:
            self._policy.close()
            self._names.close()
            if endpoint is not None:
                await endpoint.close()

    def _end_asked(self, name: str) -> None:
        if self._state.ended.is_set():
            os._exit(0)  # asyncio would wait for threads, which may wait for the kernel
        if self._agent is not None:
            self._agent.leave()
        _log.info("asked to end", signal=name)
        self._state.ended.set()

    async def _end(self) -> None:
        self._state.ended.set()
        self._follower.stop()
        if self._agent is not None:
            while not self._agent.ended.is_set():  # noqa: ASYNC110 (to wait in a thread would need one to start)
                await asyncio.sleep(_ENDED_POLL_SECONDS)
            _log.info("ended; this pod no longer sends from the source address")
        else:
            _log.info("ended; rules and address stay until the pod goes")

    def health(self) -> tuple[str, ...]:
        """See `View`: there is nothing that a restart of this process would repair."""
        return ()

    def ready(self) -> tuple[str, ...]:
        """See `View`."""
        problem = self._upkeep.problem
        return self._state.problems(*(() if problem is None else (problem,)))

    def snapshot(self) -> Snapshot:
        """See `View`."""
        return self._registry.snapshot()

    async def status(self) -> dict[str, Json]:
        """See `View`."""
        return {
            **self._state.status(self.health(), self.ready()),
            "workers": [],
            "ports": [],
            "rules": self._counts.shown(),
            "policy": self._policy.shown(),
            "denied": self._rejections.latest(),
            "busiest": self._counts.busiest,
            "recent_errors": RECENT.shown()[::-1],
            "upstreams": [{**upstream.shown()} for upstream in self._names.upstreams()],
            "admin_rules": await self._admin_rules.shown(),
            "source_ports": self._counts.source_ports(),
        }

    def _sources(self) -> Sequence[IPAddress]:
        return self._upkeep.established.sources

    async def _put_again(self) -> None:
        await self._updates.put_again(self._names)

    async def _put_in_force(self, guarded: Guarded[Redirects], _: frozenset[int]) -> None:
        await self._policy.prepare(guarded.policy)
        try:
            await self._updates.put_in_force(self._names, guarded)
        finally:
            self._policy.settle()

    async def _put(self, guarded: Guarded[Redirects], resolved: Resolved) -> None:
        await self._policy.put(
            guarded.policy,
            lambda names: nat_rules.put_in_force(
                self._settings, guarded, self._upkeep.established, resolved, names
            ),
        )

    async def _move(self, departed: Sequence[Departure]) -> None:
        """End the UDP flows to addresses that names no longer have; their next packets begin new ones."""
        found = [flows.UdpFlows(each.line.first, each.line.last, each.address) for each in departed]

        def move() -> None:
            count = flows.forget(found)
            _log.info("UDP flows are moved to the current addresses of their names", flows=count)

        await in_daemon_thread(move)


def _resolver(settings: SetupSettings, registry: Registry, known: Resolved) -> Resolver:
    """Return a resolver that remembers what setup has found."""
    resolver = Resolver(settings.names, registry)
    for line, addresses in known.items():
        if addresses:
            resolver.remember(line.name, addresses)
    return resolver


def _agent(settings: SetupSettings, established: Established) -> Agent | None:
    """Return the agent that decides whether this router of a group is active; None without a group."""
    if established.standby is None or settings.standby is None:
        return None
    # A router without a group need not load this.
    from egress_router.standby.server import assemble  # noqa: PLC0415

    return assemble(established.standby, settings.standby)
