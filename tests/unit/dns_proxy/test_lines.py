"""Which lines there are while rules and denials come and go; test_egress_policy.py has their connections."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING, cast

import pytest

from egress_router.dns_proxy.lines import Lines
from egress_router.grammar.forward import Forward

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.dns_proxy.line import LineInForce
    from egress_router.grammar.address import Target
    from egress_router.upstreams.destination import Destination

ONE, TWO = ((ip_address(text), 80) for text in ("192.0.2.1", "192.0.2.2"))
RULE, OTHER = Forward(80, "db.example.com", 80), Forward(80, "other.example.com", 80)


class StubLine:
    """Leads to both targets, as far as they are not denied."""

    hits = 1

    def __init__(self, forward: Forward, destination: Destination) -> None:
        self.forward = forward
        self.destination = destination
        self.led_to: set[Target] = set()


class Play:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.denied: set[Target] = set()
        self.lines = Lines(loop, 1000.0, self._made, lambda line: bool(line.led_to & self.denied))

    def step(self, rule: Forward, *denied: Target) -> None:
        self.denied = set(denied)
        self.lines.put_in_force({rule: cast("Destination", None)})
        for line in self.lines.in_force.values():
            line.led_to = frozenset({ONE, TWO} - self.denied)

    @staticmethod
    def _made(forward: Forward, destination: Destination) -> LineInForce:
        return cast("LineInForce", StubLine(forward, destination))


@pytest.fixture
def play() -> Iterator[Play]:
    loop = asyncio.new_event_loop()
    made = Play(loop)
    yield made
    made.lines.close()
    loop.close()


@pytest.mark.parametrize("denied", [(TWO,), (ONE, TWO)])
def test_a_denial_that_comes_and_goes_leaves_no_more_lines_each_time(
    play: Play, denied: tuple[Target, ...]
) -> None:
    play.step(RULE)
    first = play.lines.in_force[80]
    for _ in range(10):
        play.step(RULE, *denied)
        assert play.lines.in_force[80] is not first
        play.step(RULE)
        assert play.lines.in_force[80] is first
    assert len(list(play.lines)) == 2


def test_the_hits_of_a_rule_are_those_of_all_its_lines(play: Play) -> None:
    play.step(RULE)
    play.step(RULE, ONE)
    play.step(OTHER)
    assert play.lines.hits() == {RULE: 2, OTHER: 1}
