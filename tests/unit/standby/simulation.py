"""Groups of routers in a made-up world: loss, delay, freezes, cuts, restarts, a witness that fails.

The world keeps true time; each router has its own clock, its own kernel and nothing else in common with the
others than what travels. A gate is open while the timer of the approved question runs in that router's kernel.
Frozen routers stop between any two actions, and after having decided, too. Run as a program:
`python -m tests.unit.standby.simulation 1000000`.
"""

# ruff: noqa: T201 (what it prints is its result)
from __future__ import annotations

import argparse
import heapq
import itertools
import multiprocessing
import os
import random
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from egress_router.standby.actions import Answer, Approve, Arm, Ask, Close, Open, Prepare, Probe, Seek, Send
from egress_router.standby.machine import Machine
from egress_router.standby.role import Role
from egress_router.standby.steady_clock import SteadyClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from egress_router.standby.actions import Action, Message

_WIRE, _POD = 0, 1
_TICK = 0.025


class BrokenError(AssertionError):
    """A promise of the protocol does not hold in this schedule."""


@dataclass
class Kernel:
    """The timers and the gate of one router, in true time."""

    armed: dict[int, float] = field(default_factory=dict)
    current: int = 0

    def open_until(self) -> float:
        return self.armed.get(self.current, -1.0)


