"""YAML as nodes that know their lines, read so that no text can do harm.

PyYAML's `compose` builds no objects, so tags mean nothing here, and an alias is one more reference to the
same node, so nothing multiplies until somebody walks it; the number of aliases is bounded for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from egress_router.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_CHARACTERS = 8_000_000  # an object of Kubernetes has at most 1.5 MB
_MOST_ALIASES = 100  # manifests use a handful; three nested lists of 33 each are still walked at once
_MOST_DEPTH = 100
_MOST_MERGES = 10
_MERGE = "tag:yaml.org,2002:merge"
_STRING, _NULL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"


class NotText(ValueError):  # noqa: N818 (a finding about a value, not a failure)
    """A scalar that YAML reads as a number or a truth value where Kubernetes wants a string."""


def documents(name: str, text: str) -> list[tuple[int, yaml.Node]]:
    """Return the documents that are not empty, numbered from 1 as they stand in the text.

    Raises:
        ConfigError: it is no YAML, or more of it than any manifest needs.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ConfigError([Problem(name, None, None, f"is longer than {_MOST_CHARACTERS} characters")])
    try:
        _require_harmless(name, text)
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        line = None if error.problem_mark is None else error.problem_mark.line + 1
        raise ConfigError([Problem(name, line, None, f"is not YAML: {error.problem}")]) from None
    except yaml.YAMLError as error:
        raise ConfigError([Problem(name, None, None, f"is not YAML: {error}")]) from None
    return [(number, node) for number, node in enumerate(nodes, start=1) if not _is_empty(node)]


def _require_harmless(name: str, text: str) -> None:
    """Raise ConfigError where composing or walking the text would take long or recurse deeply."""
    aliases = depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MOST_DEPTH:
            raise ConfigError([Problem(name, None, None, "is nested too deeply")])
        if aliases > _MOST_ALIASES:
            raise ConfigError([Problem(name, None, None, f"has more than {_MOST_ALIASES} aliases")])


def line_of(node: yaml.Node) -> int:
    """Return the line on which a node begins, from 1."""
    return node.start_mark.line + 1


def line_within(node: yaml.Node, number: int | None) -> int:
    """Return the line of the file that holds line `number` of a scalar's text, as far as it can be known.

    Only a literal block (`|`) keeps its lines; it begins after the line of its indicator.
    """
    if number is not None and isinstance(node, yaml.ScalarNode) and node.style == "|":
        return line_of(node) + number
    return line_of(node)


def child(node: yaml.Node | None, *path: str) -> yaml.Node | None:
    """Follow keys through mappings; None where one of them is missing."""
    for key in path:
        node = None if node is None else dict(entries(node)).get(key)
    return node


def entries(node: yaml.Node, merges: int = 0) -> Iterator[tuple[str, yaml.Node]]:
    """Yield keys and values of a mapping, merged ones (`<<`) first, so that later ones override them."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if key.tag == _MERGE and merges < _MOST_MERGES:
            for merged in items(value) or [value]:
                yield from entries(merged, merges + 1)
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
            yield key.value, value


def items(node: yaml.Node | None) -> list[yaml.Node]:
    """Return the items of a sequence; nothing where it is none."""
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def word(node: yaml.Node | None) -> str:
    """Return a scalar as it is written; nothing where there is none."""
    return node.value if isinstance(node, yaml.ScalarNode) and node.tag != _NULL else ""


def string(node: yaml.Node | None) -> str:
    """Return a string.

    Raises:
        NotText: it is something else, which the API server refuses.
    """
    if node is None or _is_empty(node):
        return ""
    if not isinstance(node, yaml.ScalarNode):
        raise NotText("expected a string")
    if node.tag != _STRING:
        raise NotText(f'expected a string; write it in quotation marks: "{node.value}"')
    return str(node.value)


def _is_empty(node: yaml.Node | None) -> bool:
    return node is None or (isinstance(node, yaml.ScalarNode) and node.tag == _NULL)
