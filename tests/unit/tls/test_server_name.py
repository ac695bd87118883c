from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.tls.alert import Alert, fatal
from egress_router.tls.client_hello import ClientHello
from egress_router.tls.server_name import NameFault, SniMatch, compare, server_name

if TYPE_CHECKING:
    from egress_router.grammar.address import Host


def named(name: str | None) -> ClientHello:
    return ClientHello(name, encrypted=False)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("www.example.com", "www.example.com"),
        ("WWW.Example.COM.", "www.example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        (None, NameFault.NO_NAME),
        ("192.0.2.1", NameFault.ADDRESS),
        ("[2001:db8::1]", NameFault.ADDRESS),
        ("2001:db8::1", NameFault.ADDRESS),
        ("127.1", NameFault.BAD_NAME),
        ("a..example", NameFault.BAD_NAME),
        ("a.example:443", NameFault.BAD_NAME),
        ("*.example", NameFault.BAD_NAME),
    ],
)
def test_the_name_is_normalised_as_rules_are(sent: str | None, read: str | NameFault) -> None:
    assert server_name(named(sent)) == read


@pytest.mark.parametrize(
    ("sent", "host", "match"),
    [
        ("www.example.com", "www.example.com", SniMatch.SAME),
        ("Www.Example.Com", "www.example.com", SniMatch.SAME),
        ("db", "db.", SniMatch.SAME),
        ("other.example.com", "www.example.com", SniMatch.OTHER),
        ("192.0.2.1", "www.example.com", SniMatch.OTHER),
        (None, "www.example.com", SniMatch.ABSENT),
        ("www.example.com", ip_address("192.0.2.1"), SniMatch.ASK_LIST),
        ("192.0.2.1", ip_address("192.0.2.1"), SniMatch.OTHER),
        (None, ip_address("192.0.2.1"), SniMatch.ABSENT),
    ],
)
def test_the_name_is_held_against_the_connect(sent: str | None, host: Host, match: SniMatch) -> None:
    assert compare(named(sent), host) is match


def test_an_alert_is_one_record() -> None:
    assert fatal(Alert.UNRECOGNIZED_NAME) == bytes.fromhex("15030100020270")
    assert fatal(Alert.ACCESS_DENIED) == bytes.fromhex("15030100020231")
