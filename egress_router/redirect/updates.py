"""Keeps the kernel's rules in step with the names' addresses: one change at a time, retried if refused."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.clock import SYSTEM
from egress_router.errors import RefusedError
from egress_router.service.rule_follower import RETRY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from egress_router.clock import Clock
    from egress_router.grammar.redirect import Redirects
    from egress_router.metrics import Registry
    from egress_router.redirect.lines import Departure, Resolved
    from egress_router.redirect.names import LineNames
    from egress_router.settings.policy import Guarded

_TICK_SECONDS = 1.0
# How long changed rules wait for the first answers about their names, so that no line starts with a reject.
_ANSWER_SECONDS = 2.0
_log = log.get("redirect")


class NameUpdates:
    """Puts rules and addresses in force together.

    `put` gives the kernel the rules for redirects, the egress policy before them and addresses, in one
    transaction; `move` ends the UDP flows to addresses that a name no longer has; both raise RefusedError.
    `rules` returns the rules in force.
    """

    def __init__(
        self,
        put: Callable[[Guarded[Redirects], Resolved], Awaitable[None]],
        move: Callable[[Sequence[Departure]], Awaitable[None]],
        rules: Callable[[], Guarded[Redirects]],
        registry: Registry,
        in_force: Resolved,
        clock: Clock = SYSTEM,
    ) -> None:
        self._put = put
        self._move = move
        self._rules = rules
        self._in_force = in_force
        self._clock = clock
        self._failures = registry.counter(
            "name_update_errors_total", "Changed addresses of names that the kernel refused."
        )
        self._changed = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._policy_changed = False
        self._not_before = 0.0
        self.problem: str | None = None

    def changed(self) -> None:
        """Check soon whether a line leads elsewhere now."""
        self._changed.set()

    def policy_changed(self) -> None:
        """Check soon what the egress policy denies: one of its names has other addresses now."""
        self._policy_changed = True
        self._changed.set()

    async def put_in_force(self, names: LineNames, guarded: Guarded[Redirects]) -> None:
        """Put other rules in force, with the addresses of their names that are known within a moment.

        Raises:
            RefusedError: the kernel refuses; what was in force stays.
        """
        await self._put_next(names, lambda: guarded)

    async def put_again(self, names: LineNames) -> None:
        """Put the rules in force once more, after a change under way: what they depend on is different.

        Raises:
            RefusedError: the kernel refuses; what was in force stays.
        """
        await self._put_next(names, self._rules)

    async def _put_next(self, names: LineNames, rules: Callable[[], Guarded[Redirects]]) -> None:
        async with self._one_at_a_time:
            guarded = rules()  # now: a change that this waited for may have brought other ones
            redirects = guarded.rules
            names.follow(redirects.names)
            await names.answered(redirects.names, _ANSWER_SECONDS)
            resolved = names.resolved(redirects.names)
            await self._put(guarded, resolved)
            self._in_force = resolved
        self.changed()  # to forget names that no line has any more

    async def run(self, names: LineNames) -> None:
        """Follow the names of the rules in force."""
        names.follow(self._rules().rules.names, self._in_force)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._changed.wait()
            # Nothing happens in most seconds, and there may be thousands of lines.
            if self._changed.is_set() or names.has_departed or self.problem is not None:
                self._changed.clear()
                async with self._one_at_a_time:
                    await self.update(names)

    async def update(self, names: LineNames) -> None:
        """Put in force what changed, and move the flows that are due."""
        guarded = self._rules()
        names.keep(guarded.rules.names)
        resolved = names.resolved(guarded.rules.names)
        if self._clock.monotonic() < self._not_before:
            return
        try:
            if resolved != self._in_force or self._policy_changed:
                await self._put_now(guarded, resolved)
            departed = names.departed(resolved)
            if departed:
                await self._move(departed)
                names.moved(departed)
        except RefusedError as error:
            self._refused(str(error))
        else:
            if self.problem is not None:
                _log.info("changed addresses of names are in force")
            self.problem = None

    async def _put_now(self, guarded: Guarded[Redirects], resolved: Resolved) -> None:
        # Cleared before the call: another answer may come while the kernel is told of this one.
        policy_had_changed, self._policy_changed = self._policy_changed, False
        try:
            await self._put(guarded, resolved)
        except RefusedError:
            self._policy_changed |= policy_had_changed
            raise
        self._in_force = resolved

    def _refused(self, problem: str) -> None:
        """Note that the kernel refused; what was in force stays, and it is tried again after a while."""
        self._not_before = self._clock.monotonic() + RETRY_SECONDS
        self._failures.value += 1
        if problem != self.problem:
            _log.error("changed addresses of names are not in force, the old ones stay", error=problem)
        self.problem = problem
