"""How redirect rules are read, for the rule store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.grammar import redirect

if TYPE_CHECKING:
    from egress_router.grammar.redirect import Redirects
    from egress_router.settings.policy import Guarded, GuardedSource
    from egress_router.settings.setup import SetupSettings


class RedirectRules:
    """How redirect rules and their policy are read; they need no port of this process."""

    def __init__(self, settings: SetupSettings, source: GuardedSource) -> None:
        self.parse = source.parser(settings.parse_rules, settings.parse_policy)

    @staticmethod
    def ports(_: Guarded[Redirects]) -> frozenset[int]:
        """See `Reader`."""
        return frozenset()

    @staticmethod
    def summary(guarded: Guarded[Redirects]) -> tuple[str, ...]:
        """See `Reader`."""
        return (*redirect.printed_redirects(guarded.rules).splitlines(), *guarded.policy_lines())
