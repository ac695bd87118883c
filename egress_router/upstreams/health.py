"""Active checks: every address that serves is connected to every two seconds."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

from egress_router.relay.dial import Dial, DialError, Dialled, DialReason
from egress_router.relay.tunnel import reset
from egress_router.upstreams.pool import Health, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from egress_router.relay.deadlines import Deadline, Deadlines
    from egress_router.relay.poller import Poller

INTERVAL: Final = 2.0  # seconds; a check also fails when it takes so long
# Checks of many targets spread out instead of coming in bursts.
_JITTER = 0.1


class Checks:
    """The health of every target in use, however many lines use it.

    What real connections see counts like a check. `on_change` is called with a target whose health changed.
    """

    def __init__(
        self,
        poller: Poller,
        deadlines: Deadlines,
        on_change: Callable[[Target], None],
        interval: float = INTERVAL,
    ) -> None:
        self.poller = poller
        self._deadlines = deadlines
        self._on_change = on_change
        self._interval = interval
        self._checked: dict[Target, _Checked] = {}

    def watch(self, targets: Iterable[Target]) -> None:
        """Check exactly these targets; what is known of those that stay, stays."""
        wanted = set(targets)
        for target in self._checked.keys() - wanted:
            self._checked.pop(target).stop()
        for target in wanted - self._checked.keys():
            self._checked[target] = _Checked(self, target)

    def is_up(self, target: Target) -> bool:
        """Return whether a target answers, as far as is known."""
        checked = self._checked.get(target)
        return checked is None or checked.health.up

    def observe(self, target: Target, *, answered: bool) -> None:
        """Count what a check or a client's connection has seen."""
        checked = self._checked.get(target)
        if checked is not None and checked.health.observe(answered=answered):
            self._on_change(target)

    def stop(self) -> None:
        """Check nothing any more."""
        self.watch(())

    def later(self, check: Callable[[], None], *, since: float | None) -> Deadline:
        """Arrange for the next check of a target; `since` is when the last one began, if there was one."""
        least = 0.0 if since is None else 1 - _JITTER
        seconds = self._interval * random.uniform(least, 1 + _JITTER)  # noqa: S311 - no secret
        spent = 0.0 if since is None else time.monotonic() - since
        return self._deadlines.add(max(seconds - spent, 0.0), check)

    def dial(self, target: Target, on_done: Callable[[Dialled | DialError], None]) -> Dial:
        """Begin a check."""
        return Dial(self.poller, self._deadlines, (target,), self._interval, on_done)


class _Checked:
    """One target's health, and its next or current check."""

    __slots__ = ("_began", "_checks", "_target", "_under_way", "health")

    def __init__(self, checks: Checks, target: Target) -> None:
        self._checks = checks
        self._target = target
        self.health = Health()
        self._began = 0.0
        self._under_way: Deadline | Dial = checks.later(self._check, since=None)

    def stop(self) -> None:
        self._under_way.cancel()

    def _check(self) -> None:
        self._began = time.monotonic()
        self._under_way = self._checks.dial(self._target, self._done)

    def _done(self, result: Dialled | DialError) -> None:
        self._under_way = self._checks.later(self._check, since=self._began)
        if isinstance(result, Dialled):
            # Orderly closing would leave the server a connection to wait for, and here a port in TIME_WAIT.
            self._checks.poller.forget(result.sock.fileno())
            reset(result.sock)
            self._checks.observe(self._target, answered=True)
        elif result.reason is not DialReason.NO_DESCRIPTOR:  # which says nothing of the target
            self._checks.observe(self._target, answered=False)
