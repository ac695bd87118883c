"""The interfaces between a request and the client's connection that it came over."""

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
    """The client's connection, as a request sees it; `holds` says that bytes are buffered.

    A request updates `state` by the tables of `http1/state.py`.
    """

    worker: WorkerState
    stream: BufferedSocket
    kept: ClientUpstreams
    timeouts: Timeouts
    state: ConnectionState
    holds: bool

    def account(self) -> None:
        """Note how many bytes are buffered."""

    def dial_again(self) -> None:
        """Repeat the request over a new connection."""

    def next_request(self, *, persists: bool, was_last: bool) -> None:
        """Continue after a request; `was_last` says that the client itself sends nothing more."""

    def open_tunnel(self, info: RequestInfo, upstream: socket.socket, to_client: bytes) -> None:
        """Hand the connection over to a tunnel."""

    def answer_and_close(self, reply: Reply) -> None:
        """Send an answer of the proxy itself and close."""

    def say_and_close(self, last: bytes) -> None:
        """Send these bytes, and close once they have arrived."""

    def close(self, reason: str) -> None:
        """Close normally; `reason` is for debug events."""

    def abort(self) -> None:
        """Close so that the client sees that its answer is incomplete."""

    def fault(self, error: Exception) -> None:
        """Close, because of an unexpected error."""


class Request(ABC):
    """A request, as the client's connection sees it: `Forwarder`, or `ConnectRequest`."""

    __slots__ = ()

    @property
    @abstractmethod
    def held(self) -> int:
        """How many bytes are buffered for it, once it has its connection."""

    def reuse(self) -> bool:
        """Use an open connection if there is one to an allowed address; say whether there was."""
        return False

    @abstractmethod
    def connected(self, dialled: Dialled) -> None:
        """Use this new connection."""

    def last(self) -> None:  # noqa: B027 - a tunnel is always the last one
        """Let the client's connection end after this request."""

    def late(self, *, begun: bool) -> None:  # noqa: B027 - a CONNECT has a timeout of its own
        """Give up: the answer does not begin, or has `begun` but does not continue."""

    @abstractmethod
    def give_way(self) -> None:
        """End, because all connections together buffer too much."""

    @abstractmethod
    def close_now(self) -> None:
        """End both connections, because the client's has to end."""

    def left(self) -> None:  # noqa: B027 - usually nothing is open any more
        """Release everything: the client's connection has closed."""
