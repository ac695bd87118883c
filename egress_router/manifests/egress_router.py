"""OpenShift 4's EgressRouter resource -> the settings of a router in redirect mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.errors import ConfigError, Problem
from egress_router.grammar import redirect
from egress_router.grammar.address import AddressError, parse_address, parse_network, parse_port
from egress_router.grammar.redirect import Router
from egress_router.manifests import nodes

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress

KIND = "EgressRouter"
_VERSION = "network.operator.openshift.io/v1"
_MODES = {"Bridge": "bridge", "Private": "private", "VEPA": "vepa", "Passthru": "passthru"}
_PROTOCOLS = ("TCP", "UDP", "SCTP")
_FIELDS = {
    "spec": ("mode", "networkInterface", "addresses", "redirect"),
    "networkInterface": ("macvlan",),
    "macvlan": ("mode", "master"),
    "addresses": ("ip", "gateway"),
    "redirect": ("redirectRules", "fallbackIP"),
    "redirectRules": ("destinationIP", "port", "protocol", "targetPort"),
}


@dataclass(frozen=True, slots=True)
class EgressRouter:
    """What a resource says, in this program's terms; `lines` are in the grammar of EGRESS_DESTINATION."""

    name: str
    sources: tuple[str, ...]
    gateways: tuple[str, ...]
    macvlan_mode: str
    parent: str
    lines: tuple[str, ...]

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The settings as a table."""
        return [
            ("SETTING", "VALUE"),
            ("EGRESS_SOURCE", ",".join(self.sources)),
            ("EGRESS_GATEWAY", ",".join(self.gateways) or "-"),
            ("EGRESS_MACVLAN_MODE", self.macvlan_mode),
            ("EGRESS_PARENT_INTERFACE", self.parent or "auto"),
            *(("EGRESS_DESTINATION", line) for line in self.lines),
        ]


def read(source: str, node: nodes.Node) -> EgressRouter:
    """Read one resource; `source` names it in errors.

    Raises:
        ConfigError: with all its errors.
    """
    reader = _Reader(source)
    found = reader.read(node)
    if reader.problems:
        raise ConfigError(sorted(reader.problems, key=lambda problem: problem.line or 0))
    return found


class _Reader:
    """Reads one resource and collects what is wrong with it."""

    def __init__(self, source: str) -> None:
        self.problems: list[Problem] = []
        self._source = source
        self._lines: list[tuple[nodes.Node, str]] = []

    def read(self, node: nodes.Node) -> EgressRouter:
        version = nodes.word(nodes.child(node, "apiVersion"))
        if version != _VERSION:
            self._complain(
                nodes.child(node, "apiVersion") or node,
                f"has the apiVersion {version!r}; expected {_VERSION}",
            )
        spec = self._known(nodes.child(node, "spec") or node, "spec")
        if nodes.word(nodes.child(spec, "mode")) != "Redirect":
            self._complain(nodes.child(spec, "mode") or node, "expected mode: Redirect")
        self._known(nodes.child(spec, "networkInterface"), "networkInterface")
        macvlan = self._known(nodes.child(spec, "networkInterface", "macvlan"), "macvlan")
        mode = nodes.word(nodes.child(macvlan, "mode")) or "Bridge"
        if mode not in _MODES:
            self._complain(
                nodes.child(macvlan, "mode") or node, f"unknown mode {mode!r} ({', '.join(_MODES)})"
            )
        addresses = [self._address(each) for each in nodes.items(nodes.child(spec, "addresses"))]
        if not addresses:
            self._complain(spec or node, "has no addresses")
        self._redirects(nodes.child(spec, "redirect"), node)
        self._check_lines(frozenset(each[2] for each in addresses if each[2] is not None))
        return EgressRouter(
            name=nodes.word(nodes.child(node, "metadata", "name")),
            sources=tuple(each[0] for each in addresses),
            gateways=tuple(each[1] for each in addresses if each[1]),
            macvlan_mode=_MODES.get(mode, ""),
            parent=nodes.word(nodes.child(macvlan, "master")),
            lines=tuple(line for _, line in self._lines),
        )

    def _address(self, node: nodes.Node) -> tuple[str, str, IPAddress | None]:
        """Return source, gateway, and the source as an address (None if it is not one)."""
        self._known(node, "addresses")
        source, gateway = (nodes.word(nodes.child(node, key)) for key in ("ip", "gateway"))
        address = None
        try:
            address = parse_address(source.partition("/")[0])
            if "/" in source:
                parse_network(source)
            if gateway:
                parse_address(gateway)
            else:
                self._complain(node, "has no gateway; this program does not guess one: name the next hop")
        except AddressError as error:
            self._complain(node, str(error))
        return source, gateway, address

    def _redirects(self, node: nodes.Node | None, root: nodes.Node) -> None:
        self._known(node, "redirect")
        for each in nodes.items(nodes.child(node, "redirectRules")):
            self._rule(each)
        fallback = nodes.child(node, "fallbackIP")
        if fallback is not None:
            self._lines.append((fallback, nodes.word(fallback)))
        if not self._lines and not self.problems:
            self._complain(node or root, "has neither redirectRules nor a fallbackIP")

    def _rule(self, node: nodes.Node) -> None:
        self._known(node, "redirectRules")
        word = {key: nodes.word(nodes.child(node, key)) for key in _FIELDS["redirectRules"]}
        if word["protocol"] not in _PROTOCOLS:
            self._complain(node, f"unknown protocol {word['protocol']!r} ({', '.join(_PROTOCOLS)})")
            return
        try:
            for key in ("port", "targetPort"):
                if word[key] or key == "port":
                    parse_port(word[key])
        except AddressError as error:
            self._complain(node, str(error))
            return
        line = f"{word['port']} {word['protocol'].lower()} {word['destinationIP']} {word['targetPort']}"
        self._lines.append((node, line.strip()))

    def _check_lines(self, addresses: frozenset[IPAddress]) -> None:
        """Check the lines that were made from the rules with the grammar of redirect rules."""
        if not self._lines:
            return
        text = "\n".join(line for _, line in self._lines)
        try:
            redirect.parse(self._source, text, Router(addresses or None))
        except ConfigError as error:
            for each in error.problems:
                place = self._lines[(each.line or 1) - 1][0]
                self.problems.append(Problem(self._source, place.line, each.text, each.reason))

    def _known(self, node: nodes.Node | None, what: str) -> nodes.Node | None:
        """Return `node`; report fields in it that do not exist."""
        for key, value in nodes.entries(node):
            if key not in _FIELDS[what]:
                self._complain(value, f"{what} has the field {key!r}; expected {', '.join(_FIELDS[what])}")
        return node

    def _complain(self, node: nodes.Node, reason: str) -> None:
        self.problems.append(Problem(self._source, node.line, None, reason))
