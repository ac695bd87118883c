"""From where a connection may come back by this router's own Service, and the listeners that look for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.net.own import addresses_of, comes_back
from egress_router.relay.own_connections import save_first_packets

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Iterable, Sequence

    from egress_router.grammar.address import IPAddress, Target


class Nearby:
    """Targets in the cluster. While there have been none, connections cost nothing for it."""

    def __init__(
        self, egress: str, comes_back: Callable[[IPAddress, Collection[IPAddress]], bool] = comes_back
    ) -> None:
        """Begin; `egress` is the outside interface; `comes_back` decides on an address, by our sources."""
        self._egress = egress
        self._comes_back = comes_back
        self._sources: frozenset[IPAddress] = frozenset()
        self._listeners: tuple[socket.socket, ...] = ()
        self._looks = False

    def refresh(self) -> None:
        """Read again which addresses connections to the outside network leave with.

        That network is closed: nothing that has left comes in again.
        """
        self._sources = addresses_of(self._egress)

    def listen(self, listeners: Iterable[socket.socket]) -> None:
        """Look at the connections of exactly these listeners, if any are needed."""
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
