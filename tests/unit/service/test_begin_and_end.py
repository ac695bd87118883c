"""How a router begins and ends: what is served to the end, what the first process owes, starts that fail."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.ports import free_port
from tests.unit.service.routers import Router, children, router
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from pathlib import Path


def test_sigterm_lets_what_is_open_finish_and_accepts_no_more(tmp_path: Path) -> None:
    with router(tmp_path, EGRESS_WORKERS="2") as running, running.connect() as client:
        running.process.terminate()
        until(lambda: running.get("/readyz") == (503, "the router is ending\n"), "readiness off")
        until(lambda: running.refuses(running.port), "the port closed")
        assert client.echo("slow transfer") == "slow transfer"
        assert running.process.poll() is None
        client.close()
        assert running.wait() == 0


def test_connections_in_the_accept_queue_are_served_at_the_end(tmp_path: Path) -> None:
    with router(tmp_path) as running:
        worker = running.workers()[0]
        os.kill(worker, signal.SIGSTOP)
        waiting = [
            socket.create_connection(("127.0.0.1", running.port), timeout=WAIT_SECONDS) for _ in range(20)
        ]
        running.process.terminate()
        until(lambda: "asked to end" in running.said(), "the end to begin")
        os.kill(worker, signal.SIGCONT)
        for sock in waiting:
            assert sock.recv(100).startswith(str(worker).encode())
            sock.close()
        assert running.wait() == 0


def test_the_accept_queue_of_a_worker_that_is_being_replaced_is_served_at_the_end(tmp_path: Path) -> None:
    with router(tmp_path) as running:
        for delay in ("0.1", "0.2", "0.4", "0.8"):
            os.kill(running.workers()[0], signal.SIGKILL)
            until(lambda delay=delay: f"restart_seconds={delay}" in running.said(), "a death")  # type: ignore[misc]
            if delay != "0.8":
                until(running.workers, "a replacement")
        waiting = [
            socket.create_connection(("127.0.0.1", running.port), timeout=WAIT_SECONDS) for _ in range(5)
        ]
        running.process.terminate()
        for sock in waiting:
            assert sock.recv(100).endswith(b" one\n")
            sock.close()
        assert running.wait() == 0


def test_what_does_not_finish_in_time_is_cut(tmp_path: Path) -> None:
    with router(tmp_path, EGRESS_DRAIN_SECONDS="0.3") as running, running.connect() as client:
        running.process.terminate()
        assert client.ended()
        assert running.wait() == 0
        assert "time to finish is over" in running.said()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(tmp_path: Path, second: signal.Signals) -> None:
    with router(tmp_path) as running, running.connect() as client:
        running.process.terminate()
        until(lambda: "asked to end" in running.said(), "the end to begin")
        running.process.send_signal(second)
        assert client.ended()
        assert running.wait() == 0


def test_as_first_process_it_reaps_strangers(tmp_path: Path) -> None:
    # In a process namespace of its own the supervisor is process 1, and orphans become its children.
    with router(tmp_path, wrap=["unshare", "--pid", "--fork", "--kill-child"], EGRESS_WORKERS="2") as running:
        (first,) = children(running.process.pid)
        orphan = ["nsenter", "-t", str(first), "-p", "sh", "-c", "(exec sleep 0.2) & echo"]
        subprocess.run(orphan, check=True, capture_output=True)
        workers = set(children(first))
        assert len(workers) >= 2
        until(lambda: len(children(first)) == 2, "only the workers left")
        assert running.metric("worker_restarts_total") == 0
        os.kill(first, signal.SIGTERM)
        running.wait()


def failed_start(folder: Path, **environment: str) -> tuple[int, str]:
    port = free_port()
    rules = folder / "rules"
    if not rules.exists():
        rules.write_text(f"{port} one\n")
    starting = Router(rules, port, folder / "second-errors")
    starting.start(environment)
    return starting.wait(), starting.said()


def test_two_routers_on_one_port_is_a_clear_error(tmp_path: Path) -> None:
    with router(tmp_path, EGRESS_WORKERS="2") as running:
        code, said = failed_start(tmp_path)
        assert code == 3
        assert said.splitlines() == [
            f"cannot listen on port {running.port} (Address already in use): "
            "another process of this pod listens there; stop it or choose another port"
        ]
        other = tmp_path / "other"
        other.mkdir()
        code, said = failed_start(other, EGRESS_ADMIN_PORT=str(running.admin))
        assert code == 3
        assert f"port {running.admin} (Address already in use)" in said


def test_wrong_rules_at_the_start_are_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "rules").write_text("80\n# fine\nx y\n")
    code, said = failed_start(tmp_path)
    assert code == 1
    assert len(said.splitlines()) == 2
    assert "line 3: 'x y': expected PORT WORD" in said


def test_a_port_that_needs_a_privilege_names_it(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("80 one\n")
    starting = Router(rules, 80, tmp_path / "errors")
    # A network namespace has its own ip_unprivileged_port_start: 1024.
    starting.start({}, ["unshare", "--net", "setpriv", "--bounding-set=-net_bind_service"])
    assert starting.wait() == 3
    assert "cannot listen on port 80 (Permission denied): ports below 1024" in starting.said()
    assert "net.ipv4.ip_unprivileged_port_start" in starting.said()
