from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.grammar.address import (
    AddressError,
    parse_address,
    parse_host,
    parse_name,
    parse_network,
    parse_port,
    printed,
    split_port,
)


@pytest.mark.parametrize("text", ["1", "80", "08", "65535", "00080"])
def test_ports(text: str) -> None:
    assert parse_port(text) == int(text)


@pytest.mark.parametrize("text", ["", "0", "65536", "+80", "-1", "8 0", "8_0", "٨٠", "0x50", "80.", "000080"])
def test_no_ports(text: str) -> None:
    with pytest.raises(AddressError, match="1 to 65535"):
        parse_port(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example.", "xn--bcher-kva.example"),
        ("_service.example.com", "_service.example.com"),
        ("intranet", "intranet"),
        ("cafe.de", "cafe.de"),
        ("3com.com", "3com.com"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_names(text: str, expected: str) -> None:
    assert parse_name(text) == expected
    assert parse_host(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a..b", ".a", "-a.example", "a-.example", "a b", "a/b", "a@b", "a#b", "a,b", "a\x00b",
     "*",
     "a" * 64 + ".example",  "a." * 127 + "aa", "[a]", "example.com..", "\u2488.example", "a\n"],
)  # fmt: skip
def test_no_names(text: str) -> None:
    with pytest.raises(AddressError):
        parse_host(text)


@pytest.mark.parametrize(
    "text",
    ["127.1", "0x7f000001", "2130706433", "0177.0.0.1", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4",
     "0x7f.1", "foo.0x7f", "foo.12", "1.2.3.4.", "0x", "foo.0x"],
)  # fmt: skip
def test_ambiguous_spellings_are_neither_address_nor_name(text: str) -> None:
    with pytest.raises(AddressError, match="ambiguous"):
        parse_host(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.168.1.1", "192.168.1.1"),
        ("2001:db8::25", "2001:db8::25"),
        ("[2001:DB8::25]", "2001:db8::25"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("[::ffff:7f00:1]", "127.0.0.1"),
    ],
)
def test_addresses(text: str, expected: str) -> None:
    assert parse_host(text) == ip_address(expected)


@pytest.mark.parametrize("text", ["fe80::1%eth0", "[::1", "::1]", "[1.2.3.4]", "1::2::3", "[]", ":", "::g"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(AddressError):
        parse_host(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("fe80::/10", "fe80::/10"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
    ],
)
def test_networks(text: str, expected: str) -> None:
    assert parse_network(text) == ip_network(expected)


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/255.0.0.0",
        "::/129",
        "::ffff:10.0.0.0/24",
    ],
)
def test_no_networks(text: str) -> None:
    with pytest.raises(AddressError):
        parse_network(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("example.com:443", ("example.com", "443")),
        ("example.com", ("example.com", None)),
        ("[::1]:80", ("[::1]", "80")),
        ("[::1]", ("[::1]", None)),
        ("::1", ("::1", None)),
        ("example.com:", ("example.com", "")),
        ("[::1]x", ("[::1]x", None)),
    ],
)
def test_split_port(text: str, expected: tuple[str, str | None]) -> None:
    assert split_port(text) == expected


@given(st.ip_addresses(), st.integers(1, 65535))
def test_printed_endpoints_are_read_back(address: object, port: int) -> None:
    known = parse_address(str(address)) if "%" not in str(address) else None
    if known is None:
        return
    host, port_text = split_port(printed(known, port))
    assert port_text is not None
    assert (parse_host(host), parse_port(port_text)) == (known, port)


@given(st.text(max_size=40))
def test_any_text_is_a_host_or_an_address_error(text: str) -> None:
    try:
        parse_host(text)
    except AddressError:
        return
