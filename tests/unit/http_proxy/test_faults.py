"""What must not happen ends the session in which it does, and no other."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from egress_router.http_proxy import connection, upstream_connector
from egress_router.http_proxy.access_control import AccessControl
from egress_router.http_proxy.http1 import request, response
from tests.unit.http_proxy.origin import OK, Client, answering, counted, know, origin, proxy
from tests.waiting import until

if TYPE_CHECKING:
    from egress_router.policy.access_list import Decision


def fail(*_: object, **__: object) -> Decision:
    raise RuntimeError("this must not happen")


GET = "GET http://{0}/ HTTP/1.1\r\nHost: x\r\n\r\n"
CONNECT = "CONNECT {0} HTTP/1.1\r\nHost: x\r\n\r\n"


EVERYWHERE = [
    (AccessControl, "at_once"),
    (AccessControl, "by_addresses"),
    (upstream_connector, "Dial"),
    (request, "parse_request"),
]


@pytest.mark.parametrize(
    ("owner", "name", "text"),
    [
        *[(*place, text) for place in EVERYWHERE for text in (GET, CONNECT)],
        (response, "parse_response", GET),
        (connection, "ProxyTunnel", CONNECT),
    ],
)
def test_a_fault_closes_its_session(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, text: str
) -> None:
    know(monkeypatch, a_example="127.0.0.1", slow=True)
    with (
        origin(answering(OK)) as server,
        proxy("a.example\n", faulty=True) as (running, port),
        Client(port) as other,
    ):
        with monkeypatch.context() as patched, Client(port) as client:
            patched.setattr(owner, name, fail)
            client.send(text.format(f"a.example:{server.port}"))
            with contextlib.suppress(ConnectionResetError):
                client.rest()
        assert counted(running, "session_faults_total") == 1
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
