from __future__ import annotations

import contextlib
import hashlib
import os
import random
import resource
import socket
import struct
import threading
from typing import TYPE_CHECKING

from egress_router.lab.nameserver import in_thread
from egress_router.lab.zone import entry
from egress_router.service.limits import raise_descriptors
from tests.ports import free_port
from tests.unit.dns_proxy.lab import (
    Resetting,
    ask,
    backend,
    both_loops,
    connect,
    forwarder,
    greeting,
    metric,
)
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "db.example.com"
MIB = 1 << 20


@contextlib.contextmanager
def silent(host: str, port: int) -> Iterator[None]:
    """Keep an accept queue full, so that the kernel drops new connections."""
    with socket.create_server((host, port), backlog=0), contextlib.ExitStack() as stack:
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((host, port))
        yield


def accepted(server: socket.socket) -> socket.socket:
    """Return the next client's connection; connections of checks in between are closed."""
    while True:
        sock, _ = server.accept()
        with contextlib.suppress(ConnectionResetError):
            if sock.recv(1):
                return sock
        sock.close()


@both_loops
def test_a_refusing_address_costs_a_client_nothing(tmp_path: Path, loop: str) -> None:
    with (
        backend("127.0.0.1") as one,
        in_thread({NAME: entry("127.0.0.1", "127.0.0.2", "127.0.0.3", ttl=600)}) as names,
        forwarder(tmp_path, f"80 {NAME} {one.port}", names, loop=loop) as running,
    ):
        assert [ask(running, 80) for _ in range(20)] == ["127.0.0.1"] * 20
        # Failed connections have marked both as down, before any check.
        for address, up in (("127.0.0.2", 0), ("127.0.0.3", 0), ("127.0.0.1", 1)):
            labels = {"destination": f"{NAME}:{one.port}", "address": f"{address}:{one.port}"}
            until(lambda: metric(running, "upstream_up", **labels) == up)  # noqa: B023


def test_a_silent_address_costs_well_under_a_second(tmp_path: Path) -> None:
    with (
        backend("127.0.0.1") as one,
        silent("127.0.0.2", one.port),
        in_thread({NAME: entry("127.0.0.1", "127.0.0.2", ttl=600)}) as names,
        forwarder(tmp_path, f"80 {NAME} {one.port}", names) as running,
    ):
        assert [ask(running, 80) for _ in range(6)] == ["127.0.0.1"] * 6
        seen = running.call(running.context.registry.snapshot)["connect_seconds"]
        bounds, counts, _ = seen.histograms[()]
        assert sum(counts[: bounds.index(1.0)]) == 6


def test_checks_take_a_silent_address_out_and_back_in(tmp_path: Path) -> None:
    """Nobody connects: checks alone mark it as down after three failures, and as up after two successes."""
    labels = {"destination": f"{NAME}:{{}}", "address": "127.0.0.2:{}"}
    with backend("127.0.0.1") as one, in_thread({NAME: entry("127.0.0.1", "127.0.0.2", ttl=600)}) as names:
        found = {key: value.format(one.port) for key, value in labels.items()}
        with forwarder(tmp_path, f"80 {NAME} {one.port}", names, check_seconds=0.05) as running:
            until(lambda: metric(running, "upstream_up", **found) == 1)
            until(lambda: metric(running, "upstream_up", **found) == 0)
            with backend("127.0.0.2", one.port):
                until(lambda: metric(running, "upstream_up", **found) == 1)
                assert {ask(running, 80) for _ in range(4)} == {"127.0.0.1", "127.0.0.2"}


@both_loops
def test_when_every_address_is_dead_the_first_that_is_back_serves(tmp_path: Path, loop: str) -> None:
    port = free_port()
    with (
        in_thread({NAME: entry("127.0.0.1", "127.0.0.2", ttl=600)}) as names,
        forwarder(tmp_path, f"80 {NAME} {port}", names, loop=loop) as running,
    ):
        assert [ask(running, 80) for _ in range(5)] == [""] * 5
        until(lambda: metric(running, "connections_total", result="refused") == 5)
        with backend("127.0.0.2", port):
            assert ask(running, 80) == "127.0.0.2"


@both_loops
def test_an_address_that_accepts_and_resets_harms_only_its_own(tmp_path: Path, loop: str) -> None:
    with (
        backend("127.0.0.1", kind=Resetting) as bad,
        backend("127.0.0.1") as good,
        forwarder(tmp_path, f"80 127.0.0.1 {bad.port}\n81 127.0.0.1 {good.port}", loop=loop) as running,
    ):
        for _ in range(20):
            # A reset during the handshake counts as a refusal; a later one is passed on.
            with contextlib.suppress(ConnectionResetError), connect(running, 80) as client:
                assert client.recv(1) == b""
        assert ask(running, 81) == "127.0.0.1"
        until(lambda: running.call(running.server.open_connections) == 0)


