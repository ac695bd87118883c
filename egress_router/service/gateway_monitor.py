"""Watches the pod's egress interface and the gateway on it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from egress_router.net import gateway

if TYPE_CHECKING:
    from egress_router.metrics import Registry
    from egress_router.service.mode import Json

_INTERVAL, _INTERVAL_OF_TROUBLE = 5.0, 1.0  # seconds
_ANSWER_SECONDS = 1.0
_POLL_SECONDS = 0.05
_UP = "1 where the gateway answers on the egress interface; without a gateway there is no default route."


class GatewayMonitor:
    """What is known of an interface; a pod without it (a proxy outside a cluster) reports no problem."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._seen: gateway.Interface | None = None
        self._failure: str | None = "the gateway was not asked yet"

    async def watch(self) -> None:
        """Keep what is known up to date."""
        while True:
            await self.look()
            await asyncio.sleep(_INTERVAL_OF_TROUBLE if self.problems() else _INTERVAL)

    async def look(self) -> None:
        """Make the kernel resolve the gateways' hardware addresses, and see whether they answered."""
        try:
            self._seen, self._failure = await self._ask(), None
        except OSError as error:
            self._failure = f"the gateway cannot be asked: {error.strerror}"

    async def _ask(self) -> gateway.Interface | None:
        loop = asyncio.get_running_loop()
        seen = gateway.look(self._interface)
        if seen is not None:
            for each in seen.gateways:
                gateway.provoke(seen, each)
            limit = loop.time() + _ANSWER_SECONDS
            while seen.silent and loop.time() < limit:
                await asyncio.sleep(_POLL_SECONDS)
                seen = gateway.look_again(seen)
        return seen

    def problems(self) -> tuple[str, ...]:
        """Return why nothing can leave through the interface; empty if it can."""
        if self._failure is not None:
            return (self._failure,)
        seen = self._seen
        if seen is None:
            return ()
        if not seen.is_up:
            return (f"interface {seen.name} is down",)
        if not seen.gateways:
            return (f"interface {seen.name} has no default route",)
        return tuple(f"gateway {each} does not answer on {seen.name}" for each in seen.silent)

    def describe(self, registry: Registry) -> None:
        """Add a metric for each gateway."""

        def refresh() -> None:
            registry.forget("gateway_up")
            seen = self._seen
            if seen is None:
                return
            silent = set(seen.silent) if seen.is_up else set(seen.gateways)
            for each in seen.gateways or ("",):
                up = registry.flag("gateway_up", _UP, gateway=str(each))
                up.value = int(each != "" and each not in silent)

        registry.before_snapshot(refresh)

    def status(self) -> Json:
        """Return the interface for `/status`; None if there is none."""
        seen = self._seen
        if seen is None:
            return None
        silent = set(seen.silent)
        return {
            "name": seen.name,
            "up": seen.is_up,
            # Nothing leaves the node with a link-local address.
            "addresses": [str(each) for each in seen.addresses if not each.is_link_local],
            "gateways": [{"address": str(each), "answers": each not in silent} for each in seen.gateways],
        }
