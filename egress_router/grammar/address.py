"""The only normaliser of hosts, ports and addresses: rules, requests and forwarders all use it."""

from __future__ import annotations

import re
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
    summarize_address_range,
)

import idna

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
Host = IPAddress | str
# An address and port that is connected to.
Target = tuple[IPAddress, int]

_PORT = re.compile(r"[0-9]{1,5}")
# Underscores are not allowed in host names (RFC 952), but names with them are in use and harmless.
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
# Digits or 0x at the end: inet_aton and the URL standard read `127.1`, `0x7f000001` or `2130706433` as
# addresses, a resolver as names. What could mean two different hosts is refused.
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_MAPPED_BITS = 96  # of ::ffff:0:0/96, RFC 4291 2.5.5.2
_MAX_NETWORKS = 6  # most networks of a range that an error lists
_NAME_LIMIT = 253  # RFC 1035 2.3.4: 255 octets on the wire


class AddressError(ValueError):
    """A text is not the port, address or host name that it should be; the message says why."""


def parse_port(text: str) -> int:
    """Return the port that `text` names in decimal, 1 to 65535.

    Raises:
        AddressError: it is not a port. Signs, blanks, underscores and other scripts' digits, which `int`
            would accept, are refused.
    """
    if not (text.isascii() and _PORT.fullmatch(text)):
        raise AddressError(f"invalid port {text!r} (a number from 1 to 65535)")
    port = int(text)
    if not 1 <= port <= 65535:
        raise AddressError(f"invalid port {text!r} (a number from 1 to 65535)")
    return port


def parse_address(text: str) -> IPAddress:
    """Return the address that `text` spells, IPv4-mapped IPv6 as IPv4.

    Raises:
        AddressError: it is not an address, has a zone, or is an ambiguous IPv4 spelling.
    """
    if "%" in text:
        raise AddressError(f"address {text!r} has a zone, which means nothing to another machine")
    try:
        address = ip_address(text)
    except ValueError:
        raise AddressError(_why_no_address(text)) from None
    return unmapped(address)


def _why_no_address(text: str) -> str:
    first, dash, last = text.partition("-")
    if dash and (networks := _summarized(first, last)) is not None:
        return f"{text!r} is a range; expected networks, one each: {networks}"
    if _ends_in_number(text.lower()):
        return f"ambiguous IPv4 spelling {text!r} (four decimal numbers from 0 to 255 without leading zeros)"
    return f"{text!r} is not an IP address"


def _summarized(first: str, last: str) -> str | None:
    """Return the networks of a range of addresses; None if it is not a range."""
    try:
        ends = ip_address(first.strip()), ip_address(last.strip())
        networks = list(map(str, summarize_address_range(*ends)))
    except (ValueError, TypeError):
        return None
    shown = networks[:_MAX_NETWORKS]
    return ", ".join(each.removesuffix("/32").removesuffix("/128") for each in shown) + (
        f" and {len(networks) - len(shown)} more" if len(networks) > len(shown) else ""
    )


def unmapped(address: IPAddress) -> IPAddress:
    """Return the IPv4 address inside an IPv4-mapped IPv6 address, any other address unchanged."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def parse_network(text: str) -> IPNetwork:
    """Return the network that `text` spells in CIDR form (`192.168.0.0/16`, `fe80::/10`).

    Host bits may be set, as OpenShift's egress router allows, and are cleared. The prefix length is decimal.
    A network of IPv4-mapped addresses (`::ffff:10.0.0.0/104`) becomes the IPv4 network that it maps.

    Raises:
        AddressError: the address or the length is not valid.
    """
    address_text, slash, length = text.partition("/")
    address = parse_address(address_text)
    least = _MAPPED_BITS if address.version == 4 and ":" in address_text else 0
    most = least + address.max_prefixlen
    if not (slash and length.isascii() and length.isdecimal() and len(length) <= 3):
        raise AddressError(f"invalid prefix length in {text!r} (a number from {least} to {most})")
    if not least <= int(length) <= most:
        raise AddressError(f"prefix length {length} is not from {least} to {most} in {text!r}")
    return ip_network((address, int(length) - least), strict=False)


def parse_name(text: str) -> str:
    """Return the host name in the form that is compared: lower case, A-labels, no trailing dot.

    Raises:
        AddressError: it is not a host name, or it is a number that might be read as an address.
    """
    name = _to_ascii(text).lower().removesuffix(".")
    if not name or len(name) > _NAME_LIMIT:
        raise AddressError(f"host name {text!r} is {'empty' if not name else 'over 253 characters long'}")
    for label in name.split("."):
        if not _LABEL.fullmatch(label):
            raise AddressError(f"{text!r} is not a host name (bad part {label!r})")
    if _ends_in_number(name):
        raise AddressError(_why_no_address(text))
    return name


def _to_ascii(text: str) -> str:
    if text.isascii():
        return text
    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError) as error:
        raise AddressError(f"{text!r} is not a host name ({error})") from None


def _ends_in_number(text: str) -> bool:
    return bool(_NUMERIC_LABEL.fullmatch(text.removesuffix(".").rpartition(".")[2]))


def parse_host(text: str) -> Host:
    """Return the address or the normalised name that `text` spells; IPv6 in brackets or without.

    Raises:
        AddressError: it is neither.
    """
    if text.startswith("["):
        if not text.endswith("]") or ":" not in text:
            raise AddressError(f"{text!r} is not an IPv6 address in brackets")
        return parse_address(text[1:-1])
    if ":" in text:
        return parse_address(text)
    # Only a text of digits and dots can be a dotted quad; names, the common case, skip the attempt.
    if text[-1:].isdigit() and _ends_in_number(text.lower()):
        return parse_address(text)
    return parse_name(text)


def parse_full_host(text: str) -> Host:
    """Return the address or the name of a server; a name has a dot.

    Raises:
        AddressError: it is neither, or it is a short name, which each pod would complete with its own search
            list.
    """
    host = parse_host(text)
    if isinstance(host, str) and "." not in host:
        raise AddressError(f"the name {text!r} has no dot; expected a full name such as db.example.com")
    return host


def split_port(text: str) -> tuple[str, str | None]:
    """Split `host:port`, `[v6]:port`, `host`, `[v6]` or a bare IPv6 address into host text and port text.

    The host keeps its brackets, and neither part is checked: `parse_host` and `parse_port` do that.
    """
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        if bracket and rest.startswith(":"):
            return host + bracket, rest[1:]
        return text, None
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port
    return text, None


def printed(host: Host, port: int | None = None) -> str:
    """Write a host, with a port if given, as in a URL: IPv6 in brackets if a port follows."""
    if port is None:
        return str(host)
    return f"[{host}]:{port}" if isinstance(host, IPv6Address) else f"{host}:{port}"
