"""What may follow what: the states of a client's connection, of a request and of its answer, as tables.

A transition that the tables do not know is a fault of ours, whatever the peers did.
"""

from __future__ import annotations

import enum
from typing import Final, Generic, TypeVar

from egress_router.errors import EgressRouterError


class IllegalTransitionError(EgressRouterError):
    """A state was to follow one that it cannot follow: a fault of this program."""

    def __init__(self, before: enum.IntEnum, after: enum.IntEnum) -> None:
        super().__init__(f"{type(before).__name__}: {after.name} cannot follow {before.name}")


class ConnectionState(enum.IntEnum):
    """What a client's connection does.

    HEAD: it reads the head of a request. CONNECTING: the request is decided on, its name looked up, a
    connection to the origin made. HELLO: the first bytes of a tunnel are looked at. EXCHANGE: request and
    answer go through. LINGERING: the last answer is sent, and the rest of what the client sends is dropped.
    TUNNEL: the connection is handed over, to a tunnel or, where it begins with TLS, to `TlsConnection`.
    """

    HEAD = 0
    CONNECTING = 1
    HELLO = 2
    EXCHANGE = 3
    LINGERING = 4
    TUNNEL = 5
    CLOSED = 6


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


_State = TypeVar("_State", bound=enum.IntEnum)


class Into(Generic[_State]):
    """The way into a state: `state = INTO_DONE[state]` is that state, where it may follow the present one."""

    def __init__(self, after: _State, *before: _State) -> None:
        self.after = after
        self._before = frozenset(before)

    def __getitem__(self, before: _State) -> _State:
        """Return the state.

        Raises:
            IllegalTransitionError: it cannot follow the one before.
        """
        if before not in self._before:
            raise IllegalTransitionError(before, self.after)
        return self.after


_C = ConnectionState
INTO_HEAD: Final = Into(_C.HEAD, _C.EXCHANGE)
INTO_CONNECTING: Final = Into(_C.CONNECTING, _C.HEAD, _C.EXCHANGE)
INTO_HELLO: Final = Into(_C.HELLO, _C.CONNECTING)
INTO_EXCHANGE: Final = Into(_C.EXCHANGE, _C.CONNECTING)
INTO_TUNNEL: Final = Into(_C.TUNNEL, _C.HEAD, _C.CONNECTING, _C.HELLO, _C.EXCHANGE)
INTO_LINGERING: Final = Into(_C.LINGERING, _C.HEAD, _C.CONNECTING, _C.HELLO, _C.EXCHANGE)
INTO_CLOSED: Final = Into(_C.CLOSED, _C.HEAD, _C.CONNECTING, _C.HELLO, _C.EXCHANGE, _C.LINGERING)

_R = RequestState
INTO_WAITING: Final = Into(_R.WAITING, _R.DONE)
INTO_REQUEST_BODY: Final = Into(_R.BODY, _R.WAITING)
INTO_REQUEST_DONE: Final = Into(_R.DONE, _R.WAITING, _R.BODY)

_A = AnswerState
INTO_ANSWER_BODY: Final = Into(_A.BODY, _A.AWAITED)
INTO_ANSWER_DONE: Final = Into(_A.DONE, _A.AWAITED, _A.BODY)
INTO_SWITCHED: Final = Into(_A.SWITCHED, _A.AWAITED)
