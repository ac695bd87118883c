"""The egress policy in redirect mode, with real packets: the reference document's example and its reverse."""

from __future__ import annotations

import json
import socket
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.lab import wiring
from egress_router.lab.network import ROUTER, SOURCE, Laboratory
from tests.network.administration import fetch
from tests.waiting import WAIT_SECONDS, eventually

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from egress_router.lab.host import Host

NAME = "www.foo.com"
ALLOWED, NAMED, OTHER, FALLBACK = "1.2.3.4", "203.0.113.25", "203.0.113.26", "203.0.113.27"
LINES = (
    f"80 tcp {ALLOWED}\n443 tcp {NAMED}\n8443 tcp {OTHER}\n53 udp {OTHER}\n54 udp {ALLOWED} 53\n{FALLBACK}\n"
)
ENTRIES = (
    {"type": "Allow", "to": {"cidrSelector": "1.2.3.0/24"}},
    {"type": "Allow", "to": {"dnsName": NAME}},
    {"type": "Deny", "to": {"cidrSelector": "0.0.0.0/0"}},
)
_NETFILTER = 12
_GET_GENERATION = (10 << 8) | 16  # subsystem nftables, NFT_MSG_GETGEN
QUICK = {"EGRESS_DNS_TTL_FLOOR": "0.1", "EGRESS_DESTINATION": LINES, "EGRESS_DRAIN_SECONDS": "1"}


def policy(*entries: object) -> str:
    return json.dumps(
        {
            "kind": "EgressNetworkPolicy",
            "apiVersion": "v1",
            "metadata": {"name": "default"},
            "spec": {"egress": entries},
        }
    )


def serve(lab: Laboratory, *named: str) -> None:
    wiring.address(lab.gateway, "eth0", "1.2.3.1/24")
    wiring.address(lab.outside, "eth0", f"{ALLOWED}/24")
    lab.serve()
    name(lab, *(named or (NAMED,)))


def name(lab: Laboratory, *addresses: str) -> None:
    lab.name({NAME: {"addresses": list(addresses), "ttl": 0}})


def reached(lab: Laboratory, port: int) -> str | None:
    """Return who answers on a port of the router; None: the connection is rejected at once."""
    try:
        seen = lab.ask_tcp(lab.client, ROUTER, port)
    except ConnectionRefusedError:
        return None
    assert seen.source == SOURCE
    return seen.server


def reaches(lab: Laboratory) -> list[str | None]:
    return [reached(lab, port) for port in (80, 443, 8443, 7777)]


def status(lab: Laboratory) -> dict[str, object]:
    text = fetch(lab.router, "/status")
    found: dict[str, object] = json.loads(text) if text else {}
    return found


def denied(lab: Laboratory) -> dict[str, int]:
    entries = status(lab).get("policy", [])
    assert isinstance(entries, list)
    return {each["text"]: each["denied"] for each in entries}


def test_the_example_of_the_document_and_its_reverse(lab: Laboratory, tmp_path: Path) -> None:
    serve(lab)
    path = tmp_path / "policy"
    path.write_text(policy(*ENTRIES))
    with lab.staying({**QUICK, "EGRESS_POLICY_FILE": str(path)}):
        # From the first packet: what the name resolves to was asked before.
        assert reaches(lab) == [ALLOWED, NAMED, None, None]
        with pytest.raises(OSError, match=r"(?i)prohibited|unreachable|no route"):
            lab.ask_udp(lab.client, ROUTER, 53)
        assert eventually(lambda: denied(lab).get("Deny 0.0.0.0/0") == 3), denied(lab)
        counted = 'egress_router_policy_denied_total{entry="3"} 3.0'
        assert eventually(lambda: counted in fetch(lab.router, "/metrics"))
        path.write_text(policy(*reversed(ENTRIES)))
        assert eventually(lambda: reaches(lab) == [None, None, None, None])
        # A wrong one is refused, and the old one stays.
        path.write_text("kind: EgressNetworkPolicy\napiVersion: v2\n")
        assert eventually(lambda: "apiVersion 'v2'" in json.dumps(status(lab)))
        assert reaches(lab) == [None, None, None, None]
        path.write_text(policy())
        assert eventually(lambda: reaches(lab) == [ALLOWED, NAMED, OTHER, FALLBACK])
        assert lab.ask_udp(lab.client, ROUTER, 53).server == OTHER


def test_a_name_of_the_policy_is_followed(lab: Laboratory) -> None:
    serve(lab)
    with lab.staying({**QUICK, "EGRESS_POLICY": policy(*ENTRIES)}):
        assert reaches(lab) == [ALLOWED, NAMED, None, None]
        name(lab, OTHER)
        assert eventually(lambda: reaches(lab) == [ALLOWED, None, OTHER, None])