@both_loops
def test_a_client_that_never_reads_holds_up_nobody(tmp_path: Path, loop: str) -> None:
    with (
        backend() as target,
        forwarder(tmp_path, f"80 127.0.0.1 {target.port}", loop=loop) as running,
        connect(running, 80) as stuck,
    ):
        stuck.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while True:
                stuck.send(b"x" * 65536)
        assert {ask(running, 80) for _ in range(10)} == {"127.0.0.1"}


@both_loops
def test_a_client_that_disappears_frees_everything(tmp_path: Path, loop: str) -> None:
    with backend() as target, forwarder(tmp_path, f"80 127.0.0.1 {target.port}", loop=loop) as running:
        for _ in range(20):
            client = connect(running, 80)
            greeting(client)
            client.sendall(b"to be continued")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        until(lambda: running.call(running.server.open_connections) == 0)


def test_a_client_that_leaves_before_it_is_connected(tmp_path: Path) -> None:
    with (
        backend() as target,
        in_thread({NAME: entry("127.0.0.1", delay=0.2)}) as names,
        forwarder(tmp_path, f"80 {NAME} {target.port}", names) as running,
    ):
        for _ in range(5):
            connect(running, 80).close()
        assert ask(running, 80) == "127.0.0.1"
        until(lambda: running.call(running.server.open_connections) == 0)


@both_loops
def test_fifty_megabytes_both_ways_at_once(tmp_path: Path, loop: str) -> None:
    """The backend echoes, so the bytes that come back went both ways."""
    block = random.Random(3).randbytes(MIB)
    with (
        backend() as target,
        forwarder(tmp_path, f"80 127.0.0.1 {target.port}", loop=loop) as running,
        connect(running, 80) as client,
    ):
        greeting(client)

        def send() -> None:
            for number in range(50):
                client.sendall(number.to_bytes(4, "big") + block)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        seen = hashlib.blake2b()
        while part := client.recv(MIB):
            seen.update(part)
        sender.join(WAIT_SECONDS)
    wanted = hashlib.blake2b(b"".join(number.to_bytes(4, "big") + block for number in range(50)))
    assert seen.digest() == wanted.digest()


@both_loops
def test_exhausted_descriptors_leave_open_connections_alone(tmp_path: Path, loop: str) -> None:
    with (
        backend() as target,
        forwarder(tmp_path, f"80 127.0.0.1 {target.port}", loop=loop) as running,
        connect(running, 80) as old,
        contextlib.ExitStack() as stack,
    ):
        greeting(old)
        clients = [stack.enter_context(socket.socket()) for _ in range(10)]
        lowest = os.dup(0)
        os.close(lowest)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken: list[int] = []

        def pauses() -> bool:
            """Take the descriptors that connections of earlier tests may still free."""
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            return metric(running, "accept_pauses_total") >= 1

        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            pauses()
            for client in clients:
                client.settimeout(WAIT_SECONDS)
                client.connect(("127.0.0.1", running.ports[80]))
            until(pauses)
            old.sendall(b"on")
            assert old.recv(2) == b"on"
        finally:
            for descriptor in taken:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert [greeting(client) for client in clients] == ["127.0.0.1"] * 10


def test_thousands_of_idle_connections_and_new_ones_are_served(tmp_path: Path) -> None:
    """Both ends of every connection are in this process: four descriptors each."""
    count = min(10_000, (raise_descriptors() - 500) // 4)
    assert count >= 2_000
    with (
        socket.create_server(("127.0.0.1", 0), backlog=4096) as quiet,
        backend() as target,
        forwarder(tmp_path, f"80 127.0.0.1 {quiet.getsockname()[1]}\n81 127.0.0.1 {target.port}") as running,
        contextlib.ExitStack() as stack,
    ):
        pairs = []
        for _ in range(count):
            client = stack.enter_context(connect(running, 80))
            client.sendall(b".")
            pairs.append((client, stack.enter_context(accepted(quiet))))
        assert running.call(running.server.open_connections) == count
        assert {ask(running, 81) for _ in range(20)} == {"127.0.0.1"}
        for client, far in pairs[:: count // 10]:
            far.settimeout(WAIT_SECONDS)
            client.sendall(b"still there")
            assert far.recv(100) == b"still there"