class Router:
    """One router: its process, its clock, its kernel."""

    def __init__(self, world: World, place: int) -> None:
        self.world = world
        self.place = place
        self.offset = world.random.uniform(0, 1e6)
        self.rate = 1 + world.random.uniform(-0.004, 0.004)
        self.was_set_on = False
        self.steady = SteadyClock(self)
        self.kernel = Kernel()
        self.machine: Machine | None = None
        self.frozen_until = -1.0
        self.freezing = 0.0  # how likely it stops before an action
        self.freeze_seconds = 0.0
        self.inbox: deque[tuple[Callable[..., list[Action]], object]] = deque()
        self.rest: list[Action] = []
        self.has_shared_mac = False
        self.run = 0

    def clock(self) -> float:
        return self.steady.monotonic()

    def monotonic(self) -> float:
        """Return what the kernel says that the time is."""
        return self.offset + self.world.now * self.rate

    def time(self) -> float:
        """Return a time of day; nobody asks for it."""
        raise AssertionError

    def step_clock(self) -> None:
        """Set the clock back by any time, or on by less than what keeps two promises apart; change its rate."""
        pick = self.world.random
        rate = 1 + pick.uniform(-0.004, 0.004)
        self.offset += self.world.now * (self.rate - rate)
        self.rate = rate
        step = pick.choice((-1000.0, -1.0, -0.1, -0.01, 0.02))
        if step < 0 or not self.was_set_on:
            self.was_set_on = self.was_set_on or step > 0
            self.offset += step

    def start(self) -> None:
        self.run += 1
        self.kernel = Kernel()
        self.inbox.clear()
        self.rest = []
        self.has_shared_mac = False
        self.frozen_until = -1.0
        number = self.world.number()
        self.world.by_id[number] = self
        self.machine = Machine(number, self.clock(), has_witness=self.world.has_witness)
        self.world.after(self.world.random.uniform(0, _TICK), self.tick, self.run)
        self.world.after(0.9, self.cleared, self.run)

    def kill(self) -> None:
        """End the process; the kernel goes on."""
        self.machine = None
        self.run += 1
        self.inbox.clear()
        self.rest = []

    def cleared(self, run: int) -> None:
        if run == self.run and self.machine is not None:
            self.take(Machine.free, None)

    def tick(self, run: int) -> None:
        if run != self.run or self.machine is None:
            return
        if self.world.now >= self.frozen_until:
            self.do(self.machine.tick(self.clock()))
            if self.machine.role is Role.LEAVING and not self.rest:
                self.end_in_time()
            self.world.after(_TICK * self.world.random.uniform(0.9, 1.3), self.tick, run)
        else:
            self.world.at(self.frozen_until + self.world.random.uniform(0, 0.002), self.tick, run)

    def end_in_time(self) -> None:
        """End a leaving process once nobody needs it, or its time is up; a cluster starts another one."""
        machine = self.machine
        assert machine is not None
        now = self.clock()
        if machine.is_needed(now) and now < machine.since + 5:
            return
        self.do(machine.end(now))
        self.kill()
        if self.world.is_healed:
            self.world.after(0.5, lambda _: self.start() if self.machine is None else None, None)

    def take(self, method: Callable[..., list[Action]], what: object) -> None:
        """Have the process handle something, now or when it goes on."""
        if self.machine is None:
            return
        if self.world.now < self.frozen_until or self.rest:
            self.inbox.append((method, what))
        else:
            self.handle(method, what)

    def handle(self, method: Callable[..., list[Action]], what: object) -> None:
        machine = self.machine
        assert machine is not None
        now = self.clock()
        self.do(method(machine, now) if what is None else method(machine, what, now))

    def freeze(self, seconds: float) -> None:
        if self.machine is None:
            return
        until = self.world.now + seconds
        if until > self.frozen_until:
            self.frozen_until = until
            self.world.at(until, self.thaw, self.run)

    def thaw(self, run: int) -> None:
        if run != self.run or self.world.now < self.frozen_until:
            return
        rest, self.rest = self.rest, []
        self.do(rest)
        while self.inbox and self.world.now >= self.frozen_until and not self.rest:
            self.handle(*self.inbox.popleft())

    def do(self, actions: Sequence[Action]) -> None:
        """Do the actions one after another; the process may stop before each of them."""
        for number, action in enumerate(actions):
            if self.freezing and self.world.random.random() < self.freezing:
                self.rest = [*actions[number:]]
                self.freeze(self.freeze_seconds * self.world.random.uniform(0.1, 2))
                return
            if isinstance(action, (Open, Prepare)) and not self.has_shared_mac:
                # The kernel lets the process wait until no processor uses the former hardware address.
                self.has_shared_mac = True
                self.rest = [*actions[number:]]
                self.freeze(self.world.random.uniform(0.005, 0.08))
                return
            self.act(action)
        machine = self.machine
        if (
            self.has_shared_mac
            and machine is not None
            and machine.role is not Role.ACTIVE
            and not machine.is_ready(self.clock())
        ):
            self.has_shared_mac = False

    def act(self, action: Action) -> None:
        world = self.world
        if isinstance(action, Arm):
            # Kernel timers are coarse, and run by a clock of their own.
            drift = world.random.uniform(0.996, 1.004)
            until = world.now + action.seconds * drift + world.random.uniform(0, 0.03)
            self.kernel.armed[action.slot] = until
        elif isinstance(action, Send):
            world.send(self, action.message)
        elif isinstance(action, (Open, Approve)):
            self.kernel.current = action.slot
            world.opened(self)
        elif isinstance(action, Close):
            world.closing(self)
            self.kernel.current = 0
        elif isinstance(action, Probe):
            if world.gateway_hears(self):
                world.after(world.delay(), world.to(self, Machine.gateway), action.slot)
        elif isinstance(action, Seek):
            world.seek(self)
        elif isinstance(action, Ask):
            world.witness.ask(self, action)


