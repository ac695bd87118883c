"""What is wrong, in words and since when."""

from __future__ import annotations

from typing import Any, cast

from egress_router.admin.troubles import Troubles
from egress_router.metrics import Registry
from tests.manual_clock import ManualClock


class Watched:
    def __init__(self) -> None:
        self.registry = Registry()
        self.clock = ManualClock(time=1000.0)
        self.troubles = Troubles(self.clock)
        self.ready: tuple[str, ...] = ()
        self.look()

    def look(self, seconds: float = 0) -> list[tuple[str, float, bool]]:
        """Let time pass, in steps of two seconds, and return what is wrong then."""
        for _ in range(int(seconds // 2)):
            self.clock.advance(2)
            self.troubles.look(self.registry.snapshot(), (), self.ready)
        if not seconds:
            self.troubles.look(self.registry.snapshot(), (), self.ready)
        found = cast("list[dict[str, Any]]", self.troubles.status())
        return [(each["text"], each["since"], each["blocks"]) for each in found]


def test_a_router_that_is_well_has_none() -> None:
    watched = Watched()
    watched.registry.flag("upstream_up", "u", destination="db:443", address="203.0.113.9:443").value = 1
    watched.registry.gauge("rules_valid", "v").value = 1
    watched.registry.counter("connections_total", "c", result="connected").value = 1_000_000
    assert watched.look(600) == []


def test_a_reason_not_to_be_ready_comes_first_and_keeps_its_beginning() -> None:
    watched = Watched()
    watched.registry.gauge("rules_valid", "v").value = 0
    watched.look()
    watched.clock.advance(100)
    watched.ready = ("gateway 192.168.12.1 does not answer on macvlan0",)
    expected = [
        ("gateway 192.168.12.1 does not answer on macvlan0", 1100.0, True),
        ("the changed rules are refused; the old ones stay in force", 1000.0, False),
    ]
    assert watched.look() == expected
    assert watched.look(60) == expected
    watched.ready = ()
    assert watched.look() == expected[1:]


def test_source_ports_that_run_out_are_named_by_source() -> None:
    watched = Watched()
    for source, count in (("192.168.12.99", 50_001), ("192.168.12.100", 50_000)):
        labels = {"source": source, "destination": "203.0.113.25:80/tcp"}
        watched.registry.gauge("snat_ports_in_use", "s", **labels).value = count
    way = "192.168.12.99 towards 203.0.113.25:80/tcp"
    assert watched.look() == [(f"source ports of {way} run out: 50,001 of 64,512 are in use", 1000.0, False)]


def test_source_ports_of_proxies_run_out_by_what_the_kernel_has() -> None:
    watched = Watched()
    watched.registry.gauge("source_ports_limit", "l").value = 28_232
    for source, count in (("192.168.12.99", 22_600), ("192.168.12.100", 22_500)):
        watched.registry.gauge("source_ports_in_use", "s", source=source).value = count
    said = "source ports of 192.168.12.99 run out: 22,600 of 28,232 are in use towards one destination"
    assert watched.look() == [(said, 1000.0, False)]


def test_destinations_that_do_not_answer_are_named() -> None:
    watched = Watched()
    for destination, address, up in (
        ("a:1", "203.0.113.1:1", 0),
        ("b:1", "203.0.113.1:1", 1), ("b:1", "203.0.113.2:1", 0),
        ("c:1", "", 0),
        ("d:1", "203.0.113.3:1", 1),
    ):  # fmt: skip
        watched.registry.flag("upstream_up", "u", destination=destination, address=address).value = up
    assert [text for text, _, _ in watched.look()] == [
        "no address of a:1 answers (203.0.113.1:1)",
        "no answer from 203.0.113.2:1 of b:1; its other addresses serve",
        "c:1 has no address: its name does not resolve",
    ]


def test_what_is_counted_is_that_of_five_minutes_with_its_beginning() -> None:
    watched = Watched()
    failures = watched.registry.counter("upstream_failures_total", "f", reason="refused")
    full = watched.registry.counter("limit_hits_total", "l", limit="connections")
    failures.value = 3
    assert watched.look(2) == [("3 requests failed in the last 5 minutes: refused", 1002.0, False)]
    full.value = 7
    assert watched.look(10) == [
        ("the limit connections was reached 7 times in the last 5 minutes", 1004.0, False),
        ("3 requests failed in the last 5 minutes: refused", 1002.0, False),
    ]
    assert watched.look(302) == []
    failures.value += 1
    assert watched.look(2)[0][1] == 1316.0, "a new one, not the old one"


def test_what_was_counted_before_the_page_began_is_no_news() -> None:
    registry = Registry()
    registry.counter("worker_restarts_total", "r").value = 5
    clock = ManualClock()
    troubles = Troubles(clock)
    troubles.look(registry.snapshot(), (), ())
    clock.advance(2)
    troubles.look(registry.snapshot(), (), ())
    assert troubles.status() == []
