"""What may follow what: the states of a client's connection, of a request and of its answer, as tables.

A transition that the tables do not know is a fault of ours, whatever the peers did.
"""

from __future__ import annotations

import enum
from typing import Final, TypeVar

from egress_router.errors import EgressRouterError


class IllegalTransitionError(EgressRouterError):
    """A state was to follow one that it cannot follow: a fault of this program."""

    def __init__(self, before: enum.IntEnum, after: enum.IntEnum) -> None:
        super().__init__(f"{type(before).__name__}: {after.name} cannot follow {before.name}")


class ConnectionState(enum.IntEnum):
    """What a client's connection does.

    HEAD: it reads the head of a request. CONNECTING: the request is decided on, its name looked up, a
    connection to the origin made. EXCHANGE: request and answer go through. LINGERING: the last answer is
    sent, and the rest of what the client sends is dropped. TUNNEL: the connection is handed over, to a tunnel
    or, where it begins with TLS, to who reads that.
    """

    HEAD = 0
    CONNECTING = 1
    EXCHANGE = 2
    LINGERING = 3
    TUNNEL = 4
    CLOSED = 5


class RequestState(enum.IntEnum):
    """How much of a request has gone to the origin; from DONE it may be sent again over a new connection."""

    WAITING = 0
    BODY = 1
    DONE = 2


class AnswerState(enum.IntEnum):
    """How much of the answer has come from the origin; SWITCHED: what follows is another protocol."""

    AWAITED = 0
    BODY = 1
    DONE = 2
    SWITCHED = 3


_State = TypeVar("_State", ConnectionState, RequestState, AnswerState)

# By state, the states that may follow it.
CONNECTION: Final = (
    {
        ConnectionState.CONNECTING,
        ConnectionState.TUNNEL,
        ConnectionState.LINGERING,
        ConnectionState.CLOSED,
    },
    {
        ConnectionState.EXCHANGE,
        ConnectionState.TUNNEL,
        ConnectionState.LINGERING,
        ConnectionState.CLOSED,
    },
    {
        ConnectionState.HEAD,
        ConnectionState.CONNECTING,
        ConnectionState.TUNNEL,
        ConnectionState.LINGERING,
        ConnectionState.CLOSED,
    },
    {ConnectionState.CLOSED},
    set[ConnectionState](),
    set[ConnectionState](),
)
REQUEST: Final = (
    {RequestState.BODY, RequestState.DONE},
    {RequestState.DONE},
    {RequestState.WAITING},
)
ANSWER: Final = (
    {AnswerState.BODY, AnswerState.DONE, AnswerState.SWITCHED},
    {AnswerState.DONE},
    set[AnswerState](),
    set[AnswerState](),
)


def followed(table: tuple[set[_State], ...], before: _State, after: _State) -> _State:
    """Return the state `after`.

    Raises:
        IllegalTransitionError: by the table it cannot follow `before`.
    """
    if after not in table[before]:
        raise IllegalTransitionError(before, after)
    return after
