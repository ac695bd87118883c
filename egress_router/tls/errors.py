"""Why the first bytes of a connection are not a usable ClientHello."""

from __future__ import annotations

import enum

from egress_router.errors import EgressRouterError


class TlsFault(enum.Enum):
    """What is wrong; the value is used in records and metrics."""

    NOT_TLS = "not_tls"
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"


class TlsError(EgressRouterError):
    """The peer's first bytes are not a ClientHello, or one that two parsers could read differently."""

    def __init__(self, fault: TlsFault, reason: str) -> None:
        self.fault = fault
        super().__init__(reason)
