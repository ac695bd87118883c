"""Which addresses of a line's name can be used: not this router, its neighbours or its own services."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from egress_router.clock import SYSTEM
from egress_router.net import own
from egress_router.upstreams.forbidden import forbidden_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from egress_router.clock import Clock
    from egress_router.grammar.address import IPAddress, IPNetwork
    from egress_router.grammar.redirect import NamedRedirect, Redirects, Router

# The address is of a family that the router has no address in, or that the line does not leave with. Many
# names have both families, so this is not reported.
SILENT: Final = ""
_NEIGHBOURS_SECONDS = 10.0
_LOOP = "it is this router itself"
_NEIGHBOUR = "it is on the network of the pod's first interface, where no line may lead"
_UNKNOWN = "the pod's networks cannot be read at the moment"


class Usable:
    """Knows why an address of a line's name is left out, for `LineNames`; `rules` returns those in force."""

    def __init__(
        self,
        router: Router,
        interface: str,
        rules: Callable[[], Redirects],
        clock: Clock = SYSTEM,
    ) -> None:
        self._router = router
        self._interface = interface
        self._rules = rules
        self._clock = clock
        self._neighbours: frozenset[IPNetwork] | None = None
        self._look_again = 0.0

    def __call__(self, line: NamedRedirect, address: IPAddress) -> str | None:
        """Return why the address is left out; None: it is not."""
        if not self._has_family(line, address.version):
            return SILENT
        misfit = self._router.misfit(address)
        if misfit is not None:
            return misfit
        if own.is_own(address) and not address.is_loopback:
            return _LOOP
        port = line.target_port or line.first
        forbidden = forbidden_reason(
            line.name,
            (address, port),
            named={rule.target for rule in self._rules().rules},
            ports=frozenset(),
            admin_port=0,
            is_own=own.is_own,
        )
        if forbidden is not None:
            return forbidden.reason
        neighbours = self._current_neighbours()
        if neighbours is None:
            return _UNKNOWN
        return _NEIGHBOUR if _is_in(address, neighbours) else None

    def _has_family(self, line: NamedRedirect, version: int) -> bool:
        sources = self._router.addresses or ()
        leaving = getattr(line.leaving, "version", None)
        return any(each.version == version for each in sources) and leaving in {None, version}

    def _current_neighbours(self) -> frozenset[IPNetwork] | None:
        now = self._clock.monotonic()
        if now >= self._look_again:
            # If no descriptor is left to read them with, the last known ones are used.
            with contextlib.suppress(OSError):
                self._neighbours = own.neighbours(self._interface)
            if self._neighbours is not None:
                self._look_again = now + _NEIGHBOURS_SECONDS
        return self._neighbours


def _is_in(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    return any(network.version == address.version and address in network for network in networks)
