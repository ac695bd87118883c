"""Whose an address is: hardware addresses, owners that cannot be heard, and several addresses on one router."""

from __future__ import annotations

import socket
import sys
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.kernel.neighbour import announcements, mac_bytes
from egress_router.lab import wiring
from egress_router.lab.network import GATEWAY, GATEWAY_V6, ROUTER, SOURCE, SOURCE_V6, Laboratory
from egress_router.settings.hardware import derived_mac
from tests.network.staying import SET_UP
from tests.waiting import WAIT_SECONDS, eventually

if TYPE_CHECKING:
    import subprocess

    from egress_router.lab.host import Host

PROXY = {"EGRESS_ROUTER_MODE": "http-proxy"}
INIT = {"EGRESS_ROUTER_MODE": "init", "EGRESS_DESTINATION": "80 tcp 203.0.113.25"}
DERIVED = derived_mac(ip_address(SOURCE))
SECOND, THIRD = "192.168.12.98", "192.168.12.97"


def mac(host: Host, name: str = "macvlan0") -> str:
    return host.run("cat", f"/sys/class/net/{name}/address").stdout.strip()


def start(lab: Laboratory, host: Host, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start `setup` in any pod of the node."""
    base = {
        "EGRESS_SOURCE": SOURCE,
        "EGRESS_GATEWAY": GATEWAY,
        "EGRESS_PARENT_NETNS": str(lab.node.path),
    }
    return host.start([sys.executable, "-m", "egress_router", "setup"], {**base, **environment})


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert "Traceback" not in errors
    return process.returncode, errors


# The hardware address.


def test_the_hardware_address_is_the_same_at_every_start_and_on_every_node(lab: Laboratory) -> None:
    for environment in (PROXY, {**INIT, "EGRESS_SOURCE": f"{SOURCE}/24,{SECOND}/24"}):
        lab.finish_setup(environment)
        assert mac(lab.router) == DERIVED
        lab.router.ip("link del macvlan0")


def test_a_run_after_a_failed_one_still_gives_the_derived_address(lab: Laboratory) -> None:
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    assert ended(start(lab, lab.router, {**PROXY, "EGRESS_CLAIM_TIMEOUT": "1"}))[0] == 3
    assert mac(lab.router) != DERIVED
    lab.rival.ip("addr flush dev eth0")
    lab.finish_setup(PROXY)
    assert mac(lab.router) == DERIVED


def test_a_random_or_given_hardware_address(lab: Laboratory) -> None:
    lab.finish_setup({**PROXY, "EGRESS_MAC_ADDRESS": "random"})
    assert mac(lab.router) != DERIVED
    lab.router.ip("link del macvlan0")
    lab.finish_setup({**PROXY, "EGRESS_MAC_ADDRESS": "02:00:5e:10:00:63"})
    assert mac(lab.router) == "02:00:5e:10:00:63"


def attached(lab: Laboratory) -> dict[str, str]:
    wiring.cable(lab.router, "net1", lab.gateway, "port3")
    wiring.plug(lab.gateway, "wire", "port3")
    return {**PROXY, "EGRESS_PARENT_NETNS": "", "EGRESS_INTERFACE": "net1"}


def test_an_interface_that_is_there_keeps_its_own_unless_one_is_given(lab: Laboratory) -> None:
    environment = attached(lab)
    before = mac(lab.router, "net1")
    lab.finish_setup(environment)
    assert mac(lab.router, "net1") == before
    lab.finish_setup({**environment, "EGRESS_SOURCE": SECOND, "EGRESS_MAC_ADDRESS": "02:00:5e:10:00:63"})
    assert mac(lab.router, "net1") == "02:00:5e:10:00:63"


def test_an_owner_with_the_same_hardware_address_is_found(lab: Laboratory) -> None:
    """A router with the same source on another node has it: a probe from that address would not find the owner."""
    lab.rival.ip(f"link set eth0 address {DERIVED}")
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    for attempt in range(2):
        status, said = ended(start(lab, lab.router, {**PROXY, "EGRESS_CLAIM_TIMEOUT": "1"}))
        assert status == 3
        assert f"{SOURCE} is in use by the station {DERIVED} on macvlan0" in said
        assert SOURCE not in lab.router.run("ip", "addr").stdout
        if not attempt:
            # As after a claim whose address was removed again.
            lab.router.ip(f"link set macvlan0 address {DERIVED}")


# Owners that cannot be heard: pods of one node in the modes private and vepa.


@pytest.mark.parametrize("mode", ["bridge", "private", "vepa"])
def test_a_second_pod_of_the_node_waits_until_the_first_has_gone(lab: Laboratory, mode: str) -> None:
    environment = {**PROXY, "EGRESS_MACVLAN_MODE": mode, "EGRESS_CLAIM_TIMEOUT": "1"}
    assert ended(start(lab, lab.router, environment))[0] == 0
    status, said = ended(start(lab, lab.client, environment))
    assert status == 3
    owner = f"another pod of this node, by the hardware address {DERIVED}," if mode != "bridge" else DERIVED
    assert f"{SOURCE} is in use by " in said
    assert owner in said
    assert SOURCE not in lab.client.run("ip", "addr").stdout
    waiting = start(lab, lab.client, {**environment, "EGRESS_CLAIM_TIMEOUT": "60"})
    assert waiting.stderr is not None
    assert any("waiting for its owner to go" in line for line in waiting.stderr)
    lab.router.ip("link del macvlan0")
    assert ended(waiting)[0] == 0
    assert mac(lab.client) == DERIVED


@pytest.mark.parametrize("mode", ["private", "vepa"])
def test_interfaces_that_were_made_by_others_are_no_way_round_it(lab: Laboratory, mode: str) -> None:
    """Each keeps its own hardware address; a further interface holds the one that only one pod can have."""
    without_the_node = ["setpriv", "--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all"]
    environment = {
        **PROXY,
        "EGRESS_SOURCE": f"{SOURCE}/24,{SECOND}/24",
        "EGRESS_GATEWAY": GATEWAY,
        "EGRESS_CLAIM_TIMEOUT": "1",
    }
    program = [*without_the_node, sys.executable, "-m", "egress_router", "setup"]
    for pod in (lab.router, lab.client):
        wiring.macvlan(pod, lab.node, "uplink0", mode)
    for _ in range(2):
        assert ended(lab.router.start(program, environment))[0] == 0
    assert mac(lab.router) != DERIVED
    status, said = ended(lab.client.start(program, environment))
    assert status == 3
    assert f"{SOURCE} is in use by another pod of this node, by the hardware address {DERIVED}," in said
    assert "claim-" not in lab.client.run("ip", "link").stdout
    assert ended(lab.client.start(program, {**environment, "EGRESS_SOURCE": SECOND}))[0] == 3
    assert ended(lab.client.start(program, {**environment, "EGRESS_SOURCE": THIRD}))[0] == 0
    # What the first one gives up is free.
    assert ended(lab.router.start(program, {**environment, "EGRESS_SOURCE": f"{SOURCE}/24"}))[0] == 0
    assert ended(lab.client.start(program, {**environment, "EGRESS_SOURCE": SECOND}))[0] == 0


@pytest.mark.parametrize("mode", ["private", "vepa"])
@pytest.mark.parametrize("is_made", [False, True])
def test_a_pod_in_mode_bridge_and_a_deaf_one_notice_each_other(
    lab: Laboratory, mode: str, *, is_made: bool
) -> None:
    """Neither hears the other's probes, whoever made the interfaces, and for any of several addresses."""
    if not is_made:
        wiring.macvlan(lab.router, lab.node, "uplink0", "bridge")
        wiring.macvlan(lab.client, lab.node, "uplink0", mode)
    both = {**PROXY, "EGRESS_SOURCE": f"{SOURCE}/24,{SECOND}/24", "EGRESS_CLAIM_TIMEOUT": "1"}
    bridge, deaf = both, {**both, "EGRESS_MACVLAN_MODE": mode}
    one = {"EGRESS_SOURCE": f"{SECOND}/24"}
    assert ended(start(lab, lab.router, bridge))[0] == 0
    assert "claim-" not in lab.router.run("ip", "link").stdout, "a lock that nobody needs any more"
    status, said = ended(start(lab, lab.client, {**deaf, **one}))
    assert status == 3
    assert f"{SECOND} is in use by the station {mac(lab.router)} on macvlan0" in said
    assert "claim-" not in lab.client.run("ip", "link").stdout
    # The other way round: the second one gets what the first one gives up, and keeps it.
    assert ended(start(lab, lab.router, {**bridge, "EGRESS_SOURCE": f"{SOURCE}/24"}))[0] == 0
    assert ended(start(lab, lab.client, {**deaf, **one}))[0] == 0
    status, said = ended(start(lab, lab.router, {**bridge, **one}))
    assert status == 3
    assert f"{SECOND} is in use by another pod of this node" in said
    assert f"inet {SECOND}/24" in lab.client.run("ip", "addr").stdout


def test_the_interface_that_holds_a_hardware_address_is_no_way_in(lab: Laboratory) -> None:
    wiring.macvlan(lab.router, lab.node, "uplink0", "private")
    lab.serve()
    lab.finish_setup(INIT)
    (name,) = [
        each for each in lab.router.run("ls", "/sys/class/net").stdout.split() if each.startswith("claim-")
    ]
    assert "inet" not in lab.router.run("ip", "addr", "show", name).stdout
    lab.rival.ip(f"neigh replace {SOURCE} lladdr {DERIVED} dev eth0 nud permanent")
    wiring.address(lab.rival, "eth0", "192.168.12.66/24")
    for port in (80, 9797):
        with pytest.raises(TimeoutError):
            lab.ask_tcp(lab.rival, SOURCE, port, timeout=0.3)
    received = lab.router.run("cat", f"/sys/class/net/{name}/statistics/rx_packets").stdout
    sent = lab.router.run("cat", f"/sys/class/net/{name}/statistics/tx_packets").stdout
    assert (received, sent) == ("0\n", "0\n")
    assert lab.ask_tcp(lab.client, ROUTER, 80).source == SOURCE


# Announcements.


def test_the_kernel_goes_on_announcing_when_setup_has_ended(lab: Laboratory) -> None:
    request, _ = announcements(ip_address(SOURCE), mac_bytes(DERIVED))
    with lab.rival.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as capture:
        capture.bind(("eth0", 0x0806))
        lab.finish_setup(PROXY)
        capture.settimeout(WAIT_SECONDS)
        for _ in range(1 + 3):  # one by setup, which then ends, and three by the kernel
            while capture.recv(2048)[:42] != request:
                pass


def test_a_restarted_init_container_announces_and_probes_no_more(lab: Laboratory) -> None:
    lab.finish_setup(PROXY)
    with lab.rival.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as capture:
        capture.bind(("eth0", 0x0806))
        # The kernel's announcements of the first run may still come.
        said = lab.finish_setup(PROXY)
        assert "claimed" not in said
        capture.settimeout(WAIT_SECONDS)
        reply = announcements(ip_address(SOURCE), mac_bytes(DERIVED))[1]
        while capture.recv(2048)[:42] != reply:
            pass


# Several addresses.

MANY = {"EGRESS_SOURCE": f"{SOURCE}/24,{SECOND}/24,{THIRD}/24"}


def held(lab: Laboratory) -> list[str]:
    lines = lab.router.run("ip", "-o", "-4", "addr", "show", "macvlan0").stdout.splitlines()
    return [line.split()[3].split("/")[0] for line in lines]


def test_every_address_is_claimed_and_announced(lab: Laboratory) -> None:
    with lab.rival.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as capture:
        capture.bind(("eth0", 0x0806))
        said = lab.finish_setup({**INIT, **MANY})
        capture.settimeout(WAIT_SECONDS)
        missing = {announcements(ip_address(each), mac_bytes(DERIVED))[0] for each in (SOURCE, SECOND, THIRD)}
        while missing:
            missing.discard(capture.recv(2048)[:42])
    assert held(lab) == [SOURCE, SECOND, THIRD]
    assert f'source="{SOURCE}, {SECOND}, {THIRD}"' in said
    assert "claimed" not in lab.finish_setup({**INIT, **MANY})
    assert f"src {SOURCE}" in lab.router.run("ip", "route", "get", "203.0.113.25").stdout
    # When the first one goes the others stay, although the kernel removes them with it.
    assert "claimed" not in lab.finish_setup({**INIT, "EGRESS_SOURCE": f"{SECOND}/24,{THIRD}/24"})
    assert held(lab) == [SECOND, THIRD]


def test_an_address_that_others_have_is_left_out(lab: Laboratory) -> None:
    lab.serve()
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    said = lab.finish_setup({**INIT, **MANY, "EGRESS_CLAIM_TIMEOUT": "1"})
    assert "address is left out: another station has it" in said
    assert f"address={SOURCE}" in said
    assert held(lab) == [SECOND, THIRD]
    assert lab.ask_tcp(lab.client, ROUTER, 80).source == SECOND


@pytest.mark.parametrize(
    "environment",
    [
        {**INIT, **MANY, "EGRESS_DESTINATION": f"80 tcp 203.0.113.25 from {SOURCE}"},
        {
            **PROXY,
            "EGRESS_SOURCE": f"{SOURCE}/24,{SOURCE_V6}/64",
            "EGRESS_GATEWAY": f"{GATEWAY},{GATEWAY_V6}",
        },
    ],
)
def test_an_address_that_is_needed_is_not_left_out(lab: Laboratory, environment: dict[str, str]) -> None:
    """A line names it, or it is the only one of its family."""
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    status, said = ended(start(lab, lab.router, {**environment, "EGRESS_CLAIM_TIMEOUT": "1"}))
    assert status == 3
    assert f"{SOURCE} is in use by the station" in said


def test_a_router_that_stays_goes_on_trying(lab: Laboratory) -> None:
    lab.serve()
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    environment = {**INIT, **MANY, "EGRESS_ROUTER_MODE": "legacy", "EGRESS_CLAIM_TIMEOUT": "1"}
    base = {"EGRESS_GATEWAY": GATEWAY, "EGRESS_PARENT_NETNS": str(lab.node.path)}
    process = lab.router.start(
        [sys.executable, "-c", SET_UP.format("keep_network=0.5")], {**base, **environment}
    )
    assert process.stderr is not None
    assert any("network is set up" in line for line in process.stderr)
    assert lab.ask_tcp(lab.client, ROUTER, 80).source == SECOND
    lab.rival.ip("addr flush dev eth0")
    assert any(f"address claimed address={SOURCE}" in line for line in process.stderr)
    assert eventually(lambda: lab.ask_tcp(lab.client, ROUTER, 80).source == SOURCE)
    assert set(held(lab)) == {SOURCE, SECOND, THIRD}
