"""Decides on targets, by the rules, the addresses of a name and the pod's own addresses."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

from egress_router.names.answer import Answer, Failure, ResolveError
from egress_router.policy.access_list import AccessPolicy, Verdict, connect_port, guarded, on_trial
from egress_router.policy.egress_policy import NO_NAMES, PolicyIndex
from egress_router.tls.server_name import SniMatch, compare, server_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.grammar.acl import AccessList
    from egress_router.grammar.address import Host, IPAddress
    from egress_router.grammar.egress_policy import EgressPolicy
    from egress_router.http_proxy.http1.target import RequestTarget
    from egress_router.http_proxy.own_addresses import OwnAddresses
    from egress_router.http_proxy.request_info import RequestInfo
    from egress_router.policy.access_list import Decision, Own
    from egress_router.policy.egress_policy import NamesOf
    from egress_router.tls.client_hello import ClientHello

Addresses = tuple["IPAddress", ...]


_MAX_KNOWN = 1_000


class Names(Protocol):
    """What resolves names; see `egress_router.names.resolver.Resolver`."""

    def cached(self, name: str) -> Answer | None:
        """Return the addresses of a name if they are known, without waiting."""

    def candidates(self, name: str) -> tuple[str, ...]:
        """Return the absolute names that a look-up of this name tries, in order."""

    def used_again(self, name: str, count: int) -> None:
        """Note that a `cached` answer has served `count` more requests."""

    async def resolve(self, name: str, *, client: str = "", denial_seconds: float | None = None) -> Answer:
        """Return the addresses of a name; raises ResolveError."""

    def close(self) -> None:
        """Cancel all look-ups."""


class _Known(NamedTuple):
    """A decision with all that it depends on; `addresses` is None if the addresses of a name did not matter.

    `asked` is compared by identity: a target from the cache has the same object. `until` is when the
    addresses of the name have to be looked up again, 0 if name servers fail.
    """

    asked: Host
    tunnel: bool
    lists: int
    own: Own
    addresses: Addresses | None
    until: float
    decision: Decision


class AccessControl:
    """Decides by the rules in force; `lists` counts their changes, and those of the policy's names."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        resolver: Names,
        own: OwnAddresses,
        connect_ports: frozenset[int] | None,
        *,
        report_only: bool,
    ) -> None:
        self._loop = loop
        self._resolver = resolver
        self._own = own
        self._connect_ports = connect_ports
        self._report_only = report_only
        self._policy: AccessPolicy
        self._egress: PolicyIndex | None = None
        self._names: NamesOf = NO_NAMES
        self._known: dict[bytes, _Known] = {}
        self.lists = 0

    def apply(self, rules: AccessList, policy: EgressPolicy | None = None) -> None:
        """Decide by these rules, limited by this egress policy, from now on."""
        self._policy = AccessPolicy(rules)
        self._egress = None if policy is None else PolicyIndex(policy)
        self.lists += 1

    def follow(self, names: NamesOf) -> None:
        """Use these names for the egress policy from now on."""
        self._names = names
        self.lists += 1

    def at_once(self, target: RequestTarget) -> Decision | None:
        """Decide without waiting; return None if the name has to be looked up first.

        A decision is reused as long as nothing that it depends on has changed.
        """
        known = self._known.get(target.authority)
        if (
            known is None
            or known.asked is not target.asked
            or known.tunnel is not target.tunnel
            or known.lists != self.lists
            or known.own is not self._own.current()
        ):
            return self._decided(target)
        if known.addresses is not None:
            answer = self._resolver.cached(str(known.asked))
            if answer is None or answer.addresses is not known.addresses:
                return self._decided(target)
        return known.decision

    def _decided(self, target: RequestTarget) -> Decision | None:
        early = self._early(target)
        if early is not None and not self._report_only:
            return self._remember(target, None, math.inf, early)
        asked = target.asked
        if isinstance(asked, str):
            answer = self._resolver.cached(asked)
            if answer is None:
                return None
            decision = self._on(early, target, answer.addresses, answer.name)
            until = 0.0 if answer.stale else answer.expires
            return self._remember(target, answer.addresses, until, decision)
        return self._remember(target, None, math.inf, self._on(early, target, (asked,)))

    def _remember(
        self, target: RequestTarget, addresses: Addresses | None, until: float, decision: Decision
    ) -> Decision:
        asked = target.asked
        if isinstance(asked, str) and "." not in asked:  # a short name may lead to another full name later
            return decision
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()  # simple; with so many entries no order of eviction is better
        own = self._own.current()
        self._known[target.authority] = _Known(
            asked, target.tunnel, self.lists, own, addresses, until, decision
        )
        return decision

    def holds_until(self, target: RequestTarget, decision: Decision) -> float:
        """Return until when a decision is valid, unless `lists` changes; 0: this is not known."""
        known = self._known.get(target.authority)
        if known is None or known.decision is not decision or known.lists != self.lists:
            return 0.0
        return min(known.until, self._own.until) if known.own is self._own.current() else 0.0

    def used_again(self, target: RequestTarget, count: int) -> None:
        """Note that the addresses of a target have served `count` more requests."""
        if isinstance(target.asked, str):
            self._resolver.used_again(target.asked, count)

    def by_addresses(self, target: RequestTarget, addresses: Addresses, name: str | None) -> Decision:
        """Decide on a target whose addresses are known; `name`: the absolute name that has them."""
        return self._on(self._early(target), target, addresses, name)

    def by_failure(self, target: RequestTarget) -> Decision | None:
        """Decide on a target whose name has no addresses; None if some addresses could have been allowed."""
        return None if self._report_only else self._early(target)

    def still_allows(self, target: RequestTarget, address: IPAddress, name: str | None) -> bool:
        """Say whether an open connection would be allowed now, too."""
        return self.by_addresses(target, (address,), name).verdict is not Verdict.DENIED

    def covers(self, hello: ClientHello, info: RequestInfo) -> bool:
        """Say whether the CONNECT of a tunnel was allowed for the name in its ClientHello."""
        name = server_name(hello)
        match compare(hello, info.target.host):
            case SniMatch.SAME | SniMatch.ABSENT:
                return True
            case SniMatch.OTHER:
                return name == info.decision.full_name
            case SniMatch.ASK_LIST:
                return isinstance(name, str) and self._allows_name(name, info)

    def look_up(
        self, name: str, client: str, seconds: float, on_done: Callable[[Answer | Failure], None]
    ) -> asyncio.Task[None]:
        """Resolve a name within `seconds` and call back, unless the task is cancelled.

        The number of look-ups of each client is limited; one that nobody waits for any more ends.
        """
        return self._loop.create_task(self._looked_up(name, client, seconds, on_done))

    async def _looked_up(
        self, name: str, client: str, seconds: float, on_done: Callable[[Answer | Failure], None]
    ) -> None:
        found: Answer | Failure
        try:
            async with asyncio.timeout(seconds):
                found = await self._resolver.resolve(name, client=client)
        except TimeoutError:
            found = Failure.TIMEOUT
        except ResolveError as error:
            found = error.failure
        except Exception as error:  # noqa: BLE001 - a bug, but the request must not wait for ever
            context = {"message": "a look-up failed", "exception": error}
            self._loop.call_exception_handler(context)
            found = Failure.SERVER_FAILURE
        on_done(found)

    def _early(self, target: RequestTarget) -> Decision | None:
        if target.tunnel:
            decision = connect_port(target.port, self._connect_ports)
            if decision is not None:
                return decision
        host, asked = target.host, target.asked
        if not isinstance(host, str) or not isinstance(asked, str):
            return None
        if "." in asked:
            return self._policy.by_name(host, target.port)
        return self._policy.by_candidates(host, target.port, self._resolver.candidates(asked))

    def _on(
        self, early: Decision | None, target: RequestTarget, addresses: Addresses, name: str | None = None
    ) -> Decision:
        own = self._own.current()
        decision = early or self._policy.by_addresses(target.host, target.port, addresses, own, name)
        if self._egress is not None:
            names = self._names_with(self._egress, name or target.host, addresses)
            decision = guarded(decision, target.port, self._egress, names)
        return on_trial(decision, addresses, own) if self._report_only else decision

    def _names_with(self, policy: PolicyIndex, host: Host, addresses: Addresses) -> NamesOf:
        """Return the names of the policy, with the addresses that were just looked up for one of them."""
        if host not in policy.names:
            return self._names
        looked_up = {address: (*self._names.get(address, ()), str(host)) for address in addresses}
        return {**self._names, **looked_up}

    def _allows_name(self, name: str, info: RequestInfo) -> bool:
        """Say whether the list allows this name at the address that a request goes to."""
        if info.address is None:
            return False
        own = self._own.current()
        decision = self._policy.by_addresses(name, info.target.port, (info.address,), own)
        return decision.verdict is Verdict.ALLOWED
