"""`egress-router explain`: which line of an allow/deny list or entry of an egress policy decides, and why."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from egress_router.errors import ConfigError, Problem, RefusedError
from egress_router.grammar import acl
from egress_router.grammar.address import (
    AddressError,
    parse_address,
    parse_host,
    parse_port,
    printed,
    split_port,
)
from egress_router.grammar.egress_policy import Effect
from egress_router.http_proxy.http1.target import as_asked
from egress_router.manifests import containers
from egress_router.metrics import Registry
from egress_router.names.answer import ResolveError
from egress_router.names.resolver import Resolver
from egress_router.policy.access_list import NOTHING_OWN, AccessPolicy, Verdict, explanation
from egress_router.policy.egress_policy import NO_NAMES, PolicyIndex, names_of
from egress_router.settings.http_proxy import RULES
from egress_router.settings.names import NamesSettings
from egress_router.tls.client_hello import ClientHello
from egress_router.tls.server_name import SniMatch, compare, server_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from egress_router.grammar.address import Host, IPAddress
    from egress_router.grammar.egress_policy import EgressPolicy
    from egress_router.names.answer import Answer
    from egress_router.policy.access_list import Decision
    from egress_router.policy.egress_policy import NamesOf

_KIND = re.compile(r"""^\s*["']?kind["']?\s*:""", re.MULTILINE)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_PORT_WITHOUT_SCHEME = 443
_SHORT_NAME = "{} is a short name; of these, by this machine's search list, the first that exists decides:"
_MAX_LISTED = 5  # address rules that are named one by one


class Outcome(enum.Enum):
    """What the answer is; `UNDECIDED`: the addresses of a name decide, and nobody looked them up."""

    ALLOWED = "allowed"
    DENIED = "denied"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer, the sentences that say why, and the addresses that would be dialled.

    `full_name` is what a short name stands for, as far as it was looked up.
    """

    target: str
    outcome: Outcome
    lines: tuple[str, ...]
    addresses: tuple[IPAddress, ...] = ()
    full_name: str | None = None


class Names(Protocol):
    """What looks names up: a `Resolver`, as the proxy has one."""

    def candidates(self, name: str) -> tuple[str, ...]:
        """Return the absolute names that are tried for `name`, in order."""

    async def resolve(self, name: str) -> Answer:
        """Return the addresses of `name`; ResolveError where there are none."""

    def close(self) -> None:
        """End every look-up."""


def _resolver() -> Names:
    return Resolver(NamesSettings(), Registry())


@dataclass(frozen=True, slots=True)
class Explainer:
    """What decides behind a list: an egress policy, and the addresses of names, which `names` looks up.

    The pod's own addresses are unknown here.
    """

    policy: EgressPolicy | None = None
    names: Callable[[], Names] = _resolver

    def explain(
        self, path: str, text: str, target: str, *, resolve: bool, sni: str | None = None
    ) -> Explanation:
        """Say what the list in `text` makes of a URL or `host[:port]`, and why.

        `path` names the list in errors. Without a port it is that of the URL's scheme, 443 where there is no
        scheme. `sni` is the name in the ClientHello of a CONNECT to the target, empty: there is none.

        Raises:
            ConfigError: the list is wrong, or the target is none.
            RefusedError: the name was to be resolved and could not be.
        """
        source, rules = _rules(path, text)
        access = AccessPolicy(acl.parse(source, rules))
        index = None if self.policy is None else PolicyIndex(self.policy)
        host, port, asked = _target(target)
        if isinstance(host, str):
            question = host, port, str(asked)
            found = asyncio.run(_about_name(self.names, access, index, question, resolve=resolve))
        else:
            decision = access.by_addresses(host, port, (host,), NOTHING_OWN)
            found = _judged(_decided(host, port, decision), host, port, index, NO_NAMES)
        return found if sni is None else _with_sni(found, access, host, port, sni)


def as_text(found: Explanation) -> str:
    """Return an answer for people."""
    return "\n".join(found.lines)


def as_json(found: Explanation) -> str:
    """Return an answer as one JSON document."""
    document = {
        "target": found.target,
        "outcome": found.outcome.value,
        "addresses": list(map(str, found.addresses)),
        "explanation": list(found.lines),
        "errors": [],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def _rules(path: str, text: str) -> tuple[str, str]:
    """Return the allow/deny list in a file, and its name: the file itself, or what manifests in it hold.

    A list has no line `kind: …`, which every object of Kubernetes has.
    """
    if not _KIND.search(text):
        return path, text
    found = {each.place: each.text for each in containers.rules(path, text, RULES.name)}
    if len(found) == 1:
        return next(iter(found.items()))
    if found:
        reason = f"holds several lists; put one of them into a file of its own: {', '.join(found)}"
    else:
        reason = f"is a manifest without {RULES.name}; expected an allow/deny list, or a manifest with one"
    raise ConfigError([Problem(path, None, None, reason)])


def _target(text: str) -> tuple[Host, int, Host]:
    """Return host, port, and the host as name servers are asked for it."""
    scheme, mark, rest = text.partition("://")
    authority = rest.partition("/")[0].partition("?")[0].partition("#")[0] if mark else text
    if "@" in authority:
        # Not shown: it may be a password.
        reason = (
            "holds a user name or password, which the proxy answers with 400; leave out all up to the `@`"
        )
        raise ConfigError([Problem("target", None, None, reason)])
    default = _DEFAULT_PORTS.get(scheme.lower()) if mark else _PORT_WITHOUT_SCHEME
    if default is None:
        reason = "expected an http or https URL, or host[:port]"
        raise ConfigError([Problem("target", None, text, reason)])
    host_text, port_text = split_port(authority)
    first, dash, last = host_text.partition("-")
    if dash and _is_address(first) and _is_address(last):
        reason = f"is a range; one address is judged at a time: ask about {first}, then about {last}"
        raise ConfigError([Problem("target", None, text, reason)])
    try:
        host, port = parse_host(host_text), default if port_text is None else parse_port(port_text)
    except AddressError as error:
        raise ConfigError([Problem("target", None, text, str(error))]) from None
    return host, port, as_asked(host, host_text.encode())


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except AddressError:
        return False
    return True


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
        early = access.by_candidates(host, port, candidates)
        if early is not None:
            return _decided(host, port, early)  # without a query, as the proxy does
        if resolve:
            answer = await resolver.resolve(asked)
            followed = {} if index is None else await _followed(resolver, index)
            found = _resolved(access, host, port, answer)
            return _judged(found, host, port, index, names_of({**followed, host: answer.addresses}))
    except ResolveError as error:
        advice = "its addresses decide, and they are unknown; the proxy would answer 502, 503 or 504"
        raise RefusedError(str(error), advice) from None
    finally:
        resolver.close()
    return _unresolved(access, index, host, port, candidates)


def _unresolved(
    access: AccessPolicy, index: PolicyIndex | None, host: str, port: int, candidates: Sequence[str]
) -> Explanation:
    target = printed(host, port)
    if candidates == (host,):
        outcome, lines = _undecided(access, host, port, host)
    else:
        outcome = Outcome.UNDECIDED
        lines = [_SHORT_NAME.format(host)]
        for each in candidates:
            early = access.by_name(host, port, each)
            found = (
                _undecided(access, host, port, each)[1]
                if early is None
                else _decided(each, port, early).lines
            )
            lines += [f"  {line}" for line in found]
    if index is not None and any(each.effect is Effect.DENY for each in index.policy.entries):
        lines.append("the egress policy judges each of its addresses (--resolve looks them up)")
        outcome = Outcome.UNDECIDED
    return Explanation(target, outcome, tuple(lines))


async def _followed(resolver: Names, index: PolicyIndex) -> dict[str, tuple[IPAddress, ...]]:
    """Return the addresses of the policy's names; none for one that does not resolve."""
    found = {}
    for name in index.policy.dns_names:
        with contextlib.suppress(ResolveError):
            found[name] = (await resolver.resolve(name)).addresses
    return found


def _judged(
    found: Explanation, host: Host, port: int, index: PolicyIndex | None, names: NamesOf
) -> Explanation:
    """Return an answer of the list with what the egress policy says of its addresses; it only takes away."""
    if index is None or found.outcome is not Outcome.ALLOWED:
        return found
    sifted = index.sift(found.addresses, port, names)
    lines = [f"{printed(each, port)}: {index.decide(each, port, names)}" for each in found.addresses]
    if sifted.allowed:
        connected = f"it would be connected to at {_list(sifted.allowed)}"
        return replace(found, lines=(found.lines[0], *lines, connected), addresses=sifted.allowed)
    denied = f"{printed(host, port)} is denied: {sifted.denial}"
    return Explanation(found.target, Outcome.DENIED, (denied, f"the list: {found.lines[0]}", *lines))


def _resolved(access: AccessPolicy, host: str, port: int, answer: Answer) -> Explanation:
    decision = access.by_addresses(host, port, answer.addresses, NOTHING_OWN, answer.name)
    stands_for = "" if answer.name == host else f" stands for {answer.name}, which"
    first = f"{host}{stands_for} has the addresses {_list(answer.addresses)}"
    found = _decided(host, port, decision)
    return replace(found, lines=(first, *found.lines), full_name=answer.name)


def _with_sni(found: Explanation, access: AccessPolicy, host: Host, port: int, sni: str) -> Explanation:
    """Add what becomes of a CONNECT whose tunnel begins with this name in a ClientHello: see `SniCheck`."""
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
    said = f"the SNI {sni} passes" if passes else f"the SNI {sni} is another name"
    lines = [*found.lines, f"{said if sni else 'it passes'}: {why}"]
    if passes:
        return replace(found, lines=tuple(lines))
    lines.append("EGRESS_HTTP_PROXY_SNI=enforce closes the tunnel; report, the default, logs and counts it")
    return replace(found, outcome=Outcome.DENIED, lines=tuple(lines), addresses=())


def _decided(host: Host, port: int, decision: Decision) -> Explanation:
    target = printed(host, port)
    lines = [f"{target} is {decision.verdict.value}: {explanation(decision)}"]
    if decision.verdict is not Verdict.ALLOWED:
        return Explanation(target, Outcome.DENIED, tuple(lines))
    addresses = decision.addresses if isinstance(host, str) else (host,)
    if isinstance(host, str):
        lines.append(f"it would be connected to at {_list(addresses)}")
    return Explanation(target, Outcome.ALLOWED, tuple(lines), addresses)


def _undecided(policy: AccessPolicy, host: str, port: int, name: str) -> tuple[Outcome, list[str]]:
    """Say what by_name leaves open: an allowing rule, behind rules by address."""
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


def _list(addresses: tuple[IPAddress, ...]) -> str:
    return ", ".join(map(str, addresses))
