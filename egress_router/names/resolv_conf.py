"""resolv.conf(5) as data: which servers are asked, how often, and which names are tried for a short one."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING

from egress_router.grammar.address import AddressError, parse_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from egress_router.grammar.address import IPAddress

_MAX_SERVERS = 3  # MAXNS of <resolv.h>
_MAX_SUFFIXES = 32  # what Kubernetes allows in a pod; the C library sets no limit
_NAME_LIMIT = 253
# RES_MAXNDOTS, RES_MAXRETRANS and RES_MAXRETRY: larger values are silently capped.
_LIMITS = {"ndots": (0, 15), "timeout": (1, 30), "attempts": (1, 5)}


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """The name servers in their order, the search list, and the options that affect queries.

    `timeout` is how long to wait for one server, in seconds, `attempts` how often all are tried.
    """

    servers: tuple[IPAddress, ...]
    search: tuple[str, ...]
    ndots: int
    timeout: float
    attempts: int
    rotate: bool

    def candidates(self, name: str) -> Iterator[str]:
        """Yield the absolute names to try for `name`, in order.

        The search list is only for names without a dot, whatever `ndots` says: rules are about names as they
        are written, and `www.example.SUFFIX` must not answer for `www.example`. A name that ends in a dot is
        absolute.
        """
        if "." in name:
            yield name.removesuffix(".")
            return
        as_is_first = self.ndots == 0
        if as_is_first:
            yield name
        for suffix in self.search:
            if len(name) + 1 + len(suffix) <= _NAME_LIMIT:
                yield f"{name}.{suffix}"
        if not as_is_first:
            yield name


def name_servers(text: str) -> tuple[IPAddress, ...]:
    """Return every name server that the file's text lists, in order; a link-local one with its zone."""
    lines = (words for words in _lines(text) if words[0] == "nameserver")
    return tuple(address for words in lines for address in _address(words[1]))


def parse_resolv_conf(text: str) -> ResolvConf:
    """Read the file's text; as in the C library, what cannot be understood is ignored."""
    search: tuple[str, ...] = ()
    options = {"ndots": 1, "timeout": 5, "attempts": 2}
    rotate = False
    for words in _lines(text):
        if words[0] in {"search", "domain"}:  # the last line of either kind counts
            search = _suffixes(words[1:] if words[0] == "search" else words[1:2])
        elif words[0] == "options":
            rotate = rotate or "rotate" in words
            options |= dict(_numbers(words[1:]))
    # Without a name server line, the server is on this machine.
    asked = name_servers(text)[:_MAX_SERVERS] or (IPv4Address("127.0.0.1"),)
    return ResolvConf(asked, search, rotate=rotate, **options)


def _lines(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        words = line.split()
        if line[:1] not in {"#", ";"} and len(words) >= 2:
            yield words


def _address(text: str) -> list[IPAddress]:
    try:
        return [ip_address(text)]  # with a zone, which link-local name servers need
    except ValueError:
        return []


def _suffixes(words: Sequence[str]) -> tuple[str, ...]:
    suffixes: list[str] = []
    for word in words[:_MAX_SUFFIXES]:
        try:
            suffixes.append(parse_name(word))
        except AddressError:
            continue  # also `search .`, the name as it is, which is tried in any case
    return tuple(suffixes)


def _numbers(words: Sequence[str]) -> Iterator[tuple[str, int]]:
    for word in words:
        name, _, value = word.partition(":")
        if name in _LIMITS and value.isascii() and value.isdecimal():
            least, most = _LIMITS[name]
            yield name, min(max(int(value[:9]), least), most)
