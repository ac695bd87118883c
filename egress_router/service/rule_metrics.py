"""Metrics for each rule or line, in a bounded number; labels are operators' text, never clients'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from egress_router.metrics import LATENCY_BUCKETS

if TYPE_CHECKING:
    from egress_router.metrics import Registry

MAX_RULES: Final = 100
OTHER: Final = "other"


class RuleNumbers:
    """What is counted for one rule; the hot path adds to `value`."""

    __slots__ = ("connect_seconds", "connections", "failures", "first_byte", "received", "sent")

    def __init__(self, registry: Registry, rule: str) -> None:
        connections = "Connections or requests that this rule let through."
        failures = "Of these, those that got no connection, or no answer."
        size = "Bytes that this rule let through."
        self.connections = registry.counter("rule_connections_total", connections, rule=rule)
        self.failures = registry.counter("rule_failures_total", failures, rule=rule)
        self.sent = registry.counter("rule_bytes_total", size, rule=rule, direction="sent")
        self.received = registry.counter("rule_bytes_total", size, rule=rule, direction="received")
        meaning = "Time from a request, or a connection, to the first byte of the destination, by rule."
        self.first_byte = registry.histogram("rule_first_byte_seconds", meaning, LATENCY_BUCKETS, rule=rule)
        self.connect_seconds = registry.histogram(
            "rule_connect_seconds", "Time until there was a connection, by rule.", LATENCY_BUCKETS, rule=rule
        )


class RuleMetrics:
    """Gives out the numbers of rules by their text: the first ones used have their own, others share."""

    def __init__(self, registry: Registry, maximum: int = MAX_RULES) -> None:
        self._registry = registry
        self._maximum = maximum
        self._by_text: dict[str, RuleNumbers] = {}
        self._other: RuleNumbers | None = None

    def of(self, text: str) -> RuleNumbers:
        """Return the numbers of the rule with this text."""
        known = self._by_text.get(text)
        if known is not None:
            return known
        if len(self._by_text) < self._maximum:
            made = self._by_text[text] = RuleNumbers(self._registry, text)
            return made
        if self._other is None:
            self._other = RuleNumbers(self._registry, OTHER)
        return self._other
