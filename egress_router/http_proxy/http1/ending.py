"""The ways in which an exchange ends. Pure."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from egress_router.http_proxy.http1.errors import MessageError


class Ending(enum.Enum):
    """How an exchange ended, which decides what happens to its two connections.

    FINISHED: the client has the whole answer. REPEATED: a reused connection ended before any byte of an
    answer; the request is sent again over a new one. SWITCHED: both connections continue as a tunnel.
    REFUSED: the body of the request is wrong, and no answer has begun. BAD_ANSWER, NO_ANSWER, TOO_LATE: the
    proxy answers instead of the origin. CUT: both peers must see that their message is incomplete.
    """

    FINISHED = "finished"
    REPEATED = "repeated"
    SWITCHED = "switched"
    REFUSED = "refused"
    BAD_ANSWER = "bad_answer"
    NO_ANSWER = "no_answer"
    TOO_LATE = "too_late"
    CUT = "cut"


class End(NamedTuple):
    """The end of an exchange; `reason` is for metrics and records, `error` says what a peer did wrong."""

    ending: Ending
    reason: str
    error: MessageError | None = None


FINISHED: Final = End(Ending.FINISHED, "finished")
REPEATED: Final = End(Ending.REPEATED, "repeated")
SWITCHED: Final = End(Ending.SWITCHED, "switched")
NO_ANSWER: Final = End(Ending.NO_ANSWER, "incomplete")
TOO_LATE: Final = End(Ending.TOO_LATE, "no_answer")
