"""YAML as nodes that know their lines, with limits against harmful texts.

Nodes are made from the parser's events and no objects are built, so tags have no effect. An alias is one more
reference to the same node, so aliases cost something only when the nodes are walked; the limit on their
number is for that. Merge keys (`<<`) are followed once for each mapping, even if many others merge it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import yaml

from egress_router.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_CHARACTERS = 8_000_000  # an object of Kubernetes has at most 1.5 MB
MAX_NODES = 500_000
MAX_ALIASES = 100  # manifests use a handful; three nested lists of 33 each are still walked quickly
MAX_DEPTH = 100
_MERGE = "tag:yaml.org,2002:merge"
_STRING, _NULL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"
# libyaml's parser is several times as fast; a PyYAML that was built without it has only its own.
_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class NotText(ValueError):  # noqa: N818 (a finding about a value, not a failure)
    """A scalar that YAML reads as a number or a truth value where Kubernetes wants a string."""


@dataclass(slots=True, eq=False)
class Scalar:
    """A text and its tag; `style` is `|` for a literal block, `position` the index of its first character."""

    line: int
    position: int
    tag: str
    value: str
    style: str | None


@dataclass(slots=True, eq=False)
class Sequence:
    """A list."""

    line: int
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Mapping:
    """A mapping: keys and values as they are written, and a table of them, made at the first look-up."""

    line: int
    pairs: list[tuple[Node, Node]] = field(default_factory=list)
    _table: dict[str, Node] | None = None

    @property
    def table(self) -> dict[str, Node]:
        """Value by key; merged ones come first, so that the mapping's own override them.

        A mapping that merges itself, directly or through others, adds nothing to itself.
        """
        if self._table is None:
            self._table = {}  # what a mapping that merges itself sees meanwhile
            merged: dict[str, Node] = {}
            for key, value in self.pairs:
                if isinstance(key, Scalar) and key.tag == _MERGE:
                    # The first of several wins: https://yaml.org/type/merge.html
                    for each in reversed(items(value) or [value]):
                        merged.update(each.table if isinstance(each, Mapping) else {})
            for key, value in self.pairs:
                if isinstance(key, Scalar) and key.tag != _MERGE:
                    merged[key.value] = value
            self._table = merged
        return self._table


Node = Scalar | Sequence | Mapping


class _TooMuchError(Exception):
    """More than any manifest needs; the message says of what."""


class _NoYamlError(Exception):
    """The text is not YAML: on which line, and why."""


class _Composer:
    """Makes nodes out of events. It keeps a stack of its own, so no depth of nesting can exhaust Python's."""

    def __init__(self) -> None:
        self.documents: list[Node] = []
        self._resolver = yaml.resolver.Resolver()
        self._open: list[Sequence | Mapping] = []
        self._keys: list[Node | None] = []  # of each open collection: the key that waits for its value
        self._anchors: dict[str, Node] = {}
        self._nodes = self._aliases = 0

    def take(self, event: yaml.Event) -> None:
        """Take the next event.

        Raises:
            _TooMuchError: the text holds more than any manifest needs.
            _NoYamlError: an alias names no anchor.
        """
        if isinstance(event, yaml.AliasEvent):
            self._aliases += 1
            _require(self._aliases <= MAX_ALIASES, f"has more than {MAX_ALIASES} aliases")
            self._add(self._anchored(event))
        elif isinstance(event, yaml.ScalarEvent):
            self._add(self._named(event, self._scalar(event)))
        elif isinstance(event, yaml.CollectionStartEvent):
            line, _ = _place(event)
            node = Sequence(line) if isinstance(event, yaml.SequenceStartEvent) else Mapping(line)
            self._add(self._named(event, node))
            _require(len(self._open) < MAX_DEPTH, "is nested too deeply")
            self._open.append(node)
            self._keys.append(None)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
            self._keys.pop()
        elif isinstance(event, yaml.DocumentStartEvent):
            self._anchors.clear()

    def _anchored(self, event: yaml.AliasEvent) -> Node:
        node = self._anchors.get(event.anchor or "")
        if node is None:
            line, _ = _place(event)
            raise _NoYamlError(line, f"found undefined alias {event.anchor!r}")
        return node

    def _named(self, event: yaml.NodeEvent, node: Node) -> Node:
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        tag = event.tag
        if tag is None or tag == "!":
            resolve = cast("Callable[..., str]", self._resolver.resolve)
            tag = resolve(yaml.ScalarNode, event.value, event.implicit)
        line, position = _place(event)
        return Scalar(line, position, tag, event.value, event.style)

    def _add(self, node: Node) -> None:
        self._nodes += 1
        _require(self._nodes <= MAX_NODES, f"has more than {MAX_NODES} values")
        if not self._open:
            self.documents.append(node)
        elif isinstance(parent := self._open[-1], Sequence):
            parent.items.append(node)
        elif (key := self._keys[-1]) is None:
            self._keys[-1] = node
        else:
            parent.pairs.append((key, node))
            self._keys[-1] = None


