from __future__ import annotations

from ipaddress import ip_address

import pytest

from egress_router.grammar.leaving import Leaving, Spread
from egress_router.relay.sources import ways

SOURCES = tuple(map(ip_address, ("192.0.2.1", "192.0.2.2", "2001:db8::1")))


def shown(targets: str, leaving: Leaving, turn: int = 0) -> str:
    """Write targets as they are tried, each with its source behind it."""
    made = ways([(ip_address(each), 80) for each in targets.split()], leaving, SOURCES, turn)
    assert all(port == 80 for _, port in made.targets)
    sources = made.sources or (None,) * len(made.targets)
    return " ".join(f"{target}<{source}" for (target, _), source in zip(made.targets, sources, strict=True))


@pytest.mark.parametrize(
    ("targets", "leaving", "turn", "expected"),
    [
        ("198.51.100.1 2001:db8::8", None, 0, "198.51.100.1<None 2001:db8::8<None"),
        ("198.51.100.1 2001:db8::8", SOURCES[1], 0, "198.51.100.1<192.0.2.2"),
        ("198.51.100.1 2001:db8::8", SOURCES[2], 5, "2001:db8::8<2001:db8::1"),
        ("198.51.100.1", SOURCES[2], 0, ""),
        ("", Spread.ALL, 0, ""),
        (
            "198.51.100.1 198.51.100.2",
            Spread.ALL,
            1,
            "198.51.100.1<192.0.2.2 198.51.100.2<192.0.2.2 198.51.100.1<192.0.2.1 198.51.100.2<192.0.2.1",
        ),
        (
            "198.51.100.1 2001:db8::8",
            Spread.ALL,
            0,
            "198.51.100.1<192.0.2.1 2001:db8::8<2001:db8::1 198.51.100.1<192.0.2.2 2001:db8::8<2001:db8::1",
        ),
    ],
)
def test_ways(targets: str, leaving: Leaving, turn: int, expected: str) -> None:
    assert shown(targets, leaving, turn) == expected
