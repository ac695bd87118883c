"""What a group goes through, and what has to come of it."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

from egress_router.standby.protocol.role import Role
from egress_router.standby.protocol.state_machine import StateMachine
from tests.unit.standby.simulation.faults import fault
from tests.unit.standby.simulation.world import POD, WIRE, BrokenError, World

if TYPE_CHECKING:
    from tests.unit.standby.simulation.router import Router


def acked(world: World) -> float:
    """How soon somebody has to be active, as the world is now."""
    if not world.has_arbiter:
        return 5.0
    members = world.arbiter.members
    if not members or members & _alive(world):
        return 6.0
    return 24.0 if len(members) == 1 else 40.0  # all that it names are dead or leaving


def _alive(world: World) -> frozenset[int]:
    machines = [each.machine for each in world.routers if each.machine is not None]
    return frozenset(each.me for each in machines if each.role is not Role.LEAVING)


def storm(seed: int) -> World:
    """Many faults at once, one after another; safety at every moment, and somebody active in the end."""
    pick = random.Random(seed)
    world = World(seed, pick.choice((2, 2, 3)), has_arbiter=pick.random() < 0.7)
    if world.has_arbiter and pick.random() < 0.2:
        # Without one, a router that never heard gateway or peer cannot know that its wire was cut before.
        fault(world)
    world.until(pick.uniform(1.0, 2.5))
    for _ in range(pick.randrange(1, 8)):
        fault(world)
        world.until(world.now + pick.choice((0.02, 0.1, 0.3, 0.7, 1.5)) * pick.uniform(0.5, 1.5))
        if not world.has_arbiter:
            # Nor can it know where a cut is that moves faster than a lease ends.
            world.until(max(world.now, world.transition + 0.65))
    world.heal()
    limit, before = world.now, None
    while not _is_settled(world):
        known = world.arbiter.members, _alive(world)
        if known != before:
            before, limit = known, max(limit, world.now + acked(world))
        world.until(world.now + 0.1)
        if world.now > limit:
            roles = [each.machine.role.name if each.machine else "-" for each in world.routers]
            raise BrokenError(
                f"seed {seed}: at {world.now:.1f} nobody is active, long after the last fault: {roles},"
                f" members {world.arbiter.members}"
            )
    return world


def _is_settled(world: World) -> bool:
    active = [each for each in world.routers if each.machine and each.machine.role is Role.ACTIVE]
    return len(active) == 1 and active[0].kernel.open_until() > world.now


SINGLE = ("kill", "freeze", "leave", "isolate", "unable", "none", "standby dies", "standby leaves", "api")


def single(seed: int) -> World:
    """One fault in a healthy group; the gap must be as short as promised."""
    pick = random.Random(seed)
    world = World(seed, pick.choice((2, 2, 3)), has_arbiter=pick.random() < 0.5)
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
    everybody = [each.index for each in world.routers if each is not one]
    if what == "kill":
        one.kill()
    elif what == "freeze":
        one.freeze(5.0)
    elif what == "leave":
        one.take(StateMachine.leave)
    elif what == "isolate":
        world.cut_wire([one.index], everybody, WIRE, POD)
        world.gateway_cut = {one.index}
        world.arbiter.cut = {one.index}
    elif what == "unable":
        world.gateway_cut = {one.index}
        world.cut_wire([one.index], everybody, WIRE)
        one.take(StateMachine.link_lost)
    elif what == "standby dies":
        other.kill()
    elif what == "standby leaves":
        other.take(StateMachine.leave)
    elif what == "api":
        world.arbiter.is_down = True


def schedule(seed: int) -> World:
    """Run the schedule of this number."""
    return single(seed) if seed % 4 == 0 else storm(seed)


def digest(seeds: range) -> str:
    """Run schedules, and return a digest of the states that they end in: who draws or does anything else differs."""
    states = hashlib.sha256()
    for seed in seeds:
        world = schedule(seed)
        kernels = [(each.offset, each.kernel.current, len(each.kernel.armed)) for each in world.routers]
        states.update(repr((seed, world.now, world.random.random(), world.worst_gap, kernels)).encode())
    return states.hexdigest()[:16]
