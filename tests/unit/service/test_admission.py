from __future__ import annotations

from egress_router.metrics import Registry
from egress_router.service.admission import Admission, Verdict
from egress_router.service.seats import Seats


def test_the_limit_in_all_counts_open_connections_and_its_hits() -> None:
    registry = Registry()
    admission = Admission(registry, most=2, most_per_client=None)
    assert [admission.enter("a"), admission.enter("b"), admission.enter("c")] == [
        Verdict.ADMITTED, Verdict.ADMITTED, Verdict.FULL,
    ]  # fmt: skip
    admission.leave("a")
    assert admission.enter("c") is Verdict.ADMITTED
    assert registry.snapshot()["limit_hits_total"].numbers == {
        (("limit", "connections"),): 1,
        (("limit", "connections_per_client"),): 0,
    }


def test_the_limit_of_one_client_leaves_room_for_others() -> None:
    admission = Admission(Registry(), most=10, most_per_client=1)
    assert admission.enter("a") is Verdict.ADMITTED
    assert admission.enter("a") is Verdict.CLIENT_FULL
    assert admission.enter("b") is Verdict.ADMITTED
    admission.leave("a")
    assert admission.enter("a") is Verdict.ADMITTED


def test_the_limit_in_all_counts_every_worker_and_what_this_one_can_hold() -> None:
    counts = [0, 0]
    first, second = (
        Admission(Registry(), most=3, most_per_client=1, seats=Seats(counts, place), possible=2)
        for place in (0, 1)
    )
    assert [first.enter(client) for client in "abc"] == [Verdict.ADMITTED, Verdict.ADMITTED, Verdict.FULL]
    assert [second.enter(client) for client in "ab"] == [Verdict.ADMITTED, Verdict.FULL]
    assert counts == [2, 1]
    first.leave("a")
    assert second.enter("a") is Verdict.CLIENT_FULL
    assert second.enter("b") is Verdict.ADMITTED
    assert counts == [1, 2]


def test_of_two_workers_that_take_the_last_place_at_once_not_both_have_it() -> None:
    class Overtaken(list[int]):
        """Another worker enters between this one's look and its entry."""

        def __setitem__(self, place: object, count: object) -> None:
            super().__setitem__(1, 1)
            super().__setitem__(place, count)  # type: ignore[call-overload]

    counts = Overtaken([0, 0])
    admission = Admission(Registry(), most=1, most_per_client=1, seats=Seats(counts, 0))
    assert admission.enter("a") is Verdict.FULL
    assert counts == [0, 1]
    counts.clear()
    counts.extend([0, 0])
    assert admission.enter("a") is Verdict.FULL, "not the client's own limit: it has nothing open"
