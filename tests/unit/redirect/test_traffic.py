from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

from egress_router.admin.exposition import exposition
from egress_router.grammar.redirect import parse
from egress_router.kernel.conntrack import Connections
from egress_router.kernel.nat.connect_times import ConnectTime
from egress_router.kernel.nat.counters import Traffic
from egress_router.metrics import Registry
from egress_router.redirect.traffic import RedirectMetrics, RuleTable
from egress_router.service import process_metrics
from tests.unit.admin import test_metrics_lint as lint

TEXT = """\
# the bank
80   tcp	203.0.113.25

5000-5100 tcp 203.0.113.28  # a range
5000 udp 203.0.113.28
80 tcp 2001:db8::25
203.0.113.27
2001:db8::27
"""
OURS, OTHER = ip_address("192.168.12.99"), ip_address("192.168.12.100")
TABLE = RuleTable(parse("R", TEXT), TEXT)
COUNTS = {
    ("tcp", 4, 80): Traffic(2, 10, 1000, 8, 4000, begun=2),
    ("tcp", 4, 5000): Traffic(1, 1, 1, 1, 1, begun=1),
    ("tcp", 4, 5100): Traffic(1, 1, 1, 1, 1, begun=1),
    ("tcp", 4, 5101): Traffic(5, 1, 1, 1, 1, begun=5),
    ("udp", 4, 5000): Traffic(7, 1, 1, 1, 1, begun=7),
    ("tcp", 6, 80): Traffic(3, 1, 1, 1, 1, begun=3),
    ("sctp", 6, 80): Traffic(4, 1, 1, 1, 1, begun=4),
}


def test_traffic_belongs_to_the_line_that_names_its_port() -> None:
    lines = TABLE.lines(COUNTS)
    found = {line.number: (line.text, line.traffic.connections) for line in lines}
    assert found == {
        2: ("80 tcp 203.0.113.25", 2),
        4: ("5000-5100 tcp 203.0.113.28", 2),
        5: ("5000 udp 203.0.113.28", 7),
        6: ("80 tcp 2001:db8::25", 3),
        7: ("203.0.113.27", 5),
        8: ("2001:db8::27", 4),
    }


def test_lines_with_names_have_the_traffic_of_both_families() -> None:
    text = "81 tcp db.example.com from *\n80 tcp 203.0.113.25\n203.0.113.27 from *\n"
    counts = {
        ("tcp", 4, 81): Traffic(1, 1, 1, 1, 1),
        ("tcp", 6, 81): Traffic(2, 1, 1, 1, 1),
        ("tcp", 4, 80): Traffic(4, 1, 1, 1, 1),
        ("udp", 4, 81): Traffic(8, 1, 1, 1, 1),
    }
    lines = RuleTable(parse("R", text), text).lines(counts)
    assert [(line.number, line.traffic.connections) for line in lines] == [(1, 3), (2, 4), (3, 8)]


def test_source_ports_towards_an_address_of_a_name_have_its_name() -> None:
    text, registry = "8443 tcp db.example.com 443\n", Registry()
    redirects = parse("R", text)
    table = RuleTable(redirects, text)
    address, other = ip_address("203.0.113.25"), ip_address("203.0.113.26")
    table.lead({redirects.names[0]: (address, other)})
    used = Counter({(OURS, (6, address, 443)): 3, (OURS, (6, other, 443)): 2})
    RedirectMetrics(registry).tracked(table, Connections(used, 3, Counter()))
    numbers = registry.snapshot()["snat_ports_in_use"].numbers
    # Each address has ports of its own: what counts is the busiest one.
    assert numbers == {(("destination", "db.example.com:443/tcp"), ("source", str(OURS))): 3}


def test_times_to_connect_are_those_of_lines_with_traffic_and_go_with_them() -> None:
    registry = Registry()
    metrics = RedirectMetrics(registry, max_rules=1)
    metrics.traffic(TABLE.lines({("tcp", 4, 80): Traffic(1, begun=1), ("tcp", 6, 80): Traffic(1, begun=1)}))
    metrics.connected(TABLE, [ConnectTime(4, 80, 0.02), ConnectTime(6, 80, 3.0), ConnectTime(4, 80, 0.04)])

    def counted(name: str) -> dict[str, int]:
        found = registry.snapshot()[name].histograms
        return {dict(labels).get("rule", ""): sum(counts) for labels, (_, counts, _) in found.items()}

    assert counted("rule_connect_seconds") == {"80 tcp 203.0.113.25": 2, "other": 1}
    assert counted("connect_seconds") == {"": 3}
    metrics.traffic([])
    assert counted("rule_connect_seconds") == {"other": 1}


def test_labels_hold_no_blanks_of_the_file() -> None:
    text, registry = "80  \t tcp   203.0.113.25\n", Registry()
    table = RuleTable(parse("R", text), text)
    traffic = Traffic(2, 10, 1000, 8, 4000, begun=2)
    RedirectMetrics(registry).traffic(table.lines({("tcp", 4, 80): traffic}))
    for name in ("rule_connections_total", "rule_bytes_total", "rule_packets_total"):
        assert {dict(labels)["rule"] for labels in registry.snapshot()[name].numbers} == {
            "80 tcp 203.0.113.25"
        }


