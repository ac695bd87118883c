"""What a session is doing."""

from __future__ import annotations

import enum
from typing import Final


class Phase(enum.Enum):
    """Reading a head, finding a connection, then one of the rest; closed once it is handed over, too."""

    HEAD = "head"
    REACH = "reach"
    EXCHANGE = "exchange"
    FAREWELL = "answer_and_close"
    CLOSED = "closed"


# The usual ones, bound once: in CPython 3.11 an enum's member costs as much as two calls.
HEAD: Final = Phase.HEAD
REACH: Final = Phase.REACH
EXCHANGE: Final = Phase.EXCHANGE
CLOSED: Final = Phase.CLOSED
