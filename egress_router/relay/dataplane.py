"""The data plane as Python sees it: commands in, news in batches out (docs/decisions/data-plane.md)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from egress_router.errors import RefusedError
from egress_router.metrics import Number

try:
    from egress_router.relay import _plane
except ImportError as error:  # a checkout whose environment is older than the sources
    remedy = "run `make venv` or `pip install -e .`"
    raise ImportError(f"{error}: the compiled part is missing; {remedy}") from None

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from egress_router.metrics import Registry
    from egress_router.relay._plane import Failures, Target

Pair = _plane.Pair

# Seconds without a byte before the kernel probes the peers: who is busy or over by then needs none of this.
QUIET: Final = 30.0
# News of one turn of the loop; the loop has other things to do.
_MOST: Final = 512
_ADDRESS = struct.Struct("=16s2s2x")  # `struct address` of plane.h
_MAPPED = bytes(10) + b"\xff\xff"


class End(NamedTuple):
    """How a connection ended: `reason` is a number of plane.h, `given` a socket for Python or -1."""

    client: str
    target: Target | None
    reason: int
    sent: int
    received: int
    seconds: float
    failures: Failures
    given: int


class Connection(Protocol):
    """What the data plane holds; a subclass of `Pair`."""

    def ended(self, end: End) -> None:
        """Hear of the end; called once."""


class DataPlane:
    """The data plane of this process, and its news in the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, quiet: float = QUIET) -> None:
        """Start the thread; it ends with `close`.

        Raises:
            RefusedError: there is no descriptor or no thread left.
        """
        self._loop = loop
        try:
            self._plane = _plane.Plane(bytearray(4), 0, 1 << 30, 1 << 30, 0, quiet)
        except OSError as error:
            what = f"cannot start the data plane ({error.strerror})"
            raise RefusedError(what, "raise the limits of open files and threads") from None
        self._sent = self._received = Number()
        self._known = (0, 0)
        loop.add_reader(self._plane.fileno(), self._news)

    @property
    def pipes_lent(self) -> int:
        """How many pipes carry bulk data now."""
        return self._plane.counts()[5]

    def count(self, registry: Registry, sent: Number, received: Number) -> None:
        """Have the bytes of all connections added to these, to upstreams and to clients, as they go."""
        self._sent, self._received = sent, received
        registry.before_snapshot(self._refresh)

    def _refresh(self) -> None:
        _, sent, received, _, _, _ = self._plane.counts()
        self._sent.value += sent - self._known[0]
        self._received.value += received - self._known[1]
        self._known = (sent, received)

    def relay(
        self,
        pair: Pair,
        sockets: tuple[int, int],
        idle_seconds: float,
        to_upstream: bytes,
        to_client: bytes,
    ) -> None:
        """Take over the connected sockets of client and upstream; `pair` hears of the end."""
        self._plane.relay(pair, *sockets, idle_seconds, to_upstream, to_client)

    def dial(self, pair: Pair, targets: Sequence[Target], seconds: float, stagger: float) -> None:
        """Connect to the first of these that answers; `pair` hears of it as of its end."""
        self._plane.dial(pair, tuple(targets), _addresses(targets), seconds, stagger)

    def cut(self, pair: Pair) -> None:
        """End a connection or a dial; its end comes as news."""
        self._plane.cut(pair)

    def close(self) -> None:
        """End the thread and every connection; what they have to say is said before this returns."""
        self._loop.remove_reader(self._plane.fileno())
        self._plane.stop()
        while self._read():
            pass
        self._refresh()

    def _news(self) -> None:
        if self._read() == _MOST:
            self._loop.call_soon(self._news)

    def _read(self) -> int:
        records = self._plane.collect(_MOST)
        for record in records:
            try:
                if len(record) == 10:
                    told: Connection = record[0]  # type: ignore[assignment]
                    told.ended(End(*record[2:]))
            except Exception as error:  # noqa: BLE001 - the others' news come only once
                context = {"message": "news of the data plane were not understood", "exception": error}
                self._loop.call_exception_handler(context)
        return len(records)


def _addresses(targets: Sequence[Target]) -> bytes:
    return b"".join(map(_address, targets))


def _address(target: Target) -> bytes:
    address, port = target
    packed = address.packed if address.version == 6 else _MAPPED + address.packed
    return _ADDRESS.pack(packed, port.to_bytes(2, "big"))
