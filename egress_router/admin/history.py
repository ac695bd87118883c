"""How much traffic there is now and was in the last hour, in a few kilobytes of memory."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import zip_longest
from typing import TYPE_CHECKING

from egress_router.admin.troubles import AS_IT_SHOULD, Troubles

if TYPE_CHECKING:
    from egress_router.clock import Clock
    from egress_router.metrics import Snapshot
    from egress_router.service.mode import Json
    from egress_router.service.view import View

_TICK = 2.0  # seconds
_TICKS_A_SAMPLE = 5
_SAMPLES = 360
_OPEN = "connections_open"
_CONNECT = "connect_seconds"
_QUANTILE = 0.9
# What is shown, the metrics that it may come from (each mode has one of them), and the label that counts.
_RATES: dict[str, tuple[tuple[str, ...], tuple[str, str] | None]] = {
    "requests": (("requests_total", "connections_total"), None),
    "sent_bytes": (("bytes_total",), ("direction", "sent")),
    "received_bytes": (("bytes_total",), ("direction", "received")),
    "failures": (("upstream_failures_total", "connections_total"), None),
}


class History:
    """Rates over the last ten seconds, and one sample of them for each ten seconds of the last hour."""

    def __init__(self, view: View, clock: Clock) -> None:
        self._view = view
        self._clock = clock
        self._troubles = Troubles(clock)
        self._ticks: deque[tuple[float, dict[str, float]]] = deque(maxlen=_TICKS_A_SAMPLE + 1)
        self._connects: deque[list[int]] = deque(maxlen=_TICKS_A_SAMPLE + 1)
        self._bounds: tuple[float, ...] = ()
        self._samples: deque[dict[str, float | None]] = deque(maxlen=_SAMPLES)
        self._count = 0
        self.tick()

    async def record(self) -> None:
        """Tick until cancelled."""
        while True:
            await asyncio.sleep(_TICK)
            self.tick()

    def tick(self) -> None:
        """Note the totals of now, and what is wrong."""
        snapshot = self._view.snapshot()
        self._troubles.look(snapshot, self._view.health(), self._view.ready())
        totals = {
            name: sum(_total(snapshot, metric, label) for metric in metrics)
            for name, (metrics, label) in _RATES.items()
        }
        for metric, result in AS_IT_SHOULD:
            totals["failures"] -= _total(snapshot, metric, ("result", result))
        self._bounds, counts = _histogram(snapshot, _CONNECT)
        self._connects.append(counts)
        self._ticks.append((self._clock.monotonic(), {**totals, "open": _total(snapshot, _OPEN)}))
        self._count += 1
        if self._count % _TICKS_A_SAMPLE == 0:
            self._samples.append(self._rates())

    def status(self) -> dict[str, Json]:
        """Return `problems`, `now`, and `history`: the values of `now` over the last hour.

        The values: amounts a second, open connections, and the time in which nine of ten connects were done.
        """
        now = self._rates()
        columns: dict[str, Json] = {name: [sample[name] for sample in self._samples] for name in now}
        seconds = _TICK * _TICKS_A_SAMPLE
        return {
            "problems": self._troubles.status(),
            "now": dict(now),
            "history": {"seconds": seconds, **columns},
        }

    def _rates(self) -> dict[str, float | None]:
        (start, before), (end, after) = self._ticks[0], self._ticks[-1]
        seconds = max(end - start, 1e-3)
        rates = {name: round(max(0.0, after[name] - before[name]) / seconds, 2) for name in _RATES}
        before_counts, counts = self._connects[0], self._connects[-1]
        more = [now - then for now, then in zip_longest(counts, before_counts, fillvalue=0)]
        return {**rates, "open": after["open"], "connect_seconds": quantile(self._bounds, more)}


def quantile(bounds: tuple[float, ...], counts: list[int]) -> float | None:
    """Return the time in which nine of ten were done, interpolated between bounds; None: there were none."""
    total, below = sum(counts), 0
    if total <= 0 or min(counts) < 0:  # a worker died, and its latest counts are lost
        return None
    for index, bound in enumerate(bounds):
        if below + counts[index] >= _QUANTILE * total:
            start = bounds[index - 1] if index else 0.0
            part = (_QUANTILE * total - below) / counts[index]
            return round(start + (bound - start) * part, 5)
        below += counts[index]
    return bounds[-1]


def _histogram(snapshot: Snapshot, metric: str) -> tuple[tuple[float, ...], list[int]]:
    family = snapshot.get(metric)
    found: tuple[tuple[float, ...], list[int]] = ((), [])
    for bounds, counts, _ in () if family is None else family.histograms.values():
        found = (bounds, [one + other for one, other in zip_longest(found[1], counts, fillvalue=0)])
    return found


def _total(snapshot: Snapshot, metric: str, label: tuple[str, str] | None = None) -> float:
    family = snapshot.get(metric)
    if family is None:
        return 0.0
    return sum(value for labels, value in family.numbers.items() if label is None or label in labels)
