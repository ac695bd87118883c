"""How much traffic there is now and was in the last hour. A few kilobytes, whatever the traffic."""

from __future__ import annotations

import asyncio
from collections import deque
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
# What a person wants to see, the metrics that it may come from (the mode has one of them), and a label.
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
        self._samples: deque[dict[str, float]] = deque(maxlen=_SAMPLES)
        self._count = 0
        self.tick()

    async def record(self) -> None:
        """Tick for ever."""
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
        self._ticks.append((self._clock.monotonic(), {**totals, "open": _total(snapshot, _OPEN)}))
        self._count += 1
        if self._count % _TICKS_A_SAMPLE == 0:
            self._samples.append(self._rates())

    def status(self) -> dict[str, Json]:
        """Return `problems`, `now` (amounts a second, open connections) and `history`: the same in time."""
        now = self._rates()
        columns: dict[str, Json] = {name: [sample[name] for sample in self._samples] for name in now}
        seconds = _TICK * _TICKS_A_SAMPLE
        return {
            "problems": self._troubles.status(),
            "now": dict(now),
            "history": {"seconds": seconds, **columns},
        }

    def _rates(self) -> dict[str, float]:
        (start, before), (end, after) = self._ticks[0], self._ticks[-1]
        seconds = max(end - start, 1e-3)
        rates = {name: round(max(0.0, after[name] - before[name]) / seconds, 2) for name in _RATES}
        return {**rates, "open": after["open"]}


def _total(snapshot: Snapshot, metric: str, label: tuple[str, str] | None = None) -> float:
    family = snapshot.get(metric)
    if family is None:
        return 0.0
    return sum(value for labels, value in family.numbers.items() if label is None or label in labels)
