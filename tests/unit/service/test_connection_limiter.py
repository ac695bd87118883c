from __future__ import annotations

from array import array

from egress_router.metrics import Registry
from egress_router.service.connection_counts import ConnectionCounts
from egress_router.service.connection_limiter import ConnectionLimit, ConnectionLimiter


def test_the_limit_in_all_counts_open_connections_and_its_hits() -> None:
    registry = Registry()
    limiter = ConnectionLimiter(registry, maximum=2, maximum_per_client=None)
    assert [limiter.enter("a"), limiter.enter("b"), limiter.enter("c")] == [
        None, None, ConnectionLimit.TOTAL,
    ]  # fmt: skip
    limiter.leave("a")
    assert limiter.enter("c") is None
    assert registry.snapshot()["limit_hits_total"].numbers == {
        (("limit", "connections"),): 1,
        (("limit", "connections_per_client"),): 0,
    }


def test_the_limit_of_one_client_leaves_room_for_others() -> None:
    limiter = ConnectionLimiter(Registry(), maximum=10, maximum_per_client=1)
    assert limiter.enter("a") is None
    assert limiter.enter("a") is ConnectionLimit.PER_CLIENT
    assert limiter.enter("b") is None
    limiter.leave("a")
    assert limiter.enter("a") is None


def test_the_limit_in_all_counts_every_worker_and_what_this_one_can_hold() -> None:
    counts = memoryview(array("i", [0, 0]))
    first, second = (
        ConnectionLimiter(
            Registry(), maximum=3, maximum_per_client=1, counts=ConnectionCounts(counts, slot), possible=2
        )
        for slot in (0, 1)
    )
    assert [first.enter(client) for client in "abc"] == [None, None, ConnectionLimit.TOTAL]
    assert [second.enter(client) for client in "ab"] == [None, ConnectionLimit.TOTAL]
    assert counts.tolist() == [2, 1]
    first.leave("a")
    assert second.enter("a") is ConnectionLimit.PER_CLIENT
    assert second.enter("b") is None
    assert counts.tolist() == [1, 2]


def test_of_two_workers_that_take_the_last_place_at_once_not_both_have_it() -> None:
    class Overtaken(list[int]):
        """Another worker enters between this one's look and its entry."""

        def __setitem__(self, slot: object, count: object) -> None:
            super().__setitem__(1, 1)
            super().__setitem__(slot, count)  # type: ignore[call-overload]

    counts = Overtaken([0, 0])
    limiter = ConnectionLimiter(
        Registry(), maximum=1, maximum_per_client=1, counts=ConnectionCounts(counts, 0)
    )
    assert limiter.enter("a") is ConnectionLimit.TOTAL
    assert counts == [0, 1]
    counts.clear()
    counts.extend([0, 0])
    assert limiter.enter("a") is ConnectionLimit.TOTAL, "not the client's own limit: it has nothing open"
