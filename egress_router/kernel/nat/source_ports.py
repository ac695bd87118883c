"""Which source port a connection gets: one that no open connection has and that rested the longest.

A server that closed a connection first keeps its address and port in TIME_WAIT for a minute. It accepts a new
SYN from there only if the timestamp or the sequence number is higher (RFC 6191, RFC 1122 4.2.2.13). This
holds for connections of one client, but not for those of different clients or ports: then the SYN is dropped,
and sent again a second later. So for TCP, in this order:

- if a client uses its port again within a minute, it gets the source port that it had (`kept`);
- all others get the next port in turn that is not in `used`: not open, and closed for a minute.

`used` learns from the packets: SYN, its answer, and FIN or RST each set for how long the port is reserved.
UDP and SCTP ports are random: for DNS they are half of what an off-path attacker has to guess (RFC 5452).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from egress_router.grammar.address import IPAddress
    from egress_router.kernel.conntrack import OutgoingFlow
    from egress_router.kernel.nat.plan import FamilyPlan

TABLE = "egress_router"
FIRST_PORT, PORTS = 1024, 64512
# Connections of one source address within the timeouts below; with more, ports are still used in turn.
_MOST = 262_144
# Longer than conntrack waits for the answer to a SYN (120 s); as long as it keeps what is open; and longer
# than TIME_WAIT, which is 60 s on Linux and less elsewhere.
_ASKED, _OPEN, _RESTING = "130s", "5d", "61s"
_KEPT = "60s"  # never longer than _RESTING, or another connection could have the port by then
# Until it is answered: a SYN that is sent again after a second tries another port.
_KEPT_UNANSWERED = "900ms"
# How often the kernel searches all elements for those whose time is over; the default is each second. Until
# then they only take memory: a look-up ignores them. nft 1.0.6 can set this for a set, not for a map.
_SWEEP = "10s"
_HASHES = (1 << 32) - 1  # the most values that nft allows
# A jump to `next` tries one port. Eight tries suffice as a rule; but a client may hold thousands of ports in
# a row, and then some connections try 512. (If no port has rested, as with over a thousand connections a
# second to one destination, more tries would only cost time.)
_FAN_OUT, _LEVELS = 8, 3
_SELDOM = "limit rate 100/second burst 100 packets"


def keyword(version: int) -> str:
    """Return nft's word for a family's header."""
    return "ip" if version == 4 else "ip6"


def chain(name: str, *rules: str) -> list[str]:
    """Return the lines of a chain without a hook."""
    return [f"chain {name} {{", *(f"  {rule}" for rule in rules), "}"]


def declarations(family: FamilyPlan) -> Iterator[str]:
    """Yield what has to exist before the rules: the sets and maps that they name."""
    address = f"ipv{family.version}_addr"
    for index in range(len(family.sources)):
        suffix = f"{family.version}_{index}"
        # Destination, its port, and ours.
        kind = f"type {address} . inet_service . inet_service"
        expiry = f"flags dynamic,timeout; timeout {_RESTING}; gc-interval {_SWEEP};"
        yield f"set used{suffix} {{ {kind}; size {_MOST}; {expiry} }}"
        # Client and its port, destination and its port (see `_ends`): which port of ours they had.
        kind = f"type {address} . inet_service . {address} . inet_service : inet_service"
        if family.version == 6:
            number = "numgen inc mod 65536"  # this is how nft names a type of 32 bits
            kind = f"typeof {number} . {number} : tcp sport"
        yield f"map kept{suffix} {{ {kind}; size {_MOST}; flags dynamic,timeout; timeout {_KEPT}; }}"


def _ends(version: int, ends: str) -> str:
    """Return the key of `kept` for client, its port, destination and its port.

    In nft 1.0.6 two IPv6 addresses are too long for a key, so for IPv6 the key is two hashes of all four. Of
    `_MOST` connections two have the same 64 bits only once in 10**13 connections.
    """
    if version == 4:
        return ends
    return " . ".join(f"jhash {ends} mod {_HASHES} seed {seed:#x}" for seed in (1, 2))


def chains(family: FamilyPlan, *, keeps: bool) -> Iterator[str]:
    """Yield the chains of each source: `sourceV_N` translates, `hold`, `rest_in` and `rest_out` learn.

    Their rules hold the turn as state, so they are replaced only when the addresses change. `keeps` says
    whether a client's port that is used again gets the source port that it had.
    """
    for index, source in enumerate(family.sources):
        yield from _one_source(family.version, index, source, keeps=keeps)


def _one_source(version: int, index: int, source: IPAddress, *, keeps: bool) -> Iterator[str]:
    suffix, snat = f"{version}_{index}", f"snat {keyword(version)} to {source}"
    yield from _taking(version, suffix, snat)
    longest = f"next{suffix}"
    for level in range(1, _LEVELS + 1):
        name = f"next{suffix}_{_FAN_OUT**level}"
        yield from chain(name, *[f"jump {longest}"] * _FAN_OUT)
        longest = name
    yield from _translating(version, suffix, snat, longest, keeps=keeps)
    yield from _learning(version, suffix, keeps=keeps)


def _taking(version: int, suffix: str, snat: str) -> Iterator[str]:
    """Yield the chains that take the port whose turn it is, or go on to the next one if it rests."""
    ip = keyword(version)
    wire = f"{ip} daddr . tcp dport . tcp sport"
    yield from chain(
        f"take{suffix}",
        f"update @used{suffix} {{ {wire} timeout {_ASKED} }}",
        f"meta l4proto tcp {snat}:tcp sport",
    )
    # The packet's own source port holds the value: NAT writes it again in any case. nft 1.0.6 writes the
    # upper half of a number to a port; if another nft writes the lower half, the second rule is right.
    turn = f"numgen inc mod {PORTS} offset {FIRST_PORT}"
    yield from chain(
        f"next{suffix}",
        f"tcp sport set {turn} << 16",
        f"tcp sport 0 tcp sport set {turn}",
        f"tcp sport < {FIRST_PORT} meta l4proto tcp {snat}",
        f"{wire} @used{suffix} return",
        f"goto take{suffix}",
    )


def _translating(version: int, suffix: str, snat: str, longest: str, *, keeps: bool) -> Iterator[str]:
    """Yield the chain that translates, and the one for a client's port that already had one of ours."""
    ip = keyword(version)
    redirected = "meta l4proto tcp ct status dnat"
    before = f"{ip} saddr . tcp sport . {ip} daddr . tcp dport"
    again = f"{redirected} tcp sport set {_ends(version, before)} map @kept{suffix} goto again{suffix}"
    unchanged = f"{ip} saddr . ct original proto-src . {ip} daddr . tcp dport"
    key = _ends(version, unchanged)
    if keeps:
        yield from chain(
            f"again{suffix}",
            f"meta l4proto tcp update @kept{suffix} {{ {key} timeout {_KEPT_UNANSWERED} : tcp sport }}",
            f"goto take{suffix}",
        )
    yield from chain(
        f"source{suffix}",
        *([again] if keeps else []),
        f"{redirected} jump next{suffix}_{_FAN_OUT}",
        f"{redirected} {_SELDOM} jump {longest}",
        # For what the pod itself opens, and if thousands are held in a row: the kernel chooses.
        f"meta l4proto tcp {snat}",
        f"{snat} fully-random",
    )


