"""Which fields of a head are forwarded, and which are not. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from egress_router.http_proxy.http1.head import Field

# RFC 9110 7.6.1, with what the original proxy removes; and the framing, which is written again.
NEVER_PASSED: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NOT_FROM_CLIENTS = NEVER_PASSED | {b"host", b"expect", b"http2-settings", b"max-forwards"}


def passed_from_client(fields: Iterable[Field], options: frozenset[bytes]) -> bytes:
    """Return the fields of a request that are forwarded unchanged; `options` are the Connection options."""
    parts: list[bytes] = []
    for lower, name, value in fields:
        if lower not in _NOT_FROM_CLIENTS and lower not in options:
            parts += (name, b": ", value, b"\r\n")
    return b"".join(parts)
