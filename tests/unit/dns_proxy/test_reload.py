"""Lines that change, and ports that open and close, while connections are open."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.serving import listening
from tests.unit.dns_proxy.lab import ask, at_once, backend, both_loops, connect, forwarder, greeting, is_reset
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from pathlib import Path


@both_loops
def test_other_rules_leave_what_they_allow_alone(tmp_path: Path, loop: str) -> None:
    with (
        backend() as one,
        backend() as two,
        forwarder(
            tmp_path,
            f"80 127.0.0.1 {one.port}\n81 127.0.0.1 {one.port}\n82 127.0.0.1 {one.port}",
            loop=loop,
            drain_seconds=0.2,
        ) as running,
    ):
        with connect(running, 80) as kept, connect(running, 81) as moved, connect(running, 82) as gone:
            for each in (kept, moved, gone):
                assert greeting(each) == "127.0.0.1"
            running.apply(f"80 127.0.0.1 {one.port}\n81 127.0.0.1 {two.port}")
            for each in (moved, gone):
                with pytest.raises(ConnectionResetError):
                    each.recv(1)
            kept.sendall(b"on")
            assert kept.recv(2) == b"on"
            with connect(running, 81) as again:
                assert greeting(again) == "127.0.0.1"
            until(lambda: two.served == 1)
        hits = [each["hits"] for each in running.call(running.server.status)["rules"]]  # type: ignore[index, union-attr, call-overload]
        assert hits == [1, 1]


def test_a_line_that_comes_back_in_time_keeps_its_connections(tmp_path: Path) -> None:
    with (
        backend() as target,
        forwarder(
            tmp_path, f"80 127.0.0.1 {target.port}\n81 127.0.0.1 {target.port}", drain_seconds=0.05
        ) as running,
        connect(running, 80) as client,
        connect(running, 81) as gone,
    ):
        assert (greeting(client), greeting(gone)) == ("127.0.0.1", "127.0.0.1")
        at_once(running, f"81 127.0.0.1 {target.port}", f"80 127.0.0.1 {target.port}")
        assert is_reset(gone)  # whose deadline is later than that of the line that came back
        client.sendall(b"on")
        assert client.recv(2) == b"on"


def test_ports_open_and_close_without_touching_others(tmp_path: Path) -> None:
    with backend() as target, forwarder(tmp_path, f"80 127.0.0.1 {target.port}") as running:
        text = f"80 127.0.0.1 {target.port}\n81 127.0.0.1 {target.port}"
        with connect(running, 80) as client:
            greeting(client)
            running.apply(text)
            new = listening()
            running.call(lambda: running.server.listen({80: running.sockets[80], 81: new}))
            with socket.create_connection(("127.0.0.1", new.getsockname()[1]), timeout=WAIT_SECONDS) as fresh:
                assert greeting(fresh) == "127.0.0.1"
            running.call(lambda: running.server.listen({81: new}))
            with pytest.raises(ConnectionRefusedError):
                connect(running, 80)
            client.sendall(b"on")
            assert client.recv(2) == b"on"


@both_loops
def test_rules_change_under_load(tmp_path: Path, loop: str) -> None:
    """Clients of a line that stays never notice, however often the others change."""
    with backend() as target, forwarder(tmp_path, f"80 127.0.0.1 {target.port}", loop=loop) as running:
        stop = threading.Event()
        answers: list[str] = []

        def work() -> None:
            while not stop.is_set():
                answers.append(ask(running, 80))

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for turn in range(60):
            others = "".join(f"{port} 192.0.2.{turn + 1}\n" for port in range(100, 100 + turn % 7))
            running.apply(f"{others}80 127.0.0.1 {target.port}")
        until(lambda: len(answers) > 200)
        stop.set()
        for worker in workers:
            worker.join(WAIT_SECONDS)
        assert set(answers) == {"127.0.0.1"}


def test_stopping_lets_open_connections_go_on(tmp_path: Path) -> None:
    with (
        backend() as target,
        forwarder(tmp_path, f"80 127.0.0.1 {target.port}") as running,
        connect(running, 80) as client,
    ):
        greeting(client)
        running.call(running.server.stop_accepting)
        with pytest.raises(ConnectionRefusedError):
            connect(running, 80)
        client.sendall(b"on")
        assert client.recv(2) == b"on"
        running.call(running.server.close_all)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        until(lambda: running.call(running.server.open_connections) == 0)


def test_a_port_without_a_line_closes_at_once(tmp_path: Path) -> None:
    """The rules changed, the listening socket is about to be closed."""
    with forwarder(tmp_path, "80 127.0.0.1 9") as running:
        running.apply("81 127.0.0.1 9")
        with contextlib.suppress(ConnectionResetError):
            assert ask(running, 80) == ""
        until(lambda: running.call(running.server.open_connections) == 0)
