"""Fail-over on real kernels: each kind in three laboratories, side by side. `make test-standby` runs a thousand.

That two never send at once holds on every machine. Times hold on one that does nothing else; here others may
run beside, so a trial may be slow, by more than what the machine held up everything, but not each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from egress_router.lab.failover.trial import MOVES, PLANNED, Fault, Result, Trials

if TYPE_CHECKING:
    from collections.abc import Iterator

ATTEMPTS = 3


def laboratory(name: str, *, has_arbiter: bool) -> object:
    """Return a parameter that has a process of the tests to itself."""
    return pytest.param(has_arbiter, id=name, marks=pytest.mark.xdist_group(f"standby-{name}"))


@pytest.fixture(
    scope="module",
    params=[
        laboratory("wire", has_arbiter=False),
        laboratory("wire-again", has_arbiter=False),
        laboratory("lease", has_arbiter=True),
    ],
)
def trials(request: pytest.FixtureRequest) -> Iterator[Trials]:
    """A laboratory without an arbiter, or one with a Lease, an EndpointSlice and an API server."""
    built = Trials(has_arbiter=request.param, every=0.04)
    yield built
    built.close()


def is_quick(result: Result) -> bool:
    """Say whether a client's gap is as short as promised, with a margin, without what the machine held up.

    On a busy machine everybody answers late, and a router that takes over waits for a processor.
    """
    is_move = result.fault in MOVES - PLANNED or result.fault is Fault.GATEWAY
    return result.gap - result.machine - result.waited < (2.0 if is_move else 0.5)


@pytest.mark.parametrize("fault", Fault)
def test_nobody_sends_beside_another_and_somebody_goes_on(trials: Trials, fault: Fault) -> None:
    results: list[Result] = []
    while not results or not is_quick(results[-1]):
        assert len(results) < ATTEMPTS, results
        results.append(trials.run(fault))
        assert not results[-1].second_owner, "two routers sent at once"
