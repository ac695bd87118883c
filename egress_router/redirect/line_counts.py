"""What went through each line, as the kernel counts it: metrics, `/status`, the busiest clients and lines."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.kernel import conntrack
from egress_router.kernel.nat import counters
from egress_router.kernel.nat.connect_times import ConnectTimes
from egress_router.redirect.traffic import LineTraffic, RedirectMetrics, RuleTable
from egress_router.service.busiest import busiest
from egress_router.service.tasks import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.grammar.redirect import NamedRedirect, Redirects
    from egress_router.kernel.nat.connect_times import ConnectTime
    from egress_router.metrics import Registry
    from egress_router.redirect.enforced import EnforcedPolicy
    from egress_router.redirect.traffic import LineOf
    from egress_router.service.mode import Json
    from egress_router.service.rule_store import RuleStore
    from egress_router.settings.policy import Guarded, GuardedSource

_log = log.get("redirect")


class LineCounts:
    """Reads the kernel's counters, and assigns them to the lines in force."""

    def __init__(
        self,
        source: GuardedSource,
        rule_store: RuleStore[Guarded[Redirects]],
        registry: Registry,
        destinations: Callable[[], Mapping[NamedRedirect, tuple[IPAddress, ...]]],
        interval: float,
        *,
        has_counters: bool,
    ) -> None:
        self._source = source
        self._rule_store = rule_store
        self._destinations = destinations
        self._interval = interval
        self._has_counters = has_counters
        self._metrics = RedirectMetrics(registry)
        self._times = ConnectTimes()
        self._table = self._new_table()
        self._lines: list[LineTraffic] = []
        self.busiest = busiest(Counter(), Counter())

    def shown(self) -> list[Json]:
        """Return the lines for `/status`."""
        return [_shown(line) for line in self._lines]

    def source_ports(self) -> list[Json]:
        """Return the use of source ports for `/status`."""
        return [{**each} for each in self._metrics.source_ports()]

    async def run(self, sources: Callable[[], Sequence[IPAddress]], policy: EnforcedPolicy) -> None:
        """Read the kernel's counters at intervals, until cancelled."""
        if not self._has_counters:
            _log.info("traffic is not counted by line: that needs nftables")
        while True:
            try:
                seen = await in_daemon_thread(functools.partial(self._read, sources()))
            except RefusedError as error:
                _log.warning("counters cannot be read", error=str(error))
            else:
                self._show(*seen)
            await policy.count()
            self._metrics.tracking(conntrack.usage())
            await asyncio.sleep(self._interval)

    def _read(
        self, sources: Sequence[IPAddress]
    ) -> tuple[counters.Counts | None, conntrack.Connections, Sequence[ConnectTime]]:
        # The times first: then the later counts include every line that they belong to.
        times = self._times.read() if self._has_counters else []
        counts = counters.read() if self._has_counters else None
        return counts, conntrack.connections(sources), times

    def _current_table(self) -> RuleTable:
        if self._table.redirects is not self._rule_store.rules.rules:
            self._table = self._new_table()
        return self._table

    def line_of(self, protocol: str, version: int, port: int) -> LineOf | None:
        """Return the line that a local port belongs to."""
        return self._current_table().line_of(protocol, version, port)

    def _new_table(self) -> RuleTable:
        store = self._rule_store
        return RuleTable(store.rules.rules, self._source.rules_of(store.text))

    def _show(
        self, counts: counters.Counts | None, tracked: conntrack.Connections, times: Iterable[ConnectTime]
    ) -> None:
        table = self._current_table()
        if counts is not None:
            self._lines = table.lines(counts, tracked.waiting)
            self._metrics.traffic(self._lines, table.without_line(counts))
        self._metrics.connected(table, times)
        table.lead(self._destinations())
        self.busiest = busiest(
            Counter({str(each): count for each, count in tracked.clients.items()}),
            table.by_line(tracked.local_ports),
        )
        self._metrics.tracked(table, tracked)


def _shown(line: LineTraffic) -> Json:
    traffic = line.traffic
    return {
        "line": line.number,
        "text": line.text,
        "hits": traffic.connections,
        "failures": traffic.failures + traffic.closed,
        "packets": traffic.sent_packets + traffic.received_packets,
        "sent_bytes": traffic.sent_bytes,
        "received_bytes": traffic.received_bytes,
    }
