"""The made-up world: what travels between its routers, and what must never be."""

from __future__ import annotations

import itertools
import random
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from egress_router.standby.protocol.state_machine import StateMachine
from tests.unit.standby.simulation.arbiter import Arbiter
from tests.unit.standby.simulation.router import Router

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from egress_router.standby.protocol.commands import Command, Message

WIRE, POD = 0, 1  # the channels


class BrokenError(Exception):
    """What the protocol promises does not hold in this schedule."""


class World:
    """Everything, in true time."""

    def __init__(self, seed: int, routers: int, *, has_arbiter: bool) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self._pick = self.random.random
        self.now = 0.0
        self.has_arbiter = has_arbiter
        self._events: list[tuple[float, int, Callable[..., None], object]] = []
        self._count = itertools.count()
        self.arbiter = Arbiter(self)
        self.loss = 0.0
        self.late = 0.0  # how likely a message is so late that others overtake it
        self.cut: set[tuple[int, int, int]] = set()  # channel, from, to
        self.gateway_cut: set[int] = set()
        self.transition = 0.0  # when the cuts changed last
        self.routers = [Router(self, index) for index in range(routers)]
        self.is_healed = False
        self.closed_since = 0.0
        self.worst_gap = 0.0
        for router in self.routers:
            router.start()

    def at(self, when: float, what: Callable[..., None], argument: object) -> None:
        heappush(self._events, (when, next(self._count), what, argument))

    def after(self, seconds: float, what: Callable[..., None], argument: object) -> None:
        heappush(self._events, (self.now + seconds, next(self._count), what, argument))

    def until(self, when: float) -> None:
        """Let time pass."""
        events = self._events
        while events and events[0][0] <= when:
            self.now, _, what, argument = heappop(events)
            what(argument)
        self.now = when

    def delay(self) -> float:
        """Return how long something takes to arrive."""
        pick = self._pick
        if self.late and pick() < self.late:
            return 0.05 + 0.75 * pick()
        return 0.0001 + 0.0029 * pick()

    def deliver(self, router: Router, method: Callable[..., list[Command]], what: object) -> None:
        """Have what travels arrive, unless the process that it is for has ended by then."""
        self.after(self.delay(), router.receive, (router.machine, method, what))

    def send(self, sender: Router, message: Message) -> None:
        pick, loss, cut = self._pick, self.loss, self.cut
        for channel in (WIRE, POD):
            for router in self.routers:
                if router is sender or router.machine is None:
                    continue
                if cut and (channel, sender.index, router.index) in cut:
                    continue
                if pick() >= loss:
                    self.deliver(router, StateMachine.message_received, message)

    def gateway_hears(self, router: Router) -> bool:
        return router.index not in self.gateway_cut and self.random.random() >= self.loss

    def probe_addresses(self, seeker: Router) -> None:
        for router in self.routers:
            if (
                router is not seeker
                and router.kernel.open_until() > self.now
                and not {(WIRE, seeker.index, router.index), (WIRE, router.index, seeker.index)} & self.cut
                and self.random.random() >= self.loss
            ):
                self.deliver(seeker, StateMachine.address_answered, None)

    def opened(self, router: Router) -> None:
        """Hold what must never be: two gates open at once."""
        until = router.kernel.open_until()
        if until <= self.now:
            return
        for other in self.routers:
            if other is not router and other.kernel.open_until() > self.now:
                raise BrokenError(
                    f"seed {self.seed}: at {self.now:.3f} gate {router.index} opens while {other.index} is open"
                    f" for {other.kernel.open_until() - self.now:.3f} s more"
                )
        self.worst_gap = max(self.worst_gap, self.now - self.closed_since)
        self.closed_since = until  # of the only gate that is open

    def closing(self, router: Router) -> None:
        if router.kernel.open_until() > self.now:
            self.closed_since = self.now

    def is_open(self) -> bool:
        return any(router.kernel.open_until() > self.now for router in self.routers)

    def active(self) -> list[Router]:
        return [each for each in self.routers if each.kernel.open_until() > self.now]

    # Faults

    def cut_wire(self, one: Sequence[int], other: Sequence[int], *channels: int) -> None:
        for channel in channels:
            self.cut |= {(channel, a, b) for a in one for b in other}
            self.cut |= {(channel, b, a) for a in one for b in other}

    def heal(self) -> None:
        self.loss = self.late = 0.0
        self.is_healed = True
        self.cut.clear()
        self.gateway_cut.clear()
        self.arbiter.is_down = False
        self.arbiter.cut.clear()
        self.arbiter.slow = 0.0
        for router in self.routers:
            router.freezing = 0.0
            if router.machine is None:
                router.start()