class Witness:
    """The object with compare-and-swap; slow, and not always there."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.members: frozenset[int] = frozenset()
        self.term = 0
        self.version = 1
        self.is_down = False
        self.cut: set[int] = set()
        self.slow = 0.0

    def reached(self, router: Router) -> bool:
        return not self.is_down and router.place not in self.cut

    def delay(self) -> float:
        pick = self.world.random
        if self.slow and pick.random() < self.slow:
            return pick.uniform(0.5, 6.0)
        return pick.uniform(0.002, 0.03)

    def ask(self, router: Router, ask: Ask) -> None:
        if self.reached(router):
            self.world.after(self.delay(), self.apply, (router, ask))
        else:
            self.world.after(self.delay(), self.world.to(router, Machine.witnessed), _nothing(ask))

    def apply(self, asked: tuple[Router, Ask]) -> None:
        router, ask = asked
        applied = ask.members is not None and ask.version == str(self.version)
        if applied:
            assert ask.members is not None
            self.members, self.term = ask.members, ask.term
            self.version += 1
        answer = Answer(ask.token, applied, self.members, self.term, str(self.version))
        if self.slow and self.world.random.random() < self.slow:
            answer = _nothing(ask)
        if self.reached(router):
            self.world.after(self.delay(), self.world.to(router, Machine.witnessed), answer)


def _nothing(ask: Ask) -> Answer:
    return Answer(ask.token, applied=False, members=None, term=0, version=None)


class World:
    """Everything, in true time."""

    def __init__(self, seed: int, routers: int, *, has_witness: bool) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 0.0
        self.has_witness = has_witness
        self.by_id: dict[int, Router] = {}
        self._events: list[tuple[float, int, Callable[..., None], object]] = []
        self._count = itertools.count()
        self.witness = Witness(self)
        self.loss = 0.0
        self.late = 0.0  # how likely a message is so late that others overtake it
        self.cut: set[tuple[int, int, int]] = set()  # channel, from, to
        self.gateway_cut: set[int] = set()
        self.moved = 0.0  # when the cuts changed last
        self.routers = [Router(self, place) for place in range(routers)]
        self.is_healed = False
        self.closed_since = 0.0
        self.worst_gap = 0.0
        self.log: list[str] = []
        for router in self.routers:
            router.start()

    def number(self) -> int:
        return self.random.getrandbits(40) | 1

    def at(self, when: float, what: Callable[..., None], argument: object) -> None:
        heapq.heappush(self._events, (when, next(self._count), what, argument))

    def after(self, seconds: float, what: Callable[..., None], argument: object) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._count), what, argument))

    def until(self, when: float) -> None:
        """Let time pass."""
        events = self._events
        while events and events[0][0] <= when:
            self.now, _, what, argument = heapq.heappop(events)
            what(argument)
        self.now = when

    def to(self, router: Router, method: Callable[..., list[Action]]) -> Callable[[object], None]:
        run = router.run

        def deliver(what: object) -> None:
            if run == router.run:
                router.take(method, what)

        return deliver

    def delay(self) -> float:
        if self.late and self.random.random() < self.late:
            return self.random.uniform(0.05, 0.8)
        return self.random.uniform(0.0001, 0.003)

    def send(self, sender: Router, message: Message) -> None:
        for channel in (_WIRE, _POD):
            for router in self.routers:
                if router is sender or router.machine is None:
                    continue
                if (channel, sender.place, router.place) in self.cut or self.random.random() < self.loss:
                    continue
                self.after(self.delay(), self.to(router, Machine.heard), message)

    def gateway_hears(self, router: Router) -> bool:
        return router.place not in self.gateway_cut and self.random.random() >= self.loss

    def seek(self, seeker: Router) -> None:
        for router in self.routers:
            if (
                router is not seeker
                and router.kernel.open_until() > self.now
                and not {(_WIRE, seeker.place, router.place), (_WIRE, router.place, seeker.place)} & self.cut
                and self.random.random() >= self.loss
            ):
                deliver = self.to(seeker, lambda machine, _, now: machine.answered(now))
                self.after(self.delay(), deliver, 1)

    def opened(self, router: Router) -> None:
        """Hold what must never be: two gates open at once."""
        until = router.kernel.open_until()
        if until <= self.now:
            return
        for other in self.routers:
            if other is not router and other.kernel.open_until() > self.now:
                raise BrokenError(
                    f"seed {self.seed}: at {self.now:.3f} gate {router.place} opens while {other.place} is open"
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
        self.witness.is_down = False
        self.witness.cut.clear()
        self.witness.slow = 0.0
        for router in self.routers:
            router.freezing = 0.0
            if router.machine is None:
                router.start()


def _fault(world: World) -> None:  # noqa: PLR0912 (one branch a fault)
    """Do one thing to the world."""
    pick = world.random
    router = pick.choice(world.routers)
    places = [each.place for each in world.routers]
    what = pick.randrange(14)
    if what == 0:
        router.kill()
    elif what == 1:
        router.freeze(pick.choice((0.1, 0.3, 0.45, 0.6, 1.0, 2.5)) * pick.uniform(0.8, 1.2))
    elif what == 2:
        router.freezing, router.freeze_seconds = pick.choice((0.01, 0.1)), pick.choice((0.05, 0.4, 0.7, 2.0))
    elif what == 3:
        router.freezing = 0.0
    elif what == 4:
        if router.machine is not None:
            router.take(Machine.leave, None)
    elif what == 5:
        if router.machine is None and (world.has_witness or not world.cut):
            router.start()
    elif what == 6:
        world.loss = pick.choice((0.0, 0.1, 0.3, 0.6) if world.has_witness else (0.0, 0.05, 0.1))
    elif what == 7:
        world.late = pick.choice((0.0, 0.1, 0.5) if world.has_witness else (0.0, 0.05))
    elif what == 8:
        _partition(world, router, places)
    elif what == 9:
        world.cut.clear()
        world.gateway_cut.clear()
        world.moved = world.now
    elif what == 10:
        world.witness.is_down = not world.witness.is_down
    elif what == 11:
        world.witness.cut ^= {router.place}
    elif what == 12:
        world.witness.slow = pick.choice((0.0, 0.3))
    elif what == 13:
        router.step_clock()


def _partition(world: World, router: Router, places: Sequence[int]) -> None:
    pick = world.random
    world.moved = world.now
    others = [each for each in places if each != router.place]
    if world.has_witness:
        kind = pick.randrange(4)
        channels = ((_WIRE,), (_POD,), (_WIRE, _POD))[min(kind, 2)]
        if kind == 3:  # one way only
            world.cut |= {(channel, router.place, each) for channel in channels for each in others}
        else:
            world.cut_wire([router.place], others, *channels)
        if pick.random() < 0.5:
            world.gateway_cut ^= {router.place}
        return
    # Without a witness: one of the channels, or the wire in two with the gateway on one side.
    # One that never heard the gateway cannot know on which side it is.
    machines = [each.machine for each in world.routers if each.machine is not None]
    kind = pick.randrange(3 if all(each.situation.gateway.is_known for each in machines) else 2)
    world.cut.clear()
    world.gateway_cut.clear()
    if kind == 2:
        world.loss = world.late = 0.0
        world.cut_wire([router.place], others, _WIRE, _POD)
        world.gateway_cut = {router.place} if pick.random() < 0.5 else set(others)
    else:
        world.cut_wire([router.place], others, kind)


def promised(world: World) -> float:
    """How soon somebody has to be active, as the world is now."""
    if not world.has_witness:
        return 5.0
    members = world.witness.members
    if not members or members & _alive(world):
        return 6.0
    return 24.0 if len(members) == 1 else 40.0  # all that it names are dead or leaving


def _alive(world: World) -> frozenset[int]:
    machines = [each.machine for each in world.routers if each.machine is not None]
    return frozenset(each.me for each in machines if each.role is not Role.LEAVING)


def storm(seed: int) -> World:
    """Many faults at once, one after another; safety at every moment, and somebody active in the end."""
    pick = random.Random(seed)
    world = World(seed, pick.choice((2, 2, 3)), has_witness=pick.random() < 0.7)
    if world.has_witness and pick.random() < 0.2:
        # Without one, a router that never heard gateway or peer cannot know that its wire was cut before.
        _fault(world)
    world.until(pick.uniform(1.0, 2.5))
    for _ in range(pick.randrange(1, 8)):
        _fault(world)
        world.until(world.now + pick.choice((0.02, 0.1, 0.3, 0.7, 1.5)) * pick.uniform(0.5, 1.5))
        if not world.has_witness:
            # Nor can it know where a cut is that moves faster than a right ends.
            world.until(max(world.now, world.moved + 0.65))
    world.heal()
    limit, before = world.now, None
    while not _is_settled(world):
        known = world.witness.members, _alive(world)
        if known != before:
            before, limit = known, max(limit, world.now + promised(world))
        world.until(world.now + 0.1)
        if world.now > limit:
            roles = [each.machine.role.name if each.machine else "-" for each in world.routers]
            raise BrokenError(
                f"seed {seed}: at {world.now:.1f} nobody is active, long after the last fault: {roles},"
                f" members {world.witness.members}"
            )
    return world


def _is_settled(world: World) -> bool:
    active = [each for each in world.routers if each.machine and each.machine.role is Role.ACTIVE]
    return len(active) == 1 and active[0].kernel.open_until() > world.now


SINGLE = ("kill", "freeze", "leave", "isolate", "unable", "none", "standby dies", "standby leaves", "api")


def single(seed: int) -> World:
    """One fault in a healthy group; the gap must be as short as promised."""
    pick = random.Random(seed)
    world = World(seed, pick.choice((2, 2, 3)), has_witness=pick.random() < 0.5)
    world.until(3.5 + pick.random())
    active = world.active()
    if len(active) != 1:
        raise BrokenError(f"seed {seed}: {len(active)} active routers in a healthy group")
    one = active[0]
    other = pick.choice([each for each in world.routers if each is not one])
    what = SINGLE[seed % len(SINGLE)]
    world.worst_gap = 0.0
    _single_fault(world, what, one, other)
    world.until(world.now + 2.5)
    gap = max(world.worst_gap, world.now - world.closed_since)
    limit = {"leave": 0.01, "unable": 0.1, "kill": 0.45, "freeze": 0.45, "isolate": 0.45}.get(what, 0.0)
    if gap > limit:
        raise BrokenError(f"seed {seed}: {what}: nobody was active for {gap:.3f} s")
    return world


def _single_fault(world: World, what: str, one: Router, other: Router) -> None:
    everybody = [each.place for each in world.routers if each is not one]
    if what == "kill":
        one.kill()
    elif what == "freeze":
        one.freeze(5.0)
    elif what == "leave":
        one.take(Machine.leave, None)
    elif what == "isolate":
        world.cut_wire([one.place], everybody, _WIRE, _POD)
        world.gateway_cut = {one.place}
        world.witness.cut = {one.place}
    elif what == "unable":
        world.gateway_cut = {one.place}
        world.cut_wire([one.place], everybody, _WIRE)
        one.take(Machine.carrier_lost, None)
    elif what == "standby dies":
        other.kill()
    elif what == "standby leaves":
        other.take(Machine.leave, None)
    elif what == "api":
        world.witness.is_down = True


def schedule(seed: int) -> World:
    """Run the schedule of this number."""
    return single(seed) if seed % 4 == 0 else storm(seed)


def _batch(seeds: tuple[int, int]) -> list[str]:
    wrong = []
    for seed in range(*seeds):
        try:
            schedule(seed)
        except BrokenError as error:
            wrong.append(str(error))
        except Exception as error:  # noqa: BLE001 (told with its seed)
            wrong.append(f"seed {seed}: {error!r}")
    return wrong


def main() -> int:
    """Run many schedules on all processors."""
    parser = argparse.ArgumentParser(description="simulate groups of routers")
    parser.add_argument("schedules", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    end = arguments.first + arguments.schedules
    parts = [(start, min(end, start + 500)) for start in range(arguments.first, end, 500)]
    wrong: list[str] = []
    started = time.monotonic()
    with multiprocessing.Pool(arguments.processes) as pool:
        for number, found in enumerate(pool.imap_unordered(_batch, parts), 1):
            wrong += found
            for line in found[:5]:
                print(line, flush=True)
            if number % 100 == 0:
                print(f"{number * 500} schedules, {len(wrong)} broken", flush=True)
    seconds = time.monotonic() - started
    print(f"{arguments.schedules} schedules in {seconds:.0f} s, {len(wrong)} broken")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