def _place(event: yaml.Event) -> tuple[int, int]:
    """Return the line, from 1, and the index of an event's first character."""
    mark = event.start_mark
    return (1, 0) if mark is None else (mark.line + 1, mark.index)


def _require(holds: bool, otherwise: str) -> None:  # noqa: FBT001 (an assertion)
    if not holds:
        raise _TooMuchError(otherwise)


def documents(name: str, text: str) -> list[tuple[int, Node]]:
    """Return the documents that are not empty, each with its number in the text, from 1.

    Raises:
        ConfigError: it is not YAML, or more of it than any manifest needs.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError([Problem(name, None, None, f"is longer than {MAX_CHARACTERS} characters")])
    if text.lstrip().startswith(("{", "[")):
        text = text.replace("\t", " ")  # JSON may be indented with tabs, YAML may not
    if found := yaml.reader.Reader.NON_PRINTABLE.search(text):
        number = text.count("\n", 0, found.start()) + 1
        raise ConfigError([Problem(name, number, None, f"is not YAML: holds the character {found[0]!r}")])
    composer = _Composer()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            composer.take(event)
    except _TooMuchError as error:
        raise ConfigError([Problem(name, None, None, str(error))]) from None
    except _NoYamlError as error:
        line, reason = error.args
        raise ConfigError([Problem(name, line, None, f"is not YAML: {reason}")]) from None
    except yaml.MarkedYAMLError as error:
        line = None if error.problem_mark is None else error.problem_mark.line + 1
        raise ConfigError([Problem(name, line, None, f"is not YAML: {error.problem}")]) from None
    except yaml.YAMLError as error:
        raise ConfigError(
            [Problem(name, None, None, f"is not YAML: {' '.join(str(error).split())}")]
        ) from None
    return [(number, node) for number, node in enumerate(composer.documents, 1) if not _is_empty(node)]


def line_within(node: Node, number: int | None) -> int:
    """Return the line of the file that holds line `number` of a scalar's text, as far as it can be known.

    Only a literal block (`|`) keeps its lines; it begins after the line of its indicator.
    """
    if number is not None and isinstance(node, Scalar) and node.style == "|":
        return node.line + number
    return node.line


def child(node: Node | None, *path: str) -> Node | None:
    """Follow keys through mappings; None where one of them is missing."""
    for key in path:
        node = node.table.get(key) if isinstance(node, Mapping) else None
    return node


def entries(node: Node | None) -> Iterable[tuple[str, Node]]:
    """Return keys and values of a mapping, merged ones (`<<`) too; nothing if it is not a mapping."""
    return node.table.items() if isinstance(node, Mapping) else ()


def items(node: Node | None) -> list[Node]:
    """Return the items of a sequence; nothing if it is not one."""
    return list(node.items) if isinstance(node, Sequence) else []


def word(node: Node | None) -> str:
    """Return a scalar as it is written; an empty text if there is none."""
    return node.value if isinstance(node, Scalar) and node.tag != _NULL else ""


def string(node: Node | None) -> str:
    """Return a string.

    Raises:
        NotText: it is something else, which the API server refuses.
    """
    if node is None or _is_empty(node):
        return ""
    if not isinstance(node, Scalar):
        raise NotText("expected a string")
    if node.tag != _STRING:
        raise NotText(f'expected a string; write it in quotation marks: "{node.value}"')
    return node.value


def _is_empty(node: Node | None) -> bool:
    return node is None or (isinstance(node, Scalar) and node.tag == _NULL)
