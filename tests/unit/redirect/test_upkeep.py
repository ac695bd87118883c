"""The network is kept as it was set up; what the kernel refuses is tried again in the next round."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, cast

from egress_router.errors import RefusedError
from egress_router.grammar.redirect import Redirects, parse
from egress_router.kernel.addresses import Holdings
from egress_router.kernel.nat import nftables
from egress_router.kernel.nat.plan import Surroundings
from egress_router.redirect.intervals import Intervals
from egress_router.redirect.upkeep import Upkeep
from egress_router.setup import network
from egress_router.setup.nat_rules import Established
from tests.waiting import until_async

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from egress_router.kernel.rtnl_types import Link
    from egress_router.settings.setup import SetupSettings

LINK = cast("Link", None)
ONE, TWO = map(ip_address, ("192.168.12.99", "192.168.12.100"))
BEFORE = Established(nftables.apply, Surroundings(), "", {}, Holdings(LINK, (ONE,), ()))
RULES = parse("R", "80 tcp 203.0.113.25")


def test_rules_for_other_sources_that_the_kernel_refuses_are_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[tuple[object, ...]] = []
    put: list[tuple[object, ...]] = []

    def keep_network(
        _: SetupSettings, __: Redirects, established: Established, hold: Callable[[Established], None]
    ) -> Established:
        given.append(established.sources)
        after = replace(established, holdings=Holdings(LINK, (TWO, ONE), (TWO,)))
        if after.sources != established.sources:
            hold(after)
        return after

    monkeypatch.setattr(network, "keep_network", keep_network)

    async def main() -> None:
        async def put_in_force() -> None:
            put.append(upkeep.established.sources)
            if len(put) == 1:
                raise RefusedError("nft refused the rules", "look at the log")

        settings = cast("SetupSettings", None)
        upkeep = Upkeep(settings, BEFORE, lambda: RULES, put_in_force, Intervals(0, 0, 0))
        keeping = asyncio.create_task(upkeep.run())
        await until_async(lambda: keeping.done() or len(given) >= 3)
        assert not keeping.done()
        keeping.cancel()

    asyncio.run(main())
    assert put == [(TWO, ONE), (TWO, ONE)]
    assert given[:3] == [(ONE,), (ONE,), (TWO, ONE)]


def test_what_the_kernel_cannot_be_asked_for_a_moment_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds: list[bool] = []

    def keep_network(_: SetupSettings, __: Redirects, established: Established, ___: object) -> Established:
        rounds.append(True)
        if len(rounds) == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return established

    monkeypatch.setattr(network, "keep_network", keep_network)

    async def main() -> None:
        async def put_in_force() -> None:
            raise AssertionError("nothing has changed")

        settings = cast("SetupSettings", None)
        upkeep = Upkeep(settings, BEFORE, lambda: RULES, put_in_force, Intervals(0, 0, 0))
        keeping = asyncio.create_task(upkeep.run())
        await until_async(lambda: keeping.done() or len(rounds) >= 2)
        assert not keeping.done()
        assert upkeep.problem is None
        keeping.cancel()

    asyncio.run(main())
