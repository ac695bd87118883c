from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.errors import ConfigError
from egress_router.redirect.rules import RedirectRules
from egress_router.settings.hardware import MacChoice, derived_mac
from egress_router.settings.setup import RouterMode, Source, read_setup, rules_parser

BASE = {
    "EGRESS_SOURCE": "192.168.12.99/24",
    "EGRESS_GATEWAY": "192.168.12.1",
    "EGRESS_DESTINATION": "203.0.113.25",
}


def errors(**changes: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_setup({**BASE, **changes})
    return str(caught.value).splitlines()


def test_the_manifest_of_the_original() -> None:
    settings = read_setup({**BASE, "EGRESS_ROUTER_MODE": "init"})
    assert settings.mode is RouterMode.INIT
    assert settings.sources == (Source(IPv4Address("192.168.12.99"), 24, IPv4Address("192.168.12.1")),)
    assert settings.interface == "macvlan0"
    assert settings.macvlan_mode == "bridge"
    assert settings.nat_backend == "auto"
    assert settings.claim_timeout == 30
    assert settings.parent_interface is None
    assert settings.parent_netns is None
    assert settings.cluster_cidrs == ()
    assert settings.destinations is not None
    assert settings.destinations.read() == "203.0.113.25"


def test_the_default_mode_is_legacy() -> None:
    assert read_setup(BASE).mode is RouterMode.LEGACY


@pytest.mark.parametrize("mode", ["http-proxy", "dns-proxy"])
def test_the_proxies_need_no_destination_here(mode: str) -> None:
    environ = {**BASE, "EGRESS_ROUTER_MODE": mode}
    del environ["EGRESS_DESTINATION"]
    assert read_setup(environ).destinations is None


def test_both_families_and_everything_else() -> None:
    settings = read_setup(
        {
            **BASE,
            "EGRESS_SOURCE": "192.168.12.99, 2001:db8:12::99/64",
            "EGRESS_GATEWAY": "fe80::1,192.168.12.1",
            "EGRESS_CLUSTER_CIDRS": "10.0.0.0/8, fd00::/8",
            "EGRESS_PARENT_NETNS": "/proc/1/ns/net",
            "EGRESS_PARENT_INTERFACE": "eth1",
        }
    )
    first, second = settings.sources
    assert not first.knows_subnet
    assert second == Source(IPv6Address("2001:db8:12::99"), 64, IPv6Address("fe80::1"))
    assert settings.cluster_cidrs == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert settings.parent_netns == Path("/proc/1/ns/net")
    assert settings.parent_interface == "eth1"


def test_everything_missing_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_setup({})
    text = str(caught.value)
    assert all(
        name in text
        for name in ("EGRESS_SOURCE: is not set", "EGRESS_GATEWAY: is not set", "EGRESS_DESTINATION")
    )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("EGRESS_SOURCE", "192.168.12", "ambiguous IPv4 spelling"),
        ("EGRESS_SOURCE", "192.168.12.99/33", "invalid subnet length '33' (a number from 1 to 32)"),
        ("EGRESS_SOURCE", "192.168.12.99/0", "invalid subnet length"),
        ("EGRESS_SOURCE", "192.168.12.99/00249", "invalid subnet length '00249' (a number from 1 to 32)"),
        ("EGRESS_SOURCE", "192.168.12.99/024", "invalid subnet length '024'"),
        ("EGRESS_SOURCE", "192.168.12.99/1234", "invalid subnet length '1234'"),
        ("EGRESS_SOURCE", "255.255.255.255", "cannot be an address on a subnet (broadcast)"),
        ("EGRESS_SOURCE", "fe80::99", "'fe80::99' is link-local"),
        ("EGRESS_SOURCE", "192.168.12.0/24", "EGRESS_SOURCE: '192.168.12.0/24': 192.168.12.0 is the network"),
        ("EGRESS_SOURCE", "192.168.12/24,2001:zz", "'2001:zz' is not an IP address"),
        ("EGRESS_SOURCE", "192.168.12.99,192.168.12.99/24", "192.168.12.99 stands there twice"),
        ("EGRESS_GATEWAY", "192.168.12.1,192.168.12.2", "one IPv4 and one IPv6"),
        ("EGRESS_MAC_ADDRESS", "own", "expected auto, random, or an address such as"),
        ("EGRESS_MAC_ADDRESS", "02:00:5e:10:00", "expected auto, random, or an address such as"),
        ("EGRESS_MAC_ADDRESS", "02:00:5e-10:00:63", "expected auto, random, or an address such as"),
        ("EGRESS_MAC_ADDRESS", "03:00:5e:10:00:63", "is a group address"),
        ("EGRESS_MAC_ADDRESS", "00:00:00:00:00:00", "is the address of no station"),
        ("EGRESS_SOURCE", "127.0.0.1", "cannot be an address on a subnet"),
        ("EGRESS_SOURCE", "192.168.12.255/24", "network or broadcast address"),
        ("EGRESS_GATEWAY", "192.168.12.1/24", "without a length"),
        ("EGRESS_GATEWAY", "192.168.13.1", "is not on the subnet 192.168.12.0/24"),
        ("EGRESS_GATEWAY", "192.168.12.99", "is EGRESS_SOURCE itself"),
        ("EGRESS_GATEWAY", "192.168.12.255", "is the network or broadcast address of 192.168.12.0/24"),
        ("EGRESS_GATEWAY", "192.168.12.0", "is the network or broadcast address of 192.168.12.0/24"),
        ("EGRESS_GATEWAY", "255.255.255.255", "cannot be an address on a subnet (broadcast)"),
        ("EGRESS_GATEWAY", "2001:db8::1", "has no IPv4 gateway"),
        ("EGRESS_GATEWAY", "192.168.12.1,2001:db8::1", "has no address of that family"),
        ("EGRESS_ROUTER_MODE", "inti", "expected one of init, legacy, network, http-proxy, dns-proxy"),
        ("EGRESS_INTERFACE", "a-name-that-is-too-long", "1 to 15 letters"),
        ("EGRESS_MACVLAN_MODE", "bridged", "expected one of bridge"),
        ("EGRESS_CLUSTER_CIDRS", "10.0.0.0/33", "not from 0 to 32"),
        ("EGRESS_CLUSTER_CIDRS", "10.0.0.0/8, 0.0.0.0/0", "'0.0.0.0/0' is everything"),
        ("EGRESS_CLUSTER_CIDRS", "::/0", "'::/0' is everything"),
        ("EGRESS_CLUSTER_CIDRS", "0.0.0.0/1,128.0.0.0/1", "together cover public addresses"),
        ("EGRESS_CLUSTER_CIDRS", "10.0.0.0/8,64.0.0.0/2", "together cover public addresses"),
        ("EGRESS_CLUSTER_CIDRS", "2000::/4", "together cover public addresses"),
        (
            "EGRESS_CLUSTER_CIDRS",
            ",".join(f"{first}.0.0.0/8" for first in range(1, 200, 2)),
            "together cover public addresses",
        ),
        ("EGRESS_CLUSTER_CIDRS", "10.0.0.0/33,x/8", "'x' is not an IP address"),
        ("EGRESS_NAT_BACKEND", "nft", "expected one of auto, nftables, iptables"),
        ("EGRESS_CLAIM_TIMEOUT", "soon", "expected a number of seconds"),
        ("EGRESS_PARENT_NETNS", "host", "/proc/1/ns/net"),
        ("EGRESS_DESTINATION", "", "EGRESS_DESTINATION unspecified; mode legacy needs it"),
        ("EGRESS_DESTINATION_FILE", "/etc/rules", "give one of the two"),
    ],
)
def test_wrong_values_name_the_variable_and_what_was_expected(name: str, value: str, words: str) -> None:
    assert any(words in error for error in errors(**{name: value}))


