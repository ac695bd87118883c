"""A decision that is remembered is forgotten with everything that it depends on."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.grammar.acl import parse
from egress_router.http_proxy.access_control import AccessControl
from egress_router.http_proxy.http1.target import absolute_target, connect_target
from egress_router.http_proxy.own_addresses import OwnAddresses
from egress_router.names.answer import Answer
from egress_router.policy.access_list import Own, Verdict
from tests.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

GET, CONNECT = absolute_target(b"GET", b"http://a.example/"), connect_target(b"a.example:80")
ALLOWED, DENIED = Verdict.ALLOWED, Verdict.DENIED


class Names:
    """One name with addresses that a test changes."""

    def __init__(self) -> None:
        self.answer: Answer | None = None

    def has(self, *addresses: str) -> None:
        self.answer = Answer(tuple(map(ip_address, addresses)), 0.0, stale=False, name="a.example")

    def cached(self, _: str) -> Answer | None:
        return self.answer

    def candidates(self, name: str) -> tuple[str, ...]:
        return (name,)

    def used_again(self, name: str, count: int) -> None:
        raise AssertionError((name, count))

    async def resolve(self, name: str, *, client: str = "", denial_seconds: float | None = None) -> Answer:
        raise AssertionError((name, client, denial_seconds))

    def close(self) -> None:
        pass


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def test_what_is_remembered_holds_while_nothing_changes_that_it_depends_on(
    loop: asyncio.AbstractEventLoop,
) -> None:
    clock, names, places = ManualClock(), Names(), Own(frozenset(), frozenset())
    control = AccessControl(
        loop, names, OwnAddresses(frozenset(), lambda: places, clock), frozenset({443}), report_only=False
    )
    control.apply(parse("RULES", "!192.0.2.0/24\n*\n"))

    def verdict() -> Verdict | None:
        decision = control.at_once(GET)
        return None if decision is None else decision.verdict

    assert verdict() is None
    names.has("198.51.100.1")
    first = control.at_once(GET)
    assert first is not None
    assert control.at_once(GET) is first
    assert control.at_once(absolute_target(b"GET", b"http://a.example/other")) is first
    tunnel = control.at_once(CONNECT)
    assert tunnel is not None
    assert tunnel.verdict is DENIED  # a CONNECT has a decision of its own: its port counts
    assert verdict() is ALLOWED
    names.has("192.0.2.1")
    assert verdict() is DENIED
    names.has("198.51.100.1")
    assert verdict() is ALLOWED
    control.apply(parse("RULES", "!a.example\n*\n"))
    assert verdict() is DENIED
    control.apply(parse("RULES", "*\n"))
    assert verdict() is ALLOWED
    places = Own(frozenset({ip_address("198.51.100.1")}), frozenset())
    clock.advance(5)
    assert verdict() is DENIED  # by now it is an address of the pod itself
    names.answer = None
    assert verdict() is None


def test_only_so_many_are_remembered(loop: asyncio.AbstractEventLoop) -> None:
    places = OwnAddresses(frozenset(), lambda: Own(frozenset(), frozenset()))
    control = AccessControl(loop, Names(), places, None, report_only=False)
    control.apply(parse("RULES", "*\n"))
    first = connect_target(b"198.51.100.1:1")
    before = control.at_once(first)
    assert control.at_once(first) is before
    for port in range(2, 1100):
        control.at_once(connect_target(b"198.51.100.1:%d" % port))
    assert control.at_once(first) is not before
