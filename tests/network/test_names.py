"""Names in EGRESS_DESTINATION with real packets: which addresses serve."""

from __future__ import annotations

import contextlib
import json
import os
import sys

import pytest

from egress_router.lab import wiring
from egress_router.lab.network import (
    GATEWAY,
    GATEWAY_V6,
    NAME_SERVER,
    ROUTER,
    ROUTER_V6,
    SOURCE,
    SOURCE_V6,
    Laboratory,
)
from tests.network.administration import fetch
from tests.network.following import (
    NAME,
    NOBODY,
    ONE,
    QUICK,
    THREE,
    TWO,
    following,
    servers,
    settles,
    upstreams,
    zone,
)
from tests.waiting import WAIT_SECONDS, eventually


def reasons(lab: Laboratory) -> set[str]:
    text = fetch(lab.router, "/status")
    return {each.get("reason", "") for each in json.loads(text)["upstreams"]} if text else set()


def test_a_name_is_followed_and_its_dead_address_left_out(lab: Laboratory) -> None:
    lab.serve()
    lab.name(zone(ONE, TWO, NOBODY))
    with following(lab, f"443 tcp {NAME}\n8080 tcp {NAME} 80\n5000-5100 tcp {NAME}\n"):
        # Each port is checked by itself.
        known = {f"{NOBODY}:{port}": False for port in (80, 443)}
        known |= {f"{each}:{port}": True for each in (ONE, TWO) for port in (80, 443)}
        assert eventually(lambda: known.items() <= upstreams(lab).items()), upstreams(lab)
        assert settles(lab, 443, ONE, TWO)
        assert settles(lab, 8080, ONE, TWO)
        assert lab.ask_tcp(lab.client, ROUTER, 8080).port == 80
        lab.name(zone(THREE))
        assert settles(lab, 443, THREE)
        metrics = fetch(lab.router, "/metrics")
        assert (
            f'egress_router_upstream_up{{address="{THREE}:443",destination="{NAME}:443/tcp"}} 1.0' in metrics
        )
        assert "egress_router_dns_lookups_total" in metrics


def test_a_name_that_is_unknown_at_start_is_rejected_at_once_while_others_serve(lab: Laboratory) -> None:
    lab.serve()
    lab.name({"other.example.com": {"addresses": [ONE], "ttl": 0}})
    # The fallback must not take what belongs to the line.
    with following(lab, f"443 tcp {NAME}\n53 udp {NAME}\n80 tcp other.example.com\n{TWO}\n"):
        assert eventually(lambda: upstreams(lab).get("") is False)
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                lab.ask_tcp(lab.client, ROUTER, 443)
            with pytest.raises(ConnectionRefusedError):
                lab.ask_udp(lab.client, ROUTER, 53)
        assert servers(lab, 80, 3) == {ONE}
        assert lab.ask_tcp(lab.client, ROUTER, 7777).server == TWO
        assert f'upstream_up{{address="",destination="{NAME}:443/tcp"}} 0.0' in fetch(lab.router, "/metrics")
        lab.name(zone(THREE, other_example_com=[ONE]))

        def serves() -> bool:
            with contextlib.suppress(ConnectionRefusedError):
                return lab.ask_tcp(lab.client, ROUTER, 443).server == THREE
            return False

        assert eventually(serves)
        assert eventually(lambda: lab.ask_udp(lab.client, ROUTER, 53).server == THREE)


def test_an_answer_grows_to_60_addresses_and_shrinks_to_one(lab: Laboratory) -> None:
    many = [f"203.0.113.{last}" for last in range(100, 160)]
    wiring.address(lab.outside, "eth0", *(f"{each}/24" for each in many))
    lab.serve()
    lab.name(zone(ONE))
    with following(lab, f"443 tcp {NAME}\n"):
        assert settles(lab, 443, ONE)
        lab.name(zone(*many))
        seen: set[str] = set()

        def all_seen() -> bool:
            seen.update(servers(lab, 443))
            return seen >= set(many)

        assert eventually(all_seen), set(many) - seen
        lab.name(zone(TWO))
        assert settles(lab, 443, TWO)


