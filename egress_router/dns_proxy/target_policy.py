"""Where connections may go: what the egress policy denies, and where no line may lead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.net.own import is_own
from egress_router.policy.egress_policy import NO_NAMES, PolicyIndex
from egress_router.upstreams.forbidden import ForbiddenReason
from egress_router.upstreams.policy_names import PolicyDenials

if TYPE_CHECKING:
    from egress_router.grammar.address import Host, IPAddress, Target
    from egress_router.grammar.egress_policy import PolicyEntry
    from egress_router.grammar.forward import Forwards
    from egress_router.metrics import Registry
    from egress_router.policy.egress_policy import NamesOf, PolicyDecision
    from egress_router.service.mode import Json
    from egress_router.settings.policy import Guarded
    from egress_router.upstreams.destination import Destination
    from egress_router.upstreams.forbidden import ForbiddenCheck


class TargetPolicy:
    """Decides on targets, by the rules in force and the addresses of the egress policy's names."""

    def __init__(self, registry: Registry, forbidden: ForbiddenCheck, admin_port: int) -> None:
        self._denials = PolicyDenials(registry)
        self._forbidden = forbidden
        self._admin_port = admin_port
        self._ports: frozenset[int] = frozenset()
        self._named: frozenset[IPAddress] = frozenset()
        self._egress: PolicyIndex | None = None
        self._names_of: NamesOf = NO_NAMES

    def apply(self, guarded: Guarded[Forwards]) -> None:
        """Decide by these lines and this egress policy from now on."""
        lines = guarded.rules.lines
        self._egress = None if guarded.policy is None else PolicyIndex(guarded.policy)
        self._ports = frozenset(line.port for line in lines)
        self._named = frozenset(line.target for line in lines if not isinstance(line.target, str))

    def follow(self, names: NamesOf) -> None:
        """Use these names for the egress policy from now on."""
        self._names_of = names

    def denies_some(self, destination: Destination) -> bool:
        """Say whether the egress policy denies a target to which connections may be open."""
        return any(self._denial(destination.host, target) for target in destination.targets)

    def forbidden_reason(self, host: Host, target: Target) -> ForbiddenReason | None:
        """Return why connections to `host` must not use this target; None if they may."""
        if self._denial(host, target) is not None:
            return ForbiddenReason.POLICY
        return self._forbidden(
            host,
            target,
            named=self._named,
            ports=self._ports,
            admin_port=self._admin_port,
            is_own=is_own,
        )

    def count_denied(self, destination: Destination) -> PolicyEntry | None:
        """Count a connection that the egress policy denies; return the entry that denied it."""
        decision = self._denial_of(destination)
        entry = None if decision is None else decision.entry
        if entry is not None:
            self._denials.count(entry)
        return entry

    def reason(self, destination: Destination, forbidden: ForbiddenReason) -> str:
        """Return why an address is left out; for the egress policy, by which entry."""
        decision = self._denial_of(destination) if forbidden is ForbiddenReason.POLICY else None
        return forbidden.reason if decision is None else str(decision)

    def shown(self) -> list[Json]:
        """Return the entries of the egress policy for `/status`."""
        policy = None if self._egress is None else self._egress.policy
        return [{**each} for each in self._denials.shown(policy)]

    def _denial_of(self, destination: Destination) -> PolicyDecision | None:
        denials = (self._denial(destination.host, each) for each in destination.asked_for)
        return next((each for each in denials if each is not None), None)

    def _denial(self, host: Host, target: Target) -> PolicyDecision | None:
        """Return the decision of the egress policy if it denies a target."""
        if self._egress is None:
            return None
        names = self._names_of
        if host in self._egress.names:  # the look-up has just found this address for it
            names = {**names, target[0]: (*names.get(target[0], ()), str(host))}
        decision = self._egress.decide(*target, names)
        return None if decision.is_allowed else decision
