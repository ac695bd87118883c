"""A fault of ours ends the connection in which it shows, and no other."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from egress_router.http_proxy.accounting import Accounting
from egress_router.http_proxy.server import Dependencies
from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import OK, Client, answering, counted, origin, proxy
from tests.waiting import until

if TYPE_CHECKING:
    from egress_router.clock import Clock
    from egress_router.http_proxy.access_log import AccessLog
    from egress_router.metrics import Registry

GET = "GET http://{0}/ HTTP/1.1\r\nHost: x\r\n\r\n"
CONNECT = "CONNECT {0} HTTP/1.1\r\nHost: x\r\n\r\n"


def failing_once(step: str, registry: Registry, access_log: AccessLog, clock: Clock) -> Accounting:
    """Return an accounting in which a fault shows when it first hears of a step."""

    class Faulty(Accounting):
        pass

    def fail(*_: object) -> None:
        delattr(Faulty, step)
        raise RuntimeError("this must not happen")

    setattr(Faulty, step, fail)
    return Faulty(registry, access_log, clock)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        *[
            (step, text)
            for step in ("begun", "name_asked", "name_answered", "decided", "connected")
            for text in (GET, CONNECT)
        ],
        ("answered", GET),
        ("closed", GET),
        ("tunnel_opened", CONNECT),
    ],
)
def test_a_fault_closes_its_connection(monkeypatch: pytest.MonkeyPatch, step: str, text: str) -> None:
    know(monkeypatch, a_example="127.0.0.1", slow=True)
    needs = Dependencies(accounting=lambda *parts: failing_once(step, *parts))
    with (
        origin(answering(OK)) as server,
        proxy("a.example\n", faulty=True, needs=needs) as (running, port),
        Client(port) as other,
    ):
        with Client(port) as client:
            client.send(text.format(f"a.example:{server.port}"))
            with contextlib.suppress(ConnectionResetError):
                client.rest()
        assert counted(running, "connection_faults_total") == 1
        until(lambda: running.call(running.server.open_connections) == 1)
        other.send(GET.format(f"a.example:{server.port}"))
        assert other.answer()[1] == b"ok"


def test_a_fault_of_the_resolver_is_a_failure_of_its_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    names = know(monkeypatch)

    async def resolve(*_: object) -> None:
        raise RuntimeError("this must not happen")

    monkeypatch.setattr(names, "resolve", resolve)
    with proxy("a.example\n", faulty=True) as (_, port), Client(port) as client:
        client.send(CONNECT.format("a.example:443"))
        assert client.head().startswith("HTTP/1.1 502")