def test_a_name_of_both_families_is_served_in_each_that_the_router_has(lab: Laboratory) -> None:
    lab.serve()
    lab.name(zone(ONE, "2001:db8:113::25"))
    dual = {
        "EGRESS_SOURCE": f"{SOURCE}/24,{SOURCE_V6}/64",
        "EGRESS_GATEWAY": f"{GATEWAY},{GATEWAY_V6}",
    }
    with following(lab, f"443 tcp {NAME}\n"):
        assert settles(lab, 443, ONE)
        assert eventually(lambda: set(upstreams(lab)) == {f"{ONE}:443"})
    with following(lab, f"443 tcp {NAME}\n", dual):
        assert settles(lab, 443, ONE)

        def over_v6() -> bool:
            seen = lab.ask_tcp(lab.client, ROUTER_V6, 443)
            return (seen.server, seen.source) == ("2001:db8:113::25", SOURCE_V6)

        assert eventually(over_v6)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (ROUTER, "it is this router itself"),
        (SOURCE, f"{SOURCE} is EGRESS_SOURCE itself; expected the address of an external server"),
        ("10.128.0.1", "it is on the network of the pod's first interface, which no line leads to"),
        ("127.0.0.1", "the name has a loopback, link-local or metadata address that no line names"),
    ],
)
def test_a_name_does_not_lead_to_the_router_or_to_the_node(
    lab: Laboratory, address: str, reason: str
) -> None:
    lab.serve()
    lab.name(zone(address))
    with following(lab, f"443 tcp {NAME}\n"):
        assert eventually(lambda: reasons(lab) == {reason}), reasons(lab)
        with pytest.raises(ConnectionRefusedError):
            lab.ask_tcp(lab.client, ROUTER, 443)
        lab.name(zone(address, ONE))
        assert eventually(lambda: set(upstreams(lab)) == {f"{ONE}:443"})
        assert settles(lab, 443, ONE)


def test_lines_of_one_name_have_its_addresses_and_a_health_each(lab: Laboratory) -> None:
    lab.serve(["443", "5001"])
    lab.name(zone(ONE, TWO))
    ports = ("443 tcp", "80 tcp", "443 udp", "5000-5100 udp")
    with following(lab, "".join(f"{each} {NAME}\n" for each in ports) + f"8443 tcp {NAME} 443\n"):
        # Nobody listens on port 80: that line's addresses are down, the others' are not.
        known = {f"{each}:{port}": port == 443 for each in (ONE, TWO) for port in (80, 443)}
        assert eventually(lambda: known.items() <= upstreams(lab).items()), upstreams(lab)
        assert settles(lab, 443, ONE, TWO)
        assert settles(lab, 8443, ONE, TWO)
        with pytest.raises(ConnectionRefusedError):
            lab.ask_tcp(lab.client, ROUTER, 80)
        for port in (443, 5001):
            assert {lab.ask_udp(lab.client, ROUTER, port).server for _ in range(24)} == {ONE, TWO}
        lab.name(zone(THREE))
        assert settles(lab, 443, THREE)
        assert settles(lab, 8443, THREE)
        assert {lab.ask_udp(lab.client, ROUTER, port).server for port in (443, 5001)} == {THREE}


def test_explain_asks_the_name_servers_that_the_router_is_told(lab: Laboratory) -> None:
    lab.name(zone(ONE))
    lab.router.write("/etc/resolv.conf", f"nameserver {NOBODY}\n")
    done = lab.router.run(
        *(sys.executable, "-m", "egress_router", "explain", "--resolve", "-", NAME),
        input=f"{ONE}\n",
        env={**os.environ, "EGRESS_DNS_SERVERS": NAME_SERVER},
    )
    assert done.stdout.startswith(f"{NAME} has the addresses {ONE}\n")


def test_names_need_a_router_that_stays_and_nftables(lab: Laboratory) -> None:
    process = lab.setup({"EGRESS_ROUTER_MODE": "init", "EGRESS_DESTINATION": f"443 tcp {NAME}"})
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 1
    assert "a name needs EGRESS_ROUTER_MODE=legacy, because somebody has to follow it" in errors
    before = lab.router.run("nft", "list", "ruleset").stdout
    process = lab.setup({**QUICK, "EGRESS_DESTINATION": f"443 tcp {NAME}", "EGRESS_NAT_BACKEND": "iptables"})
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 3
    assert f"names need nftables, and line 1 leads to {NAME}" in errors
    assert lab.router.run("nft", "list", "ruleset").stdout == before
