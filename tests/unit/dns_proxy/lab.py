"""Servers to forward to, a name server, and a forwarder between them and the test."""

from __future__ import annotations

import contextlib
import functools
import socket
import socketserver
import struct
import threading
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.dns_proxy.server import mode
from egress_router.names.resolver import Resolver, system_sources
from egress_router.settings.dns_proxy import read_dns_proxy
from egress_router.settings.names import NamesSettings
from egress_router.upstreams.forbidden import forbidden_reason
from egress_router.upstreams.health import INTERVAL
from tests.ports import free_port
from tests.serving import LOOPS, Running, serving
from tests.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from egress_router.grammar.address import Host, IPAddress, Target
    from egress_router.grammar.forward import Forwards
    from egress_router.lab.nameserver import NameServer
    from egress_router.metrics import Registry
    from egress_router.service.mode import Mode
    from egress_router.settings.policy import Guarded
    from egress_router.upstreams.forbidden import ForbiddenCheck, ForbiddenReason

both_loops = pytest.mark.parametrize("loop", sorted(LOOPS))


class Backend(socketserver.ThreadingTCPServer):
    """Says which address it has, then echoes; counts its connections."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.host = host
        self.served = 0
        super().__init__((host, port), Echo)

    @property
    def port(self) -> int:
        port: int = self.server_address[1]
        return port


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Backend)
        with contextlib.suppress(OSError):
            self.request.sendall(f"{self.server.host}\n".encode())
            while part := self.request.recv(65536):
                self.request.sendall(part)
            self.server.served += 1


class Observing(Backend):
    """Says which address the connection came from."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.RequestHandlerClass = TellsPeer


class TellsPeer(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self.request.sendall(f"{self.client_address[0]}\n".encode())
            self.request.recv(1)


class Resetting(Backend):
    """Accepts and resets at once."""

    def get_request(self) -> tuple[socket.socket, object]:
        sock, address = super().get_request()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        self.served += 1
        return sock, address

    def verify_request(self, request: object, client_address: object) -> bool:
        return False


@contextlib.contextmanager
def backend(host: str = "127.0.0.1", port: int = 0, kind: type[Backend] = Backend) -> Iterator[Backend]:
    with kind(host, port or free_port()) as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.02))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(WAIT_SECONDS)


def loopback_is_remote(
    host: Host,
    target: Target,
    *,
    named: AbstractSet[IPAddress],
    ports: AbstractSet[int],
    admin_port: int,
    is_own: Callable[[IPAddress], bool],
) -> ForbiddenReason | None:
    """Allow names to have loopback addresses, as if lines named them: tests have no other addresses."""
    all_named = named | {target[0]}
    return forbidden_reason(host, target, named=all_named, ports=ports, admin_port=admin_port, is_own=is_own)


def forwarding(
    folder: Path,
    names: NameServer | None = None,
    environ: Mapping[str, str] | None = None,
    forbidden: ForbiddenCheck = loopback_is_remote,
    sources: str = "",
    check_seconds: float = INTERVAL,
) -> Mode[Guarded[Forwards]]:
    """Return the mode under test; it asks only `names`, and keeps an answer for a moment only."""
    conf, hosts = folder / "resolv.conf", folder / "hosts"
    conf.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    hosts.write_text("")

    def resolver(settings: NamesSettings, registry: Registry) -> Resolver:
        del settings
        return Resolver(
            NamesSettings(ttl_floor=0.05, ttl_ceiling=0.05),
            registry,
            sources=system_sources(conf, hosts, 9 if names is None else names.port),
        )

    given = {"EGRESS_DNS_PROXY_DESTINATION": "1 192.0.2.1", **(environ or {})}
    # EGRESS_SOURCE itself cannot hold addresses of the loopback network.
    settings = replace(read_dns_proxy(given), sources=tuple(map(ip_address, sources.split())))
    return mode(settings, resolver, forbidden, check_seconds)


@contextlib.contextmanager
def forwarder(
    folder: Path,
    text: str,
    names: NameServer | None = None,
    *,
    loop: str = "own",
    most: int = 10_000,
    per_client: int | None = None,
    drain_seconds: float = 25.0,
    environ: Mapping[str, str] | None = None,
    forbidden: ForbiddenCheck = loopback_is_remote,
    sources: str = "",
    check_seconds: float = INTERVAL,
) -> Iterator[Running[Guarded[Forwards]]]:
    made = forwarding(folder, names, environ, forbidden, sources, check_seconds)
    with serving(
        made, text, loop=loop, most=most, per_client=per_client, drain_seconds=drain_seconds
    ) as running:
        yield running


def connect(running: Running[Guarded[Forwards]], port: int, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((host, running.ports[port]), timeout=WAIT_SECONDS)


def greeting(sock: socket.socket) -> str:
    """Read the address that the backend says; empty when the connection ended instead."""
    line = b""
    while not line.endswith(b"\n"):
        part = sock.recv(1)
        if not part:
            return ""
        line += part
    return line.decode().strip()


def ask(running: Running[Guarded[Forwards]], port: int, host: str = "127.0.0.1") -> str:
    """Connect, and return which backend answers; empty when nobody does."""
    with connect(running, port, host) as sock:
        return greeting(sock)


def at_once(running: Running[Guarded[Forwards]], *texts: str) -> None:
    """Put these in force one after the other, in one turn of the loop, however slow this machine is."""
    rules = [running.mode.parse("RULES", text) for text in texts]

    def apply_all() -> None:
        for each in rules:
            running.server.apply(each)

    running.call(apply_all)


def is_reset(client: socket.socket) -> bool:
    """Wait for the end of a connection; say whether it is a reset."""
    try:
        client.recv(1)
    except ConnectionResetError:
        return True
    return False


def metric(running: Running[Guarded[Forwards]], name: str, **labels: str) -> float:
    families = running.call(running.context.registry.snapshot)
    return families[name].numbers.get(tuple(sorted(labels.items())), 0) if name in families else 0
