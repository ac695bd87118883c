"""The egress policy of a long-running router: follows its names, counts denials, cuts open connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.clock import SYSTEM
from egress_router.errors import RefusedError
from egress_router.kernel import flows
from egress_router.kernel.nat import counters
from egress_router.policy.egress_policy import names_of
from egress_router.redirect.policy import Cuts
from egress_router.service.tasks import in_daemon_thread
from egress_router.upstreams.policy_names import PolicyDenials, PolicyNames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from egress_router.grammar.egress_policy import EgressPolicy
    from egress_router.kernel.nat.counters import DeniedCounts
    from egress_router.kernel.nat.rejections import Rejection
    from egress_router.metrics import Registry
    from egress_router.names.resolver import Resolver
    from egress_router.policy.egress_policy import NamesOf
    from egress_router.policy.redirected import Denial
    from egress_router.service.mode import Json
    from egress_router.setup.nat_rules import Established

# How long a changed policy waits for the first answers about its names: an entry without addresses matches
# nothing.
_ANSWER_SECONDS = 2.0
_TICK_SECONDS = 1.0
_log = log.get("redirect")


class EnforcedPolicy:
    """The policy in force, in an event loop; `on_change` is called when its names have other addresses."""

    def __init__(
        self,
        registry: Registry,
        resolver: Resolver,
        drain_seconds: float,
        policy: EgressPolicy | None,
        established: Established,
        on_change: Callable[[], None],
    ) -> None:
        self._policy = policy
        self._on_change = on_change
        self._denials = established.denials
        self._counted: DeniedCounts = {}
        # One at a time: if older counts came after newer ones, the kernel's counters would seem to be reset.
        self._counting = asyncio.Lock()
        self._problem: str | None = None
        self._totals = PolicyDenials(registry)
        self._cuts = Cuts(drain_seconds)
        self._cuts.note(self._denials, SYSTEM.monotonic())
        self.names: NamesOf = names_of(established.policy_names)
        for name, addresses in established.policy_names.items():
            resolver.remember(name, addresses)
        self._followed = PolicyNames(asyncio.get_running_loop(), resolver, self._named)
        self._followed.follow(_names(policy), established.policy_names)

    async def prepare(self, policy: EgressPolicy | None) -> None:
        """Also follow the names of a policy that is to be put in force; wait a moment for their addresses."""
        wanted = _names(policy)
        self._followed.follow([*dict.fromkeys((*_names(self._policy), *wanted))])
        await self._followed.answered(wanted, _ANSWER_SECONDS)

    def settle(self) -> None:
        """Follow only the names of the policy in force."""
        self._followed.follow(_names(self._policy))

    async def put(self, policy: EgressPolicy | None, apply: Callable[[NamesOf], tuple[Denial, ...]]) -> None:
        """Put this policy in force: `apply`, in a thread, tells the kernel and returns what is denied then.

        Raises:
            RefusedError: the kernel refuses; the old policy stays.
        """
        async with self._counting:
            names = self.names

            def work() -> tuple[DeniedCounts, tuple[Denial, ...]]:
                counts = self._read()
                return counts, apply(names)

            counts, denials = await in_daemon_thread(work)
            self._count(counts)
            self._policy, self._denials = policy, denials
            self._cuts.note(denials, SYSTEM.monotonic())
            # The change may have reset the kernel's counters.
            await self._look()

    async def count(self) -> None:
        """Add what the kernel has denied since the last call."""
        async with self._counting:
            await self._look()

    async def _look(self) -> None:
        try:
            counts = await in_daemon_thread(self._read)
        except RefusedError as error:
            _log.warning("what the egress policy denies is counted later", error=str(error))
        else:
            self._count(counts)

    def _read(self) -> DeniedCounts:
        if not self._denials:
            return {}
        try:
            return counters.denied()
        except RefusedError:  # reported where the other counters are read
            return self._counted

    def _count(self, counts: DeniedCounts) -> None:
        entries = {} if self._policy is None else {each.number: each for each in self._policy.entries}
        for each in self._denials:
            key = counters.denied_key(each)
            now, before = counts.get(key, 0), self._counted.get(key, 0)
            more = now - before if now >= before else now
            if more and each.entry in entries:
                self._totals.count(entries[each.entry], more)
        self._counted = counts

    async def cut(self) -> None:
        """Cut connections to destinations that the policy denies now, after the time they have to end."""
        while True:
            due = self._cuts.due(SYSTEM.monotonic())
            if due:
                await self._cut(due)
            await asyncio.sleep(_TICK_SECONDS)

    async def _cut(self, due: Sequence[Denial]) -> None:
        try:
            count = await in_daemon_thread(lambda: flows.cut(due))
        except RefusedError as error:  # it is tried again
            if str(error) != self._problem:
                _log.error("connections that the egress policy now denies cannot be cut", error=str(error))
            self._problem = str(error)
            return
        self._problem = None
        self._cuts.forget(due)
        if count:
            _log.info("connections that the egress policy now denies are cut", connections=count)

    def entry_of(self, rejected: Rejection) -> str | None:
        """Return which entry denies a connection, as records name it."""
        entries = {} if self._policy is None else {each.number: each for each in self._policy.entries}
        for each in self._denials:
            protocol = None if each.protocol is None else each.protocol.value
            is_same = (each.address, protocol) == (rejected.address, rejected.protocol)
            if is_same and each.first <= rejected.port <= each.last and each.entry in entries:
                return entries[each.entry].described
        return None

    def shown(self) -> list[Json]:
        """Return the entries for `/status`."""
        return [{**each} for each in self._totals.shown(self._policy)]

    def close(self) -> None:
        """Stop following names."""
        self._followed.close()

    def _named(self, names: NamesOf) -> None:
        if names != self.names:
            self.names = names
            self._on_change()


def _names(policy: EgressPolicy | None) -> tuple[str, ...]:
    return () if policy is None else policy.dns_names
