"""The names of an egress policy, each followed for as long as the policy names it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from egress_router.policy.egress_policy import names_of
from egress_router.upstreams.followed import FollowedName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.grammar.egress_policy import EgressPolicy, PolicyEntry
    from egress_router.metrics import Registry
    from egress_router.policy.egress_policy import NamesOf
    from egress_router.upstreams.followed import Names


_MAX_ENTRIES = 100  # the first ones, which have a counter of their own
_MAX_SHOWN = 1_000


class PolicyDenials:
    """What each entry of the egress policy denied in this worker: for metrics, and for /status."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._denied: Counter[str] = Counter()

    def count(self, entry: PolicyEntry, times: int = 1) -> None:
        """Count a denial, or several."""
        self._denied[str(entry)] += times
        label = str(entry.number) if entry.number <= _MAX_ENTRIES else "other"
        self._registry.counter(
            "policy_denied_total", "Connections that an entry of the egress policy denied.", entry=label
        ).value += times

    def shown(self, policy: EgressPolicy | None) -> list[dict[str, int | str]]:
        """Return the entries of the current policy, as /status shows them."""
        entries = () if policy is None else policy.entries[:_MAX_SHOWN]
        return [
            {"entry": each.number, "text": str(each), "denied": self._denied[str(each)]} for each in entries
        ]


class PolicyNames:
    """Follows names; `on_change` gets the names of each address whenever they change."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, resolver: Names, on_change: Callable[[NamesOf], None]
    ) -> None:
        self._loop = loop
        self._resolver = resolver
        self._on_change = on_change
        self._names: dict[str, FollowedName] = {}
        self._asked: dict[str, asyncio.Event] = {}
        self._known: dict[str, tuple[IPAddress, ...]] = {}

    def follow(self, names: Sequence[str], known: Mapping[str, tuple[IPAddress, ...]] | None = None) -> None:
        """Follow exactly these names; those that were followed already keep their addresses.

        `known` are addresses of new names, to be used until the first look-up has ended.
        """
        for name in self._names.keys() - set(names):
            self._names.pop(name).stop()
            del self._asked[name]
        for name in names:
            if name not in self._names:
                self._asked[name] = asyncio.Event()
                addresses = (known or {}).get(name, ())
                followed = FollowedName(name, self._resolver, self._on_answer(name), known=addresses)
                self._names[name] = followed
                followed.start(self._loop)
        self._answered()

    async def answered(self, names: Iterable[str], seconds: float) -> None:
        """Wait until these followed names were looked up once, but at most for `seconds`."""
        waiting = [self._loop.create_task(self._asked[name].wait()) for name in set(names)]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=seconds)
            for each in late:
                each.cancel()

    def close(self) -> None:
        """Stop following."""
        self.follow(())

    def _on_answer(self, name: str) -> Callable[[bool], None]:
        asked = self._asked[name]

        def answered(_: bool) -> None:  # noqa: FBT001 (as `FollowedName` calls it)
            asked.set()
            self._answered()

        return answered

    def _answered(self) -> None:
        known = {name: tuple(sorted(each.addresses, key=str)) for name, each in self._names.items()}
        if known != self._known:
            self._known = known
            self._on_change(names_of(known))
