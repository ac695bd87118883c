"""Decisions of the list and of the egress policy in words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from egress_router.explain.explanation import Explanation, Outcome
from egress_router.grammar import acl
from egress_router.grammar.address import (
    printed,
)
from egress_router.grammar.egress_policy import Effect
from egress_router.policy.access_list import NOTHING_OWN, AccessPolicy, Verdict, explanation
from egress_router.tls.client_hello import ClientHello
from egress_router.tls.server_name import SniMatch, compare, server_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.grammar.address import Host, IPAddress
    from egress_router.names.answer import Answer
    from egress_router.policy.access_list import Decision
    from egress_router.policy.egress_policy import NamesOf, PolicyIndex

_SHORT_NAME = "{} is a short name; of these, by this machine's search list, the first that exists decides:"
_MAX_LISTED = 5  # rules by address that are listed one by one


def decided(host: Host, port: int, decision: Decision) -> Explanation:
    """Return a decision of the list in words."""
    target = printed(host, port)
    lines = [f"{target} is {decision.verdict.value}: {explanation(decision)}"]
    if decision.verdict is not Verdict.ALLOWED:
        return Explanation(target, Outcome.DENIED, tuple(lines))
    addresses = decision.addresses if isinstance(host, str) else (host,)
    if isinstance(host, str):
        lines.append(f"it would be connected to at {_list(addresses)}")
    return Explanation(target, Outcome.ALLOWED, tuple(lines), addresses)


def resolved(access: AccessPolicy, host: str, port: int, answer: Answer) -> Explanation:
    """Return what the list says of a name that was looked up."""
    decision = access.by_addresses(host, port, answer.addresses, NOTHING_OWN, answer.name)
    stands_for = "" if answer.name == host else f" stands for {answer.name}, which"
    first = f"{host}{stands_for} has the addresses {_list(answer.addresses)}"
    found = decided(host, port, decision)
    return replace(found, lines=(first, *found.lines), full_name=answer.name)


def unresolved(
    access: AccessPolicy, index: PolicyIndex | None, host: str, port: int, candidates: Sequence[str]
) -> Explanation:
    """Return what the list says of a name whose addresses are unknown."""
    target = printed(host, port)
    if candidates == (host,):
        outcome, lines = _undecided(access, host, port, host)
    else:
        outcome = Outcome.UNDECIDED
        lines = [_SHORT_NAME.format(host)]
        for each in candidates:
            decision = access.by_name(host, port, each)
            found = (
                _undecided(access, host, port, each)[1]
                if decision is None
                else decided(each, port, decision).lines
            )
            lines += [f"  {line}" for line in found]
    if index is not None and any(each.effect is Effect.DENY for each in index.policy.entries):
        lines.append("the egress policy judges each of its addresses (--resolve looks them up)")
        outcome = Outcome.UNDECIDED
    return Explanation(target, outcome, tuple(lines))


def _undecided(policy: AccessPolicy, host: str, port: int, name: str) -> tuple[Outcome, list[str]]:
    """Explain what `by_name` leaves open: rules by address before the rule that decides by name."""
    rule = policy.name_rule(host, port, name)
    before = policy.address_rules_before(rule, port)
    lines = []
    for each in before[:_MAX_LISTED]:
        effect = "it may be connected to at" if each.allows else "it is denied if it has"
        lines.append(f"line {each.line} ({each.text}): {effect} an address of {each.subject}")
    if len(before) > _MAX_LISTED:
        lines.append(f"and {len(before) - _MAX_LISTED} more rules by address")
    if rule is None:
        lines.append("no rule allows any other address")
    elif isinstance(rule.subject, acl.Everything):
        lines.append(f"line {rule.line} ({rule.text}) allows every remote address")
    else:
        lines.append(
            f"line {rule.line} ({rule.text}) {'allows' if rule.allows else 'denies'} every other address"
        )
    if not before and rule is not None and isinstance(rule.subject, acl.Domain):
        allowed = f"{printed(name, port)} is allowed: line {rule.line} ({rule.text}) allows it"
        return Outcome.ALLOWED, [allowed]
    first = f"{printed(name, port)}: its addresses decide (--resolve looks them up)"
    return Outcome.UNDECIDED, [first, *lines]


def judged(
    found: Explanation, host: Host, port: int, index: PolicyIndex | None, names: NamesOf
) -> Explanation:
    """Add to the list's answer what the egress policy says of its addresses; the policy can only deny."""
    if index is None or found.outcome is not Outcome.ALLOWED:
        return found
    sifted = index.sift(found.addresses, port, names)
    lines = [f"{printed(each, port)}: {index.decide(each, port, names)}" for each in found.addresses]
    if sifted.allowed:
        connected = f"it would be connected to at {_list(sifted.allowed)}"
        return replace(found, lines=(found.lines[0], *lines, connected), addresses=sifted.allowed)
    denied = f"{printed(host, port)} is denied: {sifted.denial}"
    return Explanation(found.target, Outcome.DENIED, (denied, f"the list: {found.lines[0]}", *lines))


def with_sni(found: Explanation, access: AccessPolicy, host: Host, port: int, sni: str) -> Explanation:
    """Add what happens to a CONNECT whose tunnel begins with this name in a ClientHello: see `SniCheck`."""
    if found.outcome is Outcome.DENIED:
        return found
    hello = ClientHello(sni or None, encrypted=False)
    name, match = server_name(hello), compare(hello, host)
    passes, why = match in {SniMatch.SAME, SniMatch.ABSENT}, match.value
    if match is SniMatch.ASK_LIST and isinstance(name, str) and not isinstance(host, str):
        decision = access.by_addresses(name, port, (host,), NOTHING_OWN)
        passes, why = decision.verdict is Verdict.ALLOWED, f"{name} at {host}: {explanation(decision)}"
    elif match is SniMatch.OTHER and name == found.full_name:
        passes, why = True, f"{host} stands for it"
    result = f"the SNI {sni} passes" if passes else f"the SNI {sni} is another name"
    lines = [*found.lines, f"{result if sni else 'it passes'}: {why}"]
    if passes:
        return replace(found, lines=tuple(lines))
    lines.append("EGRESS_HTTP_PROXY_SNI=enforce closes the tunnel; report, the default, logs and counts it")
    return replace(found, outcome=Outcome.DENIED, lines=tuple(lines), addresses=())


def _list(addresses: tuple[IPAddress, ...]) -> str:
    return ", ".join(map(str, addresses))
