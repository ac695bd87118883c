"""TLS alerts, with which a server refuses a connection during the handshake (RFC 8446 6)."""

from __future__ import annotations

import enum


class Alert(enum.IntEnum):
    """The alerts that a router sends; values are those of RFC 8446 6 (AlertDescription)."""

    HANDSHAKE_FAILURE = 40
    ACCESS_DENIED = 49
    DECODE_ERROR = 50
    INTERNAL_ERROR = 80
    UNRECOGNIZED_NAME = 112


def fatal(alert: Alert) -> bytes:
    """Return the record of a fatal alert; every version of TLS understands it before the ServerHello.

    The record's version is that of TLS 1.0, as in a first ClientHello (RFC 8446 5.1), because no version has
    been agreed on yet.
    """
    return bytes((21, 3, 1, 0, 2, 2, alert))
