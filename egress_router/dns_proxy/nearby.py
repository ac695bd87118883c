"""Targets from which a connection may come back through this router's own Service, and the check for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.net.own import addresses_of, comes_back
from egress_router.relay.own_connections import save_first_packets

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Iterable, Sequence

    from egress_router.grammar.address import IPAddress, Target


class Nearby:
    """Finds targets in the cluster. Until there has been one, connections pay nothing for the check."""

    def __init__(
        self, egress: str, comes_back: Callable[[IPAddress, Collection[IPAddress]], bool] = comes_back
    ) -> None:
        """Begin; `egress`: the outside interface; `comes_back` decides on an address, by our sources."""
        self._egress = egress
        self._comes_back = comes_back
        self._sources: frozenset[IPAddress] = frozenset()
        self._listeners: tuple[socket.socket, ...] = ()
        self._looks = False

    def refresh(self) -> None:
        """Read again which source addresses connections to the outside network have.

        That network is closed: no connection comes back from there.
        """
        self._sources = addresses_of(self._egress)

    def listen(self, listeners: Iterable[socket.socket]) -> None:
        """Check the connections of exactly these listeners, once there has been such a target."""
        self._listeners = tuple(listeners)
        if self._looks:
            self._look()

    def of(self, targets: Sequence[Target]) -> frozenset[Target]:
        """Return the targets from which a connection may come back."""
        found = frozenset(each for each in targets if self._comes_back(each[0], self._sources))
        if found and not self._looks:
            self._looks = True
            self._look()
        return found

    def _look(self) -> None:
        for each in self._listeners:
            save_first_packets(each)
