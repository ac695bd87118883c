"""EGRESS_DNS_SERVERS: every mode that resolves asks these servers, and not those of /etc/resolv.conf."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from egress_router.lab.network import NAME_SERVER, ROUTER, SOURCE
from tests.waiting import WAIT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.lab.network import Laboratory

NAME, ADDRESS = "db.example.com", "203.0.113.25"
TOLD = {"EGRESS_DNS_SERVERS": NAME_SERVER, "EGRESS_WORKERS": "1"}


@pytest.fixture
def named(lab: Laboratory) -> Laboratory:
    """The laboratory, with a router whose own /etc/resolv.conf names a server that nobody is."""
    lab.serve(["80", "http:8000"])
    lab.set_zone({NAME: {"addresses": [ADDRESS], "ttl": 0}})
    lab.router.write("/etc/resolv.conf", "nameserver 10.128.0.99\n")
    return lab


@contextlib.contextmanager
def served(lab: Laboratory, mode: str) -> Iterator[None]:
    if mode == "redirect":
        with lab.staying({"EGRESS_DNS_SERVERS": NAME_SERVER, "EGRESS_DESTINATION": f"80 tcp {NAME}"}):
            yield
        return
    lab.finish_setup({"EGRESS_ROUTER_MODE": mode})
    rules, port = {"http-proxy": (NAME, 8080), "dns-proxy": (f"80 {NAME}", 80)}[mode]
    variable = f"EGRESS_{mode.upper().replace('-', '_')}_DESTINATION"
    with lab.proxy(mode, {**TOLD, variable: rules}, port):
        yield


@pytest.mark.parametrize("mode", ["redirect", "dns-proxy"])
def test_lines_lead_where_these_servers_say(named: Laboratory, mode: str) -> None:
    def arrived() -> bool:
        with contextlib.suppress(OSError):
            seen = named.ask_tcp(named.client, ROUTER, 80)
            return (seen.server, seen.source) == (ADDRESS, SOURCE)
        return False

    with served(named, mode):
        assert eventually(arrived)


def test_requests_go_where_these_servers_say(named: Laboratory) -> None:
    request = f"GET http://{NAME}:8000/ HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n"
    with served(named, "http-proxy"), named.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(WAIT_SECONDS)
        sock.connect((ROUTER, 8080))
        sock.sendall(request.encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
