"""The order in which the addresses of a destination are used, and when one is up or down. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from egress_router.grammar.address import IPAddress, Target

# In a row; the thresholds of HAProxy's `fall` and `rise`.
FAILURES_DOWN: Final = 3
SUCCESSES_UP: Final = 2


class Health:
    """Whether one address and port answers; it counts as up until connections to it have failed."""

    __slots__ = ("_streak", "up")

    def __init__(self) -> None:
        self.up = True
        # How many observations in a row contradict `up`.
        self._streak = 0

    def observe(self, *, answered: bool) -> bool:
        """Count one observation; return whether it changed `up`."""
        if answered is self.up:
            self._streak = 0
            return False
        self._streak += 1
        if self._streak < (FAILURES_DOWN if self.up else SUCCESSES_UP):
            return False
        self.up = answered
        self._streak = 0
        return True


class AddressPool:
    """The addresses of one destination: `targets` in the order of use, the first `good` of them in turn.

    Those that are up come first. Those that are down come last: this costs nothing while another one answers,
    and when all are down, one may be back before a check has noticed.
    """

    def __init__(self) -> None:
        self.targets: tuple[Target, ...] = ()
        self.good = 0

    def arrange(
        self,
        targets: Sequence[Target],
        is_up: Callable[[Target], bool],
        has_route: Callable[[IPAddress], bool],
    ) -> None:
        """Use these targets from now on.

        Targets without a route are left out, unless none has one: then a try gives the best error. They are
        sorted, because name servers rotate their answers, and two rotations may cancel each other out.
        """
        known = sorted(targets, key=lambda target: (target[0].version, int(target[0]), target[1]))
        routed = [target for target in known if has_route(target[0])] or known
        good = tuple(target for target in routed if is_up(target))
        self.good = len(good)
        self.targets = good + tuple(target for target in routed if not is_up(target))
