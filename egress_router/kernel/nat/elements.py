"""Lines as elements of maps: the elements of some lines, and the changes from them to other lines.

A line with one address is an element of `ports` (or `ranges`). A line with n addresses is n elements of its
protocol's `members`, numbered from 0, and an element of `groups` that leads to a chain that draws a number
below n: every address gets the same share, and when one of n goes, the last takes its number and no other
moves. A line without an address is an element of `groups` that accepts: its packets reach the router itself,
which rejects them.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, TypeAlias

from egress_router.grammar.redirect import Protocol
from egress_router.kernel.nat.source_ports import TABLE, chain, keyword

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.kernel.nat.plan import PlannedLine

# By map, and in each map by key: the value.
Elements: TypeAlias = dict[str, dict[str, str]]
# By map: the keys.
Keys: TypeAlias = dict[str, list[str]]
# The addresses of a line that has several; the index is the number in `members`.
Places: TypeAlias = "tuple[IPAddress, ...]"
# A map's name without its family, a key and its value.
Element: TypeAlias = tuple[str, str, str]


def declarations(version: int) -> Iterator[str]:
    """Yield the maps of a family."""
    address, key = f"ipv{version}_addr", "type inet_proto . inet_service"
    ip = keyword(version)
    member = "typeof meta l4proto . th dport . numgen random mod 2"
    yield f"map ports{version} {{ {key} : {address} . inet_service; }}"
    yield f"map ranges{version} {{ {key} : {address}; flags interval; }}"
    yield f"map groups{version} {{ {key} : verdict; }}"
    yield f"map range_groups{version} {{ {key} : verdict; flags interval; }}"
    # One for each protocol: nft wants a rule to match the protocol of the values' ports, and accepts no `th`.
    for protocol, prefix in _PREFIXES.items():
        yield f"map {prefix}members{version} {{ {member} : {ip} daddr . {protocol.value} dport; }}"
    yield f"map range_members{version} {{ {member} : {ip} daddr; flags interval; }}"


_PREFIXES = {Protocol.TCP: "", Protocol.UDP: "udp_", Protocol.SCTP: "sctp_"}
_RANGE = "range_"
MAPS = (
    "ports",
    "ranges",
    "groups",
    "range_groups",
    *(f"{prefix}members" for prefix in _PREFIXES.values()),
    "range_members",
)


def translations(version: int, lines: Sequence[PlannedLine]) -> Iterator[str]:
    """Yield the rules that look a port up; a packet stops at the one that finds it."""
    for is_range, prefix, single in ((False, "", "ports"), (True, "range_", "ranges")):
        if is_range and not any(line.is_range for line in lines):
            continue
        key, family = "meta l4proto . th dport", f"meta nfproto ipv{version}"
        yield f"{family} dnat {keyword(version)} to {key} map @{single}{version}"
        yield f"{family} {key} vmap @{prefix}groups{version}"


def settled(before: Places, after: Places) -> Places:
    """Return the addresses of `after` in an order in which as few as possible change their place.

    An address that stays keeps its place, a new one takes a free place, and the last ones fill the places
    that are still free.
    """
    # Numbers, because addresses are slow to hash and to compare.
    wanted = dict(zip(map(int, after), after, strict=True))
    places = [number if number in wanted else None for number in map(int, before)]
    if len(places) - places.count(None) < len(wanted):
        new = sorted(wanted.keys() - set(places), reverse=True)
        places = [new.pop() if number is None and new else number for number in places]
        places += reversed(new)
    while None in places:
        last = places.pop()
        if last is not None:
            places[places.index(None)] = last
    return tuple([wanted[number] for number in places if number is not None])


def elements(version: int, lines: Iterable[PlannedLine]) -> Elements:
    """Return all elements of one family's lines."""
    found: Elements = {f"{name}{version}": {} for name in MAPS}
    for line in lines:
        for name, key, value in _of_line(line):
            found[f"{name}{version}"][key] = value
    return found


