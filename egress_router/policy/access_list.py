"""The decision: may this host and port be dialled, at which addresses, and which rule says so.

Pure: a decision depends on the list, the request, the addresses that its name has, and what belongs to this
pod. docs/decisions/http-policy.md says how the rules are read.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from egress_router.grammar.acl import Domain, Everything, Rule
from egress_router.grammar.locality import Locality, embedded, locality
from egress_router.policy.egress_policy import PolicyDecision
from egress_router.policy.rule_index import NONE, Domains, Networks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.grammar.acl import AccessList
    from egress_router.grammar.address import Host, IPAddress, IPNetwork
    from egress_router.grammar.egress_policy import PolicyEntry
    from egress_router.grammar.leaving import Leaving
    from egress_router.policy.egress_policy import NamesOf, PolicyIndex


class Verdict(enum.StrEnum):
    """What happens to a request; `REPORTED`: it would be denied, but the list is in report-only mode."""

    ALLOWED = "allowed"
    DENIED = "denied"
    REPORTED = "reported"


class Reason(enum.StrEnum):
    """Why a request is allowed or denied."""

    RULE = "rule"
    NO_RULE = "no_rule"
    NOT_REMOTE = "not_remote"
    OWN_PORT = "own_port"
    CONNECT_PORT = "connect_port"
    POLICY = "policy"


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision: `rule` is the line that decided, `addresses` are what may be dialled, in order.

    `full_name` is what a short name stands for, if the decision is about one; `entry` is the entry of the
    egress policy that denies what the list would allow.
    """

    verdict: Verdict
    reason: Reason
    rule: Rule | None = None
    addresses: tuple[IPAddress, ...] = ()
    full_name: str | None = None
    entry: PolicyEntry | None = None

    @property
    def leaving(self) -> Leaving:
        """The source address of the connections, as the rule says."""
        return None if self.rule is None else self.rule.leaving


@dataclass(frozen=True, slots=True)
class Own:
    """What belongs to this pod: its addresses, and the ports on which it listens itself.

    `neighbours` are the networks on its links other than the egress interface: other pods, the node.
    """

    addresses: frozenset[IPAddress]
    ports: frozenset[int]
    neighbours: frozenset[IPNetwork] = frozenset()

    def is_remote(self, address: IPAddress) -> bool:
        """Say whether a rule that means everything covers this address."""
        if locality(address) is not Locality.REMOTE or self._holds(address):
            return False
        return not (self.neighbours and self._is_near(address))

    def is_own_port(self, address: IPAddress, port: int) -> bool:
        """Say whether a connection to this would reach the router itself."""
        if port not in self.ports:
            return False
        return self._holds(address) or locality(address) in {Locality.LOOPBACK, Locality.UNSPECIFIED}

    def _is_near(self, address: IPAddress) -> bool:
        forms = (address, *embedded(address)) if isinstance(address, IPv6Address) else (address,)
        return any(
            each.version == network.version and each in network
            for each in forms
            for network in self.neighbours
        )

    def _holds(self, address: IPAddress) -> bool:
        if address in self.addresses:
            return True
        return isinstance(address, IPv6Address) and not self.addresses.isdisjoint(embedded(address))


NOTHING_OWN = Own(frozenset(), frozenset())


