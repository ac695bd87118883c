from __future__ import annotations

from egress_router.metrics import Registry
from egress_router.service.admission import Admission, Verdict


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
