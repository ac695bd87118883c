from __future__ import annotations

from typing import TypeVar

import pytest

from egress_router.http_proxy.http1 import state
from egress_router.http_proxy.http1.state import (
    AnswerState,
    ConnectionState,
    IllegalTransitionError,
    Into,
    RequestState,
)

State = TypeVar("State", ConnectionState, RequestState, AnswerState)
WAYS = [way for way in vars(state).values() if isinstance(way, Into)]


def check(states: type[State], allowed: str) -> None:
    pairs = {tuple(pair.split()) for pair in allowed.split(",")}
    ways = {way.after: way for way in WAYS if isinstance(way.after, states)}
    for before in states:
        for after in ways:
            if (before.name, after.name) in pairs:
                assert ways[after][before] is after
            else:
                with pytest.raises(IllegalTransitionError, match=f"{after.name} cannot follow {before.name}"):
                    ways[after][before]
    assert {after for _, after in pairs} == {after.name for after in ways}


def test_every_pair_of_states_is_allowed_or_a_fault_of_ours() -> None:
    check(
        ConnectionState,
        """HEAD CONNECTING, HEAD TUNNEL, HEAD LINGERING, HEAD CLOSED,
        CONNECTING HELLO, CONNECTING EXCHANGE, CONNECTING TUNNEL, CONNECTING LINGERING, CONNECTING CLOSED,
        EXCHANGE HEAD, EXCHANGE CONNECTING, EXCHANGE TUNNEL, EXCHANGE LINGERING, EXCHANGE CLOSED,
        HELLO TUNNEL, HELLO LINGERING, HELLO CLOSED, LINGERING CLOSED""",
    )
    check(RequestState, "WAITING BODY, WAITING DONE, BODY DONE, DONE WAITING")
    check(AnswerState, "AWAITED BODY, AWAITED DONE, AWAITED SWITCHED, BODY DONE")
