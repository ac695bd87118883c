"""The claim without a wire and without waiting: who is waited for, how long, and what is said meanwhile."""

from __future__ import annotations

import logging
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.errors import RefusedError
from egress_router.kernel.acd import ClaimWait, claim, in_use
from tests.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from egress_router.grammar.address import IPAddress

ONE, TWO = ip_address("192.168.12.99"), ip_address("fd00:12::99")
ROUND = 1.0  # seconds


class FakeStation:
    """A wire on which `owner` says who has an address at what time; a round of probes takes a second."""

    name = "macvlan0"

    def __init__(self, clock: ManualClock, owner: Callable[[IPAddress, float], str | None]) -> None:
        self._clock = clock
        self._owner = owner
        self._start = clock.monotonic()
        self.taken: dict[IPAddress, float] = {}
        self.same_node: dict[IPAddress, float] = {}
        self.carrier: Callable[[float], bool] = lambda _: True

    def passed(self) -> float:
        return self._clock.monotonic() - self._start

    def has_carrier(self) -> bool:
        return self.carrier(self.passed())

    def probe(self, addresses: Sequence[IPAddress]) -> Mapping[IPAddress, str]:
        self._clock.advance(ROUND)
        return {each: owner for each in addresses if (owner := self._owner(each, self.passed())) is not None}

    def take(self, address: IPAddress) -> str | None:
        if self.passed() < self.same_node.get(address, 0):
            return "another pod of this node"
        self.taken[address] = self.passed()
        return None


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def wait(clock: ManualClock, timeout: float) -> ClaimWait:
    return ClaimWait(timeout, clock, clock.advance)


def test_what_nobody_has_is_taken_after_one_round(clock: ManualClock) -> None:
    station = FakeStation(clock, lambda *_: None)
    assert claim(station, [ONE, TWO], wait(clock, 30)) == {}
    assert station.taken == {ONE: ROUND, TWO: ROUND}


def test_an_owner_is_waited_for_and_the_others_are_not_kept_waiting(clock: ManualClock) -> None:
    station = FakeStation(clock, lambda each, now: "the station 02:aa" if each == ONE and now < 20 else None)
    assert claim(station, [ONE, TWO], wait(clock, 30)) == {}
    assert station.taken[TWO] == ROUND
    assert 20 <= station.taken[ONE] <= 20 + ROUND + 1.5


def test_probing_ends_at_its_timeout(clock: ManualClock) -> None:
    station = FakeStation(clock, lambda *_: "the station 02:aa")
    owners = claim(station, [ONE], wait(clock, 30))
    assert owners == {ONE: "the station 02:aa"}
    assert 30 <= station.passed() <= 30 + ROUND + 1.5
    refusal = str(in_use(station, owners, 30))
    assert f"{ONE} is in use by the station 02:aa on macvlan0 (waited 30 s)" in refusal
    assert station.taken == {}


def test_without_a_timeout_there_is_one_round(clock: ManualClock) -> None:
    station = FakeStation(clock, lambda each, _: "the station 02:aa" if each == ONE else None)
    assert claim(station, [ONE, TWO], wait(clock, 0)) == {ONE: "the station 02:aa"}
    assert list(station.taken) == [TWO]
    assert station.passed() == ROUND


def test_who_is_waited_for_is_said_every_ten_seconds(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    owner = ["the station 02:aa"]
    station = FakeStation(clock, lambda _, now: owner[0] if now < 40 else "the station 02:bb")
    claim(station, [ONE], wait(clock, 60))
    said = [record for record in caplog.records if "waiting for its owner" in record.message]
    assert len(said) in {6, 7}
    words = [str(vars(record)) for record in said]
    assert all("192.168.12.99" in each for each in words)
    assert "02:aa" in words[0]
    assert "02:bb" in words[-1]


def test_a_pod_of_the_same_node_is_an_owner_to_wait_for(clock: ManualClock) -> None:
    station = FakeStation(clock, lambda *_: None)
    station.same_node[ONE] = 10
    assert claim(station, [ONE], wait(clock, 30)) == {}
    assert station.taken[ONE] >= 10
    station.same_node[TWO] = 1e9
    assert claim(station, [TWO], wait(clock, 5)) == {TWO: "another pod of this node"}


def test_silence_without_a_carrier_does_not_count(clock: ManualClock) -> None:
    station = FakeStation(clock, lambda *_: None)
    station.carrier = lambda now: now < 0.5 or now > 7
    assert claim(station, [ONE], wait(clock, 30)) == {}
    assert station.taken[ONE] > 7 + ROUND


def test_a_carrier_that_does_not_come_is_refused(clock: ManualClock) -> None:
    station = FakeStation(clock, lambda *_: None)
    station.carrier = lambda _: False
    with pytest.raises(RefusedError, match="macvlan0 has no carrier"):
        claim(station, [ONE], wait(clock, 5))
    assert 5 <= station.passed() < 6
