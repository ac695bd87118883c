"""Fail-over on real kernels: three trials of each kind. `make test-standby` runs a thousand."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from egress_router.lab.failover import MOVES, Fault, Trials

if TYPE_CHECKING:
    from collections.abc import Iterator

# What is promised holds on a machine of one's own; here others may run beside.
_BUSY = 1 if os.environ.get("EGRESS_TEST_QUIET") else 3


@pytest.fixture(scope="module", params=[False, True], ids=["wire", "lease"])
def trials(request: pytest.FixtureRequest) -> Iterator[Trials]:
    """A laboratory without a witness, and one with a Lease, an EndpointSlice and an API server."""
    built = Trials(has_witness=request.param)
    yield built
    built.close()


@pytest.mark.timeout(300)
@pytest.mark.xdist_group("standby")
@pytest.mark.parametrize("fault", Fault)
def test_three_times(trials: Trials, fault: Fault) -> None:
    results = [trials.run(fault) for _ in range(3)]
    assert not any(result.second_owner for result in results), "two routers sent at once"
    limit = 1.0 if fault in MOVES or fault is Fault.GATEWAY else 0.5
    assert min(result.gap for result in results) < limit * _BUSY, results
