"""A Service of the router's own, as kube-proxy makes it: the node translates both addresses."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from egress_router.lab.network import ROUTER, SOURCE
from tests.network.administration import fetch
from tests.unit.tls.hellos import hello, sni
from tests.waiting import WAIT_SECONDS, eventually

if TYPE_CHECKING:
    from egress_router.lab.network import Laboratory

_SERVICE = "172.30.0.10"
_HAIRPIN = f"""
table ip service {{
  chain in {{ type nat hook prerouting priority dstnat; ip daddr {_SERVICE} tcp dport 3128 dnat to {ROUTER}:8080; }}
  chain out {{ type nat hook postrouting priority srcnat; ip saddr {ROUTER} oifname "cni0" masquerade fully-random; }}
}}
"""
_CONNECT = f"CONNECT {_SERVICE}:3128 HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def _head(sock: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = sock.recv(1)
        assert data
        head += data
    return head


@pytest.mark.parametrize("workers", ["1", "4"])
def test_a_connect_through_the_routers_own_service_does_not_nest(lab: Laboratory, workers: str) -> None:
    """With several workers, too, of which none made all of the connections."""
    # Where br_netfilter is loaded, what the bridge carries would be translated twice.
    lab.node.run("sh", "-c", "echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables", check=False)
    lab.node.run("nft", "-f", "-", input=_HAIRPIN)
    lab.finish_setup({"EGRESS_ROUTER_MODE": "http-proxy", "EGRESS_CLUSTER_CIDRS": "172.30.0.0/16"})
    environment = {"EGRESS_HTTP_PROXY_DESTINATION": "*", "EGRESS_SOURCE": SOURCE, "EGRESS_WORKERS": workers}
    with lab.proxy("http-proxy", environment, 8080):
        for _ in range(3):
            heads = _nested(lab)
            assert b"HTTP/1.1 502 " in heads[-1]
            assert b"proxy_loop_detected" in heads[-1]
            # A connection that comes back once may be chance. On a busy machine one is missed now and then.
            assert 4 <= len(heads) <= 5


def _nested(lab: Laboratory) -> list[bytes]:
    """CONNECT to the router's own Service inside each tunnel to it; return the heads of all answers."""
    with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(WAIT_SECONDS)
        sock.connect((ROUTER, 8080))
        heads = [b" 200 "]
        while b" 200 " in heads[-1] and len(heads) < 20:
            sock.sendall(_CONNECT)
            heads.append(_head(sock))
        return heads


@pytest.mark.parametrize(
    ("target", "workers"), [("router.example.com", "1"), (_SERVICE, "1"), (_SERVICE, "4")]
)
def test_a_line_that_leads_to_the_routers_own_service_does_not_nest(
    lab: Laboratory, target: str, workers: str
) -> None:
    """Neither name nor address shows the loop; only the connection that arrives, which is its own."""
    lab.node.run("sh", "-c", "echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables", check=False)
    lab.node.run("nft", "-f", "-", input=_HAIRPIN)
    lab.name({"router.example.com": {"addresses": [_SERVICE]}})
    lab.finish_setup({"EGRESS_ROUTER_MODE": "dns-proxy", "EGRESS_CLUSTER_CIDRS": "172.30.0.0/16"})
    environment = {"EGRESS_DNS_PROXY_DESTINATION": f"8080 {target} 3128", "EGRESS_WORKERS": workers}
    with lab.proxy("dns-proxy", environment, 8080):
        loops = 'egress_router_connections_total{result="loop"}'
        assert eventually(lambda: loops in fetch(lab.router, "/metrics"))
        for _ in range(5):
            with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
                sock.settimeout(20)
                sock.connect((ROUTER, 8080))
                assert sock.recv(1) == b""
        # Each client and each check makes one connection and two that come back. Another worker may accept one in
        # the microseconds before it is noted: that one goes round once more.
        assert eventually(lambda: _counted(lab, loops) >= 5)
        connected = _counted(lab, 'egress_router_connections_total{result="connected"}')
        assert connected <= _counted(lab, loops) * (3 if workers == "1" else 10)
        assert _counted(lab, "egress_router_connections_open") < 20


def _counted(lab: Laboratory, metric: str) -> float:
    lines = fetch(lab.router, "/metrics").splitlines()
    return sum(float(each.split()[-1]) for each in lines if each.startswith(metric))


@pytest.mark.parametrize(
    ("address", "alert", "status", "reason"),
    [(_SERVICE, 80, b"502", "loop"), (ROUTER, 49, b"403", "own_port")],
)
def test_a_name_that_leads_back_to_a_transparent_port_is_refused_and_said(
    lab: Laboratory, address: str, alert: int, status: bytes, reason: str
) -> None:
    """The cluster's DNS leads the name to the router, and the router was not told to ask another one."""
    lab.node.run("sh", "-c", "echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables", check=False)
    lab.node.run("nft", "-f", "-", input=_HAIRPIN.replace("3128", "8443").replace("8080", "8443"))
    lab.name({"www.example.com": {"addresses": [address]}})
    lab.finish_setup({"EGRESS_ROUTER_MODE": "http-proxy", "EGRESS_CLUSTER_CIDRS": "172.30.0.0/16"})
    environment = {
        "EGRESS_HTTP_PROXY_DESTINATION": "www.example.com",
        "EGRESS_HTTP_PROXY_TRANSPARENT_PORTS": "8443",
        "EGRESS_SOURCE": SOURCE,
        "EGRESS_WORKERS": "1",
    }
    with lab.proxy("http-proxy", environment, 8080) as process:
        for first, answer in (
            (hello(sni(b"www.example.com")), bytes((21, 3, 1, 0, 2, 2, alert))),
            (b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n", b"HTTP/1.1 " + status),
        ):
            with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
                sock.settimeout(WAIT_SECONDS)
                sock.connect((ROUTER, 8443))
                sock.sendall(first)
                with sock.makefile("rb") as stream:
                    assert stream.read(len(answer)) == answer
        refused = f'egress_router_transparent_refused_total{{reason="{reason}"}}'
        assert eventually(lambda: _counted(lab, refused) == 2)
        process.terminate()
        _, said = process.communicate(timeout=WAIT_SECONDS)
        assert f"a name leads back to this router reason={reason} expected=" in said
