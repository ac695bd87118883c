"""EgressNetworkPolicy and EgressFirewall, JSON or YAML -> an egress policy; errors say entry and line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.errors import ConfigError, Problem
from egress_router.grammar.address import AddressError, parse_name, parse_network, parse_port
from egress_router.grammar.egress_policy import DnsName, Effect, EgressPolicy, PolicyEntry, PolicyPort
from egress_router.grammar.redirect import Protocol
from egress_router.manifests import nodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.address import IPNetwork

MAX_ENTRIES = 10_000
KINDS = {
    "EgressNetworkPolicy": ("v1", "network.openshift.io/v1"),
    "EgressFirewall": ("k8s.ovn.org/v1",),
}
_PORTS_KIND = "EgressFirewall"
_EFFECTS = {effect.value: effect for effect in Effect}
_PROTOCOLS = {protocol.value.upper(): protocol for protocol in Protocol}
_SELECTORS = ("cidrSelector", "dnsName")
_EXPECTED = "expected one EgressNetworkPolicy (v1) or EgressFirewall (k8s.ovn.org/v1)"


def parse(source: str, text: str) -> EgressPolicy:
    """Read the one policy that a text holds; `source` names the text in errors.

    Raises:
        ConfigError: with every error of the text.
    """
    found = [each for _, document in nodes.documents(source, text) for each in _unlisted(document)]
    if len(found) != 1:
        raise ConfigError([Problem(source, None, None, f"holds {len(found)} objects; {_EXPECTED}")])
    return read(source, found[0])


def _unlisted(node: nodes.Node) -> list[nodes.Node]:
    is_list = nodes.word(nodes.child(node, "kind")).endswith("List")
    return nodes.items(nodes.child(node, "items")) if is_list else [node]


def read(source: str, node: nodes.Node) -> EgressPolicy:
    """Read one object.

    Raises:
        ConfigError: with all its errors.
    """
    reader = _Reader(source, nodes.word(nodes.child(node, "kind")))
    policy = reader.read(node)
    if reader.problems:
        raise ConfigError(reader.problems)
    return policy


class _Reader:
    """Reads one object and collects what is wrong with it."""

    def __init__(self, source: str, kind: str) -> None:
        self.problems: list[Problem] = []
        self._source = source
        self._kind = kind

    def read(self, node: nodes.Node) -> EgressPolicy:
        name = nodes.word(nodes.child(node, "metadata", "name"))
        version = nodes.word(nodes.child(node, "apiVersion"))
        if self._kind not in KINDS:
            self._complain(node, f"is of kind {self._kind or '(none)'}; {_EXPECTED}")
            return EgressPolicy(self._kind, name, ())
        if version not in KINDS[self._kind]:
            self._complain(
                nodes.child(node, "apiVersion") or node,
                f"has the apiVersion {version!r}; expected {' or '.join(KINDS[self._kind])}",
            )
        egress = nodes.child(node, "spec", "egress")
        if not isinstance(egress, nodes.Sequence):
            self._complain(egress or node, "has no list spec.egress")
            return EgressPolicy(self._kind, name, ())
        if len(egress.items) > MAX_ENTRIES:
            self._complain(egress, f"has {len(egress.items)} entries; at most {MAX_ENTRIES} are possible")
            return EgressPolicy(self._kind, name, ())
        return EgressPolicy(self._kind, name, tuple(self._entries(egress)))

    def _entries(self, egress: nodes.Sequence) -> Iterator[PolicyEntry]:
        for number, node in enumerate(egress.items, start=1):
            before = len(self.problems)
            effect = self._effect(number, node)
            selector = self._selector(number, node)
            ports = tuple(self._ports(number, node))
            self._refuse_others(number, node, ("type", "to", "ports"))
            if effect is not None and selector is not None and len(self.problems) == before:
                yield PolicyEntry(number, effect, selector, ports, node.line)

    def _effect(self, number: int, node: nodes.Node) -> Effect | None:
        word = nodes.word(nodes.child(node, "type"))
        if word not in _EFFECTS:
            self._complain(node, f"has the type {word!r}; expected Allow or Deny", number)
        return _EFFECTS.get(word)

    def _selector(self, number: int, node: nodes.Node) -> IPNetwork | DnsName | None:
        to = nodes.child(node, "to")
        before = len(self.problems)
        self._refuse_others(number, to, _SELECTORS)
        given = [key for key, _ in nodes.entries(to) if key in _SELECTORS]
        if len(given) != 1:
            if len(self.problems) > before:  # the unknown field in its place is reported already
                return None
            self._complain(to or node, f"expected `to` with one of {' or '.join(_SELECTORS)}", number)
            return None
        word = nodes.word(nodes.child(to, given[0]))
        try:
            return parse_network(word) if given[0] == "cidrSelector" else _dns_name(word)
        except AddressError as error:
            self._complain(nodes.child(to, given[0]) or node, f"{given[0]}: {error}", number)
            return None

    def _ports(self, number: int, node: nodes.Node) -> Iterator[PolicyPort]:
        ports = nodes.child(node, "ports")
        if ports is not None and self._kind != _PORTS_KIND:
            self._complain(ports, f"has ports, which only an {_PORTS_KIND} may have", number)
            return
        if ports is not None and not nodes.items(ports):
            self._complain(ports, "has an empty list of ports; leave it out to mean all of them", number)
        for each in nodes.items(ports):
            self._refuse_others(number, each, ("protocol", "port"))
            protocol = _PROTOCOLS.get(nodes.word(nodes.child(each, "protocol")))
            if protocol is None:
                self._complain(each, f"expected a protocol, one of {', '.join(_PROTOCOLS)}", number)
            try:
                port = parse_port(nodes.word(nodes.child(each, "port")))
            except AddressError as error:
                self._complain(each, str(error), number)
                continue
            if protocol is not None:
                yield PolicyPort(protocol, port)

    def _refuse_others(self, number: int, node: nodes.Node | None, known: tuple[str, ...]) -> None:
        for key, value in nodes.entries(node):
            if key == "nodeSelector":
                self._complain(value, "nodeSelector: the router knows no nodes; name their networks", number)
            elif key not in known:
                self._complain(value, f"has the field {key!r}; expected {', '.join(known)}", number)

    def _complain(self, node: nodes.Node, reason: str, number: int | None = None) -> None:
        place = "" if number is None else f"entry {number}: "
        self.problems.append(Problem(self._source, node.line, None, place + reason))


def _dns_name(text: str) -> DnsName:
    if text.startswith("*"):
        raise AddressError(f"{text!r} is a wildcard, whose addresses cannot be looked up; name each host")
    return DnsName(parse_name(text))