def _learning(version: int, suffix: str, *, keeps: bool) -> Iterator[str]:
    """Yield the chains that learn which ports are in use, and which rest."""
    ip = keyword(version)
    server = {"out": f"{ip} daddr . tcp dport", "in": f"{ip} saddr . tcp sport"}
    key = _ends(version, f"{ip} daddr . tcp dport . {server['in']}")
    yield from chain(
        f"hold{suffix}",
        f"meta l4proto tcp update @used{suffix} {{ {server['in']} . ct reply proto-dst timeout {_OPEN} }}"
        + (f" update @kept{suffix} {{ {key} : ct reply proto-dst }}" if keeps else ""),
    )
    for way, place in server.items():
        yield from chain(
            f"rest_{way}{suffix}",
            f"meta l4proto tcp update @used{suffix} {{ {place} . ct reply proto-dst timeout {_RESTING} }}",
        )


def dispatch(family: FamilyPlan, what: str) -> str:
    """Return the rule that goes to the chain `what` of the connection's source address."""
    if len(family.sources) == 1:
        return f"jump {what}{family.version}_0"
    cases = (f"{source} : jump {what}{family.version}_{index}" for index, source in enumerate(family.sources))
    return f"ct reply {keyword(family.version)} daddr vmap {{ {', '.join(cases)} }}"


def remembered(family: FamilyPlan, known: Iterable[OutgoingFlow]) -> Iterator[str]:
    """Yield the commands that add existing connections to `used`."""
    indexes = {source: index for index, source in enumerate(family.sources)}
    found: dict[int, dict[str, str]] = {}
    for each in known:
        key = f"{each.destination} . {each.destination_port} . {each.source_port}"
        found.setdefault(indexes[each.source], {})[key] = _OPEN if each.is_open else _RESTING
    for index, ports in found.items():
        listed = ", ".join(f"{key} timeout {seconds}" for key, seconds in ports.items())
        yield f"add element inet {TABLE} used{family.version}_{index} {{ {listed} }}"