class AccessPolicy:
    """An allow/deny list, indexed: the first rule that matches decides, at the cost of a few look-ups."""

    def __init__(self, access_list: AccessList) -> None:
        self.rules = access_list.rules
        self._domains = Domains(self.rules)
        self._denied = Networks(self.rules, allows=False)
        self._allowed = Networks(self.rules, allows=True)
        last = self.rules[-1].subject if self.rules else None
        self._everything = len(self.rules) - 1 if isinstance(last, Everything) else NONE

    def by_name(self, name: str, port: int, full_name: str | None = None) -> Decision | None:
        """Decide on a name before it is looked up; None if its addresses decide, too.

        A name that is denied whatever its addresses are is not looked up: a query, too, carries data out. A
        short name is matched as it is written and as the `full_name` that it stands for.
        """
        if full_name == name:
            full_name = None
        index = self._first_by_name(name, full_name, port)
        if index == NONE:
            if self._everything == NONE and self._allowed.earliest(port) == NONE:
                return Decision(Verdict.DENIED, Reason.NO_RULE, full_name=full_name)
            return None
        rule = self.rules[index]
        if rule.allows or self._allowed.earliest(port) < index:
            return None
        return Decision(Verdict.DENIED, Reason.RULE, rule, full_name=full_name)

    def by_candidates(self, name: str, port: int, candidates: Sequence[str]) -> Decision | None:
        """Decide on a short name before it is looked up: it is denied if each of its candidates is.

        If a rule denies one of them, that rule is named: this tells more than that no rule allows another.
        """
        decisions = [self.by_name(name, port, candidate) for candidate in candidates]
        denied = [decision for decision in decisions if decision is not None]
        if len(denied) < len(decisions):
            return None
        by_rule = (decision for decision in denied if decision.rule is not None)
        return next(by_rule, Decision(Verdict.DENIED, Reason.NO_RULE))

    def by_addresses(
        self,
        host: Host,
        port: int,
        addresses: Sequence[IPAddress],
        own: Own,
        full_name: str | None = None,
    ) -> Decision:
        """Decide on a host whose addresses are known; for a literal they are the literal itself.

        `full_name` is the name that has these addresses: for a short name, one of its candidates.
        """
        if full_name is not None and full_name == host:
            full_name = None
        by_name = self._first_by_name(host, full_name, port) if isinstance(host, str) else NONE
        may_be_own = port in own.ports
        denying = dialled = NONE
        allowed: list[IPAddress] = []
        for address in addresses:
            if may_be_own and own.is_own_port(address, port):
                return Decision(Verdict.DENIED, Reason.OWN_PORT, None, (), full_name)
            index = self._first(by_name, address, port, own)
            if index == NONE:
                continue
            if not self.rules[index].allows:
                denying = min(denying, index)
            else:
                dialled = index if not allowed else dialled
                allowed.append(address)
        if denying != NONE:
            return Decision(Verdict.DENIED, Reason.RULE, self.rules[denying], (), full_name)
        if allowed:
            return Decision(Verdict.ALLOWED, Reason.RULE, self.rules[dialled], tuple(allowed), full_name)
        if self._everything != NONE:
            return Decision(Verdict.DENIED, Reason.NOT_REMOTE, None, (), full_name)
        return Decision(Verdict.DENIED, Reason.NO_RULE, None, (), full_name)

    def name_rule(self, name: str, port: int, full_name: str | None = None) -> Rule | None:
        """Return the first rule that names this host or its full name, or covers everything."""
        index = min(self._first_by_name(name, full_name, port), self._everything)
        return None if index == NONE else self.rules[index]

    def address_rules_before(self, rule: Rule | None, port: int) -> tuple[Rule, ...]:
        """Return the rules by address that come before `rule` (None: all of them) and cover this port."""
        last = NONE if rule is None else rule.line
        return tuple(
            each
            for each in self.rules
            if each.line < last
            and not isinstance(each.subject, Domain | Everything)
            and each.port in {None, port}
        )

    def _first_by_name(self, name: str, full_name: str | None, port: int) -> int:
        index = self._domains.first(name, port)
        return index if full_name is None else min(index, self._domains.first(full_name, port))

    def _first(self, by_name: int, address: IPAddress, port: int, own: Own) -> int:
        """Return the position of the first rule that matches the name or this address."""
        by_address = min(self._denied.first(address, port), self._allowed.first(address, port))
        index = min(by_name, by_address)
        if isinstance(address, IPv6Address):
            for inner in embedded(address):
                index = min(index, self._denied.first(inner, port))
        if index == NONE and self._everything != NONE and own.is_remote(address):
            return self._everything
        return index


def on_trial(decision: Decision, addresses: Sequence[IPAddress], own: Own) -> Decision:
    """Return the decision in report-only mode: what is denied may go on, to remote addresses only."""
    if decision.verdict is not Verdict.DENIED or decision.reason is Reason.OWN_PORT:
        return decision
    remote = tuple(address for address in addresses if own.is_remote(address))
    return replace(decision, verdict=Verdict.REPORTED, addresses=remote) if remote else decision


def guarded(decision: Decision, port: int, policy: PolicyIndex, names: NamesOf) -> Decision:
    """Return the decision after the egress policy: of several addresses, those that it allows are left."""
    if decision.verdict is not Verdict.ALLOWED:
        return decision
    sifted = policy.sift(decision.addresses, port, names)
    if sifted.denial is None:
        return decision
    if sifted.allowed:
        return replace(decision, addresses=sifted.allowed)
    entry = sifted.denial.entry
    return Decision(Verdict.DENIED, Reason.POLICY, None, (), decision.full_name, entry)


def connect_port(port: int, allowed: frozenset[int] | None) -> Decision | None:
    """Deny a CONNECT to a port that is not allowed; None if it is."""
    if allowed is None or port in allowed:
        return None
    return Decision(Verdict.DENIED, Reason.CONNECT_PORT)


def explanation(decision: Decision) -> str:
    """Say in one sentence which rule decided, or that none did.

    It holds nothing that a client sent, except the label of a short name, whose characters are harmless.
    """
    if decision.rule is not None:
        verb = "allows" if decision.rule.allows else "denies"
        as_what = "" if decision.full_name is None else f" as {decision.full_name}"
        return f"line {decision.rule.line} ({decision.rule.text}) {verb} it{as_what}"
    if decision.entry is not None:
        return str(PolicyDecision(is_allowed=False, entry=decision.entry))
    return _WITHOUT_RULE[decision.reason]


_WITHOUT_RULE = {
    Reason.NO_RULE: "no rule allows it",
    Reason.NOT_REMOTE: "`*` covers remote addresses only, and this one has no rule of its own",
    Reason.OWN_PORT: "it is a port of the egress router itself",
    Reason.CONNECT_PORT: "CONNECT to this port is not allowed",
    Reason.RULE: "a rule decides",
    Reason.POLICY: "the egress policy denies it",
}
