"""Threads inside other network namespaces."""

from __future__ import annotations

import pytest

from egress_router.errors import RefusedError
from egress_router.kernel import netns
from tests.shortages import refuse_thread


def test_a_thread_that_does_not_start_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_thread(monkeypatch)
    with pytest.raises(RefusedError, match="cannot start a thread"):
        netns.within(netns.OWN, object)
