"""The names of an egress policy, each followed for as long as the policy names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.policy.egress_policy import names_of
from egress_router.upstreams.followed import FollowedName

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.metrics import Registry
    from egress_router.policy.egress_policy import NamesOf
    from egress_router.upstreams.followed import Names


_MAX_ENTRIES = 100  # that have a counter of their own


def count_denial(registry: Registry, entry: int) -> None:
    """Count what an entry of the egress policy denied."""
    label = str(entry) if entry <= _MAX_ENTRIES else "other"
    registry.counter(
        "policy_denied_total", "Connections that an entry of the egress policy denied.", entry=label
    ).value += 1


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