@pytest.mark.parametrize("cause", ["a changed policy", "another answer for a name of the policy"])
def test_what_is_open_and_denied_now_is_cut_and_all_else_stays(
    lab: Laboratory, tmp_path: Path, cause: str
) -> None:
    serve(lab)
    path = tmp_path / "policy"
    path.write_text(policy({"type": "Deny", "to": {"dnsName": NAME}}))
    with (
        lab.staying({**QUICK, "EGRESS_POLICY_FILE": str(path)}),
        lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as kept,
        lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as lost,
        lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as kept_flow,
        lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as lost_flow,
    ):
        for sock, port in ((kept, 80), (lost, 8443), (kept_flow, 54), (lost_flow, 53)):
            sock.settimeout(WAIT_SECONDS)
            sock.connect((ROUTER, port))
        assert kept.recv(4096)
        assert lost.recv(4096)
        source_port = asked(kept_flow)
        assert source_port
        assert asked(lost_flow)
        if cause == "a changed policy":
            path.write_text(policy({"type": "Deny", "to": {"cidrSelector": f"{OTHER}/32"}}))
        else:
            name(lab, OTHER)
        assert eventually(lambda: _is_cut(lost))
        lost_flow.settimeout(10)
        assert eventually(lambda: _is_prohibited(lost_flow))
        kept.send(b"x")
        assert kept.recv(1) == b"x"
        # A flow that was cut would begin anew, with another random port.
        assert asked(kept_flow) == source_port


def asked(sock: socket.socket) -> int | None:
    """Ask over an open flow; return the source port that the server sees, None where it is prohibited."""
    try:
        sock.send(b"who am I?")
        seen: dict[str, int] = json.loads(sock.recv(4096))
    except TimeoutError:
        raise
    except OSError:
        return None
    return seen["source_port"]


def _is_prohibited(flow: socket.socket) -> bool:
    try:
        return asked(flow) is None
    except TimeoutError:  # an answer under way while its flow is cut is lost
        return False


def _is_cut(sock: socket.socket) -> bool:
    try:
        sock.send(b"x")
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False


def test_ten_thousand_entries_decide_in_their_order_and_are_one_transaction(
    lab: Laboratory, tmp_path: Path
) -> None:
    serve(lab)
    others = [str(ip_address("198.18.0.1") + number) for number in range(9998)]
    lines, path = tmp_path / "lines", tmp_path / "policy"
    lines.write_text(
        f"80 tcp {ALLOWED}\n" + "".join(f"{10_000 + n} tcp {each} 80\n" for n, each in enumerate(others))
    )
    path.write_text(policy())
    environment = {"EGRESS_DESTINATION_FILE": str(lines), "EGRESS_POLICY_FILE": str(path)}
    with lab.staying(environment):
        assert reached(lab, 80) == ALLOWED
        before = generation(lab.router)
        path.write_text(
            policy(
                {"type": "Allow", "to": {"cidrSelector": f"{ALLOWED}/32"}},
                *({"type": "Deny", "to": {"cidrSelector": f"{each}/32"}} for each in others),
                {"type": "Deny", "to": {"cidrSelector": "0.0.0.0/0"}},
            )
        )
        assert eventually(lambda: generation(lab.router) > before)
        # The first and the last: nobody has these addresses, so only the router can answer at once.
        assert reached(lab, 10_000) is None
        assert reached(lab, 19_997) is None
        assert reached(lab, 80) == ALLOWED
        assert eventually(lambda: denied(lab).get(f"Deny {others[0]}/32") == 1)
        assert generation(lab.router) == before + 1


def generation(host: Host) -> int:
    """Return how many transactions of nftables there have been in a host."""
    with host.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as netlink:
        netlink.settimeout(WAIT_SECONDS)
        body = struct.pack("=BBH", 0, 0, 0)
        netlink.send(struct.pack("=IHHII", 16 + len(body), _GET_GENERATION, 1, 1, 0) + body)
        # NFTA_GEN_ID is the first attribute behind both headers (linux/netfilter/nf_tables.h).
        return int(struct.unpack_from("!I", netlink.recv(4096), 24)[0])


@pytest.mark.parametrize(
    ("environment", "expected_status", "said"),
    [
        (
            {"EGRESS_POLICY": policy(*ENTRIES), "EGRESS_ROUTER_MODE": "init"},
            1,
            "entry 2: dnsName needs mode legacy",
        ),
        (
            {"EGRESS_POLICY": policy(ENTRIES[2]), "EGRESS_NAT_BACKEND": "iptables"},
            3,
            "an egress policy needs nftables in redirect mode",
        ),
    ],
)
def test_a_policy_that_cannot_be_enforced_is_refused(
    lab: Laboratory, environment: dict[str, str], expected_status: int, said: str
) -> None:
    process: subprocess.Popen[str] = lab.setup({**QUICK, **environment})
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == expected_status
    assert said in errors


def test_in_mode_init_addresses_of_a_policy_decide(lab: Laboratory) -> None:
    serve(lab)
    lab.finish_setup({"EGRESS_ROUTER_MODE": "init", **QUICK, "EGRESS_POLICY": policy(ENTRIES[0], ENTRIES[2])})
    assert reaches(lab) == [ALLOWED, None, None, None]
