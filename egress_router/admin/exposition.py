"""A snapshot in Prometheus' text format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from egress_router.metrics import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from egress_router.metrics import Family, Labels, Snapshot

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


def exposition(snapshot: Snapshot) -> bytes:
    """Return all metrics of a snapshot as text, each name with the common prefix."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Frozen(snapshot))
    return generate_latest(registry)


class _Frozen(Collector):
    """A collector that returns a snapshot which exists already."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        for name, family in sorted(self._snapshot.items()):
            yield _metric(PREFIX + name, family)


def _metric(name: str, family: Family) -> Metric:
    if family.kind == "histogram":
        return _histogram(name, family)
    names = _label_names(family.numbers)
    make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = make(name, family.meaning, labels=names)
    for labels, value in sorted(family.numbers.items()):
        metric.add_metric(_values(names, labels), value)
    return metric


def _histogram(name: str, family: Family) -> Metric:
    names = _label_names(family.histograms)
    metric = HistogramMetricFamily(name, family.meaning, labels=names)
    for labels, (bounds, counts, total) in sorted(family.histograms.items()):
        below, buckets = 0, []
        for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
            below += count
            buckets.append((bound, below))
        metric.add_metric(_values(names, labels), buckets, total)
    return metric


def _label_names(samples: Iterable[Labels]) -> list[str]:
    return sorted({name for labels in samples for name, _ in labels})


def _values(names: list[str], labels: Labels) -> list[str]:
    known = dict(labels)
    return [known.get(name, "") for name in names]
