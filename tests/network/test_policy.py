"""The egress policy in redirect mode, with real packets: the reference document's example and its reverse."""

from __future__ import annotations

import json
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from egress_router.lab import wiring
from egress_router.lab.network import ROUTER, SOURCE, Laboratory
from tests.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

NAME = "www.foo.com"
ALLOWED, NAMED, OTHER, FALLBACK = "1.2.3.4", "203.0.113.25", "203.0.113.26", "203.0.113.27"
LINES = f"80 tcp {ALLOWED}\n443 tcp {NAMED}\n8443 tcp {OTHER}\n53 udp {OTHER}\n{FALLBACK}\n"
ENTRIES = (
    {"type": "Allow", "to": {"cidrSelector": "1.2.3.0/24"}},
    {"type": "Allow", "to": {"dnsName": NAME}},
    {"type": "Deny", "to": {"cidrSelector": "0.0.0.0/0"}},
)
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


def fetch(lab: Laboratory, path: str) -> str:
    script = (
        "import sys, urllib.request as r\n"
        f"print(r.urlopen('http://127.0.0.1:9797{path}', timeout={PATIENCE}).read().decode())"
    )
    return lab.router.run(sys.executable, "-c", script, check=False).stdout


def status(lab: Laboratory) -> dict[str, object]:
    text = fetch(lab, "/status")
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
        metrics = fetch(lab, "/metrics")
        assert 'egress_router_policy_denied_total{entry="3"} 3.0' in metrics
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


def test_open_connections_that_are_denied_now_are_cut_and_others_stay(
    lab: Laboratory, tmp_path: Path
) -> None:
    serve(lab)
    path = tmp_path / "policy"
    path.write_text(policy())
    with (
        lab.staying({**QUICK, "EGRESS_POLICY_FILE": str(path)}),
        lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as kept,
        lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as lost,
    ):
        for wire, port in ((kept, 80), (lost, 8443)):
            wire.settimeout(PATIENCE)
            wire.connect((ROUTER, port))
            wire.recv(4096)
        path.write_text(policy({"type": "Deny", "to": {"cidrSelector": f"{OTHER}/32"}}))
        assert eventually(lambda: _is_cut(lost))
        kept.send(b"x")
        assert kept.recv(1) == b"x"


def _is_cut(wire: socket.socket) -> bool:
    try:
        wire.send(b"x")
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False


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
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == expected_status
    assert said in errors


def test_in_mode_init_addresses_of_a_policy_decide(lab: Laboratory) -> None:
    serve(lab)
    lab.finish_setup({"EGRESS_ROUTER_MODE": "init", **QUICK, "EGRESS_POLICY": policy(ENTRIES[0], ENTRIES[2])})
    assert reaches(lab) == [ALLOWED, None, None, None]
