"""What is counted and logged at each step of a request; the latest denials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router import log
from egress_router.grammar.address import printed
from egress_router.http_proxy.access_log import traceparent
from egress_router.http_proxy.http1.errors import Fault
from egress_router.http_proxy.request_info import RequestInfo
from egress_router.http_proxy.request_metrics import REQUESTS, RequestMetrics
from egress_router.policy.access_list import Reason, Verdict
from egress_router.service.latest_denied import LatestDenied
from egress_router.upstreams.policy_names import PolicyDenials

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from egress_router.clock import Clock
    from egress_router.http_proxy.access_log import AccessLog
    from egress_router.http_proxy.http1.errors import MessageError
    from egress_router.http_proxy.http1.request import RequestHead
    from egress_router.http_proxy.http1.target import RequestTarget
    from egress_router.http_proxy.replies import Reply
    from egress_router.http_proxy.request_info import Who
    from egress_router.metrics import Registry
    from egress_router.names.answer import Answer, Failure
    from egress_router.policy.access_list import Decision
    from egress_router.relay.dial import DialFailure
    from egress_router.service.mode import Json

_LIMITS = {
    Fault.HEAD_TOO_LARGE: "head_bytes",
    Fault.TARGET_TOO_LONG: "head_bytes",
    Fault.TOO_MANY_FIELDS: "head_fields",
}
TLS_METHOD = b"TLS"  # in records, instead of the method of a request
_LEADS_BACK = frozenset({Fault.LOOP.value, Reason.OWN_PORT.value})
_TRUE_ADDRESSES = "name servers in EGRESS_DNS_SERVERS that know the name's true addresses"
_log = log.get("http_proxy")


def _deciding(decision: Decision) -> str | None:
    if decision.entry is not None:
        return decision.entry.described
    return None if decision.rule is None else f"line {decision.rule.line}: {decision.rule.text}"


class Accounting:
    """Is told of each step of a worker's requests, for metrics, latest denials and access log."""

    def __init__(self, registry: Registry, access_log: AccessLog, clock: Clock) -> None:
        self._registry = registry
        self._log = access_log
        self._clock = clock
        self.metrics = RequestMetrics(registry)
        self.policy_denials = PolicyDenials(registry)
        self._denied = LatestDenied(clock)

    # Only `DebugAccounting` does something with these.

    def accepted(self, who: Who) -> Who:
        """Note that a connection was accepted; return how to name it."""
        return who

    def left_by(self, who: Who, reason: str) -> None:
        """Note that a connection is closed."""

    def name_asked(self, info: RequestInfo) -> None:
        """Note that a name is looked up."""

    def name_answered(self, info: RequestInfo, found: Answer | Failure) -> None:
        """Note the result of a look-up."""

    def attempts_failed(self, info: RequestInfo, failures: Iterable[DialFailure]) -> None:
        """Note addresses that were tried and did not answer."""

    # What is counted

    def begun(self, who: Who, head: RequestHead, target: RequestTarget) -> RequestInfo:
        """Return what is known of a request whose head has come."""
        return RequestInfo(who, head.method, target, self._clock.monotonic(), traceparent(head))

    def begun_again(self, who: Who, target: RequestTarget, seconds: float) -> RequestInfo:
        """Return what is known of a CONNECT that began `seconds` ago; its head was not read."""
        return RequestInfo(who, b"CONNECT", target, self._clock.monotonic() - seconds, None)

    def begun_tls(self, who: Who, target: RequestTarget) -> RequestInfo:
        """Return what is known of a TLS connection whose ClientHello has come."""
        return RequestInfo(who, TLS_METHOD, target, self._clock.monotonic(), None)

    def decided(self, info: RequestInfo, decision: Decision) -> None:
        """Count a decision; log a denial at once."""
        denied = decision.verdict is Verdict.DENIED
        info.decision = decision
        info.numbers = None
        self.metrics.verdicts[decision.verdict, decision.reason].value += 1
        if decision.entry is not None:
            self.policy_denials.count(decision.entry)
        rule = decision.rule
        if rule is not None:
            self.metrics.hits[rule.text] += 1
            if not denied:
                info.numbers = numbers = self.metrics.rules.of(rule.text)
                numbers.connections.value += 1
        if denied:
            target = printed(info.target.host, info.target.port)
            self._denied.note(info.client, target, _deciding(decision), decision.reason.value)
            self._log.request(info, None)

    def connected(self, info: RequestInfo, sock: socket.socket) -> None:
        """Count that a request has its connection."""
        self.metrics.dns.observe(info.dns_seconds)
        self.metrics.connect.observe(info.connect_seconds)
        if info.numbers is not None:
            info.numbers.connect_seconds.observe(info.connect_seconds)
        if self._log.everything:
            self._log.connected(info, sock)

    def tunnel_opened(self, info: RequestInfo) -> None:  # noqa: ARG002 - see `DebugAccounting`
        """Count a tunnel; `tunnel_closed` follows."""
        self.metrics.tunnels.value += 1

    def tunnel_closed(self) -> None:
        """Count that a tunnel has closed."""
        self.metrics.tunnels.value -= 1

    def answered(self, info: RequestInfo) -> None:
        """Count that the answer to a request begins."""
        seconds = self._clock.monotonic() - info.started
        self.metrics.first_byte.observe(seconds)
        if info.numbers is not None:
            info.numbers.first_byte.observe(seconds)

    def tunnel_answered(self, info: RequestInfo, seconds: float) -> None:
        """Count how long a closed tunnel had waited for the first byte of its destination."""
        if info.numbers is not None:
            info.numbers.first_byte.observe(seconds)

    def reused(self, info: RequestInfo, sock: socket.socket) -> None:
        """Log that a request uses a connection that was already open."""
        self.metrics.dns.observe(info.dns_seconds)
        if self._log.everything:
            self._log.connected(info, sock)

    def undecided(self, info: RequestInfo, reply: Reply) -> None:
        """Count a request whose name has no address, so there was nothing to decide on or connect to."""
        reason = reply.reason
        self._registry.counter("requests_total", REQUESTS, verdict="undecided", reason=reason).value += 1
        self._log.request(info, reason)

    def failed(self, info: RequestInfo, reply: Reply) -> None:
        """Count a request that got no connection, or no answer over it."""
        self._failure(reply)
        if info.numbers is not None:
            info.numbers.failures.value += 1
        self._log.request(info, reply.reason)

    def refused(self, who: Who, status: int, reason: str) -> None:
        """Count a request that is malformed, not admitted, or answered by the proxy; this is its end."""
        self.count_refusal(reason)
        if self._log.everything:
            self._log.refused(who, status, reason)

    def given_up(self, info: RequestInfo, reply: Reply) -> None:
        """Count a request that is refused while it waits for its connection."""
        self.count_refusal(reply.reason)
        self._log.request(info, reply.reason)

    def count_refusal(self, reason: str) -> None:
        """Count a request that is refused, before its head or after it."""
        meaning = "Requests that were refused, by reason."
        self._registry.counter("refused_total", meaning, reason=reason).value += 1

    def left(self, info: RequestInfo) -> None:
        """Log a request whose client's connection closed before there was one to the origin."""
        if not info.ended:
            self._log.request(info, "abandoned")
            self.closed(info, 0, 0, 0, "abandoned")

    def closed(self, info: RequestInfo, status: int, sent: int, received: int, reason: str) -> None:
        """Count the end of a request; `sent` went to the origin, `received` to the client."""
        info.ended = True
        seconds = self._clock.monotonic() - info.started
        self.metrics.durations.observe(seconds)
        if info.numbers is not None:
            info.numbers.sent.value += sent
            info.numbers.received.value += received
        if self._log.everything or info.decision.verdict is Verdict.DENIED:
            self._log.closed(info, status, sent, received, seconds, reason)

    def idle_end(self, name: str) -> None:
        """Count that an idle connection was closed, which is no refusal; `name` is the setting's name."""
        meaning = "Connections that were closed because nothing went on in them."
        self._registry.counter("idle_closed_total", meaning, limit=name).value += 1

    def transparent_refused(self, reason: str) -> None:
        """Count a connection or request to a transparent port that was refused."""
        meaning = "Refused on transparent ports, by reason."
        self._registry.counter("transparent_refused_total", meaning, reason=reason).value += 1
        if reason in _LEADS_BACK:
            _log.warning("a name leads back to this router", reason=reason, expected=_TRUE_ADDRESSES)

    def limit(self, name: str) -> None:
        """Count that a limit was reached; `name` is its name in the settings."""
        self._registry.counter("limit_hits_total", "Connections that met a limit.", limit=name).value += 1

    def sni_mismatch(self, action: str) -> None:
        """Count a tunnel whose ClientHello names another host than its CONNECT."""
        meaning = "CONNECT tunnels whose ClientHello names another host."
        self._registry.counter("sni_mismatch_total", meaning, action=action).value += 1

    def fault(self) -> None:
        """Count a connection that was closed because of a bug of the proxy."""
        self._registry.counter(
            "connection_faults_total", "Connections closed by a fault of the proxy."
        ).value += 1

    def met_limit(self, error: MessageError) -> None:
        """Count the limit of a head that is too large, of a request or of an answer."""
        limit = _LIMITS.get(error.fault)
        if limit is not None:
            self.limit(limit)

    def latest_denied(self) -> list[Json]:
        """Return the latest denials, oldest first."""
        return self._denied.shown()

    def _failure(self, reply: Reply) -> None:
        meaning = "Requests that got no connection, or no answer over it, by reason."
        self._registry.counter("upstream_failures_total", meaning, reason=reply.reason).value += 1
