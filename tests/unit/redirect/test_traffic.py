from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

from egress_router.admin.exposition import exposition
from egress_router.grammar.redirect import parse
from egress_router.kernel.nat.counters import Traffic
from egress_router.metrics import Registry
from egress_router.redirect.traffic import Publication, RuleTable
from egress_router.service import process_metrics
from tests.unit.admin import test_metrics_lint as lint

TEXT = """\
# the bank
80 tcp 203.0.113.25

5000-5100 tcp 203.0.113.28  # a range
5000 udp 203.0.113.28
80 tcp 2001:db8::25
203.0.113.27
2001:db8::27
"""
TABLE = RuleTable(parse("R", TEXT), TEXT)
COUNTS = {
    ("tcp", 4, 80): Traffic(2, 10, 1000, 8, 4000),
    ("tcp", 4, 5000): Traffic(1, 1, 1, 1, 1),
    ("tcp", 4, 5100): Traffic(1, 1, 1, 1, 1),
    ("tcp", 4, 5101): Traffic(5, 1, 1, 1, 1),
    ("udp", 4, 5000): Traffic(7, 1, 1, 1, 1),
    ("tcp", 6, 80): Traffic(3, 1, 1, 1, 1),
    ("sctp", 6, 80): Traffic(4, 1, 1, 1, 1),
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


def test_labels_hold_no_blanks_of_the_file() -> None:
    text, registry = "80  \t tcp   203.0.113.25\n", Registry()
    table = RuleTable(parse("R", text), text)
    Publication(registry).traffic(table.lines({("tcp", 4, 80): Traffic(2, 10, 1000, 8, 4000)}))
    for name in ("rule_connections_total", "rule_bytes_total", "rule_packets_total"):
        assert {dict(labels)["rule"] for labels in registry.snapshot()[name].numbers} == {
            "80 tcp 203.0.113.25"
        }


def test_metrics_name_rules_with_traffic_only() -> None:
    registry = Registry()
    publication = Publication(registry)
    publication.traffic(TABLE.lines({("tcp", 4, 80): Traffic(2, 10, 1000, 8, 4000)}))
    snapshot = registry.snapshot()
    assert snapshot["rule_connections_total"].numbers == {(("rule", "80 tcp 203.0.113.25"),): 2}
    assert snapshot["bytes_total"].numbers == {
        (("direction", "sent"),): 1000,
        (("direction", "received"),): 4000,
    }
    assert snapshot["connections_total"].numbers == {(("result", "connected"),): 2}


def test_source_ports_are_those_towards_destinations_of_the_rules() -> None:
    registry = Registry()
    bank, stranger = ip_address("203.0.113.25"), ip_address("203.0.113.200")
    used = Counter(
        {(6, bank, 80): 40, (17, bank, 80): 1, (6, stranger, 80): 2, (6, ip_address("203.0.113.28"), 5001): 3}
    )
    Publication(registry).source_ports(TABLE, used)
    snapshot = registry.snapshot()
    assert snapshot["snat_ports_in_use"].numbers == {
        (("destination", "203.0.113.25:80/tcp"),): 40,
        (("destination", "203.0.113.28:5001/tcp"),): 3,
    }
    assert snapshot["connections_open"].numbers == {(): 46}


def test_its_metrics_pass_the_lint_of_the_others() -> None:
    registry = Registry()
    process_metrics.register(registry)
    process_metrics.describe(registry, "redirect", tuple)
    publication = Publication(registry)
    publication.traffic(TABLE.lines(COUNTS))
    publication.tracking((5, 262144))
    publication.source_ports(TABLE, Counter({(6, ip_address("203.0.113.25"), 80): 40}))
    text = exposition(registry.snapshot()).decode()
    assert "egress_router_snat_ports_in_use" in text
    lint.test_every_family_has_help_and_type_once_and_in_front(text)
    lint.test_names_follow_the_conventions(text)
    lint.test_labels_are_few_and_never_chosen_by_a_client(text)
