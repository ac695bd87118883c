from __future__ import annotations

from ipaddress import ip_address

import pytest

from egress_router.errors import ConfigError
from egress_router.settings.names import NamesSettings
from egress_router.settings.table import read_all


def read(**environ: str) -> NamesSettings:
    return read_all(NamesSettings, environ)


def test_name_servers_in_their_order_each_once() -> None:
    names = read(EGRESS_DNS_SERVERS="192.0.2.53, 2001:db8::53,192.0.2.53")
    assert names.servers == (ip_address("192.0.2.53"), ip_address("2001:db8::53"))
    assert read().servers == ()
    # A node's own cache (NodeLocal DNSCache) has a link-local IPv4 address.
    assert read(EGRESS_DNS_SERVERS="169.254.20.10").servers == (ip_address("169.254.20.10"),)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("dns.example.com", "'dns.example.com' is not an IP address"),
        ("192.0.2.53:5353", "is not an IP address"),
        ("fe80::53%eth0", "has a zone"),
        ("fe80::53", "'fe80::53' is not the address of a name server (link-local)"),
        ("0.0.0.0", "'0.0.0.0' is not the address of a name server (unspecified)"),
        ("192.0.2.1,192.0.2.2,192.0.2.3,192.0.2.4", "4 name servers (at most 3)"),
    ],
)
def test_what_is_no_name_server_is_said(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(EGRESS_DNS_SERVERS=text)
    assert f"EGRESS_DNS_SERVERS: {text!r}: " in str(caught.value)
    assert reason in str(caught.value)
