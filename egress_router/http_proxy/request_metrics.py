"""The metrics of requests: verdicts, times, bytes and rules. Repeated CONNECTs are added as sums."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, Final

from egress_router.metrics import DURATION_BUCKETS, LATENCY_BUCKETS
from egress_router.policy.access_list import Reason, Verdict
from egress_router.service.rule_metrics import RuleMetrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.grammar.acl import Rule
    from egress_router.metrics import Registry
    from egress_router.relay.news import End, Sums
    from egress_router.service.mode import Json
    from egress_router.service.rule_metrics import RuleNumbers

REQUESTS: Final = "Requests, by what was decided and why."
_MAX_RULES: Final = 1_000


class RequestMetrics:
    """The request metrics of one worker; `Accounting` adds to them, one request at a time."""

    def __init__(self, registry: Registry) -> None:
        self.verdicts = {
            (verdict, reason): registry.counter(
                "requests_total", REQUESTS, verdict=verdict.value, reason=reason.value
            )
            for verdict, reason in product(Verdict, Reason)
            if verdict is not Verdict.ALLOWED or reason is Reason.RULE
        }
        self.sent = registry.counter("bytes_total", "Body and tunnel bytes.", direction="sent")
        self.received = registry.counter("bytes_total", "Body and tunnel bytes.", direction="received")
        self._repeats = registry.counter(
            "connects_repeated_total",
            "CONNECTs, and TLS to transparent ports, that were served as the same one was shortly before.",
        )
        self.tunnels = registry.gauge("tunnels_open", "Tunnels that are open.")
        self.dns = registry.histogram("dns_seconds", "Time that a request waited for names.", LATENCY_BUCKETS)
        self.connect = registry.histogram("connect_seconds", "Time to connect.", LATENCY_BUCKETS)
        self.first_byte = registry.histogram(
            "first_byte_seconds", "Time from a request to its answer.", LATENCY_BUCKETS
        )
        self.durations = registry.histogram(
            "duration_seconds", "Time from a request to its end.", DURATION_BUCKETS
        )
        self.rules = RuleMetrics(registry)
        self.hits: Counter[str] = Counter()

    # CONNECTs that the data plane has served by an earlier decision

    def repeated(self, rule: Rule, sums: Sums) -> int:
        """Count tunnels that have begun, and those that have ended; return how many have begun."""
        opened = sum(sums.connects[0])
        numbers = self._repeat(rule, opened)
        self.dns.add([opened] + [0] * len(LATENCY_BUCKETS), 0.0)
        self.connect.add(*sums.connects)
        numbers.connect_seconds.add(*sums.connects)
        numbers.first_byte.add(*sums.first_bytes)
        self.durations.add(*sums.lives)
        self.tunnels.value += opened - sum(sums.lives[0])
        numbers.sent.value += sums.sent
        numbers.received.value += sums.received
        return opened

    def repeated_end(self, rule: Rule, end: End) -> None:
        """Count one end that is reported separately: of a tunnel, or of a request that got none."""
        numbers = self.rules.of(rule.text)
        if end.target is None:
            self._repeat(rule, 1)
        else:
            self.tunnels.value -= 1
        if end.first_byte is not None:
            numbers.first_byte.observe(end.first_byte)
        self.durations.observe(end.seconds)
        numbers.sent.value += end.sent
        numbers.received.value += end.received

    def _repeat(self, rule: Rule, count: int) -> RuleNumbers:
        numbers = self.rules.of(rule.text)
        self.verdicts[Verdict.ALLOWED, Reason.RULE].value += count
        self._repeats.value += count
        self.hits[rule.text] += count
        numbers.connections.value += count
        return numbers

    # For /status

    def rule_hits(self, rules: Sequence[Rule]) -> list[Json]:
        """Return how often each rule decided in this worker; of a long list, only the rules that did.

        Listing 50,000 rules would delay every connection of this worker.
        """
        if len(rules) > _MAX_RULES:
            rules = [rule for rule in rules if self.hits[rule.text]][:_MAX_RULES]
        return [{"line": rule.line, "text": rule.text, "hits": self.hits[rule.text]} for rule in rules]
