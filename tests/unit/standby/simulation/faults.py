"""What the made-up world does to its routers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.standby.protocol.state_machine import StateMachine
from tests.unit.standby.simulation.world import POD, WIRE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.unit.standby.simulation.router import Router
    from tests.unit.standby.simulation.world import World


def fault(world: World) -> None:  # noqa: PLR0912 (one branch a fault)
    """Do one thing to the world."""
    pick = world.random
    router = pick.choice(world.routers)
    indexes = [each.index for each in world.routers]
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
            router.take(StateMachine.leave)
    elif what == 5:
        if router.machine is None and (world.has_arbiter or not world.cut):
            router.start()
    elif what == 6:
        world.loss = pick.choice((0.0, 0.1, 0.3, 0.6) if world.has_arbiter else (0.0, 0.05, 0.1))
    elif what == 7:
        world.late = pick.choice((0.0, 0.1, 0.5) if world.has_arbiter else (0.0, 0.05))
    elif what == 8:
        _partition(world, router, indexes)
    elif what == 9:
        world.cut.clear()
        world.gateway_cut.clear()
        world.transition = world.now
    elif what == 10:
        world.arbiter.is_down = not world.arbiter.is_down
    elif what == 11:
        world.arbiter.cut ^= {router.index}
    elif what == 12:
        world.arbiter.slow = pick.choice((0.0, 0.3))
    elif what == 13:
        router.step_clock()


def _partition(world: World, router: Router, indexes: Sequence[int]) -> None:
    pick = world.random
    world.transition = world.now
    others = [each for each in indexes if each != router.index]
    if world.has_arbiter:
        kind = pick.randrange(4)
        channels = ((WIRE,), (POD,), (WIRE, POD))[min(kind, 2)]
        if kind == 3:  # one way only
            world.cut |= {(channel, router.index, each) for channel in channels for each in others}
        else:
            world.cut_wire([router.index], others, *channels)
        if pick.random() < 0.5:
            world.gateway_cut ^= {router.index}
        return
    # Without an arbiter: one of the channels, or the wire in two with the gateway on one side.
    # One that never heard the gateway cannot know on which side it is.
    machines = [each.machine for each in world.routers if each.machine is not None]
    kind = pick.randrange(3 if all(each.state.gateway.is_known for each in machines) else 2)
    world.cut.clear()
    world.gateway_cut.clear()
    if kind == 2:
        world.loss = world.late = 0.0
        world.cut_wire([router.index], others, WIRE, POD)
        world.gateway_cut = {router.index} if pick.random() < 0.5 else set(others)
    else:
        world.cut_wire([router.index], others, kind)
