"""Which addresses of a name are of use, where the kernel cannot be asked for a moment."""

from __future__ import annotations

import asyncio
import errno
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.grammar.redirect import Router, parse
from egress_router.metrics import Registry
from egress_router.net import own
from egress_router.redirect.names import LineNames
from egress_router.redirect.usable import Usable
from egress_router.upstreams.report import UpstreamReport
from tests.manual_clock import ManualClock
from tests.unit.upstreams.scripted import ScriptedNames
from tests.waiting import until_async

if TYPE_CHECKING:
    import pytest

    from egress_router.grammar.address import IPNetwork

NAME = "db.example.com"
RULES = parse("R", f"514 udp {NAME}")
(LINE,) = RULES.names
BESIDE, ELSEWHERE = map(ip_address, ("198.51.100.7", "192.0.2.1"))


class Neighbourhood:
    """The networks of the pod's first interface; `shortages`: so often the kernel cannot be asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, shortages: int) -> None:
        self.shortages = shortages
        monkeypatch.setattr(own, "neighbours", self._neighbours)

    def _neighbours(self, _: str) -> frozenset[IPNetwork]:
        if self.shortages:
            self.shortages -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return frozenset({ip_network("198.51.100.0/24")})


def usable(clock: ManualClock) -> Usable:
    router = Router(addresses=frozenset({ip_address("192.168.12.99")}))
    return Usable(router, "none0", lambda: RULES, clock)


def test_a_name_is_asked_for_again_after_its_addresses_could_not_be_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Neighbourhood(monkeypatch, shortages=1)

    async def main() -> None:
        clock, registry = ManualClock(), Registry()
        resolver = ScriptedNames(clock, ttl=0.0)
        resolver.known[NAME] = (str(ELSEWHERE),)
        report = UpstreamReport(registry, log.get("redirect"))
        names = LineNames(resolver, report, usable(clock), lambda: None, clock=clock)
        names.follow([LINE])
        await until_async(lambda: names.resolved([LINE]) == {LINE: (ELSEWHERE,)})
        assert len(resolver.asked) > 1
        names.close()

    asyncio.run(main())


def test_nothing_is_of_use_until_the_neighbours_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    Neighbourhood(monkeypatch, shortages=1)
    check = usable(ManualClock())
    assert check(LINE, BESIDE) == "the pod's networks cannot be read at the moment"
    assert check(LINE, BESIDE) == "it is on the network of the pod's first interface, where no line may lead"
    assert check(LINE, ELSEWHERE) is None


def test_the_last_known_neighbours_hold_where_the_kernel_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = ManualClock()
    there, check = Neighbourhood(monkeypatch, shortages=0), usable(clock)
    assert check(LINE, ELSEWHERE) is None
    there.shortages = 1
    clock.advance(60.0)
    assert check(LINE, BESIDE) == "it is on the network of the pod's first interface, where no line may lead"
    assert check(LINE, ELSEWHERE) is None
