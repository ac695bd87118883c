"""The proxies as people run them: supervisor, workers and a rules file that changes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.ports import free_port
from tests.unit.service.routers import Router, holders
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Origin:
    """Sends back every line that it gets, prefixed, on a loopback address of its own."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.server = socket.create_server((address, 0))
        self.port = int(self.server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as lines:
            try:
                for line in lines:
                    client.sendall(self.address.encode() + b" " + line)
            except OSError:
                return


class Line:
    """A connection that speaks in lines."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS)
        self.file = self.sock.makefile("rb")

    def ask(self, text: str) -> str:
        self.sock.sendall(text.encode() + b"\n")
        return self.file.readline().decode().strip()

    def ended(self) -> bool:
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.file.close()
        self.sock.close()


@pytest.fixture
def origins() -> Iterator[tuple[Origin, Origin]]:
    made = Origin("127.0.0.11"), Origin("127.0.0.12")
    yield made
    for origin in made:
        origin.server.close()


@dataclass
class Proxy(Router):
    mode: str = ""

    def launch(self, variables: dict[str, str]) -> None:
        name = self.mode.upper().replace("-", "_")
        environment = {
            **os.environ,
            f"EGRESS_{name}_DESTINATION_FILE": str(self.rules),
            "EGRESS_ADMIN_PORT": str(self.admin),
            "EGRESS_WORKERS": "2",
            "EGRESS_INTERFACE": "none0",
            **variables,
        }
        with self.errors.open("ab") as errors:
            command = [sys.executable, "-m", "egress_router", self.mode]
            self.process = subprocess.Popen(command, env=environment, stderr=errors)
        self.wait_ready()

    def change(self, text: str) -> None:
        self.rules.with_suffix(".new").write_text(text)
        self.rules.with_suffix(".new").rename(self.rules)
        before = self.metric("reloads_total")
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.metric("reloads_total") > before, "the reload")


@pytest.fixture
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxy]:
    made = Proxy(tmp_path / "rules", free_port(), tmp_path / "errors", mode=request.param)
    yield made
    made.process.kill()
    made.wait()


class Tunnel(Line):
    """A CONNECT tunnel to an origin; `status` is what the proxy answered."""

    def __init__(self, port: int, origin: Origin) -> None:
        super().__init__(port)
        target = f"{origin.address}:{origin.port}"
        self.status = self.ask(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r").split(" ")[1]
        while self.file.readline().strip():
            pass


@pytest.mark.parametrize("proxy", ["http-proxy"], indirect=True)
def test_a_tunnel_that_new_rules_deny_ends_after_the_drain_time(
    proxy: Proxy, origins: tuple[Origin, Origin]
) -> None:
    proxy.rules.write_text("127.0.0.11\n127.0.0.12\n")
    proxy.launch({"EGRESS_HTTP_PROXY_PORT": str(proxy.port), "EGRESS_DRAIN_SECONDS": "0.5"})
    kept, denied = (Tunnel(proxy.port, origin) for origin in origins)
    assert kept.ask("x") == "127.0.0.11 x"
    assert denied.ask("x") == "127.0.0.12 x"
    proxy.change("127.0.0.11\n")
    assert denied.ended()
    assert kept.ask("y") == "127.0.0.11 y"
    refused = Tunnel(proxy.port, origins[1])
    assert refused.status == "403"
    proxy.process.terminate()
    assert kept.ended()
    assert proxy.wait() == 0
    for line in (kept, denied, refused):
        line.close()


@pytest.mark.parametrize("proxy", ["http-proxy"], indirect=True)
def test_a_killed_worker_costs_only_its_tunnels(proxy: Proxy, origins: tuple[Origin, Origin]) -> None:
    proxy.rules.write_text("127.0.0.0/8\n")
    proxy.launch({"EGRESS_HTTP_PROXY_PORT": str(proxy.port)})
    victim, other = proxy.workers()
    lines: list[Tunnel] = []

    def both_have_some() -> bool:
        lines.append(Tunnel(proxy.port, origins[0]))
        ports = [line.sock.getsockname()[1] for line in lines]
        return all(any(holders(port, [pid]) for port in ports) for pid in (victim, other))

    until(both_have_some, "a tunnel of each worker")
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in proxy.workers() and len(proxy.workers()) == 2, "a replacement")
    assert other in proxy.workers()
    alive = [line for line in lines if not cut(line)]
    assert 0 < len(alive) < len(lines)
    assert all(line.ask("x") == "127.0.0.11 x" for line in alive)
    lines.append(Tunnel(proxy.port, origins[0]))
    assert lines[-1].ask("new") == "127.0.0.11 new"
    for line in lines:
        line.close()


def cut(line: Line) -> bool:
    line.sock.setblocking(False)
    try:
        return line.sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    finally:
        line.sock.settimeout(WAIT_SECONDS)


@pytest.mark.parametrize("proxy", ["dns-proxy"], indirect=True)
def test_lines_come_and_go_without_closing_the_others(proxy: Proxy, origins: tuple[Origin, Origin]) -> None:
    first, second = proxy.port, free_port()
    to = [f"{origin.address} {origin.port}" for origin in origins]
    proxy.rules.write_text(f"{first} {to[0]}\n")
    proxy.launch({})
    kept = Line(first)
    assert kept.ask("x") == "127.0.0.11 x"
    proxy.change(f"{first} {to[0]}\n{second} {to[1]}\n")
    added = Line(second)
    assert added.ask("x") == "127.0.0.12 x"
    proxy.change(f"{first} {to[0]}\n")
    until(lambda: refused(second), "the port closed")
    assert kept.ask("y") == "127.0.0.11 y"
    proxy.process.terminate()
    until(lambda: refused(first), "no more accepted")
    assert kept.ask("z") == "127.0.0.11 z"
    kept.close()
    added.close()
    assert proxy.wait() == 0


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def connections_served(proxy: Proxy, count: int, expected: int) -> list[Line]:
    """Open so many connections at once, and hold those that the limits let in.

    Metrics are a second old, so connections of the round before may still count: then fewer are let in, and it
    is tried again. More are never let in.
    """
    let_in: list[Line] = []

    def all_places_are_taken() -> bool:
        for line in let_in:
            line.close()
        made = [Line(proxy.port) for _ in range(count)]
        let_in[:] = [line for line in made if is_served(line)]
        for line in made:
            if line not in let_in:
                line.close()
        assert len(let_in) <= expected
        return len(let_in) == expected

    until(all_places_are_taken, "the places of connections that have ended")
    return let_in


def is_served(line: Line) -> bool:
    try:
        return line.ask("hello") != ""
    except OSError:
        return False


@pytest.mark.parametrize(("limits", "expected"), [({}, 9), ({"EGRESS_MAX_CONNECTIONS_PER_CLIENT": "5"}, 5)])
@pytest.mark.parametrize("proxy", ["dns-proxy"], indirect=True)
def test_the_limit_of_connections_is_exact_over_all_workers(
    proxy: Proxy, origins: tuple[Origin, Origin], limits: dict[str, str], expected: int
) -> None:
    proxy.rules.write_text(f"{proxy.port} {origins[0].address} {origins[0].port}\n")
    proxy.launch({"EGRESS_WORKERS": "8", "EGRESS_MAX_CONNECTIONS": "9", **limits})
    cut = connections_served(proxy, 100, expected)
    for worker in proxy.workers():
        os.kill(worker, signal.SIGKILL)
    for line in cut:
        assert line.ended()
        line.close()
    until(lambda: proxy.metric("worker_restarts_total") == 8 and len(proxy.workers()) == 8, "replacements")
    for _ in range(2):  # what dead workers had open does not count, and what ended does not either
        for line in connections_served(proxy, 100, expected):
            line.close()
        until(lambda: proxy.metric("connections_open") == 0, "the end of all")
