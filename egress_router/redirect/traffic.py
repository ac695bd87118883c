"""What the kernel counted, by rule: pure sums, and the metrics that they become."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.grammar.address import printed
from egress_router.grammar.lines import rule_lines
from egress_router.kernel.nat.counters import Traffic

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.grammar.redirect import Redirect, Redirects
    from egress_router.kernel.conntrack import Destination
    from egress_router.kernel.nat.counters import Counts
    from egress_router.metrics import Registry

_MOST_RULES = 1000  # with samples of their own; the traffic of others is counted in the sums only
_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}  # IANA protocol numbers


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the rules with what went through it."""

    number: int
    text: str
    traffic: Traffic


def by_line(redirects: Redirects, text: str, counts: Counts) -> list[Line]:
    """Return the lines of `text`, out of which `redirects` were read, each with its traffic.

    A fallback has what went through ports that no other line of its family names.
    """
    rest = dict(counts)
    rules = iter(redirects.rules)
    ports = _ports_by_kind(counts)
    lines: list[Line] = []
    fallbacks: list[tuple[int, int]] = []
    for line in rule_lines(text):
        if len(line.text.split()) > 1:
            lines.append(Line(line.number, line.text, _taken(next(rules), ports, rest)))
        else:
            fallbacks.append((len(lines), 6 if ":" in line.text else 4))
            lines.append(Line(line.number, line.text, Traffic()))
    for index, version in fallbacks:
        total = Traffic()
        for (_, family, _), traffic in rest.items():
            if family == version:
                total = total.plus(traffic)
        lines[index] = Line(lines[index].number, lines[index].text, total)
    return lines


def _ports_by_kind(counts: Counts) -> Mapping[tuple[str, int], Sequence[int]]:
    kinds: dict[tuple[str, int], list[int]] = {}
    for protocol, version, port in sorted(counts):
        kinds.setdefault((protocol, version), []).append(port)
    return kinds


def _taken(rule: Redirect, ports: Mapping[tuple[str, int], Sequence[int]], rest: Counts) -> Traffic:
    """Take the traffic of a rule's ports out of `rest`, and return its sum."""
    protocol, version = rule.protocol.value, rule.target.version
    if not rule.is_range:
        return rest.pop((protocol, version, rule.first), Traffic())
    total = Traffic()
    known = ports.get((protocol, version), ())
    first, last = bisect.bisect_left(known, rule.first), bisect.bisect_right(known, rule.last)
    for port in known[first:last]:
        total = total.plus(rest.pop((protocol, version, port), Traffic()))
    return total


class Publication:
    """The metrics of redirect mode, set from the kernel's counters."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._connections = registry.counter("connections_total", "Connections that were redirected.")
        meaning = "Bytes of redirected connections: sent to the destination, received from it."
        self._sent = registry.counter("bytes_total", meaning, direction="sent")
        self._received = registry.counter("bytes_total", meaning, direction="received")
        self._open = registry.gauge("connections_open", "Connections in connection tracking that leave here.")
        self._entries = registry.gauge("conntrack_entries", "Entries in connection tracking.")
        self._most = registry.gauge("conntrack_entries_limit", "Entries that connection tracking may have.")

    def traffic(self, lines: Sequence[Line]) -> None:
        """Publish what went through each line."""
        total = Traffic()
        for line in lines:
            total = total.plus(line.traffic)
        self._connections.value = total.connections
        self._sent.value, self._received.value = total.sent_bytes, total.received_bytes
        self._registry.forget("rule_connections_total")
        self._registry.forget("rule_bytes_total")
        self._registry.forget("rule_packets_total")
        busy = [line for line in lines if line.traffic.connections][:_MOST_RULES]
        for line in busy:
            self._rule(line)

    def _rule(self, line: Line) -> None:
        traffic, counter = line.traffic, self._registry.counter
        meaning = "Connections that this line redirected."
        counter("rule_connections_total", meaning, rule=line.text).value = traffic.connections
        for direction, packets, size in (
            ("sent", traffic.sent_packets, traffic.sent_bytes),
            ("received", traffic.received_packets, traffic.received_bytes),
        ):
            labels = {"rule": line.text, "direction": direction}
            counter("rule_packets_total", "Packets through this line.", **labels).value = packets
            counter("rule_bytes_total", "Bytes through this line.", **labels).value = size

    def tracking(self, usage: tuple[int, int] | None) -> None:
        """Publish how full connection tracking is."""
        if usage is not None:
            self._entries.value, self._most.value = usage

    def source_ports(self, redirects: Redirects, used: Counter[Destination]) -> None:
        """Publish the source ports in use towards the destinations that the rules name."""
        self._open.value = used.total()
        self._registry.forget("snat_ports_in_use")
        for rule in redirects.rules:
            if not rule.is_range:
                port = rule.first if rule.target_port is None else rule.target_port
                self._source_port(rule.protocol.value, rule.target, port, used)
            else:
                for port in range(rule.first, rule.last + 1):
                    self._source_port(rule.protocol.value, rule.target, port, used)

    def _source_port(self, protocol: str, target: IPAddress, port: int, used: Counter[Destination]) -> None:
        count = used.get((_NUMBERS[protocol], target, port), 0)
        if count:
            self._registry.gauge(
                "snat_ports_in_use",
                "Source ports in use towards a destination, of about 64,000.",
                destination=f"{printed(target, port)}/{protocol}",
            ).value = count
