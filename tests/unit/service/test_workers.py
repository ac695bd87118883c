"""Workers that die or hang: who notices, and what their replacements are."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.unit.service.routers import Client, Router, opened, router
from tests.waiting import WAIT_SECONDS, until


def test_a_killed_worker_costs_its_own_connections_only(tmp_path: Path) -> None:
    with router(tmp_path, EGRESS_WORKERS="2") as running:
        clients: list[Client] = []

        def both_serve() -> bool:
            clients.append(running.connect())
            return len({client.pid for client in clients}) == 2

        until(both_serve, "a connection that the kernel gives to the other worker")
        victim = clients[0].pid
        until(lambda: running.metric("connections_total") == len(clients), "all connections counted")
        os.kill(victim, signal.SIGKILL)
        for client in clients:
            assert client.ended() if client.pid == victim else client.echo("still here") == "still here"
        until(lambda: victim not in running.workers() and len(running.workers()) == 2, "a replacement")
        until(lambda: running.metric("worker_restarts_total") == 1, "the count of the replacement")
        assert running.metric("connections_total") >= len(clients), "a dead worker's counts were forgotten"
        assert "signal=SIGKILL" in running.said()
        for client in clients:
            client.close()


def test_hits_and_denials_of_a_worker_that_died_or_hangs_stay_in_the_status(tmp_path: Path) -> None:
    with router(tmp_path) as running, running.connect():
        (worker,) = running.workers()
        before = running.status()
        assert (before["rules"][0]["hits"], len(before["denied"])) == (1, 1)
        os.kill(worker, signal.SIGSTOP)
        assert running.status()["rules"] == before["rules"]
        os.kill(worker, signal.SIGKILL)
        until(lambda: running.workers() not in ([], [worker]), "a replacement")
        after = running.status()
        assert after["rules"][0]["hits"] == 2, "one of each worker (each rule counts one in this mode)"
        assert after["denied"] == before["denied"]


def test_a_flood_of_questions_for_the_status_reaches_a_worker_a_few_times(tmp_path: Path) -> None:
    """So its other work, such as carrying tunnels, does not become slower, however many ask."""
    with router(tmp_path) as running, running.connect() as client:
        before, begun = running.metric("status_rendered_total"), time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(running.get, "/status") for _ in range(400)]
            for number in range(100):
                assert client.echo(str(number)) == str(number)
            assert {each.result()[0] for each in answers} == {200}
        # Once a second for all requests, and once a second by itself, so that the status of a worker that dies is
        # kept. The metrics, too, may be a second old.
        until(lambda: running.metric("status_rendered_total") > before, "the renderings are counted")
        rendered = running.metric("status_rendered_total") - before
        assert rendered <= 2 * (time.monotonic() - begun + 3)


def test_under_load_no_new_connection_is_refused_while_a_worker_is_replaced(tmp_path: Path) -> None:
    with router(tmp_path, EGRESS_WORKERS="2") as running:
        failures: list[str] = []
        done = threading.Event()
        served = [0]

        def load(victim: int) -> None:
            while not done.is_set():
                pid = victim  # until the greeting says who serves
                try:
                    with running.connect() as client:
                        pid = client.pid
                        assert client.echo("x") == "x"
                except ConnectionRefusedError:
                    failures.append("refused")
                except (AssertionError, ValueError, OSError):
                    if pid != victim:
                        failures.append("cut")
                served[0] += 1

        victim = running.workers()[0]
        threads = [threading.Thread(target=load, args=(victim,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: served[0] > 50, "load")
        os.kill(victim, signal.SIGKILL)
        until(lambda: running.metric("worker_restarts_total") == 1, "a restart")
        until(lambda: len(running.workers()) == 2, "a replacement")
        before = served[0]
        until(lambda: served[0] > before + 50, "load after the restart")
        done.set()
        for thread in threads:
            thread.join(WAIT_SECONDS)
        assert not failures


def test_a_worker_that_cannot_start_is_tried_again_ever_more_slowly(tmp_path: Path) -> None:
    with router(tmp_path) as running:

        def delays() -> list[str]:
            """Kill the workers, and return after how long each one was replaced so far."""
            for pid in running.workers():
                with contextlib.suppress(ProcessLookupError):  # the status is a second old at most
                    os.kill(pid, signal.SIGKILL)
            return [part.split()[0] for part in running.said().split("restart_seconds=")[1:]]

        def is_absent() -> bool:
            delays()
            return running.get("/readyz") == (503, "worker 0 does not serve\n")

        until(lambda: len(delays()) >= 3, "three deaths")
        assert delays()[:3] == ["0.1", "0.2", "0.4"]
        # It is away for longer each time, so that the readiness check sees it at last.
        until(is_absent, "a worker that is away")


def client_of(running: Router, worker: int) -> Client:
    """Return a connection that the kernel gave to this worker."""
    found: list[Client] = []

    def is_there() -> bool:
        client = running.connect()
        if client.pid == worker:
            found.append(client)
        else:
            client.close()
        return bool(found)

    until(is_there, "a connection that does not come to the other worker")
    return found[0]


@pytest.mark.parametrize("how", ["stopped", "in an endless loop"])
def test_a_worker_that_hangs_is_replaced_and_nobody_else_is_touched(tmp_path: Path, how: str) -> None:
    with router(tmp_path, EGRESS_WORKERS="2") as running:
        frozen, other = running.workers()
        with client_of(running, other) as bystander, client_of(running, frozen) as victim:
            if how == "stopped":
                os.kill(frozen, signal.SIGSTOP)
            else:
                victim.sock.sendall(b"hang\n")
            until(lambda: len(running.workers()) == 2 and frozen not in running.workers(), "a replacement")
            assert f"worker does not report and is replaced worker=0 pid={frozen}" in running.said()
            assert other in running.workers()
            assert bystander.echo("still here") == "still here"
            assert victim.ended()
        until(lambda: running.metric("worker_restarts_total") == 1, "the count of the replacement")


def test_a_worker_that_a_nameless_signal_ended_is_replaced(tmp_path: Path) -> None:
    with router(tmp_path) as running:
        (worker,) = running.workers()
        os.kill(worker, signal.SIGRTMIN + 6)
        until(lambda: running.metric("worker_restarts_total") == 1, "a restart")
        until(lambda: len(running.workers()) == 1, "a replacement")
        assert f"signal={signal.SIGRTMIN + 6}" in running.said()


def test_a_worker_whose_supervisor_died_ends(tmp_path: Path) -> None:
    with router(tmp_path, EGRESS_WORKERS="2") as running, running.connect() as client:
        workers = running.workers()
        running.process.kill()
        assert client.ended()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "workers gone")


def test_a_worker_holds_nothing_of_its_supervisor_but_where_it_listens(tmp_path: Path) -> None:
    """A worker is a fork of its supervisor, also one that replaces another while the supervisor is at work."""
    with router(tmp_path, EGRESS_WORKERS="2") as running:
        first = running.workers()
        common = {pid: shared(running.process.pid, pid) for pid in first}
        os.kill(first[0], signal.SIGKILL)
        until(lambda: len(running.workers()) == 2 and first[0] not in running.workers(), "a replacement")
        common |= {pid: shared(running.process.pid, pid) for pid in running.workers()}
        listening = {f"socket:[{inode}]" for inode in listeners(running.port)}
        assert len(common) == 3
        for each in common.values():
            assert len(each & listening) == 1
            assert not {name for name in each - listening if name.startswith("socket:")}


def test_a_replacement_does_not_repeat_what_went_wrong_before_it(tmp_path: Path) -> None:
    with router(tmp_path) as running:
        (first,) = running.workers()
        os.kill(first, signal.SIGKILL)
        until(lambda: len(running.workers()) == 1 and first not in running.workers(), "a replacement")
        until(lambda: "worker died" in str(running.status()["recent_errors"]), "the error in the status")
        assert str(running.status()["recent_errors"]).count("worker died") == 1


def shared(*pids: int) -> set[str]:
    """Return what several processes have open, apart from the standard streams."""
    return set.intersection(*map(opened, pids))


def listeners(port: int) -> set[str]:
    """Return the inodes of the sockets that listen on a port."""
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()
    ]
    return {row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}
