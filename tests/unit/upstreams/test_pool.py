from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.upstreams.pool import FAILURES_DOWN, SUCCESSES_UP, AddressPool, Health

if TYPE_CHECKING:
    from egress_router.grammar.address import Target


def targets(*hosts: str) -> list[Target]:
    return [(ip_address(host), 80) for host in hosts]


A, B, C, D = targets("192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::4")


def arranged(
    pool: AddressPool, *serving: Target, down: tuple[Target, ...] = (), unrouted: tuple[Target, ...] = ()
) -> None:
    pool.arrange(serving, lambda target: target not in down, lambda address: (address, 80) not in unrouted)


def test_what_is_down_comes_last() -> None:
    pool = AddressPool()
    arranged(pool, A, B, C, down=(A,))
    assert (pool.targets, pool.good) == ((B, C, A), 2)


def test_when_all_are_down_all_serve() -> None:
    pool = AddressPool()
    arranged(pool, A, B, down=(A, B))
    assert (pool.targets, pool.good) == ((A, B), 0)


def test_an_address_without_route_is_left_out() -> None:
    pool = AddressPool()
    arranged(pool, A, D, unrouted=(D,))
    assert (pool.targets, pool.good) == ((A,), 1)


def test_when_none_has_a_route_they_are_tried_all_the_same() -> None:
    pool = AddressPool()
    arranged(pool, D, unrouted=(D,))
    assert pool.targets == (D,)


def test_without_addresses_there_is_nothing_to_try() -> None:
    pool = AddressPool()
    arranged(pool, A)
    arranged(pool)
    assert (pool.targets, pool.good) == ((), 0)


def test_answers_that_rotate_do_not_cancel_the_turns_out() -> None:
    """One connection for each answer, and each answer begins with another address."""
    pool = AddressPool()
    for answer in ((A, B), (B, A)):
        arranged(pool, *answer)
        assert pool.targets == (A, B)


@pytest.mark.parametrize(
    ("seen", "up"),
    [
        ("", True),
        ("--", True),
        ("---", False),
        ("--+--", True),
        ("--+---", False),
        ("---+", False),
        ("---+-+", False),
        ("---++", True),
        ("---++--", True),
        ("----------++", True),
    ],
)
def test_three_failures_down_two_successes_up(seen: str, up: bool) -> None:
    assert (FAILURES_DOWN, SUCCESSES_UP) == (3, 2)
    health = Health()
    for mark in seen:
        health.observe(answered=mark == "+")
    assert health.up is up


def test_only_the_observation_that_turns_it_says_so() -> None:
    health = Health()
    assert [health.observe(answered=mark == "+") for mark in "---+-++-"] == [
        False, False, True, False, False, False, True, False,
    ]  # fmt: skip
