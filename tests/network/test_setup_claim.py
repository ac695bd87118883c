"""How `setup` claims the source address on a real wire: other owners, probes, announcements."""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
from ipaddress import ip_address
from pathlib import Path

from egress_router.kernel.neighbour import announcements, mac_bytes
from egress_router.lab import wiring
from egress_router.lab.network import (
    GATEWAY,
    GATEWAY_V6,
    NODE,
    NODE_V6,
    ROUTER,
    SOURCE,
    SOURCE_V6,
    Laboratory,
)
from tests.network.setting_up import DUAL, INIT, PROXY, mac_of, refused, state
from tests.waiting import WAIT_SECONDS, eventually


def test_another_owner_is_named_and_the_address_is_not_taken(lab: Laboratory) -> None:
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    mac = mac_of(lab.rival)
    before = lab.router.run("ip", "route").stdout
    status, said = refused(lab, {**PROXY, "EGRESS_CLAIM_TIMEOUT": "1"})
    assert status == 3
    assert SOURCE in said
    assert mac in said
    assert lab.router.run("ip", "route").stdout == before
    assert SOURCE not in lab.router.run("ip", "addr").stdout


def test_an_address_on_another_interface_of_the_pod_is_refused(lab: Laboratory) -> None:
    wiring.address(lab.router, "eth0", f"{SOURCE}/24")
    before = lab.router.run("ip", "route").stdout
    status, said = refused(lab, PROXY)
    assert status == 3
    assert f"{SOURCE} is on the pod's interface eth0, and EGRESS_INTERFACE is macvlan0" in said
    assert "set EGRESS_INTERFACE=eth0" in said
    assert lab.router.run("ip", "route").stdout == before
    assert "macvlan0" not in lab.router.run("ip", "link").stdout


def test_an_address_of_the_node_is_refused(lab: Laboratory) -> None:
    for address, gateway in ((f"{NODE}/24", GATEWAY), (f"{NODE_V6}/64", GATEWAY_V6)):
        status, said = refused(lab, {**PROXY, "EGRESS_SOURCE": address, "EGRESS_GATEWAY": gateway})
        assert status == 3
        assert f"{address.split('/')[0]} is the node's own address, on uplink0" in said
    assert "macvlan0" not in lab.router.run("ip", "link").stdout


def test_a_parent_that_is_down_is_waited_for_and_then_refused(lab: Laboratory) -> None:
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    wiring.set_down(lab.node, "uplink0")
    environment = {**PROXY, "EGRESS_PARENT_INTERFACE": "uplink0"}
    status, said = refused(lab, {**environment, "EGRESS_CLAIM_TIMEOUT": "1"})
    assert status == 3
    assert "macvlan0 has no carrier" in said
    assert "bring its parent interface up" in said
    assert SOURCE not in lab.router.run("ip", "addr").stdout
    process = lab.setup({**environment, "EGRESS_CLAIM_TIMEOUT": "30"})
    assert process.stderr is not None
    assert any("no carrier; waiting for it" in line for line in process.stderr)
    wiring.set_up(lab.node, "uplink0")
    assert any("waiting for its owner to go" in line for line in process.stderr), "it found the owner"


def test_what_the_old_owner_said_before_it_went_does_not_count(lab: Laboratory) -> None:
    """Its frames wait in the socket's queue; read one a round, they would hold the claim up until its timeout."""
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    process = lab.setup({**PROXY, "EGRESS_CLAIM_TIMEOUT": "20"})
    assert process.stderr is not None
    assert any("waiting for its owner to go" in line for line in process.stderr)
    with lab.rival.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("eth0", 0))
        for frame in announcements(ip_address(SOURCE), mac_bytes(mac_of(lab.rival))) * 30:
            sock.send(frame)
    lab.rival.ip("addr flush dev eth0")
    assert process.wait(WAIT_SECONDS) == 0, "the time for the claim has not run out"


def test_an_interface_that_goes_down_during_the_claim_is_refused(lab: Laboratory) -> None:
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    process = lab.setup({**PROXY, "EGRESS_CLAIM_TIMEOUT": "8"})
    assert process.stderr is not None
    assert any("waiting for its owner to go" in line for line in process.stderr)
    wiring.set_down(lab.router, "macvlan0")
    assert process.wait(WAIT_SECONDS) == 3
    said = process.stderr.read()
    # During a probe, or between two probes.
    assert (
        "cannot probe and announce on macvlan0 (Network is down)" in said
        or "macvlan0 has no carrier, so nobody can be asked" in said
    )
    assert "Traceback" not in said


def attached(lab: Laboratory, *addresses: str) -> dict[str, str]:
    """Give the router an interface with addresses, as a CNI plug-in does; return the environment that uses it."""
    wiring.cable(lab.router, "net1", lab.gateway, "port3")
    wiring.plug(lab.gateway, "wire", "port3")
    wiring.address(lab.router, "net1", *addresses)
    return {**PROXY, **DUAL, "EGRESS_PARENT_NETNS": "", "EGRESS_INTERFACE": "net1"}