def test_two_addresses_of_a_subnet_of_two_are_source_and_gateway() -> None:
    environ = {**BASE, "EGRESS_SOURCE": "192.168.12.0/31", "EGRESS_GATEWAY": "192.168.12.1"}
    assert read_setup(environ).sources[0].prefix == 31


def test_the_network_address_of_ipv6_is_that_of_its_routers() -> None:
    environ = {**BASE, "EGRESS_SOURCE": "2001:db8::99/64", "EGRESS_GATEWAY": "2001:db8::"}
    assert read_setup(environ).sources[0].gateway == IPv6Address("2001:db8::")


def test_a_wrong_source_does_not_hide_what_else_is_wrong() -> None:
    found = errors(EGRESS_SOURCE="192.168.12.255/24", EGRESS_GATEWAY="x", EGRESS_CLUSTER_CIDRS="::/0")
    assert [each.split(":")[0] for each in found] == [
        "EGRESS_SOURCE",
        "EGRESS_GATEWAY",
        "EGRESS_CLUSTER_CIDRS",
    ]


@pytest.mark.parametrize("variable", ["EGRESS_INTERFACE", "EGRESS_PARENT_INTERFACE"])
@pytest.mark.parametrize(
    "name",
    [
        "e*",
        "macvlan%d",
        'mac"0',
        "lo",
        "a:b",
        ".",
        "..",
        "all",
        "default",
        "a/b",
        "a b",
        "\u00e9th0",
        "a" * 16,
    ],
)
def test_a_name_that_means_something_else_somewhere_is_no_interface(variable: str, name: str) -> None:
    (error,) = errors(**{variable: name})
    assert error == (
        f"{variable}: {name!r}: expected the name of an interface: 1 to 15 letters, digits, or _ . @ -; not lo"
    )


@pytest.mark.parametrize("name", ["eth0.100", "bond0@if3", "net-1", "veth_1", "a" * 15])
def test_names_of_interfaces(name: str) -> None:
    settings = read_setup({**BASE, "EGRESS_INTERFACE": name, "EGRESS_PARENT_INTERFACE": name})
    assert (settings.interface, settings.parent_interface) == (name, name)


LINES = "9797 tcp 203.0.113.25\n80 tcp 2001:db8::25\n"


