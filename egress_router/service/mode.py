"""What a mode (HTTP proxy, TCP forwarder) provides to the service, and what the service provides to a mode.

The supervisor owns the rules' text and the listening sockets; a worker owns connections. Rules travel from
the supervisor to the workers as one frozen, picklable value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from egress_router.service.shared_memory import SharedMemory, unshared

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Mapping

    from egress_router.metrics import Registry
    from egress_router.relay.poller import Poller
    from egress_router.service.connection_limiter import ConnectionLimiter

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Rules = TypeVar("Rules")
RulesIn_contra = TypeVar("RulesIn_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What a worker process provides to its server."""

    loop: asyncio.AbstractEventLoop
    poller: Poller
    registry: Registry
    limiter: ConnectionLimiter
    drain_seconds: float
    shared: SharedMemory = field(default_factory=unshared)


class Server(Protocol[RulesIn_contra]):
    """A mode inside one worker: accepts, serves and owns its connections. Called in the event loop only."""

    def apply(self, rules: RulesIn_contra) -> None:
        """Decide by these rules from now on; connections that they still allow stay as they are."""

    def listen(self, listeners: Mapping[int, socket.socket]) -> None:
        """Accept on exactly these sockets, by port: start on new ones, stop on (and close) all others."""

    def stop_accepting(self) -> None:
        """Accept what is in the accept queues, then accept no more; open connections go on."""

    def open_connections(self) -> int:
        """Return how many client connections are open."""

    def close_all(self) -> None:
        """Close every connection now."""

    def status(self) -> dict[str, Json]:
        """Return what `/status` and the page show of this worker."""


@dataclass(frozen=True, slots=True)
class Mode(Generic[Rules]):
    """One mode; its settings are already bound into the functions.

    `parse` reads rules (source name, text) and raises ConfigError; `ports` returns the ports that rules need;
    `build` makes the worker's server, not yet listening; `summary` renders rules as lines for a
    readable difference.
    """

    name: str
    parse: Callable[[str, str], Rules]
    ports: Callable[[Rules], frozenset[int]]
    build: Callable[[WorkerContext, Rules], Server[Rules]]
    summary: Callable[[Rules], tuple[str, ...]]
