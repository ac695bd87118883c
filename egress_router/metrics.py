"""Counters that cost one addition in the hot path, and the snapshots that carry them between processes.

A worker has a `Registry` and sets the handles that it gave out (`counter.value += 1`). A `Snapshot` is plain
data: it goes from worker to supervisor, several are added up, and the sum is rendered for Prometheus.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Labels = tuple[tuple[str, str], ...]
Kind = Literal["counter", "gauge", "flag", "histogram"]

PREFIX = "egress_router_"
# Seconds: from a connection inside the node to a time-out.
LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# Seconds: from one short request to a connection that lasts a working day.
DURATION_BUCKETS = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 36000.0)


class Number:
    """A counter or a gauge; the hot path adds to `value` directly."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Histogram:
    """Observations counted by upper bound; the last count is for what is above every bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, counts: Iterable[int], total: float) -> None:
        """Add counts that were made elsewhere with the same bounds."""
        self.counts = [own + more for own, more in zip(self.counts, counts, strict=True)]
        self.total += total


@dataclass(slots=True)
class Family:
    """All samples of one metric name: numbers by labels, or histogram states by labels."""

    kind: Kind
    meaning: str
    numbers: dict[Labels, float] = field(default_factory=dict)
    histograms: dict[Labels, tuple[tuple[float, ...], list[int], float]] = field(default_factory=dict)


Snapshot = dict[str, Family]


class Registry:
    """Gives out handles by name and labels; the same name and labels give the same handle.

    Names are written without the common prefix and follow Prometheus: base units, `_total` for counters.
    Label values are rules, reasons and modes, never anything that a client chose.
    """

    def __init__(self) -> None:
        self._meanings: dict[str, tuple[Kind, str]] = {}
        self._numbers: dict[tuple[str, Labels], Number] = {}
        self._histograms: dict[tuple[str, Labels], Histogram] = {}
        self._refreshers: list[Callable[[], None]] = []

    def counter(self, name: str, meaning: str, **labels: str) -> Number:
        """Return the counter of this name and these labels."""
        return self._number("counter", name, meaning, labels)

    def gauge(self, name: str, meaning: str, **labels: str) -> Number:
        """Return the gauge of this name and these labels; gauges of several workers add up."""
        return self._number("gauge", name, meaning, labels)

    def flag(self, name: str, meaning: str, **labels: str) -> Number:
        """Return the gauge, 1 or 0, of this name and these labels; 1 where it is 1 in every worker."""
        return self._number("flag", name, meaning, labels)

    def histogram(self, name: str, meaning: str, bounds: tuple[float, ...], **labels: str) -> Histogram:
        """Return the histogram of this name and these labels."""
        self._meanings.setdefault(name, ("histogram", meaning))
        return self._histograms.setdefault((name, tuple(sorted(labels.items()))), Histogram(bounds))

    def before_snapshot(self, refresh: Callable[[], None]) -> None:
        """Call `refresh` before every snapshot, to set gauges that are derived from state."""
        self._refreshers.append(refresh)

    def forget(self, name: str) -> None:
        """Drop all samples of a name, so that no gauge stays of something that is gone (an upstream)."""
        for key in [key for key in self._numbers if key[0] == name]:
            del self._numbers[key]

    def forget_histogram(self, name: str, **labels: str) -> None:
        """Drop the histogram of this name and these labels."""
        self._histograms.pop((name, tuple(sorted(labels.items()))), None)

    def snapshot(self) -> Snapshot:
        """Return the state of everything as plain data."""
        for refresh in self._refreshers:
            refresh()
        families = {name: Family(kind, meaning) for name, (kind, meaning) in self._meanings.items()}
        for (name, labels), number in self._numbers.items():
            families[name].numbers[labels] = number.value
        for (name, labels), seen in self._histograms.items():
            families[name].histograms[labels] = (seen.bounds, list(seen.counts), seen.total)
        return families

    def _number(self, kind: Kind, name: str, meaning: str, labels: dict[str, str]) -> Number:
        self._meanings.setdefault(name, (kind, meaning))
        return self._numbers.setdefault((name, tuple(sorted(labels.items()))), Number())


def added(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return the sum of several processes' snapshots."""
    result: Snapshot = {}
    for snapshot in snapshots:
        for name, family in snapshot.items():
            _add_family(result.setdefault(name, Family(family.kind, family.meaning)), family)
    return result


def lasting(snapshot: Snapshot) -> Snapshot:
    """Return the part of a snapshot that still counts when its process is gone: counters and histograms."""
    return {name: family for name, family in snapshot.items() if family.kind in {"counter", "histogram"}}


def _add_family(into: Family, family: Family) -> None:
    for labels, value in family.numbers.items():
        if into.kind == "flag":
            into.numbers[labels] = min(into.numbers.get(labels, 1), value)
        else:
            into.numbers[labels] = into.numbers.get(labels, 0) + value
    for labels, (bounds, counts, total) in family.histograms.items():
        _, known, known_total = into.histograms.get(labels, (bounds, [0] * len(counts), 0.0))
        summed = [left + right for left, right in zip(known, counts, strict=True)]
        into.histograms[labels] = (bounds, summed, known_total + total)
