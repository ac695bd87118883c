"""Asks a router's administration endpoint from any host, by a socket: a process for each request would be slow."""

from __future__ import annotations

import http.client
import socket
from typing import TYPE_CHECKING

from tests.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from egress_router.lab.host import Host

LOOPBACK, PORT = "127.0.0.1", 9797


def get(host: Host, path: str, address: str = LOOPBACK) -> tuple[int, str]:
    """Return status and body of an answer; 0 and nothing where there is none."""
    with host.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(WAIT_SECONDS)
        if sock.connect_ex((address, PORT)):
            return 0, ""
        try:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: router\r\n\r\n".encode())
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            return answer.status, answer.read().decode()
        except ConnectionError:  # a router that ends
            return 0, ""


def fetch(host: Host, path: str) -> str:
    """Return the body of a router's answer to itself; nothing where it has no answer yet."""
    status, text = get(host, path)
    return text if status == 200 else ""
