"""What a client in the cluster does with the router, and what the servers outside said of it."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.waiting import eventually, until

if TYPE_CHECKING:
    from egress_router.lab.network import Seen
    from tests.images.node import Sandbox

_START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Reply:
    """The proxy's answer; server and source are what its body says, if a server wrote it."""

    status: int
    server: str
    source: str


def ask(sandbox: Sandbox, port: int) -> Seen:
    """Connect to a port of the pod as a client; try again while the pod still starts."""
    await_port(sandbox, port)
    lab = sandbox.node.lab
    return lab.ask_tcp(lab.client, sandbox.address, port)


def get(sandbox: Sandbox, url: str) -> Reply:
    """Ask the HTTP proxy in the pod for a URL."""
    await_port(sandbox, 8080)
    with sandbox.node.lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        sock.connect((sandbox.address, 8080))
        host = url.removeprefix("http://").partition("/")[0]
        sock.sendall(f"GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        body = answer.read()
    if answer.status != 200:
        return Reply(answer.status, "", "")
    said: dict[str, str] = json.loads(body)
    return Reply(answer.status, said["server"], said["source"])


def await_readiness(sandbox: Sandbox) -> None:
    """Wait until the pod's readiness probe would succeed. AssertionError when it does not in time."""
    await_port(sandbox, 9797)
    until(lambda: _readiness(sandbox) == 200, "/readyz answers 200")


def _readiness(sandbox: Sandbox) -> int:
    with sandbox.node.lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        sock.connect((sandbox.address, 9797))
        sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        return answer.status


def await_port(sandbox: Sandbox, port: int) -> None:
    """Wait until something in the pod accepts connections on a port. OSError when nothing does in time."""

    def accepts() -> bool:
        with sandbox.node.lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(2)
            return sock.connect_ex((sandbox.address, port)) == 0

    if not eventually(accepts):
        raise OSError(f"nothing accepts on port {port} of the pod\n{sandbox.logs()}")
