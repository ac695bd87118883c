"""Fail-over trials side by side, each in a laboratory of its own."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from egress_router.lab.failover import laboratories
from egress_router.lab.failover.trial import Fault, Result


def children() -> set[int]:
    """Return the processes that this one has started and that run."""
    return {
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text("ascii").split()
    }


@pytest.mark.timeout(300)
def test_two_trials_at_once_share_nothing_and_leave_nothing() -> None:
    before = children()
    outcomes = laboratories.run(iter([Fault.CABLE] * 3), 2, has_arbiter=False)
    found = [next(outcomes), next(outcomes)]
    assert len(multiprocessing.active_children()) == 2
    outcomes.close()  # as an interruption does, in the midst of the third one
    assert all(isinstance(each, Result) and not each.second_owner for each in found), found
    assert not multiprocessing.active_children()
    # What remains is multiprocessing's own helper, which ends with this process.
    assert len(children() - before) <= 1
