from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from egress_router.admin.history import History, quantile
from egress_router.metrics import LATENCY_BUCKETS, Registry
from tests.manual_clock import ManualClock
from tests.unit.admin.views import FakeView

if TYPE_CHECKING:
    from typing import Any


def viewed(registry: Registry) -> FakeView:
    view = FakeView()
    view.registry = registry
    return view


def test_failures_are_what_reached_no_destination() -> None:
    registry = Registry()
    failed = registry.counter("upstream_failures_total", "f", reason="refused")
    connected = registry.counter("connections_total", "c", result="connected")
    other = registry.counter("connections_total", "c", result="timeout")
    clock = ManualClock()
    history = History(viewed(registry), clock)
    failed.value, connected.value, other.value = 4, 1000, 6
    clock.advance(10)
    history.tick()
    now: dict[str, Any] = history.status()["now"]  # type: ignore[assignment]
    assert now["failures"] == 1.0


def test_rates_are_of_the_last_ten_seconds_and_the_hour_is_bounded() -> None:
    registry = Registry()
    requests = registry.counter("requests_total", "r", verdict="allowed")
    denied = registry.counter("requests_total", "r", verdict="denied")
    sent = registry.counter("bytes_total", "b", direction="sent")
    received = registry.counter("bytes_total", "b", direction="received")
    opened = registry.gauge("connections_open", "o")
    clock = ManualClock()
    history = History(viewed(registry), clock)
    for number in range(1, 5001):
        requests.value += 6
        denied.value += 2
        sent.value += 20
        received.value += 200
        opened.value = number
        clock.advance(2)
        history.tick()
    status: dict[str, Any] = history.status()
    assert status["now"] == {
        "requests": 4.0,
        "sent_bytes": 10.0,
        "received_bytes": 100.0,
        "failures": 0.0,
        "open": 5000.0,
        "connect_seconds": None,
    }
    assert {len(column) for name, column in status["history"].items() if name != "seconds"} == {360}
    assert status["history"]["open"][-2:] == [4994.0, 4999.0]


def test_a_counter_that_began_again_is_no_negative_rate() -> None:
    registry = Registry()
    sent = registry.counter("bytes_total", "b", direction="sent")
    sent.value = 1000
    clock = ManualClock()
    history = History(viewed(registry), clock)
    sent.value = 0
    clock.advance(2)
    history.tick()
    now: dict[str, Any] = history.status()["now"]  # type: ignore[assignment]
    assert now["sent_bytes"] == 0


def test_the_time_to_connect_is_of_the_last_ten_seconds() -> None:
    registry = Registry()
    connects = registry.histogram("connect_seconds", "c", LATENCY_BUCKETS)
    for _ in range(1000):
        connects.observe(5)
    clock = ManualClock()
    history = History(viewed(registry), clock)
    for _ in range(10):
        connects.observe(0.02)
    clock.advance(2)
    history.tick()
    now: dict[str, Any] = history.status()["now"]  # type: ignore[assignment]
    assert 0.01 < now["connect_seconds"] <= 0.025


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([0, 0, 0], None),
        ([10, 0, 0], 0.9),
        ([0, 10, 0], 1.9),
        ([9, 1, 0], 1.0),
        ([0, 0, 10], 2.0),
        ([1, -1, 0], None),
    ],
)
def test_nine_of_ten_were_within(counts: list[int], expected: float | None) -> None:
    assert quantile((1.0, 2.0), counts) == (None if expected is None else pytest.approx(expected))
