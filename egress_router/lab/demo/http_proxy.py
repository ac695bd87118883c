"""HTTP proxy mode: names and addresses decide, and the address that was checked is the one dialled."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING

from egress_router.lab.demo.table import Row, show
from egress_router.lab.network import ROUTER, SOURCE

if TYPE_CHECKING:
    from egress_router.lab.network import Laboratory

RULES = """\
!10.0.0.0/8
!*.bad.example.com
*.example.com
203.0.113.26
"""
ZONE = {
    "www.example.com": {"addresses": ["203.0.113.25"]},
    "tracker.bad.example.com": {"addresses": ["203.0.113.27"]},
    "inside.example.com": {"addresses": ["10.128.0.10"]},
    "elsewhere.example.org": {"addresses": ["203.0.113.28"]},
}
_PORT = 8080
_TRANSPARENT = 8000


def run(lab: Laboratory) -> bool:
    """Start the proxy and send requests through it; return whether everything was as promised."""
    lab.serve(["http:8000", "443"])
    lab.set_zone(ZONE)
    print("\nHTTP proxy mode. EGRESS_HTTP_PROXY_DESTINATION:\n")
    print("".join(f"    {line}\n" for line in RULES.splitlines()))
    print("inside.example.com is an allowed name with an address of the pod network, 10.128.0.10.")
    print(f"Port {_TRANSPARENT} is transparent: the last two clients use no proxy, their DNS leads here.")
    lab.finish_setup({"EGRESS_ROUTER_MODE": "http-proxy"})
    environment = {
        "EGRESS_HTTP_PROXY_DESTINATION": RULES,
        "EGRESS_HTTP_PROXY_TRANSPARENT_PORTS": str(_TRANSPARENT),
    }
    with lab.proxy("http-proxy", environment, _PORT):
        rows = [
            _row(lab, "GET http://www.example.com:8000/", 200),
            _row(lab, "GET http://203.0.113.26:8000/", 200),
            _row(lab, "CONNECT www.example.com:443", 200),
            _row(lab, "GET http://tracker.bad.example.com:8000/", 403),
            _row(lab, "GET http://inside.example.com:8000/", 403),
            _row(lab, "CONNECT elsewhere.example.org:443", 403),
            _direct_row(lab, "www.example.com", 200),
            _direct_row(lab, "elsewhere.example.org", 403),
        ]
        return show("What the client asked, and the results:", rows)


def _row(lab: Laboratory, asked: str, expected: int) -> Row:
    method, _, target = asked.partition(" ")
    host = target.removeprefix("http://").rstrip("/")
    return _asked(lab, asked, _PORT, f"{method} {target}", host, expected)


def _direct_row(lab: Laboratory, host: str, expected: int) -> Row:
    return _asked(lab, f"without a proxy: GET {host}", _TRANSPARENT, "GET /", host, expected)


def _asked(lab: Laboratory, asked: str, port: int, line: str, host: str, expected: int) -> Row:
    method = line.partition(" ")[0]
    with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        sock.connect((ROUTER, port))
        sock.sendall(f"{line} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        answer = http.client.HTTPResponse(sock, method=method)
        answer.begin()
        if answer.status != expected:
            return Row(asked, f"{answer.status} {answer.reason}", "-", is_right=False)
        if answer.status != 200:
            lines = answer.read().decode(errors="replace").strip().splitlines()
            return Row(asked, lines[0] if lines else str(answer.status), "-", is_right=True)
        # The first line of a tunnel, or the body.
        seen: dict[str, str | int] = json.loads(answer.readline())
        return Row(
            asked, f"200: {seen['server']} port {seen['port']}", str(seen["source"]), seen["source"] == SOURCE
        )
