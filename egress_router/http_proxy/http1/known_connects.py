"""Heads of CONNECT that came before: the clients of a pool send the same ones, byte for byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.http_proxy.http1.head import parse_request

if TYPE_CHECKING:
    from egress_router.http_proxy.http1.head import RequestHead

_MAX = 256
_LONGEST = 1_024
# Of a head with any other field nothing is kept: it might be a secret.
_HARMLESS = frozenset(
    {
        b"accept",
        b"accept-encoding",
        b"connection",
        b"host",
        b"keep-alive",
        b"proxy-connection",
        b"user-agent",
    }
)


class KnownConnects:
    """Reads the heads of requests; one of CONNECT that is known needs no parser.

    What it said before it says again: reading a head depends on nothing but its bytes, and a head that is
    wrong is not kept. docs/decisions/performance.md has what it saves.
    """

    def __init__(self, most_fields: int) -> None:
        self._most_fields = most_fields
        self._known: dict[bytes, RequestHead] = {}

    def __len__(self) -> int:
        """How many heads are known."""
        return len(self._known)

    def read(self, text: bytes) -> RequestHead:
        """Return what a head says; nobody may change it.

        Raises:
            MessageError: see `parse_request`.
        """
        if not text.startswith(b"CONNECT ") or len(text) > _LONGEST:
            return parse_request(text, self._most_fields)
        head = self._known.get(text)
        if head is None:
            head = parse_request(text, self._most_fields)
            if all(lower in _HARMLESS for lower, _, _ in head.fields):
                self._keep(text, head)
        return head

    def _keep(self, text: bytes, head: RequestHead) -> None:
        if len(self._known) >= _MAX:
            self._known.clear()  # simple, and as good as any order for who has so many
        self._known[text] = head
