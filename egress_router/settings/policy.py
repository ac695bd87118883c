"""The setting of the egress policy, which all modes share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.errors import RefusedError
from egress_router.manifests import egress_policy
from egress_router.settings.variables import RulesVariable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from egress_router.grammar.egress_policy import EgressPolicy
    from egress_router.settings.variables import RulesSource

POLICY = RulesVariable(
    "EGRESS_POLICY",
    "egress policy: an EgressNetworkPolicy or an EgressFirewall, as JSON or YAML",
    required=False,
)


def policy_parser(_: Mapping[str, str]) -> Callable[[str, str], EgressPolicy]:
    """Return how an egress policy is read; no other setting changes what it means."""
    return egress_policy.parse


def refuse_unenforced(policy: RulesSource | None, mode: str) -> None:
    """Refuse to start with a policy that nothing would hold to: to ignore it would open what it closes.

    Raises:
        RefusedError: a policy is given.
    """
    if policy is not None:
        raise RefusedError(
            f"{policy.variable} is set, and {mode} does not enforce an egress policy",
            "take it out, or say in the rules what may be reached",
        )
