"""One router of the made-up world: its process, its clock, its kernel."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from egress_router.standby.actions import Approve, Arm, Ask, Close, Open, Prepare, Probe, Seek, Send
from egress_router.standby.machine import Machine
from egress_router.standby.role import Role
from egress_router.standby.steady_clock import SteadyClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from egress_router.standby.actions import Action
    from tests.unit.standby.simulation.world import World

TICK = 0.025
_END_SECONDS = 5.0  # how long a process that leaves is let live


@dataclass(slots=True)
class Kernel:
    """The timers and the gate of one router, in true time."""

    armed: dict[int, float] = field(default_factory=dict)
    current: int = 0

    def open_until(self) -> float:
        return self.armed.get(self.current, -1.0)


class Router:
    """One router: what it hears and what it does, in the order in which a process would."""

    def __init__(self, world: World, place: int) -> None:
        self.world = world
        self.place = place
        self.random = world.random
        self.offset = world.random.uniform(0, 1e6)
        self.rate = 1 + world.random.uniform(-0.004, 0.004)
        self.was_set_on = False
        self.clock = SteadyClock(self).monotonic
        self.kernel = Kernel()
        self.machine: Machine | None = None
        self.frozen_until = -1.0
        self.freezing = 0.0  # how likely it stops before an action
        self.freeze_seconds = 0.0
        self.inbox: deque[tuple[Callable[..., list[Action]], object]] = deque()
        self.rest: list[Action] = []
        self.has_shared_mac = False

    def monotonic(self) -> float:
        """Return what the kernel says that the time is."""
        return self.offset + self.world.now * self.rate

    def time(self) -> float:
        """Return a time of day; nobody asks for it."""
        raise AssertionError

    def step_clock(self) -> None:
        """Set the clock back by any time, or on by less than what keeps two promises apart; change its rate."""
        pick = self.random
        rate = 1 + pick.uniform(-0.004, 0.004)
        self.offset += self.world.now * (self.rate - rate)
        self.rate = rate
        step = pick.choice((-1000.0, -1.0, -0.1, -0.01, 0.02))
        if step < 0 or not self.was_set_on:
            self.was_set_on = self.was_set_on or step > 0
            self.offset += step

    # The process begins and ends

    def start(self) -> None:
        self.kill()
        self.kernel = Kernel()
        self.has_shared_mac = False
        self.frozen_until = -1.0
        self.machine = Machine(
            self.random.getrandbits(40) | 1, self.clock(), has_witness=self.world.has_witness
        )
        self.world.after(self.random.uniform(0, TICK), self.tick, self.machine)
        self.world.after(0.9, self.receive, (self.machine, Machine.free, None))

    def kill(self) -> None:
        """End the process; the kernel goes on."""
        self.machine = None
        self.inbox.clear()
        self.rest = []

    def end_in_time(self, machine: Machine) -> None:
        """End a leaving process once nobody needs it, or its time is up; a cluster starts another one."""
        now = self.clock()
        if machine.is_needed(now) and now < machine.since + _END_SECONDS:
            return
        self.do(machine.end(now))
        self.kill()
        if self.world.is_healed:
            self.world.after(0.5, lambda _: self.start() if self.machine is None else None, None)

    # What happens to it

    def tick(self, machine: Machine) -> None:
        if machine is not self.machine:
            return
        world = self.world
        if world.now < self.frozen_until:
            world.at(self.frozen_until + self.random.uniform(0, 0.002), self.tick, machine)
            return
        self.do(machine.tick(self.clock()))
        if machine.role is Role.LEAVING and not self.rest:
            self.end_in_time(machine)
        world.after(TICK * (0.9 + 0.4 * self.random.random()), self.tick, machine)

    def receive(self, delivery: tuple[Machine | None, Callable[..., list[Action]], object]) -> None:
        """Have the process that it was meant for handle something."""
        machine, method, what = delivery
        if machine is self.machine:
            self.take(method, what)

    def take(self, method: Callable[..., list[Action]], what: object = None) -> None:
        """Have the process handle something, now or when it goes on."""
        if self.machine is None:
            return
        if self.rest or self.world.now < self.frozen_until:
            self.inbox.append((method, what))
            return
        now = self.clock()
        self.do(method(self.machine, now) if what is None else method(self.machine, what, now))

    def freeze(self, seconds: float) -> None:
        if self.machine is None:
            return
        until = self.world.now + seconds
        if until > self.frozen_until:
            self.frozen_until = until
            self.world.at(until, self.thaw, self.machine)

    def thaw(self, machine: Machine) -> None:
        if machine is not self.machine or self.world.now < self.frozen_until:
            return
        rest, self.rest = self.rest, []
        self.do(rest)
        while self.inbox and self.world.now >= self.frozen_until and not self.rest:
            self.take(*self.inbox.popleft())

    # What it does

    def do(self, actions: Sequence[Action]) -> None:
        """Do the actions one after another; the process may stop before each of them."""
        for number, action in enumerate(actions):
            if self.freezing and self.random.random() < self.freezing:
                self.rest = [*actions[number:]]
                self.freeze(self.freeze_seconds * self.random.uniform(0.1, 2))
                return
            kind = type(action)
            if not self.has_shared_mac and (kind is Open or kind is Prepare):
                # The kernel lets the process wait until no processor uses the former hardware address.
                self.has_shared_mac = True
                self.rest = [*actions[number:]]
                self.freeze(self.random.uniform(0.005, 0.08))
                return
            _ACTS[kind](self, action)
        machine = self.machine
        if (
            self.has_shared_mac
            and machine is not None
            and machine.role is not Role.ACTIVE
            and not machine.is_ready(self.clock())
        ):
            self.has_shared_mac = False

    def _arm(self, action: Arm) -> None:
        # Kernel timers are coarse, and run by a clock of their own.
        pick = self.random.random
        until = self.world.now + action.seconds * (0.996 + 0.008 * pick()) + 0.03 * pick()
        self.kernel.armed[action.slot] = until

    def _send(self, action: Send) -> None:
        self.world.send(self, action.message)

    def _approve(self, action: Open | Approve) -> None:
        self.kernel.current = action.slot
        self.world.opened(self)

    def _close(self, _: Close) -> None:
        self.world.closing(self)
        self.kernel.current = 0

    def _prepare(self, _: Prepare) -> None:
        """Nothing more: it waited already."""

    def _probe(self, action: Probe) -> None:
        if self.world.gateway_hears(self):
            self.world.deliver(self, Machine.gateway, action.slot)

    def _seek(self, _: Seek) -> None:
        self.world.seek(self)

    def _ask(self, action: Ask) -> None:
        self.world.witness.ask(self, action)


_ACTS: dict[type, Callable[[Router, Any], None]] = {
    Arm: Router._arm,
    Send: Router._send,
    Open: Router._approve,
    Approve: Router._approve,
    Close: Router._close,
    Prepare: Router._prepare,
    Probe: Router._probe,
    Seek: Router._seek,
    Ask: Router._ask,
}