def test_metrics_name_rules_with_traffic_only() -> None:
    registry = Registry()
    metrics = RedirectMetrics(registry)
    traffic = Traffic(2, 10, 1000, 8, 4000, begun=6, refused=1)
    metrics.traffic(TABLE.lines({("tcp", 4, 80): traffic}, {(4, 80): 1}))
    snapshot = registry.snapshot()
    assert snapshot["rule_connections_total"].numbers == {(("rule", "80 tcp 203.0.113.25"),): 6}
    assert snapshot["rule_failures_total"].numbers == {(("rule", "80 tcp 203.0.113.25"),): 3}
    assert snapshot["bytes_total"].numbers == {
        (("direction", "sent"),): 1000,
        (("direction", "received"),): 4000,
    }
    assert results(registry) == {"connected": 2, "refused": 1, "timeout": 2}
    metrics.traffic(TABLE.lines({("tcp", 4, 80): Traffic(5, 10, 1000, 8, 4000, begun=6, refused=1)}))
    assert results(registry) == {"connected": 5, "refused": 1, "timeout": 2}, "a counter went back"


def results(registry: Registry) -> dict[str, float]:
    numbers = registry.snapshot()["connections_total"].numbers
    return {dict(labels)["result"]: value for labels, value in numbers.items() if value}


def test_what_is_rejected_belongs_to_its_line_or_to_none() -> None:
    text, registry = "80 tcp 203.0.113.25\n81 tcp db.example.com\n", Registry()
    table = RuleTable(parse("R", text), text)
    counts = {
        ("tcp", 4, 80): Traffic(denied=3),
        ("tcp", 4, 81): Traffic(closed=2),
        ("tcp", 4, 82): Traffic(closed=7),
        ("udp", 4, 80): Traffic(closed=1),
    }
    RedirectMetrics(registry).traffic(table.lines(counts), table.without_line(counts))
    assert results(registry) == {"policy": 3, "no_address": 2, "no_rule": 8}
    failures = registry.snapshot()["rule_failures_total"].numbers
    assert failures == {(("rule", "80 tcp 203.0.113.25"),): 0, (("rule", "81 tcp db.example.com"),): 2}


def test_lines_beyond_the_bound_have_one_sample_together_and_the_first_keep_theirs() -> None:
    text, registry = "80 tcp 203.0.113.25\n81 tcp 203.0.113.25\n82 tcp 203.0.113.25\n", Registry()
    table, metrics = RuleTable(parse("R", text), text), RedirectMetrics(registry, max_rules=2)
    by_port = {81: 1, 82: 2}
    for more in ({}, {80: 4}):
        by_port |= more
        counts = {("tcp", 4, port): Traffic(count, begun=count) for port, count in by_port.items()}
        metrics.traffic(table.lines(counts))
    numbers = registry.snapshot()["rule_connections_total"].numbers
    assert {dict(labels)["rule"]: value for labels, value in numbers.items()} == {
        "81 tcp 203.0.113.25": 1,
        "82 tcp 203.0.113.25": 2,
        "other": 4,
    }


def test_source_ports_are_those_towards_destinations_of_the_rules() -> None:
    registry = Registry()
    bank, stranger = ip_address("203.0.113.25"), ip_address("203.0.113.200")
    used = Counter(
        {
            (OURS, (6, bank, 80)): 40,
            (OTHER, (6, bank, 80)): 41,
            (OURS, (17, stranger, 80)): 1,
            (OURS, (6, ip_address("203.0.113.28"), 5001)): 3,
            (OURS, (6, ip_address("203.0.113.27"), 7777)): 4,
            (OURS, (17, ip_address("203.0.113.27"), 7778)): 5,
        }
    )
    metrics = RedirectMetrics(registry)
    metrics.tracked(TABLE, Connections(used, 44, Counter({(4, 80): 1})))
    snapshot = registry.snapshot()
    assert metrics.source_ports() == [
        {"source": str(OTHER), "destination": "203.0.113.25:80/tcp", "in_use": 41},
        {"source": str(OURS), "destination": "203.0.113.25:80/tcp", "in_use": 40},
        {"source": str(OURS), "destination": "203.0.113.27, other ports", "in_use": 5},
        {"source": str(OURS), "destination": "203.0.113.28:5001/tcp", "in_use": 3},
    ]
    assert snapshot["snat_ports_in_use"].numbers == {
        (("destination", str(each["destination"])), ("source", str(each["source"]))): each["in_use"]
        for each in metrics.source_ports()
    }
    assert snapshot["connections_open"].numbers == {(): 44}


def test_source_ports_are_told_of_a_bounded_number_of_ways() -> None:
    text = "".join(f"{port} tcp 203.0.113.25\n" for port in range(1, 3001))
    registry, table = Registry(), RuleTable(parse("R", text), text)
    used = Counter({(OURS, (6, ip_address("203.0.113.25"), port)): port for port in range(1, 3001)})
    metrics = RedirectMetrics(registry)
    metrics.tracked(table, Connections(used, 0, Counter()))
    counts = registry.snapshot()["snat_ports_in_use"].numbers.values()
    assert (len(counts), min(counts), len(metrics.source_ports())) == (1000, 2001, 100)


def test_its_metrics_pass_the_lint_of_the_others() -> None:
    registry = Registry()
    process_metrics.register(registry)
    process_metrics.describe(registry, "redirect", tuple)
    metrics = RedirectMetrics(registry)
    metrics.traffic(TABLE.lines(COUNTS))
    metrics.tracking((5, 262144))
    metrics.tracked(
        TABLE, Connections(Counter({(OURS, (6, ip_address("203.0.113.25"), 80)): 40}), 1, Counter())
    )
    text = exposition(registry.snapshot()).decode()
    assert "egress_router_snat_ports_in_use" in text
    lint.test_every_family_has_help_and_type_once_and_in_front(text)
    lint.test_names_follow_the_conventions(text)
    lint.test_labels_are_few_and_never_chosen_by_a_client(text)
