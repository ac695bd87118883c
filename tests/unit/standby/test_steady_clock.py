"""A clock that is set back holds nothing up."""

from __future__ import annotations

from egress_router.standby.protocol.steady_clock import SteadyClock


class Unsteady:
    """A clock that a kernel with a fault has."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    @staticmethod
    def time() -> float:
        return 1_800_000_000.0


def test_time_stands_still_where_it_would_go_back_and_goes_on_from_there() -> None:
    unsteady = Unsteady()
    clock = SteadyClock(unsteady)
    seen = []
    for now in (100.0, 101.0, 1.0, 1.5, 0.0, 2.0):
        unsteady.now = now
        seen.append(clock.monotonic())
    assert seen == [100.0, 101.0, 101.0, 101.5, 101.5, 103.5]
    assert clock.time() == unsteady.time()
