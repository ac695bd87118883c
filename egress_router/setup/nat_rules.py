"""The NAT rules: what they are made from, and how they are put in force."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import ConfigError, Problem, RefusedError
from egress_router.kernel.nat import admin_rules, nftables
from egress_router.kernel.nat.plan import Surroundings, make_plan
from egress_router.policy.egress_policy import NO_NAMES
from egress_router.settings.setup import ADMIN_RULES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.grammar.redirect import Redirects
    from egress_router.kernel.addresses import Holdings
    from egress_router.kernel.nat.admin_rules import FileRules
    from egress_router.kernel.nat.plan import NatPlan
    from egress_router.policy.egress_policy import NamesOf
    from egress_router.policy.redirected import Denial
    from egress_router.redirect.lines import Resolved
    from egress_router.settings.policy import Guarded
    from egress_router.settings.setup import SetupSettings
    from egress_router.standby.network import StandbyNetwork


_log = log.get("setup")


@dataclass(frozen=True, slots=True)
class Established:
    """What `run` set up: how NAT rules are put in force, what they know of the pod, and the redirects.

    `resolved` are the addresses of the redirects' names, `policy_names` those of the egress policy's names,
    and `denials` what the policy denies with them. `standby` is set if the router is one of a group: then
    nothing is claimed, but a fence is up.
    """

    apply: Callable[[NatPlan], None]
    surroundings: Surroundings
    rules_text: str
    resolved: Resolved
    holdings: Holdings | None = None
    standby: StandbyNetwork | None = None
    policy_names: Mapping[str, tuple[IPAddress, ...]] = field(default_factory=dict)
    denials: tuple[Denial, ...] = ()

    @property
    def sources(self) -> tuple[IPAddress, ...]:
        """The source addresses that the router holds."""
        return () if self.holdings is None else self.holdings.held


def require_nftables(guarded: Guarded[Redirects] | None, apply: Callable[[NatPlan], None]) -> None:
    """Check that nftables is in use if something needs it. RefusedError if not."""
    if guarded is None or apply is nftables.apply:
        return
    if guarded.policy is not None:
        raise RefusedError(
            "an egress policy needs nftables in redirect mode",
            "set EGRESS_NAT_BACKEND=nftables on a kernel with nf_tables, or remove the policy",
        )
    if guarded.rules.names:
        line = guarded.rules.names[0]
        raise RefusedError(
            f"names need nftables, and line {line.line} leads to {line.name}",
            "set EGRESS_NAT_BACKEND=nftables on a kernel with nf_tables, or give addresses",
        )


def resolve_names(
    settings: SetupSettings, guarded: Guarded[Redirects] | None, established: Established
) -> Established:
    """Look up the names of lines and of the egress policy, so that neither begins without addresses."""
    if guarded is None:
        return established
    redirects = guarded.rules
    if guarded.policy is None and not redirects.names:
        return established  # and the modules for name servers are not loaded
    from egress_router.redirect.first import first_addresses, first_answers  # noqa: PLC0415
    from egress_router.redirect.usable import Usable  # noqa: PLC0415

    of_policy = () if guarded.policy is None else guarded.policy.dns_names
    answers = first_answers(settings.names, {*of_policy, *(line.name for line in redirects.names)})
    usable = Usable(settings.router, settings.interface, lambda: redirects)
    return replace(
        established,
        resolved=first_addresses(answers, redirects.names, usable),
        policy_names={name: answers[name] for name in of_policy if name in answers},
    )


def put_in_force(
    settings: SetupSettings,
    guarded: Guarded[Redirects] | None,
    established: Established,
    resolved: Resolved,
    names: NamesOf = NO_NAMES,
) -> tuple[Denial, ...]:
    """Set the NAT rules for the redirects, the egress policy and the names of both, in one transaction.

    Returns which destinations of the redirects the policy denies; `names` are the policy's names by address.

    Raises:
        RefusedError: the kernel refuses.
    """
    require_nftables(guarded, established.apply)
    changed = replace(established, resolved=resolved)
    return apply_rules(settings, guarded, changed, established.sources, names)


def apply_rules(
    settings: SetupSettings,
    guarded: Guarded[Redirects] | None,
    established: Established,
    sources: Sequence[IPAddress],
    names: NamesOf,
) -> tuple[Denial, ...]:
    """Put the rules in force for these source addresses; see `put_in_force`."""
    admin_port, redirects = settings.runtime.admin_port, None if guarded is None else guarded.rules
    around, resolved = established.surroundings, established.resolved
    plan = make_plan(redirects, sources, settings.interface, admin_port, around, resolved)
    denials = () if guarded is None or guarded.policy is None else _denials(guarded, resolved, names)
    # There are sets only for the families in which the router has an address now.
    denials = tuple(each for each in denials if plan.family(each.address.version) is not None)
    established.apply(replace(plan, denials=denials))
    _log.debug("NAT rules are in force", lines=0 if redirects is None else len(redirects.rules))
    return denials


def _denials(guarded: Guarded[Redirects], resolved: Resolved, names: NamesOf) -> tuple[Denial, ...]:
    from egress_router.redirect import policy  # noqa: PLC0415 (few have one)

    return policy.denials(guarded, resolved, names)


def read_admin_rules(settings: SetupSettings, apply: Callable[[NatPlan], None]) -> FileRules | None:
    """Return the rules of EGRESS_ADMIN_RULES_FILE; None if it is not set: then such rules are left alone.

    Raises:
        ConfigError: the file cannot be read, or nft does not take a line of it.
        RefusedError: nft is missing, or rules are not put in force with nftables.
    """
    path = settings.admin_rules
    if path is None:
        return None
    if apply is not nftables.apply:
        raise RefusedError("EGRESS_ADMIN_RULES_FILE holds nft statements", "set EGRESS_NAT_BACKEND=nftables")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        problem = Problem(ADMIN_RULES.name, None, str(path), f"cannot be read ({error})")
        raise ConfigError([problem]) from None
    return admin_rules.check(ADMIN_RULES.name, text, settings.interface)
