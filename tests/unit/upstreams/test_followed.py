"""How long addresses serve, by a clock that is set."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from egress_router.names.answer import Failure
from egress_router.upstreams.followed import DENIAL_SECONDS, HOLD_SECONDS, FollowedName
from tests.manual_clock import ManualClock
from tests.unit.upstreams.scripted import ScriptedNames

NAME = "db.example.com"
ADDRESSES = (ip_address("192.0.2.1"),)


class Follow:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.names = ScriptedNames(self.clock)
        self.names.known[NAME] = ("192.0.2.1",)
        self.news: list[bool] = []
        self.name = FollowedName(NAME, self.names, self.news.append, self.clock)

    def ask(self) -> float:
        return asyncio.run(self.name.ask())

    def texts(self) -> list[str]:
        return [str(address) for address in self.name.addresses]


@pytest.fixture
def follow() -> Follow:
    return Follow()


@pytest.mark.parametrize(("ttl", "wait"), [(0.0, 0.05), (3.0, 3.0), (3600.0, 10.0)])
def test_a_name_is_asked_for_again_when_its_answer_ends_or_routes_may_have_changed(
    follow: Follow, ttl: float, wait: float
) -> None:
    follow.names.ttl = ttl
    assert follow.ask() == wait
    assert follow.name.addresses == ADDRESSES


def test_a_name_that_does_not_resolve_is_asked_for_every_second_and_a_denial_is_believed_for_5_s(
    follow: Follow,
) -> None:
    del follow.names.known[NAME]
    assert [follow.ask(), follow.ask()] == [1.0, 1.0]
    assert follow.names.asked == [(NAME, DENIAL_SECONDS)] * 2
    assert DENIAL_SECONDS == 5.0
    assert follow.news == [True, False]
    follow.names.known[NAME] = ("192.0.2.1",)
    follow.ask()
    assert follow.news == [True, False, True]


@pytest.mark.parametrize("failure", [Failure.NO_SUCH_NAME, Failure.SERVER_FAILURE])
def test_the_last_addresses_are_held_for_a_while(follow: Follow, failure: Failure) -> None:
    follow.ask()
    follow.names.known[NAME] = failure
    follow.clock.advance(HOLD_SECONDS - 0.1)
    follow.ask()
    assert follow.texts() == ["192.0.2.1"]
    follow.clock.advance(0.1)
    follow.ask()
    assert follow.texts() == []
    assert follow.news == [False, True, True]


def test_a_name_that_is_wanted_is_asked_for_at_once(follow: Follow) -> None:
    async def play() -> None:
        del follow.names.known[NAME]
        follow.name.start(asyncio.get_running_loop())
        for times in (1, 2, 3):
            for _ in range(10):  # turns of the loop; by itself it is asked for after a second
                await asyncio.sleep(0)
            assert len(follow.names.asked) >= times
            follow.name.want()
        follow.name.stop()

    asyncio.run(play())
