"""One router of the made-up world: its process, its clock, its kernel."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from egress_router.standby.protocol.commands import (
    AskArbiter,
    CloseGate,
    ExtendLease,
    PrepareTakeOver,
    ProbeAddresses,
    ProbeGateway,
    SendMessage,
    StartTimer,
    TakeOver,
)
from egress_router.standby.protocol.role import Role
from egress_router.standby.protocol.state_machine import StateMachine
from egress_router.standby.protocol.steady_clock import SteadyClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from egress_router.standby.protocol.commands import Command
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

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.random = world.random
        self.offset = world.random.uniform(0, 1e6)
        self.rate = 1 + world.random.uniform(-0.004, 0.004)
        self.was_set_on = False
        self.clock = SteadyClock(self).monotonic
        self.kernel = Kernel()
        self.machine: StateMachine | None = None
        self.frozen_until = -1.0
        self.freezing = 0.0  # how likely it stops before an action
        self.freeze_seconds = 0.0
        self.inbox: deque[tuple[Callable[..., list[Command]], object]] = deque()
        self.rest: list[Command] = []
        self.has_shared_mac = False

    def monotonic(self) -> float:
        """Return what the kernel says that the time is."""
        return self.offset + self.world.now * self.rate

    def time(self) -> float:
        """Return a time of day; nobody asks for it."""
        raise AssertionError

    def step_clock(self) -> None:
        """Set the clock back by any time, or on by less than what keeps two leases apart; change its rate."""
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
        self.machine = StateMachine(
            self.random.getrandbits(40) | 1, self.clock(), has_arbiter=self.world.has_arbiter
        )
        self.world.after(self.random.uniform(0, TICK), self.tick, self.machine)
        self.world.after(0.9, self.receive, (self.machine, StateMachine.address_free, None))

    def kill(self) -> None:
        """End the process; the kernel goes on."""
        self.machine = None
        self.inbox.clear()
        self.rest = []

    def end_in_time(self, machine: StateMachine) -> None:
        """End a leaving process once nobody needs it, or its time is up; a cluster starts another one."""
        now = self.clock()
        if machine.is_needed(now) and now < machine.since + _END_SECONDS:
            return
        self.do(machine.end(now))
        self.kill()
        if self.world.is_healed:
            self.world.after(0.5, lambda _: self.start() if self.machine is None else None, None)

    # What happens to it

    def tick(self, machine: StateMachine) -> None:
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

    def receive(self, delivery: tuple[StateMachine | None, Callable[..., list[Command]], object]) -> None:
        """Have the process that it was meant for handle something."""
        machine, method, what = delivery
        if machine is self.machine:
            self.take(method, what)

    def take(self, method: Callable[..., list[Command]], what: object = None) -> None:
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

    def thaw(self, machine: StateMachine) -> None:
        if machine is not self.machine or self.world.now < self.frozen_until:
            return
        rest, self.rest = self.rest, []
        self.do(rest)
        while self.inbox and self.world.now >= self.frozen_until and not self.rest:
            self.take(*self.inbox.popleft())

    # What it does

    def do(self, commands: Sequence[Command]) -> None:
        """Do the actions one after another; the process may stop before each of them."""
        for number, command in enumerate(commands):
            if self.freezing and self.random.random() < self.freezing:
                self.rest = [*commands[number:]]
                self.freeze(self.freeze_seconds * self.random.uniform(0.1, 2))
                return
            kind = type(command)
            if kind is ExtendLease and self.kernel.open_until() <= self.world.now:
                self._recover()
                return
            if not self.has_shared_mac and (kind is TakeOver or kind is PrepareTakeOver):
                # The kernel lets the process wait until no processor uses the former hardware address.
                self.has_shared_mac = True
                self.rest = [*commands[number:]]
                self.freeze(self.random.uniform(0.005, 0.08))
                return
            _ACTS[kind](self, command)
        machine = self.machine
        if (
            self.has_shared_mac
            and machine is not None
            and machine.role is not Role.ACTIVE
            and not machine.is_ready(self.clock())
        ):
            self.has_shared_mac = False

    def _recover(self) -> None:
        """The kernel extends no lease that has ended: the process does nothing more of what it decided."""
        assert self.machine is not None
        for command in self.machine.fence_failed(self.clock()):
            if type(command) is CloseGate:
                self._close(command)

    def _arm(self, command: StartTimer) -> None:
        # Kernel timers are coarse, and run by a clock of their own.
        pick = self.random.random
        until = self.world.now + command.seconds * (0.996 + 0.008 * pick()) + 0.03 * pick()
        self.kernel.armed[command.request] = until

    def _send(self, command: SendMessage) -> None:
        self.world.send(self, command.message)

    def _approve(self, command: TakeOver | ExtendLease) -> None:
        self.kernel.current = command.request
        self.world.opened(self)

    def _close(self, _: CloseGate) -> None:
        self.world.closing(self)
        self.kernel.current = 0

    def _prepare(self, _: PrepareTakeOver) -> None:
        """Nothing more: it waited already."""

    def _probe(self, command: ProbeGateway) -> None:
        if self.world.gateway_hears(self):
            self.world.deliver(self, StateMachine.gateway_answered, command.request)

    def _seek(self, _: ProbeAddresses) -> None:
        self.world.probe_addresses(self)

    def _ask(self, command: AskArbiter) -> None:
        self.world.arbiter.ask(self, command)


_ACTS: dict[type, Callable[[Router, Any], None]] = {
    StartTimer: Router._arm,
    SendMessage: Router._send,
    TakeOver: Router._approve,
    ExtendLease: Router._approve,
    CloseGate: Router._close,
    PrepareTakeOver: Router._prepare,
    ProbeGateway: Router._probe,
    ProbeAddresses: Router._seek,
    AskArbiter: Router._ask,
}
