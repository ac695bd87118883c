"""What the other processes of a pod learn of their group, and what they can ask for."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from egress_router.errors import RefusedError
from egress_router.metrics import Registry
from egress_router.service.standby_monitor import HAND_OVER, StandbyMonitor, ask, hand_over
from egress_router.standby.protocol.role import Role
from egress_router.standby.status import PeerStatus, Status
from egress_router.standby.status_socket import StatusSocket
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.service.mode import Json

PEER = PeerStatus("02:00:00:00:00:02", "10.128.0.3", Role.ACTIVE, ("wire",))
STANDING = Status(
    Role.STANDBY, ("192.168.12.99",), "02:00:00:00:00:99", (PEER,), take_overs=2, losses=1, took=0.6
)


@contextmanager
def answering(standing: Status) -> Iterator[tuple[str, list[bool]]]:
    name = f"\0egress-router-test-{os.getpid()}-{threading.get_ident()}"
    asked: list[bool] = []
    ended = threading.Event()
    with StatusSocket(name) as listening:

        def serve() -> None:
            while not ended.is_set():
                if listening.answer(standing.as_json):
                    asked.append(True)
                ended.wait(0.002)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield name, asked
        finally:
            ended.set()
            thread.join()


def told_by(status_socket: str) -> dict[str, Json]:
    """Ask until there is an answer: on a machine that is busy, one may come too late."""
    answers: list[dict[str, Json]] = []

    def is_answered() -> bool:
        said = ask(name=status_socket)
        if said is not None:
            answers.append(said)
        return bool(answers)

    until(is_answered)
    return answers[0]


def test_a_pod_that_stands_by_says_who_is_active() -> None:
    monitor = StandbyMonitor()
    with answering(STANDING) as (status_socket, _):
        monitor.take(told_by(status_socket), 0.0)
    assert monitor.problems() == ("standing by; 192.168.12.99 is held by 02:00:00:00:00:99",)
    status = monitor.status()
    assert isinstance(status, dict)
    assert (status["role"], status["take_overs"]) == ("standby", 2)


def test_a_pod_without_a_group_has_no_such_problem() -> None:
    monitor = StandbyMonitor()
    monitor.take(ask(name="\0egress-router-nobody"), 0.0)
    assert monitor.problems() == ()
    assert monitor.status() is None


def test_a_process_that_answers_no_more_is_a_problem_after_a_while() -> None:
    monitor = StandbyMonitor()
    with answering(Status(Role.ACTIVE)) as (status_socket, _):
        monitor.take(told_by(status_socket), 0.0)
    monitor.take(None, 1.0)
    assert monitor.problems() == ()
    monitor.take(None, 2.5)
    assert monitor.problems() == ("the process that keeps the fence does not answer",)


def test_a_proxy_that_ends_asks_for_a_hand_over() -> None:
    with answering(Status(Role.ACTIVE)) as (status_socket, asked):
        until(lambda: hand_over(status_socket))
        until(lambda: asked)


def test_a_hand_over_is_asked_for_until_it_is_heard() -> None:
    """On a busy node, the answer may come when the other process has given up waiting for it."""
    name = f"\0egress-router-test-{os.getpid()}-{threading.get_ident()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as status_socket:
        status_socket.bind(name)
        status_socket.listen()

        def hear_the_second() -> None:
            status_socket.accept()[0].close()
            with status_socket.accept()[0] as caller:
                caller.send(b"{}")
                if caller.recv(64) == HAND_OVER:
                    caller.send(HAND_OVER)

        thread = threading.Thread(target=hear_the_second)
        thread.start()
        assert hand_over(name)
        thread.join()
    assert not hand_over(name), "nobody is there"


def test_one_pod_has_one_router() -> None:
    with answering(STANDING) as (status_socket, _), pytest.raises(RefusedError, match="another setup"):
        StatusSocket(status_socket)


def test_metrics() -> None:
    registry, monitor = Registry(), StandbyMonitor()
    monitor.describe(registry)
    assert "standby_active" not in str(registry.snapshot())
    with answering(STANDING) as (status_socket, _):
        monitor.take(told_by(status_socket), 0.0)
    text = str(registry.snapshot())
    for name in ("standby_active", "standby_peers", "standby_take_overs_total", "standby_take_over_seconds"):
        assert name in text