@pytest.mark.parametrize("mode", ["init", "legacy"])
def test_rules_are_read_for_this_router_at_the_start_and_at_a_reload(mode: str) -> None:
    settings = read_setup({**BASE, "EGRESS_ROUTER_MODE": mode})
    assert settings.source is not None
    name = settings.source.name
    for parse in (settings.parse_rules, RedirectRules(settings, settings.source).parse):
        with pytest.raises(ConfigError) as caught:
            parse(name, LINES)
        first, second = str(caught.value).splitlines()
        assert first.startswith(
            f"{name} line 1: '9797 tcp 203.0.113.25': tcp port 9797 is the administration port"
        )
        assert second.startswith(f"{name} line 2: '80 tcp 2001:db8::25': EGRESS_SOURCE has no IPv6 address")


POLICY = """\
kind: EgressNetworkPolicy
apiVersion: v1
spec:
  egress:
  - {type: Deny, to: {dnsName: www.example.com}}
"""


def test_a_policy_is_read_with_the_rules_and_a_name_of_it_needs_a_process_that_stays() -> None:
    given = {**BASE, "EGRESS_DESTINATION": LINES, "EGRESS_POLICY": POLICY}
    for mode, expected in (("init", 3), ("legacy", 2)):
        settings = read_setup({**given, "EGRESS_ROUTER_MODE": mode})
        assert settings.source is not None
        parse = settings.source.parser(settings.parse_rules, settings.parse_policy)
        with pytest.raises(ConfigError) as caught:
            parse(settings.source.name, settings.source.read())
        said = [str(each) for each in caught.value.problems]
        assert len(said) == expected
        assert ["dnsName needs mode legacy" in each for each in said[2:]] == [True] * (expected - 2)
    assert read_setup({**given, "EGRESS_ROUTER_MODE": "http-proxy"}).source is None


def test_what_the_settings_allow_is_allowed() -> None:
    settings = read_setup(
        {
            **BASE,
            "EGRESS_SOURCE": "192.168.12.99/24,2001:db8:12::99/64",
            "EGRESS_GATEWAY": "192.168.12.1,2001:db8:12::1",
            "EGRESS_ADMIN_PORT": "0",
        }
    )
    assert len(settings.parse_rules("FILE", LINES).rules) == 2


def test_networks_that_a_cluster_may_have_are_taken() -> None:
    text = (
        "10.0.0.0/8,11.0.0.0/8,30.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fc00::/7,2001:db8::/32"
    )
    assert len(read_setup({**BASE, "EGRESS_CLUSTER_CIDRS": text}).cluster_cidrs) == 8


@pytest.mark.parametrize("lines", ["80 tcp 203.0.113.25", "203.0.113.25", "1-9 udp 203.0.113.25"])
def test_a_destination_in_the_cluster_is_refused(lines: str) -> None:
    settings = read_setup({**BASE, "EGRESS_CLUSTER_CIDRS": "172.30.0.0/16,203.0.113.0/24"})
    with pytest.raises(ConfigError) as raised:
        settings.parse_rules("EGRESS_DESTINATION", f"22 tcp 198.51.100.1\n{lines}\n")
    (problem,) = raised.value.problems
    assert "line 2" in str(problem)
    assert "203.0.113.25 is in 203.0.113.0/24 of EGRESS_CLUSTER_CIDRS" in str(problem)
    parse = rules_parser({**BASE, "EGRESS_CLUSTER_CIDRS": "203.0.113.0/24"})
    assert parse is not None
    with pytest.raises(ConfigError):
        parse("x", lines)


def test_any_number_of_sources_with_a_gateway_for_each_family() -> None:
    text = "192.168.12.99/24,2001:db8::9/64,192.168.12.100/24,192.168.12.101"
    settings = read_setup({**BASE, "EGRESS_SOURCE": text, "EGRESS_GATEWAY": "192.168.12.1,2001:db8::1"})
    assert [str(source.address) for source in settings.sources] == [
        each.split("/")[0] for each in text.split(",")
    ]
    assert {str(source.gateway) for source in settings.sources} == {"192.168.12.1", "2001:db8::1"}
    assert len(errors(EGRESS_SOURCE="2001:db8::9,2001:db8::a,192.168.12.99")) == 1


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("", MacChoice.AUTO),
        ("auto", MacChoice.AUTO),
        ("random", MacChoice.RANDOM),
        ("02-00-5E-10-00-63", "02:00:5e:10:00:63"),
        ("52:54:00:12:34:56", "52:54:00:12:34:56"),
    ],
)
def test_the_hardware_address(text: str, read: MacChoice | str) -> None:
    assert read_setup({**BASE, "EGRESS_MAC_ADDRESS": text}).mac_address == read


def test_a_derived_hardware_address_never_changes() -> None:
    """Users have configured it elsewhere, as an allowed address pair."""
    assert derived_mac(IPv4Address("192.168.12.99")) == "da:a2:4a:1f:ee:c1"
    assert derived_mac(IPv6Address("2001:db8:12::99")) == "d2:97:26:bc:d2:07"


@given(st.ip_addresses())
def test_a_derived_hardware_address_is_a_local_one_of_one_station(address: IPv4Address | IPv6Address) -> None:
    assert int(derived_mac(address)[:2], 16) & 0x03 == 0x02
