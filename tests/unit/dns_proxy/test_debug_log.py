"""EGRESS_LOG_LEVEL=debug tells what Python hears of each connection."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from egress_router import log
from egress_router.lab.nameserver import in_thread
from tests.logged import Lines
from tests.unit.dns_proxy.lab import ask, backend, connect, forwarder, greeting
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def debug() -> Iterator[Lines]:
    logger, made = logging.getLogger("egress_router"), Lines()
    before = logger.handlers[:], logger.level, logger.propagate
    log.configure(made, "json", "debug")
    yield made
    logger.handlers[:], logger.level, logger.propagate = before


def told(debug: Lines, *, identity: object) -> list[object]:
    return [each["event"] for each in debug.seen if each.get("id") == identity]


def test_a_connection_is_told_from_its_connection_to_its_end(debug: Lines, tmp_path: Path) -> None:
    with backend() as target, forwarder(tmp_path, f"80 127.0.0.1 {target.port}") as running:
        with connect(running, 80) as client:
            assert greeting(client) == "127.0.0.1"
            client_port = client.getsockname()[1]
        until(lambda: bool(debug.events("connection ended")))
    (connected,) = debug.events("connected")
    assert told(debug, identity=connected["id"]) == ["connected", "connection ended"]
    assert (connected["client_port"], connected["local_port"]) == (client_port, 80)
    assert (connected["address"], connected["port"], connected["source"]) == (
        "127.0.0.1",
        target.port,
        "127.0.0.1",
    )
    (ended,) = debug.events("connection ended")
    assert (ended["sent"], ended["received"]) == (0, len("127.0.0.1\n"))
    assert ended["reason"] in {"finished", "client_reset"}


def test_the_id_is_that_of_the_access_log(debug: Lines, records: Lines, tmp_path: Path) -> None:
    with (
        backend() as target,
        forwarder(tmp_path, f"80 127.0.0.1 {target.port}", environ={"EGRESS_ACCESS_LOG": "1"}) as running,
    ):
        ask(running, 80)
        until(lambda: bool(records.seen))
    assert [each["id"] for each in records.seen] == [debug.events("connected")[0]["id"]]


def test_a_client_that_waits_for_a_name_is_told(debug: Lines, tmp_path: Path) -> None:
    with (
        in_thread({}) as names,
        forwarder(tmp_path, "80 nowhere.example 80", names) as running,
        connect(running, 80) as client,
    ):
        assert client.recv(1) == b""
        until(lambda: bool(debug.events("connection ended")))
    assert {each["host"] for each in debug.events("client waits for an address")} <= {"nowhere.example"}
    assert debug.events("connection ended")[0]["reason"] == "no_address"


def test_attempts_that_fail_are_told(debug: Lines, tmp_path: Path) -> None:
    with forwarder(tmp_path, "80 127.0.0.1 1") as running:
        with connect(running, 80) as client:
            assert client.recv(1) == b""
        until(lambda: bool(debug.events("connection ended")))
    (failed,) = debug.events("attempt failed")
    (ended,) = debug.events("connection ended")
    assert (failed["address"], failed["reason"]) == ("127.0.0.1:1", "refused")
    assert (ended["id"], ended["reason"]) == (failed["id"], "refused")
