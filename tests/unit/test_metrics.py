from __future__ import annotations

import pickle

from egress_router.metrics import Registry, added


def test_the_same_name_and_labels_give_the_same_handle() -> None:
    registry = Registry()
    first = registry.counter("requests_total", "Requests.", verdict="allowed", mode="http")
    second = registry.counter("requests_total", "Requests.", mode="http", verdict="allowed")
    assert first is second
    assert registry.counter("requests_total", "Requests.", mode="http", verdict="denied") is not first


def test_snapshots_of_workers_add_up() -> None:
    workers = [Registry(), Registry()]
    for count, registry in enumerate(workers, start=1):
        registry.counter("requests_total", "Requests.", verdict="allowed").value += count
        registry.histogram("seconds", "Time.", (0.1, 1.0)).observe(0.1)
        registry.histogram("seconds", "Time.", (0.1, 1.0)).observe(5)
    workers[1].counter("requests_total", "Requests.", verdict="denied").value += 7
    # What travels between processes is plain data.
    total = added(pickle.loads(pickle.dumps(registry.snapshot())) for registry in workers)  # noqa: S301
    assert total["requests_total"].numbers == {(("verdict", "allowed"),): 3, (("verdict", "denied"),): 7}
    assert total["seconds"].histograms == {(): ((0.1, 1.0), [2, 0, 2], 10.2)}


def test_derived_gauges_are_refreshed_before_a_snapshot_and_can_be_forgotten() -> None:
    registry = Registry()
    registry.before_snapshot(lambda: setattr(registry.gauge("open", "Open."), "value", 4))
    assert registry.snapshot()["open"].numbers == {(): 4}
    registry.gauge("upstream_up", "Up.", upstream="a").value = 1
    registry.forget("upstream_up")
    assert registry.snapshot()["upstream_up"].numbers == {}
