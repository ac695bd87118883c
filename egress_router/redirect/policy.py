"""The egress policy in redirect mode: what it denies, and when denied connections that are open end. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from egress_router.policy import redirected
from egress_router.policy.egress_policy import PolicyIndex
from egress_router.policy.redirected import Denial, Reached

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from egress_router.grammar.address import IPAddress
    from egress_router.grammar.redirect import NamedRedirect, Redirect, Redirects
    from egress_router.policy.egress_policy import NamesOf
    from egress_router.redirect.lines import Resolved
    from egress_router.settings.policy import Guarded


def denials(guarded: Guarded[Redirects], resolved: Resolved, names: NamesOf) -> tuple[Denial, ...]:
    """Return what the policy denies of where lines and fallbacks lead; `names`: its names by address."""
    if guarded.policy is None:
        return ()
    index = PolicyIndex(guarded.policy)
    known = _with_lines(index, resolved, names)
    return redirected.denials(index, _reached(guarded.rules, resolved), known)


def _with_lines(index: PolicyIndex, resolved: Resolved, names: NamesOf) -> NamesOf:
    """Add the addresses of lines' names: if an entry names the name of a line, it applies to them."""
    found = dict(names)
    for line, addresses in resolved.items():
        if line.name in index.names:
            for address in addresses:
                found[address] = (*found.get(address, ()), line.name)
    return found


def _reached(redirects: Redirects, resolved: Resolved) -> Iterator[Reached]:
    for rule in redirects.rules:
        yield _at(rule, rule.target)
    for line in redirects.names:
        for address in resolved.get(line, ()):
            yield _at(line, address)
    for fallback in (redirects.fallback_v4, redirects.fallback_v6):
        if fallback is not None:
            yield Reached(fallback)


def _at(rule: Redirect | NamedRedirect, address: IPAddress) -> Reached:
    port = rule.target_port
    return Reached(
        address, rule.protocol, rule.first if port is None else port, rule.last if port is None else port
    )


class Cuts:
    """Destinations that became denied, until the connections that were open at that time are cut."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._denied: frozenset[Denial] = frozenset()
        self._due: dict[Denial, float] = {}

    def note(self, denied: Iterable[Denial], now: float) -> None:
        """Note that exactly these destinations are denied from now on."""
        # The entry's number is left out: it changes if an entry is added before it, and nothing else does.
        current = frozenset(replace(each, entry=0) for each in denied)
        for each in self._due.keys() - current:
            del self._due[each]
        for each in current - self._denied:
            self._due[each] = now + self._seconds
        self._denied = current

    def due(self, now: float) -> list[Denial]:
        """Return the destinations to which connections are to be cut now, until `forget` is called."""
        return [each for each, when in self._due.items() if now >= when]

    def forget(self, denied: Iterable[Denial]) -> None:
        """Note that the connections to these were cut."""
        for each in denied:
            self._due.pop(each, None)
