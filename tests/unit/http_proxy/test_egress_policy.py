"""The egress policy behind the list: it only takes away, by the address that is dialled."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from egress_router.settings.policy import joined
from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import OK, Client, answering, counted, origin, proxy
from tests.waiting import until

if TYPE_CHECKING:
    import pytest

LIST = "127.0.0.0/8\na.example\n"


def policy(*entries: tuple[str, str, str]) -> str:
    egress = [{"type": effect, "to": {selector: value}} for effect, selector, value in entries]
    return json.dumps({"kind": "EgressNetworkPolicy", "apiVersion": "v1", "spec": {"egress": egress}})


ALL = ("Deny", "cidrSelector", "0.0.0.0/0")
FIRST = ("Allow", "cidrSelector", "127.0.0.1/32")
NAMED = ("Allow", "dnsName", "a.example")


def get(port: int, authority: str) -> tuple[str, bytes]:
    with Client(port) as client:
        client.send(f"GET http://{authority}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, body = client.answer()
        return head, body


def test_what_the_policy_denies_is_403_with_its_entry() -> None:
    with origin(answering(OK)) as server, proxy(LIST, policy=policy(FIRST, ALL)) as (running, port):
        assert get(port, server.authority)[0].startswith("HTTP/1.1 200")
        head, body = get(port, f"127.0.0.2:{server.port}")
        assert head.startswith("HTTP/1.1 403")
        assert b"policy entry 2 (Deny 0.0.0.0/0) denies it" in body
        assert counted(running, "policy_denied_total", entry="2") == 1
        assert counted(running, "requests_total", verdict="denied", reason="policy") == 1
        shown = str(running.call(running.server.status)["policy"])
        assert "'entry': 2, 'text': 'Deny 0.0.0.0/0', 'denied': 1" in shown
        assert "policy entry 2: Deny 0.0.0.0/0" in str(running.call(running.server.status)["denied"])


def test_the_list_decides_first_and_the_policy_allows_nothing_by_itself() -> None:
    everything = ("Allow", "cidrSelector", "0.0.0.0/0")
    with proxy("a.example\n", policy=policy(everything)) as (_, port):
        assert b"no rule allows it" in get(port, "127.0.0.1:1")[1]


def test_of_several_addresses_a_denied_one_is_not_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, a_example="127.0.0.9 127.0.0.1")
    with origin(answering(OK)) as server, proxy(LIST, policy=policy(FIRST, ALL)) as (_, port):
        assert get(port, f"a.example:{server.port}")[0].startswith("HTTP/1.1 200")


def test_an_entry_by_name_follows_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    known = know(monkeypatch, a_example="127.0.0.1")
    with origin(answering(OK)) as server, proxy(LIST, policy=policy(NAMED, ALL)) as (_, port):
        assert get(port, f"a.example:{server.port}")[0].startswith("HTTP/1.1 200")
        # The same address asked for without the name: the policy is about addresses.
        until(lambda: get(port, server.authority)[0].startswith("HTTP/1.1 200"))
        assert get(port, f"127.0.0.2:{server.port}")[0].startswith("HTTP/1.1 403")
        assert "a.example" in known.asked


def test_a_changed_policy_decides_at_once_and_ends_what_it_denies() -> None:
    with (
        origin(lambda peer: peer.send(peer.read())) as server,
        proxy(LIST, policy=policy(FIRST, ALL), drain_seconds=0.05) as (running, port),
        Client(port) as client,
    ):
        client.send(f"CONNECT {server.authority} HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.head().startswith("HTTP/1.1 200")
        running.apply(joined(LIST, policy(ALL)))
        with contextlib.suppress(ConnectionResetError):
            assert client.rest() == b""
        assert get(port, server.authority)[0].startswith("HTTP/1.1 403")
        running.apply(joined(LIST, policy(FIRST, ALL)))
        with Client(port) as again:
            again.send(f"CONNECT {server.authority} HTTP/1.1\r\nHost: x\r\n\r\n")
            assert again.head().startswith("HTTP/1.1 200")


def test_report_only_covers_the_policy() -> None:
    # What is reported goes to remote addresses only, of which a test has none: the decision is counted.
    with proxy(
        "*\n", policy=policy(("Deny", "cidrSelector", "192.0.2.0/24")), REPORT_ONLY="1", CONNECT_SECONDS="0.1"
    ) as (
        running,
        port,
    ):
        assert not get(port, "192.0.2.1:1")[0].startswith("HTTP/1.1 403")
        assert counted(running, "requests_total", verdict="reported", reason="policy") == 1
