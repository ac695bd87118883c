"""What of the lines' destinations an egress policy denies: the same as it says of each address and port."""

from __future__ import annotations

import itertools
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from egress_router.grammar.egress_policy import Effect, EgressPolicy, PolicyEntry, PolicyPort
from egress_router.grammar.redirect import Protocol
from egress_router.policy.egress_policy import PolicyIndex
from egress_router.policy.redirected import Denial, Reached, denials

BANK, OTHER = ip_address("203.0.113.25"), ip_address("203.0.113.26")
networks = st.sampled_from([ip_network(each) for each in ("203.0.113.25", "203.0.113.24/31", "0.0.0.0/0")])
ports = st.lists(
    st.builds(PolicyPort, st.sampled_from(Protocol), st.integers(0, 12)), max_size=3, unique=True
).map(tuple)
entries = st.lists(st.tuples(st.sampled_from(Effect), networks, ports), max_size=6)
destinations = st.lists(
    st.builds(
        lambda address, protocol, first, size: Reached(address, protocol, first, first + size),
        st.sampled_from([BANK, OTHER]),
        st.sampled_from(Protocol),
        st.integers(0, 12),
        st.integers(0, 4),
    )
    | st.builds(Reached, st.sampled_from([BANK, OTHER])),
    max_size=4,
)


def index(*listed: tuple[Effect, str, tuple[PolicyPort, ...]]) -> PolicyIndex:
    return PolicyIndex(
        EgressPolicy(
            "EgressNetworkPolicy",
            "default",
            tuple(
                PolicyEntry(number, effect, ip_network(network), ports)
                for number, (effect, network, ports) in enumerate(listed, 1)
            ),
        )
    )


def test_an_address_that_is_denied_whole_is_denied_in_all_protocols() -> None:
    policy = index((Effect.ALLOW, "203.0.113.26", ()), (Effect.DENY, "0.0.0.0/0", ()))
    reached = [Reached(BANK), Reached(OTHER), Reached(BANK, Protocol.TCP, 80, 80)]
    assert denials(policy, reached) == (
        *(Denial(BANK, protocol, 0, 65535, 2) for protocol in Protocol),
        Denial(BANK, None, 0, 65535, 2),
    )


def test_ports_that_are_denied_alike_are_one_denial() -> None:
    allowed = (PolicyPort(Protocol.TCP, 5050),)
    policy = index((Effect.ALLOW, "203.0.113.25", allowed), (Effect.DENY, "203.0.113.0/24", ()))
    assert denials(policy, [Reached(BANK, Protocol.TCP, 5000, 5100)]) == (
        Denial(BANK, Protocol.TCP, 5000, 5049, 2),
        Denial(BANK, Protocol.TCP, 5051, 5100, 2),
    )


@given(listed=entries, reached=destinations)
def test_it_is_what_the_policy_says(
    listed: list[tuple[Effect, object, tuple[PolicyPort, ...]]], reached: list[Reached]
) -> None:
    policy = index(*((effect, str(network), ports) for effect, network, ports in listed))
    found = denials(policy, reached)
    for one, other in itertools.combinations(found, 2):
        same = (one.address, one.protocol) == (other.address, other.protocol)
        assert not same or one.last < other.first or other.last < one.first
    for each in reached:
        protocols = tuple(Protocol) if each.protocol is None else (each.protocol,)
        for protocol in protocols:
            for port in {*range(each.first, min(each.last, 20) + 1), each.last}:
                decision = policy.decide(each.address, port, protocol=protocol)
                by = {
                    denial.entry
                    for denial in found
                    if denial.address == each.address
                    and denial.protocol is protocol
                    and denial.first <= port <= denial.last
                }
                said = {decision.entry.number} if decision.entry and not decision.is_allowed else set()
                assert by == said, (each, protocol, port)
