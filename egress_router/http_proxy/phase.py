"""What a session is doing."""

from __future__ import annotations

import enum


class Phase(enum.Enum):
    """Reading a head, finding a connection, then one of the rest."""

    HEAD = "head"
    REACH = "reach"
    EXCHANGE = "exchange"
    TUNNEL = "tunnel"
    FAREWELL = "farewell"
    CLOSED = "closed"
