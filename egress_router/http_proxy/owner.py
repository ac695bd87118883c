"""What a request and the client's connection that it came over ask of each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket

    from egress_router.http_proxy.http1.state import ConnectionState
    from egress_router.http_proxy.replies import Reply
    from egress_router.http_proxy.request_info import RequestInfo
    from egress_router.http_proxy.timeouts import Timeouts
    from egress_router.http_proxy.upstream import ClientUpstreams
    from egress_router.http_proxy.worker_state import WorkerState
    from egress_router.relay.buffered_socket import BufferedSocket
    from egress_router.relay.dial import Dialled


class Owner(Protocol):
    """The client's connection, as a request sees it; `holds` says that bytes are held.

    A request sets the `state` when it has changed, by the tables of `http1/state.py`.
    """

    worker: WorkerState
    stream: BufferedSocket
    kept: ClientUpstreams
    timeouts: Timeouts
    state: ConnectionState
    holds: bool

    def account(self) -> None:
        """Note how many bytes are held."""

    def dial_again(self) -> None:
        """Repeat the request over a new connection."""

    def next_request(self, *, persists: bool, was_last: bool) -> None:
        """Go on after a request; `was_last` says that the client itself sends nothing more."""

    def open_tunnel(self, info: RequestInfo, upstream: socket.socket, to_client: bytes) -> None:
        """Hand the connection over to a tunnel."""

    def answer_and_close(self, reply: Reply) -> None:
        """Send an answer of the proxy's own and close."""

    def say_and_close(self, last: bytes) -> None:
        """Send these bytes, and close once they have arrived."""

    def close(self, reason: str) -> None:
        """Close in order; `reason` is for debug events."""

    def abort(self) -> None:
        """Close so that the client sees that its answer is cut short."""

    def fault(self, error: Exception) -> None:
        """Close, because of something that must not happen."""


class Request(ABC):
    """A request, as the client's connection sees it: `Forwarder`, or `ConnectRequest`."""

    __slots__ = ()

    @property
    @abstractmethod
    def held(self) -> int:
        """How many bytes are held for it, once it has its connection."""

    def reuse(self) -> bool:
        """Go on over a connection that is open, and say whether there was one to an allowed address."""
        return False

    @abstractmethod
    def connected(self, dialled: Dialled) -> None:
        """Go on over a new connection."""

    def last(self) -> None:  # noqa: B027 - a tunnel is the last one anyhow
        """Let the client's connection end with this request."""

    def late(self, *, begun: bool) -> None:  # noqa: B027 - a CONNECT has a time-out of its own
        """Give up: its answer does not begin, or has `begun` and does not go on."""

    @abstractmethod
    def give_way(self) -> None:
        """End, because all connections together hold too much."""

    @abstractmethod
    def close_now(self) -> None:
        """End both connections, because the client's has to."""

    def left(self) -> None:  # noqa: B027 - mostly nothing is left then
        """Let go of everything: the client's connection has closed."""
