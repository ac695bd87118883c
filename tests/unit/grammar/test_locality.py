from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.grammar.locality import Locality, embedded, locality


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("203.0.113.25", Locality.REMOTE),
        ("10.0.0.1", Locality.REMOTE),
        ("2001:db8::1", Locality.REMOTE),
        ("127.255.0.1", Locality.LOOPBACK),
        ("::1", Locality.LOOPBACK),
        ("169.254.169.254", Locality.LINK_LOCAL),
        ("fe80::1", Locality.LINK_LOCAL),
        ("0.0.0.0", Locality.UNSPECIFIED),
        ("0.1.2.3", Locality.UNSPECIFIED),
        ("::", Locality.UNSPECIFIED),
        ("239.1.1.1", Locality.MULTICAST),
        ("ff02::1", Locality.MULTICAST),
        ("255.255.255.255", Locality.BROADCAST),
        ("255.255.255.254", Locality.RESERVED),
        # IPv4 destinations inside IPv6: compatible, mapped, NAT64, 6to4, Teredo (inverted).
        ("::127.0.0.1", Locality.LOOPBACK),
        ("::ffff:169.254.169.254", Locality.LINK_LOCAL),
        ("64:ff9b::a9fe:a9fe", Locality.LINK_LOCAL),
        ("64:ff9b::cb00:7119", Locality.REMOTE),
        ("2002:7f00:1::", Locality.LOOPBACK),
        ("2001:0:4136:e378:8000:63bf:80ff:fffe", Locality.LOOPBACK),
        ("2001:0:7f00:1:8000:63bf:34ff:8eda", Locality.LOOPBACK),
        ("2001:0:4136:e378:8000:63bf:34ff:8eda", Locality.REMOTE),
        ("::ffff:0:169.254.169.254", Locality.LINK_LOCAL),
        ("2001:db8::5efe:127.0.0.1", Locality.LOOPBACK),
        ("2001:db8::200:5efe:127.0.0.1", Locality.LOOPBACK),
        ("2001:db8::5efe:203.0.113.25", Locality.REMOTE),
        # Metadata services of clouds, and their neighbours that are none.
        ("168.63.129.16", Locality.METADATA),
        ("168.63.129.17", Locality.REMOTE),
        ("100.100.100.200", Locality.METADATA),
        ("100.100.100.201", Locality.REMOTE),
        ("192.0.0.192", Locality.METADATA),
        ("192.0.0.1", Locality.SPECIAL),
        ("fd00:ec2::254", Locality.METADATA),
        ("fd00:ec3::254", Locality.REMOTE),
        ("fd20:ce::254", Locality.METADATA),
        ("fd00:42::42", Locality.METADATA),
        ("fd20:ce::255", Locality.REMOTE),
        ("64:ff9b::168.63.129.16", Locality.METADATA),
        ("100::1", Locality.SPECIAL),
        ("5f00::1", Locality.SPECIAL),
        # Local-use NAT64: 127.0.0.1 and 203.0.113.25 by every prefix length of RFC 6052 that fits.
        ("64:ff9b:1::127.0.0.1", Locality.LOOPBACK),
        ("64:ff9b:1:2:7f:0:100:0", Locality.LOOPBACK),
        ("64:ff9b:1:27f:0:1::", Locality.LOOPBACK),
        ("64:ff9b:1:7f00:0:100::", Locality.LOOPBACK),
        ("64:ff9b:1:7f00:0:100:0:bad", Locality.LOOPBACK),
        ("64:ff9b:1::203.0.113.25", Locality.REMOTE),
        ("64:ff9b:1:2:cb:71:1900:0", Locality.REMOTE),
        ("64:ff9b:1:2cb:0:7119::", Locality.REMOTE),
        ("64:ff9b:1:cb00:71:1900::", Locality.REMOTE),
    ],
)
def test_locality(text: str, kind: Locality) -> None:
    assert locality(ip_address(text)) is kind


def translated(prefix: IPv6Address, length: int, inner: IPv4Address) -> IPv6Address:
    """RFC 6052 2.2 written another way: the bits of the address behind the prefix, leaving out 64 to 71."""
    bits = f"{int(prefix):0128b}"[:length]
    for bit in f"{int(inner):032b}":
        if len(bits) == 64:
            bits += "0" * 8
        bits += bit
    return IPv6Address(int(bits.ljust(128, "0"), 2))


@given(st.sampled_from([48, 56, 64, 96]), st.integers(1 << 24, (1 << 32) - 1).map(IPv4Address))
def test_every_length_of_a_translators_prefix_is_seen_through(length: int, inner: IPv4Address) -> None:
    assert inner in embedded(translated(IPv6Address("64:ff9b:1::"), length, inner))


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ("::192.0.2.1", ["192.0.2.1"]),
        ("::ffff:192.0.2.1", ["192.0.2.1"]),
        ("::ffff:0:192.0.2.1", ["192.0.2.1"]),
        ("64:ff9b::192.0.2.1", ["192.0.2.1"]),
        ("64:ff9b:1::192.0.2.1", ["192.0.2.1"]),
        ("2002:c000:201::1", ["192.0.2.1"]),
        ("2001:0:c633:6401:0:0:3fff:fdfe", ["192.0.2.1", "198.51.100.1"]),
        ("fd00::5efe:192.0.2.1", ["192.0.2.1"]),
        ("fd00::200:5efe:192.0.2.1", ["192.0.2.1"]),
        ("fd00::100:5efe:192.0.2.1", []),
        ("2001:db8::1", []),
    ],
)
def test_forms_that_carry_ipv4(text: str, inner: list[str]) -> None:
    assert list(map(str, embedded(IPv6Address(text)))) == inner
