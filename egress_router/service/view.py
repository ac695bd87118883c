"""What the administration endpoint may ask of the service: a proxy's supervisor, or redirect mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket

    from egress_router.metrics import Snapshot
    from egress_router.service.mode import Json


class View(Protocol):
    """Questions about a running service; every answer comes at once or within about two seconds."""

    def health(self) -> tuple[str, ...]:
        """Return why the process should be killed and started again; empty if it is healthy."""

    def ready(self) -> tuple[str, ...]:
        """Return why the router cannot do its job now; empty if it can."""

    def snapshot(self) -> Snapshot:
        """Return all metrics."""

    async def status(self) -> dict[str, Json]:
        """Return the content of `/status`; the keys are listed in docs/operating.md."""


class Administration(Protocol):
    """A running endpoint."""

    async def close(self) -> None:
        """Stop serving."""


class ServeAdministration(Protocol):
    """Starts the endpoint on a socket that listens."""

    async def __call__(self, view: View, listener: socket.socket) -> Administration:
        """Serve what `view` answers."""
