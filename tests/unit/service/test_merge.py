"""What several workers say becomes one answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.metrics import Registry, added, lasting
from egress_router.service.merge import PastWorkers, merged
from egress_router.service.rule_store import difference

if TYPE_CHECKING:
    from egress_router.service.mode import Json


def rule(line: int, hits: int) -> Json:
    return {"line": line, "text": f"rule {line}", "hits": hits}


def upstream(address: str, *, up: bool) -> Json:
    return {"destination": "db.example:5432", "address": address, "up": up}


def denial(when: float) -> Json:
    return {"time": when, "client": "c", "target": "t", "rule": None, "reason": "no_rule"}


def test_hits_add_up_and_upstreams_must_be_up_for_all() -> None:
    found = merged(
        [
            {
                "rules": [rule(1, 2), rule(3, 0)],
                "upstreams": [upstream("a", up=True), upstream("b", up=True)],
            },
            {
                "rules": [rule(1, 5), rule(3, 1)],
                "upstreams": [upstream("a", up=True), upstream("b", up=False)],
            },
            {},  # a worker that has just started
        ],
        PastWorkers(),
    )
    assert found["rules"] == [rule(1, 7), rule(3, 1)]
    assert found["upstreams"] == [upstream("a", up=True), upstream("b", up=False)]
    assert found["denied"] == []


def test_the_latest_denials_of_all_come_first_and_are_bounded() -> None:
    statuses: list[dict[str, Json]] = [
        {"denied": [denial(100 + 2 * n + worker) for n in range(40)]} for worker in (0, 1)
    ]
    found = merged(statuses, PastWorkers())
    denied = found["denied"]
    assert isinstance(denied, list)
    assert denied == [denial(179 - n) for n in range(50)]


def test_merging_nothing_is_empty() -> None:
    assert merged([], PastWorkers()) == {
        "rules": [],
        "policy": [],
        "upstreams": [],
        "denied": [],
        "recent_errors": [],
        "destinations": [],
    }


def test_what_dead_workers_had_counted_stays_with_the_text_of_its_rule() -> None:
    past = PastWorkers()
    past.take(
        {"rules": [rule(1, 2), rule(3, 4)], "denied": [denial(1)], "upstreams": [upstream("a", up=False)]}
    )
    past.take({"rules": [rule(1, 10)], "denied": [denial(n) for n in range(10, 70)]})
    moved: Json = {"line": 2, "text": "rule 1", "hits": 1}  # a line was added above it
    for _ in range(2):
        found = merged([{"rules": [moved], "denied": [denial(5)]}], past)
        assert found["rules"] == [{"line": 2, "text": "rule 1", "hits": 13}]
        assert found["upstreams"] == []
        assert found["denied"] == [denial(69 - n) for n in range(50)]


def test_a_difference_names_lines_that_went_and_came() -> None:
    assert difference(("a", "b", "b", "c"), ("c", "b", "d")) == (["a", "b"], ["d"])
    assert difference(("a", "b"), ("b", "a")) == ([], [])


def test_flags_of_several_workers_do_not_add_up() -> None:
    first, second = Registry(), Registry()
    for registry, value in ((first, 1), (second, 0)):
        registry.flag("upstream_up", "u", address="a").value = value
        registry.flag("upstream_up", "u", address="b").value = 1
        registry.gauge("connections_open", "c").value = 3
    total = added([first.snapshot(), second.snapshot()])
    assert total["upstream_up"].numbers == {(("address", "a"),): 0, (("address", "b"),): 1}
    assert total["connections_open"].numbers == {(): 6}


def test_of_a_dead_worker_its_counts_last_and_its_state_does_not() -> None:
    registry = Registry()
    registry.counter("requests_total", "r").value = 7
    registry.histogram("connect_seconds", "c", (1.0,)).observe(0.5)
    registry.gauge("connections_open", "c").value = 3
    registry.flag("upstream_up", "u").value = 0
    assert set(lasting(registry.snapshot())) == {"requests_total", "connect_seconds"}


def test_denials_by_the_policy_add_up_and_outlive_a_worker() -> None:
    def entry(denied: int) -> Json:
        return {"entry": 2, "text": "Deny 0.0.0.0/0", "denied": denied}

    past = PastWorkers()
    past.take({"policy": [entry(5)]})
    found = merged([{"policy": [entry(1)]}, {"policy": [entry(2)]}, {}], past)
    assert found["policy"] == [entry(8)]
