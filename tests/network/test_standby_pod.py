"""A router of a group in its pod: what a proxy beside it says, and what a third station does."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest

from egress_router.lab import wiring
from egress_router.lab.network import SOURCE
from egress_router.lab.pair import Pair
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.lab.side import Side

SECONDS = 60


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair() as built:
        yield built


RULES = {
    "http-proxy": ("EGRESS_HTTP_PROXY_DESTINATION", "*"),
    "dns-proxy": ("EGRESS_DNS_PROXY_DESTINATION", "80 203.0.113.25"),
}


@pytest.mark.parametrize("mode", RULES)
def test_readiness_and_status_of_a_proxy_follow_its_pod(pair: Pair, mode: str) -> None:
    variable, rules = RULES[mode]
    for side in pair.sides:
        pair.start(side, {"EGRESS_ROUTER_MODE": mode, "EGRESS_DESTINATION": ""})
        side.pod.start(
            [sys.executable, "-m", "egress_router", mode],
            {variable: rules, "EGRESS_WORKERS": "1", "EGRESS_LOG_LEVEL": "error"},
        )
    roles: list[str] = []

    def one_of_each() -> bool:
        roles[:] = [str(pair.status(side).get("role")) for side in pair.sides]
        return sorted(roles) == ["active", "standby"]

    until(one_of_each)
    active, standby = (pair.sides[roles.index(role)] for role in ("active", "standby"))
    until(lambda: pair.readiness(active).endswith("ok\n"))
    until(lambda: f"standing by; {SOURCE} is held by " in pair.readiness(standby))

    def peers() -> list[tuple[object, ...]]:
        told = pair.told(standby)["peers"]
        assert isinstance(told, list)
        return [(each["address"], each["role"], each["ways"]) for each in told]

    until(lambda: peers() == [(active.address, "active", ["pod network", "wire"])])
    before = turns(pair, standby)
    # The sidecar is asked to end: the other pod is ready at once, and this one no longer.
    active.signal(signal.SIGTERM)
    until(lambda: pair.readiness(standby).endswith("ok\n"))
    until(lambda: "503" in pair.readiness(active))
    until(lambda: pair.told(standby)["role"] == "active")
    # A router that waits for a processor for too long loses its right, and wins it again.
    until(lambda: turns(pair, standby) == before + 1)
    assert isinstance(pair.told(standby)["took"], float)


def turns(pair: Pair, side: Side) -> int:
    """Return how often a router has become active, less how often it lost its right while it was."""
    told = pair.told(side)
    take_overs, losses = told["take_overs"], told["losses"]
    assert isinstance(take_overs, int)
    assert isinstance(losses, int)
    return take_overs - losses


def test_what_makes_the_interface_ends_with_the_fence_closed_and_the_next_container_takes_it(
    pair: Pair,
) -> None:
    first, second = pair.sides
    pair.start(first, {"EGRESS_ROUTER_MODE": "network", "EGRESS_DESTINATION": ""})
    assert first.router is not None
    assert first.router.wait(SECONDS) == 0
    assert not pair.wire.frames, "nothing was sent for the address"
    # It has nothing of the node.
    pair.start(first, {"EGRESS_PARENT_NETNS": "auto", "EGRESS_PARENT_INTERFACE": "auto"})
    pair.start(second)

    until(lambda: sorted(str(pair.status(side).get("role")) for side in pair.sides) == ["active", "standby"])
    pair.stop(second)
    until(lambda: pair.readiness(first).endswith("ok\n"))


def test_a_third_station_with_the_address_is_refused(pair: Pair) -> None:
    wiring.address(pair.station, "eth0", f"{SOURCE}/24")
    mac = pair.station.ipr.get_links(ifname="eth0")[0].get_attr("IFLA_ADDRESS")
    side = pair.sides[0]
    pair.start(side, {"EGRESS_CLAIM_TIMEOUT": "2"})
    assert side.router is not None
    assert side.router.wait(SECONDS) == 3
    until(lambda: any(f"{SOURCE} is in use by the station {mac} on macvlan0" in line for line in side.errors))
    assert not pair.wire.frames, "nothing was sent for an address that another station has"
