"""Kubernetes objects in a file: which have containers, and which variables in them were not read. Pure."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.errors import Problem
from egress_router.manifests import nodes

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "EGRESS_"
_TEMPLATED = (
    "ReplicationController",
    "ReplicaSet",
    "Deployment",
    "DeploymentConfig",
    "DaemonSet",
    "StatefulSet",
    "Job",
)
_POD_OF = {
    "Pod": ("spec",),
    **dict.fromkeys(_TEMPLATED, ("spec", "template", "spec")),
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
}
_NAME = re.compile(PREFIX + "[A-Z0-9_]+")
_MAX_SHOWN = 60  # characters of a text that is no object


@dataclass(frozen=True, slots=True)
class Text:
    """A text with its place as errors name it, and the node that knows its line."""

    place: str
    text: str
    node: nodes.Node

    def problem(self, line: int | None, offending: str | None, reason: str) -> Problem:
        """Return a problem of one line of this text (from 1; None: all of it), with its line in the file."""
        return Problem(self.place, nodes.line_within(self.node, line), offending, reason)


class Object:
    """One object; `read` holds the ids of the nodes that were read, `is_used`: a container uses its keys."""

    def __init__(self, file: str, number: int, node: nodes.Node) -> None:
        self.node = node
        self.kind = nodes.word(nodes.child(node, "kind"))
        self.name = nodes.word(nodes.child(node, "metadata", "name"))
        self.namespace = nodes.word(nodes.child(node, "metadata", "namespace"))
        self.title = f"{number} {self.kind} {self.name}"
        self.place = f"{file} document {number} ({self.kind} {self.name})"
        self.read: set[int] = set()
        self.is_used = False

    @property
    def pod(self) -> nodes.Node | None:
        """The specification of the pods that it makes."""
        return nodes.child(self.node, *_POD_OF[self.kind]) if self.kind in _POD_OF else None

    @functools.cached_property
    def volumes(self) -> dict[str, list[nodes.Node]]:
        """The volumes of its pods, by name."""
        found: dict[str, list[nodes.Node]] = {}
        for each in nodes.items(nodes.child(self.pod, "volumes")):
            found.setdefault(nodes.word(nodes.child(each, "name")), []).append(each)
        return found

    def data(self, key: str) -> Text | None:
        """Return one key of a ConfigMap.

        Raises:
            NotText: it is not a string.
        """
        node = nodes.child(self.node, "data", key)
        if node is None:
            return None
        return Text(f"{self.place} key {key}", nodes.string(node), node)

    def keys(self) -> list[str]:
        """Return the keys of a ConfigMap."""
        return [key for key, _ in nodes.entries(nodes.child(self.node, "data") or self.node)]

    def oversights(self) -> Iterator[Problem]:
        """Say which EGRESS_* variables were not read because of a wrong kind, field or structure."""
        if self.kind == "ConfigMap" or self.kind.endswith("Secret"):
            return  # their keys may have any name, and are checked where a container uses them
        found = sorted(_mentioned(self.node, self.read), key=lambda node: node.position)
        if self.kind in _POD_OF:
            for node in found:
                name = _NAME.match(node.value)
                yield Problem(
                    f"{self.place} {name[0] if name else node.value}",
                    node.line,
                    None,
                    "is not where variables are read; expected a list `env` of `name` and `value`,"
                    " in a list `containers` or `initContainers`",
                )
        elif found:
            kind = nodes.child(self.node, "kind") or self.node
            reason = f"is not read, but has {found[0].value}; expected one of {', '.join(_POD_OF)}"
            yield Problem(self.place, kind.line, f"kind: {self.kind}", reason)


def objects(file: str, text: str) -> tuple[list[Object], list[Problem]]:
    """Return every object in a file, those in a List too, and a problem for everything else.

    Raises:
        ConfigError: it is not YAML.
    """
    found: list[Object] = []
    problems: list[Problem] = []
    for number, document in nodes.documents(file, text):
        is_list = nodes.word(nodes.child(document, "kind")) == "List"
        for node in nodes.items(nodes.child(document, "items")) if is_list else [document]:
            if nodes.word(nodes.child(node, "kind")):
                found.append(Object(file, number, node))
            else:
                problems.append(_no_object(f"{file} document {number}", node))
    return found, problems


def _no_object(place: str, node: nodes.Node) -> Problem:
    shown = nodes.word(node).partition("\n")[0][:_MAX_SHOWN] or None
    return Problem(place, node.line, shown, "is no object of Kubernetes (a mapping with `kind`)")


def _mentioned(root: nodes.Node, read: set[int]) -> Iterator[nodes.Scalar]:
    """Yield what looks like the name of a variable: a key, the value of `name`, an item of a list `env`.

    Nodes in `read` and metadata are skipped; each node is looked at once, even if aliases repeat it.
    """
    waiting: list[tuple[str, nodes.Node]] = [("", root)]
    seen = set(read)
    while waiting:
        field, node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, nodes.Sequence):
            waiting += [(field, each) for each in node.items]
        elif isinstance(node, nodes.Mapping):
            for key, value in node.pairs:
                name = nodes.word(key)
                if isinstance(key, nodes.Scalar) and _NAME.fullmatch(name):
                    yield key
                elif name != "metadata":
                    waiting.append((name.lower(), value))
        elif (field == "name" and _NAME.fullmatch(node.value)) or (
            field == "env" and _NAME.match(node.value)
        ):
            yield node
