"""Answers that come or go while a router runs: for how long the last good one serves."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING

from egress_router.lab.nameserver import in_thread
from egress_router.lab.zone import entry
from egress_router.names.answer import Failure
from egress_router.settings.names import NamesSettings
from tests.ports import free_port
from tests.unit.names.bad_servers import GOOD, NAME, behaving, failure_of
from tests.waiting import WAIT_SECONDS, until_async

if TYPE_CHECKING:
    from egress_router.names.resolver import Resolver
    from tests.unit.names.labs import Lab


def test_a_name_that_is_unknown_at_start_and_known_later(lab: Lab) -> None:
    with in_thread({}) as server:
        resolver = lab.resolver(server.port)
        assert failure_of(lab, resolver) is Failure.NO_SUCH_NAME
        server.zone = GOOD
        lab.become(resolver, NAME, "192.0.2.1")


def test_a_server_that_comes_up_after_start(lab: Lab) -> None:
    port = free_port()
    resolver = lab.resolver(port)
    assert failure_of(lab, resolver) is Failure.SERVER_FAILURE
    with in_thread(GOOD, port=port):
        lab.become(resolver, NAME, "192.0.2.1")


def test_the_last_good_answer_serves_while_the_server_fails(lab: Lab) -> None:
    with in_thread(GOOD) as server:
        resolver = lab.resolver(server.port)
        assert lab.resolve(resolver, NAME) == ["192.0.2.1"]
        server.zone = behaving("servfail")
        lab.clock.advance(1.0)
        assert resolver.cached(NAME) is None
        stale = lab.run(resolver.resolve(NAME))
        assert ([str(address) for address in stale.addresses], stale.stale) == (["192.0.2.1"], True)
        assert resolver.cached(NAME) == stale
        assert lab.counted("dns_stale_answers_total") == 2
        # From here on only `cached` is called: it alone must bring the renewal about.
        server.zone = {NAME: entry("192.0.2.77")}
        lab.clock.advance(1.0)
        lab.run(until_async(lambda: _addresses(resolver) == ["192.0.2.77"]))


def _addresses(resolver: Resolver) -> list[str]:
    answer = resolver.cached(NAME)
    return [] if answer is None else [str(address) for address in answer.addresses]


def test_what_was_known_before_serves_while_the_server_fails(lab: Lab) -> None:
    with in_thread(behaving("servfail")) as server:
        resolver = lab.resolver(server.port)
        resolver.remember(NAME, (ip_address("192.0.2.7"),))
        assert resolver.cached(NAME) is None  # it is asked for all the same
        answer = lab.run(resolver.resolve(NAME))
        assert ([str(address) for address in answer.addresses], answer.stale) == (["192.0.2.7"], True)
        lab.clock.advance(NamesSettings().stale_seconds)
        assert failure_of(lab, resolver) is Failure.SERVER_FAILURE


def test_a_name_server_that_is_silent_for_a_day(lab: Lab) -> None:
    with in_thread(GOOD) as server:
        resolver = lab.resolver(server.port, NamesSettings(stale_wait_seconds=10.0))
        lab.resolve(resolver, NAME)
        server.zone = behaving("silent")
        lab.time_out = 0.01
        asked = len(server.asked)
        for hour in range(1, 24):
            lab.clock.advance(3600.0)
            answer = lab.run(resolver.resolve(NAME))
            assert (answer.stale, len(answer.addresses)) == (True, 1), hour
        assert len(server.asked) <= asked + 2 * 23
        lab.clock.advance(3601.0)
        assert failure_of(lab, resolver) is Failure.TIMEOUT
        server.zone, lab.time_out = GOOD, None
        lab.become(resolver, NAME, "192.0.2.1")


def test_nobody_waits_long_for_a_silent_server_while_there_is_a_last_good_answer(lab: Lab) -> None:
    lab.configure("nameserver 127.0.0.1", options="timeout:30")
    with in_thread(GOOD) as server:
        resolver = lab.resolver(server.port, NamesSettings(stale_wait_seconds=0.05))
        lab.resolve(resolver, NAME)
        server.zone = behaving("silent")
        lab.clock.advance(1.0)
        assert lab.run(asyncio.wait_for(resolver.resolve(NAME), WAIT_SECONDS)).stale
        assert _addresses(resolver) == ["192.0.2.1"]
        resolver.close()


def test_the_last_good_answer_is_not_served_beyond_its_bound(lab: Lab) -> None:
    with in_thread(GOOD) as server:
        resolver = lab.resolver(server.port, NamesSettings(stale_seconds=3.0))
        lab.resolve(resolver, NAME)
        server.zone = behaving("servfail")
        lab.clock.advance(3.5)
        assert lab.run(resolver.resolve(NAME)).stale
        lab.clock.advance(0.5)
        assert resolver.cached(NAME) is None
        assert failure_of(lab, resolver) is Failure.SERVER_FAILURE


def test_a_name_that_ceased_to_exist_is_not_served(lab: Lab) -> None:
    with in_thread(GOOD) as server:
        resolver = lab.resolver(server.port)
        lab.resolve(resolver, NAME)
        server.zone = {}
        lab.clock.advance(1.0)
        assert failure_of(lab, resolver) is Failure.NO_SUCH_NAME
