from __future__ import annotations

from egress_router.metrics import Registry
from egress_router.service.rule_metrics import RuleMetrics


def test_rules_have_numbers_of_their_own_up_to_a_bound_and_one_for_all_others() -> None:
    registry = Registry()
    rules = RuleMetrics(registry, maximum=2)
    for text in ("a", "b", "c", "d", "a"):
        rules.of(text).connections.value += 1
        rules.of(text).sent.value += 10
    snapshot = registry.snapshot()
    assert snapshot["rule_connections_total"].numbers == {
        (("rule", "a"),): 2, (("rule", "b"),): 1, (("rule", "other"),): 2,
    }  # fmt: skip
    assert snapshot["rule_bytes_total"].numbers[("direction", "sent"), ("rule", "other")] == 20
    assert len(snapshot["rule_connect_seconds"].histograms) == 3
