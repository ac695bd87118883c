from __future__ import annotations

import random
import socket

import pytest

from egress_router.clock import SYSTEM
from egress_router.relay.own_connections import (
    LOOP_TURNS,
    SHARE,
    OwnConnections,
    first_timestamp,
    save_first_packets,
)
from tests.manual_clock import ManualClock


def memory(size: int = SHARE) -> memoryview:
    return memoryview(bytearray(size))


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_a_connection_that_comes_back_is_recognised(host: str, family: socket.AddressFamily) -> None:
    with socket.create_server((host, 0), family=family) as listener:
        save_first_packets(listener)
        place = listener.getsockname()[:2]
        for is_own in (True, False, True):
            own = OwnConnections(SYSTEM, memory())
            began = SYSTEM.monotonic()
            with (
                socket.create_connection(place) as made,
                socket.create_connection(place) as other,
                listener.accept()[0] as first,
                listener.accept()[0] as second,
            ):
                accepted = SYSTEM.monotonic()
                # It is heard of only after it was accepted, as where another thread makes connections.
                own.made(made if is_own else other, began, 0)
                assert own.accepted(first, accepted) == is_own
                assert own.accepted(second, accepted) != is_own


def test_a_connection_is_remembered_with_the_time_in_which_it_was_made() -> None:
    clock = ManualClock()
    own = OwnConnections(clock, memory())
    now = clock.monotonic()
    begin = 0xFFFFFFFF - 500_000  # wraps round between
    own.note(begin + 1_000_000 & 0xFFFFFFFF, now, now - 0.02, 0)
    at_connect = begin + 999_990 & 0xFFFFFFFF
    assert own.turns(at_connect, now)
    assert own.turns(at_connect, now + 0.2)
    assert not own.turns(at_connect - 100, now)
    assert not own.turns(at_connect + 100, now)
    assert not own.turns(at_connect ^ 0x40000000, now)
    assert not own.turns(at_connect, now + 5)  # it was accepted long after any that was made then
    clock.advance(60)  # a first request may come late
    assert own.turns(at_connect, now)
    assert not own.turns(at_connect, clock.monotonic())


def test_a_connection_that_another_worker_made_is_recognised() -> None:
    clock = ManualClock()
    shared = memory()
    one, other = (OwnConnections(clock, shared) for _ in range(2))
    one.note(1_000, clock.monotonic(), clock.monotonic(), 0)
    assert other.turns(1_000, clock.monotonic()) == 1
    other.note(1_000, clock.monotonic(), clock.monotonic(), 1)
    assert one.turns(1_000, clock.monotonic()) == LOOP_TURNS


def test_the_latest_connections_are_remembered_while_others_take_the_places_of_old_ones() -> None:
    clock = ManualClock()
    own = OwnConnections(clock, memory())
    dice = random.Random(7)
    found = 0
    for _ in range(100_000):
        clock.advance(1 / 9_000)
        stamp = dice.getrandbits(32)
        own.note(stamp, clock.monotonic(), clock.monotonic() - 0.001, 0)
        found += own.turns(stamp, clock.monotonic())
    assert found == 100_000
    own.note(1_000, clock.monotonic(), clock.monotonic() - 0.001, 0)
    made = clock.monotonic()
    for _ in range(9_000):  # of a second, in which most first requests come
        clock.advance(1 / 9_000)
        own.note(dice.getrandbits(32), clock.monotonic(), clock.monotonic() - 0.001, 0)
    assert own.turns(1_000, made)


def test_each_time_that_a_connection_comes_back_is_counted() -> None:
    clock = ManualClock()
    own = OwnConnections(clock, memory())
    own.note(1_000, clock.monotonic(), clock.monotonic(), 0)
    assert own.turns(1_000, clock.monotonic()) == 1
    own.note(1_000, clock.monotonic(), clock.monotonic(), 1)
    assert own.turns(1_000, clock.monotonic()) == 2


def test_no_client_is_taken_for_a_loop_by_chance() -> None:
    """At 9,000 connections a second one in some hundred thousand agrees with one of ours."""
    clock = ManualClock()
    own = OwnConnections(clock, memory())
    dice = random.Random(5)
    agreed = 0
    for _ in range(400_000):
        clock.advance(1 / 9_000)
        turns = own.turns(dice.getrandbits(32), clock.monotonic())
        assert turns < LOOP_TURNS
        agreed += turns
        own.note(dice.getrandbits(32), clock.monotonic(), clock.monotonic() - 0.001, turns)
    assert 1 <= agreed < 100


@pytest.mark.parametrize(
    ("packet", "timestamp"),
    [
        ("45" + "00" * 19 + "00" * 20 + "020405b4" + "0402" + "080a" + "01020304" + "00000000", 0x01020304),
        ("60" + "00" * 39 + "00" * 20 + "01" + "01" + "080a" + "01020304" + "00000000", 0x01020304),
        ("45" + "00" * 19 + "00" * 20 + "020405b4", None),
        ("45" + "00" * 19 + "00" * 20 + "0200", None),
        ("45" + "00" * 19 + "00" * 20 + "00" + "080a01020304", None),
        ("45" + "00" * 19 + "00" * 20 + "080a0102", None),
        ("", None),
    ],
)
def test_timestamps_of_first_packets(packet: str, timestamp: int | None) -> None:
    assert first_timestamp(bytes.fromhex(packet)) == timestamp
