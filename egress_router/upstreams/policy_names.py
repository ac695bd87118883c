"""The names of an egress policy, each followed for as long as the policy names it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from egress_router.policy.egress_policy import names_of
from egress_router.upstreams.followed import FollowedName

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.grammar.egress_policy import EgressPolicy, PolicyEntry
    from egress_router.metrics import Registry
    from egress_router.policy.egress_policy import NamesOf
    from egress_router.upstreams.followed import Names


_MAX_ENTRIES = 100  # that have a counter of their own
_MAX_SHOWN = 1_000


class PolicyDenials:
    """What each entry of the egress policy denied in this worker: for metrics, and for /status."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._denied: Counter[str] = Counter()

    def count(self, entry: PolicyEntry) -> None:
        """Count a denial."""
        self._denied[str(entry)] += 1
        label = str(entry.number) if entry.number <= _MAX_ENTRIES else "other"
        self._registry.counter(
            "policy_denied_total", "Connections that an entry of the egress policy denied.", entry=label
        ).value += 1

    def shown(self, policy: EgressPolicy | None) -> list[dict[str, int | str]]:
        """Return the entries of the policy that is in force, as /status has them."""
        entries = () if policy is None else policy.entries[:_MAX_SHOWN]
        return [
            {"entry": each.number, "text": str(each), "denied": self._denied[str(each)]} for each in entries
        ]


class PolicyNames:
    """Follows names; `on_change` gets the names of each address whenever they are others than before."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, resolver: Names, on_change: Callable[[NamesOf], None]
    ) -> None:
        self._loop = loop
        self._resolver = resolver
        self._on_change = on_change
        self._names: dict[str, FollowedName] = {}
        self._known: dict[str, tuple[IPAddress, ...]] = {}

    def follow(self, names: Sequence[str]) -> None:
        """Follow exactly these names; those that were followed already keep their addresses."""
        for name in self._names.keys() - set(names):
            self._names.pop(name).stop()
        for name in names:
            if name not in self._names:
                followed = FollowedName(name, self._resolver, self._answered)
                self._names[name] = followed
                followed.start(self._loop)
        self._answered()

    def close(self) -> None:
        """Follow nothing any more."""
        self.follow(())

    def _answered(self, _news: bool = False) -> None:  # noqa: FBT001, FBT002 (as `FollowedName` calls it)
        known = {name: tuple(sorted(each.addresses, key=str)) for name, each in self._names.items()}
        if known != self._known:
            self._known = known
            self._on_change(names_of(known))
