"""The arbiter of the made-up world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.standby.protocol.commands import ArbiterAnswer
from egress_router.standby.protocol.state_machine import StateMachine

if TYPE_CHECKING:
    from egress_router.standby.protocol.commands import AskArbiter
    from tests.unit.standby.simulation.router import Router
    from tests.unit.standby.simulation.world import World


class Arbiter:
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
        return not self.is_down and router.index not in self.cut

    def delay(self) -> float:
        pick = self.world.random
        if self.slow and pick.random() < self.slow:
            return pick.uniform(0.5, 6.0)
        return pick.uniform(0.002, 0.03)

    def ask(self, router: Router, ask: AskArbiter) -> None:
        if self.reached(router):
            self.world.after(self.delay(), self.apply, (router, ask))
        else:
            self._tell(router, _nothing(ask))

    def apply(self, asked: tuple[Router, AskArbiter]) -> None:
        router, ask = asked
        applied = ask.members is not None and ask.version == str(self.version)
        if applied:
            assert ask.members is not None
            self.members, self.term = ask.members, ask.term
            self.version += 1
        answer = ArbiterAnswer(ask.token, applied, self.members, self.term, str(self.version))
        if self.slow and self.world.random.random() < self.slow:
            answer = _nothing(ask)
        if self.reached(router):
            self._tell(router, answer)

    def _tell(self, router: Router, answer: ArbiterAnswer) -> None:
        self.world.after(
            self.delay(), router.receive, (router.machine, StateMachine.arbiter_answered, answer)
        )


def _nothing(ask: AskArbiter) -> ArbiterAnswer:
    return ArbiterAnswer(ask.token, applied=False, members=None, term=0, version=None)
