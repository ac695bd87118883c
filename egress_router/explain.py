"""`egress-router explain`: which line of an allow/deny list decides, and why."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

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
from egress_router.http_proxy.policy import NOTHING_OWN, Policy, Verdict, explanation
from egress_router.http_proxy.target import as_asked
from egress_router.manifests import containers
from egress_router.metrics import Registry
from egress_router.names.answer import ResolveError
from egress_router.names.resolver import Resolver
from egress_router.settings.http_proxy import RULES
from egress_router.settings.names import NamesSettings
from egress_router.terminal import say

if TYPE_CHECKING:
    from egress_router.grammar.address import Host, IPAddress
    from egress_router.http_proxy.policy import Decision
    from egress_router.names.answer import Answer

_KIND = re.compile(r"""^\s*["']?kind["']?\s*:""", re.MULTILINE)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_PORT_WITHOUT_SCHEME = 443
_MAX_LISTED = 5  # address rules that are named one by one


def explain(path: str, text: str, target: str, *, resolve: bool) -> int:
    """Print what the list in `text` makes of a URL or `host[:port]`, and why; return 0, the exit status.

    `path` names the list in errors. The status says that the question was answered, not what the answer is:
    a denial is no failure of `explain`. Without a port it is that of the URL's scheme, 443 where there is no
    scheme. The pod's own addresses are unknown here.

    Raises:
        ConfigError: the list is wrong, or the target is none.
        RefusedError: the name was to be resolved and could not be.
    """
    source, rules = _rules(path, text)
    policy = Policy(acl.parse(source, rules))
    host, port, asked = _target(target)
    if isinstance(host, str):
        lines = asyncio.run(_about_name(policy, host, str(asked), port, resolve=resolve))
    else:
        lines = _decided(host, port, policy.by_addresses(host, port, (host,), NOTHING_OWN))
    say("\n".join(lines))
    return 0


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


async def _about_name(policy: Policy, host: str, asked: str, port: int, *, resolve: bool) -> list[str]:
    resolver = Resolver(NamesSettings(), Registry())
    try:
        candidates = (host,) if "." in asked else resolver.candidates(asked)
        early = policy.by_candidates(host, port, candidates)
        if early is not None:
            return _decided(host, port, early)  # without a query, as the proxy does
        if resolve:
            return _resolved(policy, host, port, await resolver.resolve(asked))
    except ResolveError as error:
        advice = "its addresses decide, and they are unknown; the proxy would answer 502, 503 or 504"
        raise RefusedError(str(error), advice) from None
    finally:
        resolver.close()
    if candidates == (host,):
        return _undecided(policy, host, port, host)
    lines = [
        f"{host} is a short name; of these, by this machine's search list, the first that exists decides:"
    ]
    for each in candidates:
        early = policy.by_name(host, port, each)
        found = _undecided(policy, host, port, each) if early is None else _decided(each, port, early)
        lines += [f"  {line}" for line in found]
    return lines


def _resolved(policy: Policy, host: str, port: int, answer: Answer) -> list[str]:
    decision = policy.by_addresses(host, port, answer.addresses, NOTHING_OWN, answer.name)
    stands_for = "" if answer.name == host else f" stands for {answer.name}, which"
    return [
        f"{host}{stands_for} has the addresses {_list(answer.addresses)}",
        *_decided(host, port, decision),
    ]


def _decided(host: Host, port: int, decision: Decision) -> list[str]:
    lines = [f"{printed(host, port)} is {decision.verdict.value}: {explanation(decision)}"]
    if decision.verdict is Verdict.ALLOWED and isinstance(host, str):
        lines.append(f"it would be connected to at {_list(decision.addresses)}")
    return lines


def _undecided(policy: Policy, host: str, port: int, name: str) -> list[str]:
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
        return [f"{printed(name, port)} is allowed: line {rule.line} ({rule.text}) allows it"]
    return [f"{printed(name, port)}: its addresses decide (--resolve looks them up)", *lines]


def _list(addresses: tuple[IPAddress, ...]) -> str:
    return ", ".join(map(str, addresses))
