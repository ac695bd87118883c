"""The egress policy of a router that stays, where no thread can be started for a moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from egress_router.kernel.nat import nftables
from egress_router.kernel.nat.plan import Surroundings
from egress_router.metrics import Registry
from egress_router.names.resolver import Resolver
from egress_router.redirect.enforced import EnforcedPolicy
from egress_router.settings.names import NamesSettings
from egress_router.setup.nat_rules import Established
from tests.shortages import refuse_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest

    from egress_router.policy.egress_policy import NamesOf
    from egress_router.policy.redirected import Denial


def with_policy(scene: Callable[[EnforcedPolicy], Awaitable[None]]) -> None:
    async def main() -> None:
        registry = Registry()
        established = Established(nftables.apply, Surroundings(), "", {})
        resolver = Resolver(NamesSettings(), registry)
        await scene(EnforcedPolicy(registry, resolver, 0.0, None, established, lambda: None))
        resolver.close()

    asyncio.run(main())


def test_a_count_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(policy: EnforcedPolicy) -> None:
        started = refuse_thread(monkeypatch)
        await policy.count()
        await policy.count()
        assert started == [False, True]

    with_policy(scene)


def test_a_policy_is_in_force_though_it_is_not_counted_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[bool]] = []

    def apply(_: NamesOf) -> tuple[Denial, ...]:
        started.append(refuse_thread(monkeypatch))
        return ()

    async def scene(policy: EnforcedPolicy) -> None:
        await policy.put(None, apply)
        assert started == [[False]]

    with_policy(scene)
