from __future__ import annotations

from typing import TypeVar

import pytest

from egress_router.http_proxy.http1.state import (
    ANSWER,
    CONNECTION,
    REQUEST,
    AnswerState,
    ConnectionState,
    IllegalTransitionError,
    RequestState,
    followed,
)

State = TypeVar("State", ConnectionState, RequestState, AnswerState)


def check(states: type[State], table: tuple[set[State], ...], allowed: str) -> None:
    pairs = {tuple(pair.split()) for pair in allowed.split(",")}
    for before in states:
        for after in states:
            if (before.name, after.name) in pairs:
                assert followed(table, before, after) is after
            else:
                with pytest.raises(IllegalTransitionError, match=f"{after.name} cannot follow {before.name}"):
                    followed(table, before, after)


def test_every_pair_of_states_is_allowed_or_a_fault_of_ours() -> None:
    check(
        ConnectionState,
        CONNECTION,
        """HEAD CONNECTING, HEAD TUNNEL, HEAD LINGERING, HEAD CLOSED,
        CONNECTING EXCHANGE, CONNECTING TUNNEL, CONNECTING LINGERING, CONNECTING CLOSED,
        EXCHANGE HEAD, EXCHANGE CONNECTING, EXCHANGE TUNNEL, EXCHANGE LINGERING, EXCHANGE CLOSED,
        LINGERING CLOSED""",
    )
    check(RequestState, REQUEST, "WAITING BODY, WAITING DONE, BODY DONE, DONE WAITING")
    check(AnswerState, ANSWER, "AWAITED BODY, AWAITED DONE, AWAITED SWITCHED, BODY DONE")
