"""Writes the metrics of routers of all modes after mixed traffic: `python -m tests.chart.expositions FOLDER`.

The processes are real, in a small network of namespaces: run it as root, or by scripts/in-namespaces.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
from pathlib import Path

from egress_router.lab.network import ROUTER, Laboratory
from tests.waiting import eventually

NAME = "www.example.com"
SERVER, OTHER, DEAD = "203.0.113.25", "203.0.113.26", "203.0.113.99"
POLICY = json.dumps(
    {
        "kind": "EgressNetworkPolicy",
        "apiVersion": "v1",
        "metadata": {"name": "default"},
        "spec": {"egress": [{"type": "Deny", "to": {"cidrSelector": f"{OTHER}/32"}}]},
    }
)
COMMON = {"EGRESS_POLICY": POLICY, "EGRESS_DNS_TTL_FLOOR": "0.1"}


def main(folder: Path) -> None:
    """Write one file for each mode."""
    for mode, run in (("redirect", redirect), ("http-proxy", http_proxy), ("dns-proxy", dns_proxy)):
        with Laboratory() as lab:
            lab.serve(["80", "81", "82", "http:8000"])
            lab.name({NAME: {"addresses": [SERVER], "ttl": 0}})
            (folder / f"{mode}.prom").write_text(run(lab), encoding="utf-8")


def redirect(lab: Laboratory) -> str:
    lines = f"80 tcp {NAME}\n81 tcp {OTHER}\n82 tcp gone.example.com\n84 tcp {SERVER} 9\n"
    environment = {**COMMON, "EGRESS_DESTINATION": lines, "EGRESS_STANDBY": "on"}
    with lab.staying(environment):
        assert eventually(lambda: 'address="203.0.113.25' in metrics(lab))
        assert eventually(lambda: "egress_router_standby_active 1.0" in metrics(lab))
        with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as kept:
            kept.connect((ROUTER, 80))
            for port in (80, 81, 82, 83, 84):
                with contextlib.suppress(OSError):
                    lab.ask_tcp(lab.client, ROUTER, port)
            return having(
                lab,
                'rule_failures_total{rule="84 tcp',
                "snat_ports_in_use{",
                'result="no_rule"} 1.0',
                'result="refused"} 1.0',
            )


def http_proxy(lab: Laboratory) -> str:
    lab.finish_setup({"EGRESS_ROUTER_MODE": "http-proxy"})
    rules = f"*.example.com\n{SERVER}\n{OTHER}\n{DEAD}\n"
    environment = {
        **COMMON,
        "EGRESS_HTTP_PROXY_DESTINATION": rules,
        "EGRESS_MAX_CONNECTIONS_PER_CLIENT": "3",
        "EGRESS_WORKERS": "1",
    }
    with lab.proxy("http-proxy", environment, 8080):
        for asked in (
            f"GET http://{NAME}:8000/",
            f"GET http://{SERVER}:9/",
            f"GET http://{OTHER}:8000/",
            "GET http://192.0.2.1/",
            "GET http://gone.example.com/",
            "nonsense",
        ):
            request(lab, asked)
        with contextlib.ExitStack() as held:
            for _ in range(4):  # one too many
                sock = held.enter_context(lab.client.socket(socket.AF_INET, socket.SOCK_STREAM))
                sock.connect((ROUTER, 8080))
                sock.sendall(f"CONNECT {SERVER}:80 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                sock.recv(100)
            return having(lab, "limit_hits_total{", "rule_first_byte_seconds_count{", "tunnels_open 3.0")


def dns_proxy(lab: Laboratory) -> str:
    lab.finish_setup({"EGRESS_ROUTER_MODE": "dns-proxy"})
    lines = f"80 {NAME}\n81 {OTHER}\n82 gone.example.com\n84 {SERVER} 9\n"
    environment = {**COMMON, "EGRESS_DNS_PROXY_DESTINATION": lines, "EGRESS_WORKERS": "1"}
    with lab.proxy("dns-proxy", environment, 80):
        for port in (80, 81, 82, 84):
            with contextlib.suppress(OSError, ValueError):
                lab.ask_tcp(lab.client, ROUTER, port)
        return having(lab, 'rule_failures_total{rule="84', 'policy_denied_total{entry="1"} 1.0')


def request(lab: Laboratory, line: str) -> None:
    """Send a request through the proxy; its answer does not matter."""
    with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock, contextlib.suppress(OSError):
        sock.settimeout(20)
        sock.connect((ROUTER, 8080))
        sock.sendall(f"{line} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
        while sock.recv(4096):
            pass


def having(lab: Laboratory, *wanted: str) -> str:
    """Return the metrics, once they have all of these."""
    found = ""

    def complete() -> bool:
        nonlocal found
        found = metrics(lab)
        return all(each in found for each in wanted)

    assert eventually(complete), f"{wanted} are not all in:\n{found}"
    return found


def metrics(lab: Laboratory) -> str:
    """Return the metrics as they are now; nothing where the router does not listen yet."""
    with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(20)
        if sock.connect_ex((ROUTER, 9797)):
            return ""
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: router\r\n\r\n")
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        return answer.read().decode()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
