"""How many source ports the proxies' connections use, for each of the router's addresses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.grammar.address import printed
from egress_router.net import open_connections, port_range
from egress_router.net.own import addresses_of
from egress_router.service.tasks import in_daemon_thread

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Collection

    from egress_router.grammar.address import IPAddress
    from egress_router.metrics import Registry
    from egress_router.net.open_connections import Way
    from egress_router.service.mode import Json

_MAX_SHOWN = 100
_INTERVAL = 30.0  # seconds; with ten thousand connections one look takes some hundredths of a second

_log = log.get("service")


class SourcePorts:
    """Reads the kernel's table every 30 s, and keeps the metric up to date."""

    def __init__(
        self,
        registry: Registry,
        interface: str,
        ports: Callable[[], Collection[int]],
        others: Collection[int],
        interval: float = _INTERVAL,
    ) -> None:
        """Count what leaves with addresses of `interface`; clients come to `ports`, `others` do not count."""
        self._registry = registry
        self._interface = interface
        self._ports = ports
        self._others = others
        self._interval = interval

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            ports = self._ports()
            try:
                seen = await in_daemon_thread(lambda: open_connections.read(ports, self._others))  # noqa: B023
            except RefusedError as error:
                _log.warning("source ports in use are not counted", error=str(error))
            else:
                self.show(seen.ways, addresses_of(self._interface))
            await asyncio.sleep(self._interval)

    def show(self, ways: Counter[Way], sources: Collection[IPAddress]) -> None:
        """Publish, by source, how many ports are in use towards the destination that has most of them.

        A port is in use towards one destination only. Destinations are no label: clients may choose them.
        """
        self._registry.forget("source_ports_in_use")
        meaning = "Source ports that an address has towards each destination."
        self._registry.gauge("source_ports_limit", meaning).value = port_range.size()
        most = dict.fromkeys(sources, 0)
        for (source, _), count in ways.items():
            if source in most:
                most[source] = max(most[source], count)
        meaning = "Source ports of an address in use towards the destination that has most of them."
        for source, count in most.items():
            self._registry.gauge("source_ports_in_use", meaning, source=str(source)).value = count


def shown(ways: Counter[Way], sources: Collection[IPAddress]) -> list[Json]:
    """Return for `/status` the ports in use by source and destination, most first, as in redirect mode."""
    used = [(way, count) for way, count in ways.most_common() if way[0] in sources]
    return [
        {"source": str(source), "destination": f"{printed(*destination)}/tcp", "in_use": count}
        for (source, destination), count in used[:_MAX_SHOWN]
    ]