def test_an_address_from_a_cni_plug_in_is_probed_for_once(lab: Laboratory) -> None:
    environment = attached(lab, f"{SOURCE}/24", f"{SOURCE_V6}/64")
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    before = lab.router.run("ip", "route").stdout
    status, said = refused(lab, {**environment, "EGRESS_CLAIM_TIMEOUT": "1"})
    assert status == 3
    assert f"{SOURCE} is in use by the station {mac_of(lab.rival)}" in said
    assert lab.router.run("ip", "route").stdout == before
    lab.rival.ip("addr flush dev eth0")
    assert "claimed" in lab.finish_setup(environment)
    assert "claimed" not in lab.finish_setup(environment)


def test_an_address_from_a_cni_plug_in_keeps_its_length(lab: Laboratory) -> None:
    environment = attached(lab, f"{SOURCE}/24", f"{SOURCE_V6}/64")
    environment |= {"EGRESS_SOURCE": f"{SOURCE},{SOURCE_V6}"}
    lab.finish_setup(environment)
    before = state(lab.router)
    assert "claimed" not in lab.finish_setup(environment)
    assert state(lab.router) == before
    assert "via" in lab.router.run("ip", "route", "get", NODE).stdout
    assert "via" in lab.router.run("ip", "route", "get", NODE_V6).stdout


def test_another_owner_of_the_ipv6_address_is_named(lab: Laboratory) -> None:
    wiring.address(lab.rival, "eth0", f"{SOURCE_V6}/64")
    status, said = refused(lab, {**PROXY, **DUAL, "EGRESS_CLAIM_TIMEOUT": "1"})
    assert status == 3
    assert SOURCE_V6 in said
    assert mac_of(lab.rival) in said


def test_setup_waits_for_the_old_owner_to_go(lab: Laboratory) -> None:
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24", f"{SOURCE_V6}/64")
    process = lab.setup({**PROXY, **DUAL, "EGRESS_CLAIM_TIMEOUT": "20"})
    assert process.stderr is not None
    assert any("waiting for its owner to go" in line for line in process.stderr)
    lab.rival.ip("addr flush dev eth0")
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0, errors


def test_the_claim_is_probed_and_announced_on_the_wire(lab: Laboratory) -> None:
    with lab.rival.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as capture:
        capture.bind(("eth0", 0))
        index = int(lab.rival.run("cat", "/sys/class/net/eth0/ifindex").stdout)
        # SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_ALLMULTI: advertisements go to groups.
        capture.setsockopt(263, 1, struct.pack("iHH8s", index, 2, 0, b""))
        lab.finish_setup({**PROXY, **DUAL})
        mac = mac_bytes(mac_of(lab.router, "macvlan0"))
        request, reply = announcements(ip_address(SOURCE), mac)
        (advertisement,) = announcements(ip_address(SOURCE_V6), mac)
        frames: list[bytes] = []

        def arp() -> list[bytes]:
            frames.extend(drained(capture))
            return [frame[:42] for frame in frames if frame[12:14] == b"\x08\x06"]

        # One at once, and those of the kernel, which goes on.
        assert eventually(lambda: arp().count(request) >= 2 and frames.count(advertisement) == 2)
        seen = arp()
    source = socket.inet_aton(SOURCE)
    probes = [frame for frame in seen if frame[28:32] == bytes(4) and frame[38:42] == source]
    assert len(probes) == 3
    assert mac not in {frame[6:12] for frame in probes}, "an owner may have the same one"
    assert seen.count(reply) == 1


def test_a_stale_neighbour_entry_is_taken_over_at_once(lab: Laboratory) -> None:
    """The gateway still has the old pod's hardware address; the announcement corrects it."""
    lab.serve()
    lab.gateway.ip(f"neigh replace {SOURCE} lladdr 02:00:00:00:00:01 dev wire nud reachable")
    lab.finish_setup(INIT)
    assert lab.ask_tcp(lab.client, ROUTER, 80).source == SOURCE


def test_a_signal_ends_the_wait_for_the_address_at_once(lab: Laboratory) -> None:
    """As the first process of a container: the kernel delivers only signals that it handles."""
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    wiring.cable(lab.router, "macvlan0", lab.gateway, "port3")
    wiring.plug(lab.gateway, "wire", "port3")
    as_first = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "egress_router", "setup"]
    environment = {**PROXY, "EGRESS_SOURCE": SOURCE, "EGRESS_GATEWAY": GATEWAY}
    for number in (signal.SIGTERM, signal.SIGINT):
        process = lab.router.start(as_first, environment)
        assert process.stderr is not None
        assert any("waiting for its owner to go" in line for line in process.stderr)
        first = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(first[0]), number)
        assert process.wait(WAIT_SECONDS) == 0
        assert not process.stderr.read()


def drained(capture: socket.socket) -> list[bytes]:
    capture.setblocking(False)
    frames = []
    while True:
        try:
            frames.append(capture.recv(2048))
        except BlockingIOError:
            return frames
