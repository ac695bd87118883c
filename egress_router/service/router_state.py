"""What every long-running router knows of itself: whether it is ending, its gateway, its rules."""

from __future__ import annotations

import asyncio
import socket
from importlib.metadata import version
from typing import TYPE_CHECKING, Generic, TypeVar

from egress_router.service.gateway_monitor import GatewayMonitor
from egress_router.service.standby_monitor import StandbyMonitor

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from egress_router.clock import Clock
    from egress_router.metrics import Registry
    from egress_router.service.mode import Json
    from egress_router.service.rule_store import RuleStore

Rules = TypeVar("Rules")


class RouterState(Generic[Rules]):
    """The part of readiness and status that is the same in all modes."""

    def __init__(self, mode: str, interface: str, rule_store: RuleStore[Rules], clock: Clock) -> None:
        self.mode = mode
        self.ended = asyncio.Event()
        self.gateway_monitor = GatewayMonitor(interface)
        self.standby_monitor = StandbyMonitor()
        self._rule_store = rule_store
        self._started = clock.time()
        self._version = version("egress-router")  # reads a file: later no descriptor may be free

    def describe(self, registry: Registry) -> None:
        """Add the monitors' metrics to the registry."""
        self.gateway_monitor.describe(registry)
        self.standby_monitor.describe(registry)

    def monitors(self) -> list[Coroutine[None, None, None]]:
        """Return what has to run so that `problems` and `status` are up to date."""
        return [self.gateway_monitor.watch(), self.standby_monitor.watch()]

    def problems(self, *others: str) -> tuple[str, ...]:
        """Return why the router cannot do its job; `others` are the mode's own reasons."""
        if self.ended.is_set():
            return ("the router is ending",)
        # Behind a closed fence no gateway answers; that is no problem.
        return (*others, *(self.standby_monitor.problems() or self.gateway_monitor.problems()))

    def status(self, health: tuple[str, ...], ready: tuple[str, ...]) -> dict[str, Json]:
        """Return the part of `/status` that is the same in all modes."""
        return {
            "mode": self.mode,
            "pod": socket.gethostname(),
            "version": self._version,
            "started": self._started,
            "health": list(health),
            "ready": list(ready),
            "interface": self.gateway_monitor.status(),
            "standby": self.standby_monitor.status(),
            "reload": self._rule_store.status(),
        }
