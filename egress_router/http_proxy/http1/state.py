"""The states of a client's connection, of a request and of its answer, and their allowed transitions.

Any other transition is a bug of this program, whatever the peers did.
"""

from __future__ import annotations

import enum
from typing import Final, Generic, TypeVar

from egress_router.errors import EgressRouterError


class IllegalTransitionError(EgressRouterError):
    """A transition that is not allowed: a bug of this program."""

    def __init__(self, before: enum.IntEnum, after: enum.IntEnum) -> None:
        super().__init__(f"{type(before).__name__}: {after.name} cannot follow {before.name}")


class ConnectionState(enum.IntEnum):
    """What a client's connection does at the moment.

    HEAD: it reads the head of a request. CONNECTING: the proxy decides on the request, looks up its name and
    connects to the origin. HELLO: it checks the first bytes of a tunnel. EXCHANGE: it forwards request and
    answer. LINGERING: the last answer is sent, and whatever else the client sends is dropped. TUNNEL: the
    connection is handed over to a tunnel, or to `TlsConnection` if it begins with TLS.
    """

    HEAD = 0
    CONNECTING = 1
    HELLO = 2
    EXCHANGE = 3
    LINGERING = 4
    TUNNEL = 5
    CLOSED = 6


class RequestState(enum.IntEnum):
    """How much of a request was sent to the origin; after DONE it may be sent again over a new connection."""

    WAITING = 0
    BODY = 1
    DONE = 2


class AnswerState(enum.IntEnum):
    """How much of the answer has come from the origin; SWITCHED: another protocol follows."""

    AWAITED = 0
    BODY = 1
    DONE = 2
    SWITCHED = 3


_State = TypeVar("_State", bound=enum.IntEnum)


class Into(Generic[_State]):
    """A transition into one state: `state = INTO_DONE[state]`, allowed only from the states `before`."""

    def __init__(self, after: _State, *before: _State) -> None:
        self.after = after
        self._before = frozenset(before)

    def __getitem__(self, before: _State) -> _State:
        """Return the new state.

        Raises:
            IllegalTransitionError: it must not follow the state `before`.
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