def _of_line(line: PlannedLine) -> Iterator[Element]:
    """Yield the map, the key and the value of each element of a line."""
    key, count = _key(line), len(line.addresses)
    if count == 1:
        yield "ranges" if line.is_range else "ports", key, f"{line.addresses[0]}{_port(line)}"
        return
    yield _group(line)
    for number in range(count):
        yield _member(line, number)


def _key(line: PlannedLine) -> str:
    ports = f"{line.first}-{line.last}" if line.is_range else str(line.first)
    return f"{line.protocol.value} . {ports}"


def _port(line: PlannedLine) -> str:
    return "" if line.is_range else f" . {line.target_port or line.first}"


def _group(line: PlannedLine) -> Element:
    addresses = line.addresses
    verdict = _leads_to(_prefix(line), len(addresses), addresses[0].version) if addresses else "accept"
    return _groups(line), _key(line), verdict


def _groups(line: PlannedLine) -> str:
    return "range_groups" if line.is_range else "groups"


def _leads_to(prefix: str, count: int, version: int) -> str:
    return f"goto {prefix}one_of_{count}_{version}"


def _member(line: PlannedLine, number: int) -> Element:
    return f"{_prefix(line)}members", f"{_key(line)} . {number}", f"{line.addresses[number]}{_port(line)}"


def _prefix(line: PlannedLine) -> str:
    return _RANGE if line.is_range else _PREFIXES[line.protocol]


def group_chains(version: int, verdicts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the chains to which these values of `groups` and `range_groups` lead."""
    for verdict in sorted(set(verdicts) - {"accept"}):
        name = verdict.removeprefix("goto ")
        prefix, _, rest = name.partition("one_of_")
        count = rest.partition("_")[0]
        key = f"meta l4proto . th dport . numgen random mod {count}"
        yield chain(name, f"dnat {keyword(version)} to {key} map @{prefix}members{version}")


def verdicts(version: int, found: Elements) -> set[str]:
    """Return the values of `groups` and `range_groups`."""
    return {value for name in ("groups", "range_groups") for value in found[f"{name}{version}"].values()}


def added(found: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Yield the commands that add elements."""
    for name, wanted in found.items():
        if wanted:
            listed = ", ".join(f"{key} : {value}" for key, value in wanted.items())
            yield f"add element inet {TABLE} {name} {{ {listed} }}"


def changes(version: int, pairs: Iterable[tuple[PlannedLine, PlannedLine]]) -> tuple[Keys, Elements]:
    """Return the keys to remove and the elements to add; each pair is a line before and after the change."""
    gone: Keys = {f"{name}{version}": [] for name in MAPS}
    come: Elements = {f"{name}{version}": {} for name in MAPS}
    for before, after in pairs:
        if len(before.addresses) > 1 and len(after.addresses) > 1:
            _regroup(version, before, after, gone, come)
            continue
        for name, key, _ in _of_line(before):
            gone[f"{name}{version}"].append(key)
        for name, key, value in _of_line(after):
            come[f"{name}{version}"][key] = value
    return gone, come


def _regroup(version: int, before: PlannedLine, after: PlannedLine, gone: Keys, come: Elements) -> None:
    """Note what differs between two lines of several addresses.

    With a thousand names this is the main cost of a change, so text is made only if it is used.
    """
    prefix, key, port = _prefix(before), _key(before), _port(after)
    old, new = before.addresses, after.addresses
    if len(old) != len(new):
        groups = f"{_groups(before)}{version}"
        gone[groups].append(key)
        come[groups][key] = _leads_to(prefix, len(new), version)
    members = f"{prefix}members{version}"
    goes, comes = gone[members], come[members]
    for number, (was, becomes) in enumerate(zip_longest(old, new)):
        # Mostly the same object: an address that stays keeps its place.
        if was is becomes or was == becomes:
            continue
        member = f"{key} . {number}"
        if was is not None:
            goes.append(member)
        if becomes is not None:
            comes[member] = f"{becomes}{port}"


def removed(gone: Keys) -> Iterator[str]:
    """Yield the commands that delete elements."""
    for name, found in gone.items():
        if found:
            yield f"delete element inet {TABLE} {name} {{ {', '.join(found)} }}"
