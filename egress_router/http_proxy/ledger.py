"""What is counted and written down: verdicts, reasons, times, bytes, and two records for each request."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.grammar.address import printed
from egress_router.http_proxy.http1.errors import Fault
from egress_router.metrics import DURATION_BUCKETS, LATENCY_BUCKETS
from egress_router.policy.access_list import ALLOWED, DENIED, Decision, Reason, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.grammar.acl import Rule
    from egress_router.grammar.address import IPAddress
    from egress_router.http_proxy.http1.errors import MessageError
    from egress_router.http_proxy.http1.target import Target
    from egress_router.http_proxy.replies import Reply
    from egress_router.metrics import Registry
    from egress_router.service.mode import Json

_LIMITS = {
    Fault.HEAD_TOO_LARGE: "head_bytes",
    Fault.TARGET_TOO_LONG: "head_bytes",
    Fault.TOO_MANY_FIELDS: "head_fields",
}
_REQUESTS = "Requests, by what was decided and why."
_MAX_DENIED = 50
_MAX_RULES = 1_000
# Stands for the decision of a request whose name could not be resolved.
UNDECIDED = Decision(Verdict.DENIED, Reason.NO_RULE)


@dataclass(slots=True)
class RequestInfo:
    """One request on its way: what it wants, what was decided, where it went. Times are in seconds.

    `recorded` and `ended` say which of its two records have been written.
    """

    client: str
    method: bytes
    target: Target
    started: float
    decision: Decision = UNDECIDED
    address: IPAddress | None = None
    dns_seconds: float = 0.0
    connect_seconds: float = 0.0
    recorded: bool = False
    ended: bool = False


class Ledger:
    """Metrics, records and the latest denials of one worker."""

    def __init__(self, registry: Registry, *, access_log: bool) -> None:
        self._registry = registry
        self._records = log.records() if access_log else None
        self._verdicts = {
            (verdict, reason): registry.counter(
                "requests_total", _REQUESTS, verdict=verdict.value, reason=reason.value
            )
            for verdict, reason in product(Verdict, Reason)
            if verdict is not ALLOWED or reason is Reason.RULE
        }
        self._allowed = self._verdicts[ALLOWED, Reason.RULE]
        self.sent = registry.counter("bytes_total", "Body and tunnel bytes.", direction="sent")
        self.received = registry.counter("bytes_total", "Body and tunnel bytes.", direction="received")
        self.tunnels = registry.gauge("tunnels_open", "Tunnels that are open.")
        self._dns = registry.histogram(
            "dns_seconds", "Time that a request waited for names.", LATENCY_BUCKETS
        )
        self._connect = registry.histogram("connect_seconds", "Time to connect.", LATENCY_BUCKETS)
        self.first_byte = registry.histogram(
            "first_byte_seconds", "Time from a request to its answer.", LATENCY_BUCKETS
        )
        self._durations = registry.histogram(
            "duration_seconds", "Time from a request to its end.", DURATION_BUCKETS
        )
        self._hits: Counter[str] = Counter()
        self._denied: deque[dict[str, Json]] = deque(maxlen=_MAX_DENIED)

    def decided(self, info: RequestInfo, decision: Decision) -> None:
        """Count a decision; a denial is written down at once."""
        info.decision = decision
        if decision.verdict is ALLOWED:
            self._allowed.value += 1  # without hashing two members of enums, which is done in Python
        else:
            self._verdicts[decision.verdict, decision.reason].value += 1
        rule = decision.rule
        if rule is not None:
            self._hits[rule.text] += 1
        if decision.verdict is DENIED:
            self._denied.append(
                {
                    "time": time.time(),
                    "client": info.client,
                    "target": printed(info.target.host, info.target.port),
                    "rule": None if rule is None else f"line {rule.line}: {rule.text}",
                    "reason": decision.reason.value,
                }
            )
            self._record(info, None)

    def connected(self, info: RequestInfo) -> None:
        """Count that a request has its connection."""
        self._dns.observe(info.dns_seconds)
        self._connect.observe(info.connect_seconds)
        self._record(info, None)

    def reused(self, info: RequestInfo) -> None:
        """Write down that a request goes over a connection that was open."""
        self._dns.observe(info.dns_seconds)
        self._record(info, None)

    def undecided(self, info: RequestInfo, reply: Reply) -> None:
        """Count a request whose name has no address, so that there was nothing to decide on or connect to."""
        reason = reply.reason
        self._registry.counter("requests_total", _REQUESTS, verdict="undecided", reason=reason).value += 1
        self._record(info, reason)

    def failed(self, info: RequestInfo, reply: Reply) -> None:
        """Count a request that got no connection, or, its decision being written down, no answer over it."""
        self._failure(reply)
        self._record(info, reply.reason)

    def refused(self, client: str, status: int, reason: str) -> None:
        """Count a request that is not understood, not admitted, or answered here; this is its end."""
        self.count_refusal(reason)
        if self._records is not None:
            self._records.info("request", client=client, verdict="refused", reason=reason)
            self._records.info(
                "closed", client=client, status=status, sent=0, received=0, seconds=0.0, reason=reason
            )

    def given_up(self, info: RequestInfo, reply: Reply) -> None:
        """Count a request that is refused while it waits for its connection."""
        self.count_refusal(reply.reason)
        self._record(info, reply.reason)

    def count_refusal(self, reason: str) -> None:
        """Count a request that is refused, before or behind its head."""
        meaning = "Requests that were refused, by reason."
        self._registry.counter("refused_total", meaning, reason=reason).value += 1

    def left(self, info: RequestInfo) -> None:
        """Write down a request whose client left, or was closed, before it had a connection."""
        if not info.ended:
            self._record(info, "abandoned")
            self.closed(info, 0, 0, 0, "abandoned")

    def closed(self, info: RequestInfo, status: int, sent: int, received: int, reason: str) -> None:
        """Count the end of a request; `sent` went to the origin, `received` to the client."""
        info.ended = True
        seconds = time.monotonic() - info.started
        self._durations.observe(seconds)
        if self._records is not None:
            self._records.info(
                "closed",
                client=info.client,
                method=info.method.decode("ascii"),
                host=str(info.target.host),
                port=info.target.port,
                status=status,
                sent=sent,
                received=received,
                seconds=round(seconds, 6),
                reason=reason,
            )

    def idle_end(self, name: str) -> None:
        """Count that an idle connection was closed, which turns nobody away; `name` is the setting's."""
        meaning = "Connections that were closed because nothing went on in them."
        self._registry.counter("idle_closed_total", meaning, limit=name).value += 1

    def transparent_refused(self, reason: str) -> None:
        """Count a connection or request to a transparent port that was refused."""
        meaning = "Refused on transparent ports, by reason."
        self._registry.counter("transparent_refused_total", meaning, reason=reason).value += 1

    def sni_mismatch(self, action: str) -> None:
        """Count a ClientHello in a tunnel that is not for the host of the CONNECT."""
        meaning = "ClientHellos in tunnels that were not for the host of the CONNECT, by what was done."
        self._registry.counter("sni_mismatch_total", meaning, action=action).value += 1

    def limit(self, name: str) -> None:
        """Count that a limit turned something away; `name` is its name in the settings."""
        self._registry.counter("limit_hits_total", "Connections that met a limit.", limit=name).value += 1

    def fault(self) -> None:
        """Count a session that was closed because of a fault of ours."""
        self._registry.counter("session_faults_total", "Sessions closed by a fault of the proxy.").value += 1

    def met_limit(self, error: MessageError) -> None:
        """Count the limit of a head that is too large, of a request or of an answer."""
        limit = _LIMITS.get(error.fault)
        if limit is not None:
            self.limit(limit)

    def rule_hits(self, rules: Sequence[Rule]) -> list[Json]:
        """Return how often each rule decided here; of a long list, only those that did.

        To list 50,000 rules would hold up every connection of this worker.
        """
        if len(rules) > _MAX_RULES:
            rules = [rule for rule in rules if self._hits[rule.text]][:_MAX_RULES]
        return [{"line": rule.line, "text": rule.text, "hits": self._hits[rule.text]} for rule in rules]

    def latest_denied(self) -> list[Json]:
        """Return the latest denials, oldest first."""
        return list(self._denied)

    def _failure(self, reply: Reply) -> None:
        meaning = "Requests that got no connection, or no answer over it, by reason."
        self._registry.counter("upstream_failures_total", meaning, reason=reply.reason).value += 1

    def _record(self, info: RequestInfo, failure: str | None) -> None:
        if self._records is None or info.recorded:
            return
        info.recorded = True
        decision = info.decision
        self._records.info(
            "request",
            client=info.client,
            method=info.method.decode("ascii"),
            host=str(info.target.host),
            port=info.target.port,
            address=None if info.address is None else str(info.address),
            verdict="undecided" if decision is UNDECIDED else decision.verdict.value,
            rule=None if decision.rule is None else decision.rule.line,
            reason=None if decision is UNDECIDED else decision.reason.value,
            failure=failure,
            dns_ms=round(info.dns_seconds * 1000, 3),
            connect_ms=round(info.connect_seconds * 1000, 3),
        )
