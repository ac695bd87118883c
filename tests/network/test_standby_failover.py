"""Fail-over on real kernels, each kind of it. `make test-standby` runs a thousand trials."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from egress_router.lab.failover import MOVES, Fault, Trials

if TYPE_CHECKING:
    from collections.abc import Iterator

# What is promised holds on a machine of one's own; here others may run beside, and take a trial's time away.
_BUSY = 1 if os.environ.get("EGRESS_TEST_QUIET") else 3
_TRIALS = 5


def _laboratory(*, has_witness: bool) -> Iterator[Trials]:
    built = Trials(has_witness=has_witness)
    yield built
    built.close()


@pytest.fixture(scope="module")
def wire() -> Iterator[Trials]:
    """A laboratory without a witness."""
    yield from _laboratory(has_witness=False)


@pytest.fixture(scope="module")
def lease() -> Iterator[Trials]:
    """One with a Lease, an EndpointSlice and an API server."""
    yield from _laboratory(has_witness=True)


def _in_time(trials: Trials, fault: Fault) -> None:
    """Try until the promise is kept once; never may two routers send at once."""
    limit = _BUSY * (1.0 if fault in MOVES or fault is Fault.GATEWAY else 0.5)
    gaps = []
    for _ in range(_TRIALS):
        result = trials.run(fault)
        assert not result.second_owner, "two routers sent at once"
        gaps.append(result.gap)
        if result.gap < limit:
            return
    pytest.fail(f"clients missed {gaps} s, more than {limit} s each time")


# One laboratory each, so one process of the test runner each.
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("standby-wire")
@pytest.mark.parametrize("fault", Fault)
def test_without_a_witness(wire: Trials, fault: Fault) -> None:
    _in_time(wire, fault)


@pytest.mark.timeout(600)
@pytest.mark.xdist_group("standby-lease")
@pytest.mark.parametrize("fault", Fault)
def test_with_a_lease(lease: Trials, fault: Fault) -> None:
    _in_time(lease, fault)
