"""CONNECT to names through a real proxy: what is looked up, judged and dialled."""

from __future__ import annotations

import pytest

from tests.unit.http_proxy.asking import connect
from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import OK, Client, answering, counted, echo, origin, proxy
from tests.waiting import until


def test_names_are_looked_up_once_and_every_allowed_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    names = know(monkeypatch, a_example="127.0.0.9 127.0.0.1", slow=True)
    with origin(echo) as server, proxy("127.0.0.0/8\n") as (_, port), Client(port) as client:
        client.send(connect(f"a.example:{server.port}"))
        assert client.head().startswith("HTTP/1.1 200")  # nothing listens on 127.0.0.9
        assert names.asked == ["a.example"]


def test_a_short_name_with_a_dot_is_asked_for_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    names = know(monkeypatch, db_="127.0.0.1", slow=True)
    with origin(echo) as server, proxy("db\n") as (_, port), Client(port) as client:
        client.send(connect(f"DB.:{server.port}"))
        assert client.head().startswith("HTTP/1.1 200")
        assert names.asked == ["db."]


@pytest.mark.parametrize("slow", [True, False])
def test_a_short_name_is_judged_as_what_it_stands_for(monkeypatch: pytest.MonkeyPatch, *, slow: bool) -> None:
    names = know(monkeypatch, intranet="127.0.0.1", web="127.0.0.1", slow=slow)
    names.search = {"intranet": "intranet.corp.example.com", "web": "web.shop.svc.cluster.local"}
    rules = "!*.corp.example.com\n*.svc.cluster.local\n127.0.0.0/8\n"
    with origin(answering(OK)) as server, proxy(rules) as (running, port):
        with Client(port) as client:
            client.send(f"GET http://intranet:{server.port}/ HTTP/1.1\r\nHost: x\r\n\r\n")
            head, body = client.answer()
            assert head.startswith("HTTP/1.1 403")
            assert b"line 1 (!*.corp.example.com) denies it as intranet.corp.example.com" in body
        assert not server.peers
        with Client(port) as client:
            client.send(f"GET http://web:{server.port}/ HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.answer()[1] == b"ok"
            # The next list denies its full name: this holds for the open connection, too.
            running.apply("!*.shop.svc.cluster.local\n127.0.0.0/8\n")
            client.send(f"GET http://web:{server.port}/ HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.head().startswith("HTTP/1.1 403")


def test_a_tunnel_to_a_short_name_that_a_new_list_denies_by_its_full_name_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = know(monkeypatch, web="127.0.0.1")
    names.search = {"web": "web.shop.example"}
    rules = "127.0.0.1\n"
    with origin(echo) as server, proxy(rules, drain_seconds=0.1) as (running, port), Client(port) as client:
        client.send(connect(f"web:{server.port}"))
        client.head()
        running.apply("!*.shop.example\n127.0.0.1\n")
        with pytest.raises(ConnectionResetError):
            client.rest()


def test_look_ups_are_made_on_behalf_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    names = know(monkeypatch, a_example="127.0.0.1", slow=True)
    with origin(echo) as server, proxy("a.example\n") as (_, port), Client(port) as client:
        client.send(connect(f"a.example:{server.port}"))
        assert client.head().startswith("HTTP/1.1 200")
    assert names.clients == ["127.0.0.1"]


def test_only_addresses_that_were_judged_are_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, a_example="127.0.0.1 127.0.0.2")
    with origin(echo) as wrong, proxy("127.0.0.2\n") as (_, port), Client(port) as client:
        client.send(connect(f"a.example:{wrong.port}"))
        assert client.head().startswith("HTTP/1.1 502")
        assert not wrong.peers


def test_names_that_are_denied_are_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    names = know(monkeypatch)
    with proxy("a.example\n") as (_, port), Client(port) as client:
        client.send(connect("secret.b.example:443"))
        assert client.head().startswith("HTTP/1.1 403")
        assert names.asked == []


def test_a_client_that_leaves_while_its_name_is_looked_up_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    know(monkeypatch, a_example="127.0.0.1", slow=True)
    with origin(echo) as server, proxy("a.example\n") as (running, port):
        with Client(port) as client:
            client.send(connect(f"a.example:{server.port}"))
        until(lambda: counted(running, "requests_total") == 1)
        until(lambda: running.call(running.server.open_connections) == 0)
