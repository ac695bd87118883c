"""What the kernel counted, summed by rule, and the metrics that this becomes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from egress_router.grammar.address import printed
from egress_router.grammar.lines import rule_lines
from egress_router.kernel.nat.counters import Traffic
from egress_router.metrics import LATENCY_BUCKETS
from egress_router.redirect.lines import destination
from egress_router.service.rule_metrics import OTHER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.grammar.redirect import NamedRedirect, Redirect, Redirects
    from egress_router.kernel.conntrack import Connections, Destination
    from egress_router.kernel.nat.connect_times import ConnectTime
    from egress_router.kernel.nat.counters import Counts
    from egress_router.metrics import Histogram, Registry
    from egress_router.redirect.lines import Resolved

_MAX_RULES = 1000  # lines with traffic that have samples of their own; the others share one
_MAX_WAYS = 1000  # pairs of source and destination that are kept: those with the most ports in use
_MAX_SHOWN = 100
_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}  # IANA protocol numbers
_NOTHING = Traffic()
NO_RULE = "no_rule"
_NONE: dict[tuple[int, int], int] = {}
_CONNECT = "connect_seconds"
_RESULTS = ("connected", "refused", "timeout", "policy", "no_address", NO_RULE)


@dataclass(frozen=True, slots=True)
class LineTraffic:
    """One line of the rules with what went through it."""

    number: int
    text: str
    traffic: Traffic


@dataclass(frozen=True, slots=True)
class LineOf:
    """The line that a port belongs to; `name` if it leads to a name."""

    text: str
    name: str | None


@dataclass(frozen=True, slots=True)
class PortUse:
    """How many source ports of one of our addresses are in use towards one destination, of about 64,000."""

    source: str
    destination: str
    count: int


class RuleTable:
    """The lines of some rules, by ports and destinations: made once for the rules, asked every few seconds.

    `redirects` were read from `text`. A fallback has what went through ports that no other line of its family
    names.
    """

    def __init__(self, redirects: Redirects, text: str) -> None:
        self.redirects = redirects
        self._lines: list[tuple[int, str]] = []
        self._by_port: dict[tuple[str, int, int], int] = {}
        self._fallbacks: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._destinations: dict[Destination, str] = {}
        self._named: dict[Destination, str] = {}
        self._others: dict[IPAddress, str] = {}
        rules = {rule.line: rule for rule in redirects.rules}
        names = {rule.line: rule for rule in redirects.names}
        for index, line in enumerate(rule_lines(text)):
            # With single blanks, because the text is a label of metrics.
            self._lines.append((line.number, " ".join(line.text.split())))
            if line.number in rules:
                self._add(index, rules[line.number])
            elif line.number in names:
                self._add_name(index, names[line.number])
            else:
                self._fallbacks[6 if ":" in line.text.split()[0] else 4] = index
        for fallback in (redirects.fallback_v4, redirects.fallback_v6):
            if fallback is not None:
                self._others[fallback] = f"{fallback}, other ports"

    def _add(self, index: int, rule: Redirect) -> None:
        protocol, target = rule.protocol.value, rule.target
        for port in range(rule.first, rule.last + 1):
            self._by_port[protocol, target.version, port] = index
            remote = port if rule.target_port is None else rule.target_port
            key = (_NUMBERS[protocol], target, remote)
            if key not in self._destinations:
                self._destinations[key] = f"{printed(target, remote)}/{protocol}"

    def _add_name(self, index: int, rule: NamedRedirect) -> None:
        self._names[index] = rule.name
        for port in range(rule.first, rule.last + 1):
            for version in (4, 6):
                self._by_port[rule.protocol.value, version, port] = index

    def line_of(self, protocol: str, version: int, port: int) -> LineOf | None:
        """Return the line that redirects a protocol, family and port."""
        index = self._by_port.get((protocol, version, port), self._fallbacks.get(version))
        return None if index is None else LineOf(self._lines[index][1], self._names.get(index))

    def lead(self, resolved: Resolved) -> None:
        """Note where the lines with names lead now, so that source ports in use show those names, too."""
        self._named = {
            (_NUMBERS[rule.protocol.value], address, rule.target_port or port): destination(rule)
            for rule, addresses in resolved.items()
            for address in addresses
            for port in range(rule.first, rule.last + 1)
        }

    def port_uses(self, tracked: Connections) -> list[PortUse]:
        """Return the source ports in use towards the destinations of lines, by source; the most come first.

        Each address and port of a destination is counted by itself. A name, or a fallback, where clients
        choose the port, has the count of its busiest one.
        """
        most: Counter[tuple[IPAddress, str]] = Counter()
        for (source, key), count in tracked.source_ports.items():
            leads_to = self._destinations.get(key) or self._named.get(key) or self._others.get(key[1])
            if leads_to is not None:
                most[source, leads_to] = max(most[source, leads_to], count)
        return [PortUse(str(source), to, count) for (source, to), count in most.most_common(_MAX_WAYS)]

    def lines(self, counts: Counts, waiting: Mapping[tuple[int, int], int] = _NONE) -> list[LineTraffic]:
        """Return all lines, each with its traffic; `waiting` TCP connections may still be accepted."""
        totals: dict[int, Traffic] = {}
        for (protocol, version, port), counted in counts.items():
            index = self._by_port.get((protocol, version, port), self._fallbacks.get(version))
            if index is not None:
                pending = waiting.get((version, port), 0) if protocol == "tcp" else 0
                traffic = replace(counted, waiting=pending) if pending else counted
                totals[index] = totals.get(index, _NOTHING).plus(traffic)
        return [
            LineTraffic(number, text, totals.get(index, _NOTHING))
            for index, (number, text) in enumerate(self._lines)
        ]

    def by_line(self, ports: Mapping[tuple[str, int, int], int]) -> Counter[str]:
        """Turn counts by protocol, family and local port into counts by the text of the line."""
        found: Counter[str] = Counter()
        for key, count in ports.items():
            line = self.line_of(*key)
            found["no line any more" if line is None else line.text] += count
        return found

    def without_line(self, counts: Counts) -> int:
        """Return how many connections came to ports that no line names."""
        return sum(
            traffic.closed
            for (protocol, version, port), traffic in counts.items()
            if self.line_of(protocol, version, port) is None
        )


class RedirectMetrics:
    """The metrics of redirect mode, set from the kernel's counters."""

    def __init__(self, registry: Registry, max_rules: int = _MAX_RULES) -> None:
        self._registry = registry
        self._max_rules = max_rules
        meaning = "Connections by what became of them."
        self._results = {
            result: registry.counter("connections_total", meaning, result=result) for result in _RESULTS
        }
        meaning = "Bytes of redirected connections: sent to the destination, received from it."
        self._sent = registry.counter("bytes_total", meaning, direction="sent")
        self._received = registry.counter("bytes_total", meaning, direction="received")
        self._open = registry.gauge("connections_open", "Redirected connections that are open.")
        self._entries = registry.gauge("conntrack_entries", "Entries in connection tracking.")
        self._most = registry.gauge("conntrack_entries_limit", "Entries that connection tracking may have.")
        # Lines with samples of their own. The first lines keep theirs; otherwise counters would go back.
        self._named: dict[str, None] = {}
        self._failures: dict[str, int] = {}
        self._uses: list[PortUse] = []

    def traffic(self, lines: Sequence[LineTraffic], without_line: int = 0) -> None:
        """Publish what went through each line; `without_line` connections came to ports of no line."""
        total = _sum(line.traffic for line in lines)
        results = self._results
        results["connected"].value = total.connections
        # Counts and waiting connections are read one after the other, so the difference may go back a little.
        refused, timeout = results["refused"], results["timeout"]
        refused.value = max(refused.value, total.refusals)
        timeout.value = max(timeout.value, total.failures - total.refusals)
        results["policy"].value, results["no_address"].value = total.denied, total.closed
        results[NO_RULE].value = without_line
        self._sent.value, self._received.value = total.sent_bytes, total.received_bytes
        for name in ("connections", "failures", "bytes", "packets"):
            self._registry.forget(f"rule_{name}_total")
        by_rule = self._by_rule(lines)
        self._failures = {rule: self._failures.get(rule, 0) for rule in by_rule}
        for rule, traffic in by_rule.items():
            self._rule(rule, traffic)

    def _by_rule(self, lines: Sequence[LineTraffic]) -> dict[str, Traffic]:
        found: dict[str, Traffic] = {}
        for line in lines:
            if line.traffic.begun or line.traffic.closed or line.traffic.denied:
                found[line.text] = found.get(line.text, _NOTHING).plus(line.traffic)
        for text in [text for text in self._named if text not in found]:
            del self._named[text]
            self._registry.forget_histogram(f"rule_{_CONNECT}", rule=text)
        for text in found:
            if len(self._named) < self._max_rules:
                self._named.setdefault(text)
        named = {text: traffic for text, traffic in found.items() if text in self._named}
        if len(named) == len(found):
            return named
        return {**named, OTHER: _sum(traffic for text, traffic in found.items() if text not in named)}

    def _rule(self, rule: str, traffic: Traffic) -> None:
        counter = self._registry.counter
        meaning = "Connections that came to this line."
        counter("rule_connections_total", meaning, rule=rule).value = traffic.begun + traffic.closed
        meaning = "Of these, those that no destination accepted, or that there was none for."
        failures = max(self._failures[rule], traffic.failures + traffic.closed)
        self._failures[rule] = failures
        counter("rule_failures_total", meaning, rule=rule).value = failures
        for direction, packets, size in (
            ("sent", traffic.sent_packets, traffic.sent_bytes),
            ("received", traffic.received_packets, traffic.received_bytes),
        ):
            labels = {"rule": rule, "direction": direction}
            counter("rule_packets_total", "Packets through this line.", **labels).value = packets
            counter("rule_bytes_total", "Bytes through this line.", **labels).value = size

    def connected(self, table: RuleTable, times: Iterable[ConnectTime]) -> None:
        """Publish how long some connections took; call `traffic` first, which chooses the lines to name."""
        for each in times:
            line = table.line_of("tcp", each.version, each.local_port)
            if line is not None:
                rule = line.text if line.text in self._named else OTHER
                self._histogram(f"rule_{_CONNECT}", rule=rule).observe(each.seconds)
                self._histogram(_CONNECT).observe(each.seconds)

    def _histogram(self, name: str, **labels: str) -> Histogram:
        meaning = "Time until a connection was accepted, of some of them, in seconds."
        return self._registry.histogram(name, meaning, LATENCY_BUCKETS, **labels)

    def tracking(self, usage: tuple[int, int] | None) -> None:
        """Publish how full connection tracking is."""
        if usage is not None:
            self._entries.value, self._most.value = usage

    def tracked(self, table: RuleTable, tracked: Connections) -> None:
        """Publish open connections, and the source ports in use towards the destinations of the rules."""
        self._open.value = tracked.open
        self._registry.forget("snat_ports_in_use")
        self._uses = table.port_uses(tracked)
        for each in self._uses:
            meaning = "Source ports of an address in use towards a destination, of about 64,000."
            labels = {"source": each.source, "destination": each.destination}
            self._registry.gauge("snat_ports_in_use", meaning, **labels).value = each.count

    def source_ports(self) -> list[dict[str, str | int]]:
        """Return the source ports in use for `/status`, the most first."""
        return [
            {"source": each.source, "destination": each.destination, "in_use": each.count}
            for each in self._uses[:_MAX_SHOWN]
        ]


def _sum(traffic: Iterable[Traffic]) -> Traffic:
    total = Traffic()
    for each in traffic:
        total = total.plus(each)
    return total
