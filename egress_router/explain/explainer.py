"""Asks the list, the name servers and the egress policy, as the proxy does."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from egress_router.errors import RefusedError
from egress_router.explain import answers, question
from egress_router.grammar import acl
from egress_router.metrics import Registry
from egress_router.names.answer import ResolveError
from egress_router.names.resolver import Resolver
from egress_router.policy.access_list import NOTHING_OWN, AccessPolicy
from egress_router.policy.egress_policy import NO_NAMES, PolicyIndex, names_of
from egress_router.settings.names import NamesSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.explain.explanation import Explanation
    from egress_router.grammar.address import IPAddress
    from egress_router.grammar.egress_policy import EgressPolicy
    from egress_router.names.answer import Answer


class Names(Protocol):
    """What looks names up: a `Resolver`, as the proxy has one."""

    def candidates(self, name: str) -> tuple[str, ...]:
        """Return the absolute names that are tried for `name`, in order."""

    async def resolve(self, name: str) -> Answer:
        """Return the addresses of `name`; raises ResolveError if there are none."""

    def close(self) -> None:
        """End every look-up."""


def _resolver() -> Names:
    return Resolver(NamesSettings(), Registry())


@dataclass(frozen=True, slots=True)
class Explainer:
    """What decides besides a list: an egress policy, and the addresses of names, which `names` looks up.

    The pod's own addresses are unknown here.
    """

    policy: EgressPolicy | None = None
    names: Callable[[], Names] = _resolver

    def explain(
        self, path: str, text: str, target: str, *, resolve: bool, sni: str | None = None
    ) -> Explanation:
        """Say what the list in `text` makes of a URL or `host[:port]`, and why.

        `path` names the list in errors. The default port is that of the URL's scheme, 443 without a scheme.
        `sni` is the name in the ClientHello of a CONNECT to the target; empty: it has none.

        Raises:
            ConfigError: the list or the target is wrong.
            RefusedError: the name should be resolved, but could not be.
        """
        source, rules = question.rules(path, text)
        access = AccessPolicy(acl.parse(source, rules))
        index = None if self.policy is None else PolicyIndex(self.policy)
        host, port, asked = question.target_of(target)
        if isinstance(host, str):
            name = host, port, str(asked)
            found = asyncio.run(_about_name(self.names, access, index, name, resolve=resolve))
        else:
            decision = access.by_addresses(host, port, (host,), NOTHING_OWN)
            found = answers.judged(answers.decided(host, port, decision), host, port, index, NO_NAMES)
        return found if sni is None else answers.with_sni(found, access, host, port, sni)


async def _about_name(
    names: Callable[[], Names],
    access: AccessPolicy,
    index: PolicyIndex | None,
    target: tuple[str, int, str],
    *,
    resolve: bool,
) -> Explanation:
    (host, port, asked), resolver = target, names()
    try:
        candidates = (host,) if "." in asked else resolver.candidates(asked)
        decision = access.by_candidates(host, port, candidates)
        if decision is not None:
            return answers.decided(host, port, decision)  # without a query, as the proxy does
        if resolve:
            answer = await resolver.resolve(asked)
            followed = {} if index is None else await _followed(resolver, index)
            found = answers.resolved(access, host, port, answer)
            return answers.judged(found, host, port, index, names_of({**followed, host: answer.addresses}))
    except ResolveError as error:
        advice = "its addresses decide, and they are unknown; the proxy would answer 502, 503 or 504"
        raise RefusedError(str(error), advice) from None
    finally:
        resolver.close()
    return answers.unresolved(access, index, host, port, candidates)


async def _followed(resolver: Names, index: PolicyIndex) -> dict[str, tuple[IPAddress, ...]]:
    """Return the addresses of the policy's names; none for one that does not resolve."""
    found = {}
    for name in index.policy.dns_names:
        with contextlib.suppress(ResolveError):
            found[name] = (await resolver.resolve(name)).addresses
    return found
