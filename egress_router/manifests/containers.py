"""Kubernetes manifests -> the EGRESS_* variables of their containers, each with its place. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.errors import Problem
from egress_router.manifests import egress_policy, egress_router, nodes
from egress_router.manifests.objects import PREFIX, Object, Text, objects

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_FIELDS = ("name", "value", "valueFrom")
_SOURCES = ("configMapKeyRef", "secretKeyRef", "fieldRef", "resourceFieldRef", "fileKeyRef")
_CONTAINERS = ("initContainers", "containers")


@dataclass(frozen=True, slots=True)
class Container:
    """A container that has EGRESS_* variables.

    `values` are those that the manifests give; `unknown` says where the values of the others come from.
    `files` are mounted ConfigMap keys, by path. `is_open`: it also has variables from sources not given here.
    """

    document: str
    name: str
    place: str
    line: int
    words: tuple[str, ...]
    values: Mapping[str, Text]
    unknown: Mapping[str, str]
    files: Mapping[str, Text]
    is_open: bool
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Manifests:
    """What files hold: the containers that can be checked, and what is wrong with the rest.

    `others` are egress policies and EgressRouters, which are not read yet.
    """

    containers: tuple[Container, ...]
    others: tuple[Object, ...]
    problems: tuple[Problem, ...]


def read(*files: tuple[str, str]) -> Manifests:
    """Return every container with EGRESS_* variables in the manifests of files, each a name and its text.

    A ConfigMap in one file is also used for containers in the other files.

    Raises:
        ConfigError: a file is not YAML.
    """
    all_objects: list[Object] = []
    problems: list[Problem] = []
    for file, text in files:
        more, wrong = objects(file, text)
        all_objects += more
        problems += wrong
    maps = {(each.namespace, each.name): each for each in all_objects if each.kind == "ConfigMap"}
    found = []
    for each in all_objects:
        for key in _CONTAINERS:
            for node in nodes.items(nodes.child(each.pod, key)):
                container = _Reader(each, node, maps).read()
                if container.values or container.unknown or container.problems:
                    found.append(container)
        problems += each.oversights()
    found += [_variables(each) for each in maps.values() if not each.is_used and _names(each)]
    others = tuple(each for each in all_objects if each.kind in {*egress_policy.KINDS, egress_router.KIND})
    return Manifests(tuple(found), others, tuple(problems))


def rules(file: str, text: str, variable: str) -> list[Text]:
    """Return the rules that the manifests of a file give in `variable`, or by its `_FILE`.

    Raises:
        ConfigError: it is not YAML.
    """
    found = []
    for container in read((file, text)).containers:
        path = container.values.get(f"{variable}_FILE")
        given = container.values.get(variable) if path is None else container.files.get(path.text.strip())
        if given is not None:
            found.append(given)
    return found


def _names(config_map: Object) -> list[str]:
    return [key for key in config_map.keys() if key.startswith(PREFIX)]  # noqa: SIM118 (no mapping)


def _variables(config_map: Object) -> Container:
    """Return the variables of a ConfigMap that no container here uses, as if a container used them."""
    values: dict[str, Text] = {}
    problems: list[Problem] = []
    for key in _names(config_map):
        try:
            text = config_map.data(key)
        except nodes.NotText as error:
            problems.append(_key_problem(config_map, key, error))
        else:
            if text is not None:
                values[key] = text
    line = config_map.node.line
    return Container(
        config_map.title,
        "-",
        config_map.place,
        line,
        (),
        values,
        {},
        {},
        is_open=True,
        problems=tuple(problems),
    )


def _key_problem(config_map: Object, key: str, error: nodes.NotText) -> Problem:
    node = nodes.child(config_map.node, "data", key) or config_map.node
    return Problem(f"{config_map.place} key {key}", node.line, None, str(error))


class _Reader:
    """Reads one container."""

    def __init__(self, owner: Object, node: nodes.Node, maps: Mapping[tuple[str, str], Object]) -> None:
        self._owner = owner
        self._node = node
        self._maps = maps
        self._name = nodes.word(nodes.child(node, "name"))
        self._place = f"{owner.place} container {self._name}"
        self._values: dict[str, Text] = {}
        self._unknown: dict[str, str] = {}
        self._files: dict[str, Text] = {}
        self._problems: list[Problem] = []
        self._is_open = False

    def read(self) -> Container:
        for source in nodes.items(nodes.child(self._node, "envFrom")):
            self._read_all(source)
        seen: set[str] = set()
        for entry in nodes.items(nodes.child(self._node, "env")):
            name = nodes.word(nodes.child(entry, "name"))
            if name.startswith(PREFIX):
                if name in seen:
                    self._complain(entry, name, "is given twice")
                seen.add(name)
                self._owner.read.add(id(entry))
                self._read_variable(name, entry)
        for mount in nodes.items(nodes.child(self._node, "volumeMounts")):
            self._read_mount(mount)
        return Container(
            document=self._owner.title,
            name=self._name,
            place=self._place,
            line=self._node.line,
            words=tuple(self._words()),
            values=self._values,
            unknown=self._unknown,
            files=self._files,
            is_open=self._is_open,
            problems=tuple(self._problems),
        )

    def _words(self) -> Iterator[str]:
        """Yield what identifies the program: the image without registry and tag, command, arguments."""
        yield (
            nodes.word(nodes.child(self._node, "image"))
            .rpartition("/")[2]
            .partition(":")[0]
            .partition("@")[0]
        )
        for key in ("command", "args"):
            for each in nodes.items(nodes.child(self._node, key)):
                yield nodes.word(each)

    def _read_variable(self, name: str, entry: nodes.Node) -> None:
        source = nodes.child(entry, "valueFrom")
        reference = nodes.child(source, "configMapKeyRef")
        if self._is_misspelt(name, entry, _FIELDS) or self._is_misspelt(name, source, _SOURCES):
            self._unknown[name] = "is misspelt"
        elif reference is not None:
            self._refer(name, reference)
        elif source is not None:
            self._unknown[name] = ", ".join(key for key, _ in nodes.entries(source))
        else:
            node = nodes.child(entry, "value") or entry
            text = self._string(name, node) if node is not entry else ""
            if "$(" in text:  # the kubelet puts another variable's value there
                self._unknown[name] = "refers to another variable"
            else:
                self._values[name] = Text(f"{self._place} {name}", text, node)

    def _is_misspelt(self, name: str, node: nodes.Node | None, fields: Sequence[str]) -> bool:
        """Report fields that do not exist; the variable has no value then."""
        wrong = [(key, value) for key, value in nodes.entries(node) if key not in fields] if node else []
        for key, value in wrong:
            self._complain(value, name, f"has the field {key!r}; expected one of {', '.join(fields)}")
        return bool(wrong)

    def _refer(self, name: str, reference: nodes.Node) -> None:
        """Follow a reference to a key of a ConfigMap, if that is in one of the files."""
        map_name, key = (nodes.word(nodes.child(reference, each)) for each in ("name", "key"))
        found = self._maps.get((self._owner.namespace, map_name))
        if found is None:
            self._unknown[name] = f"ConfigMap {map_name}, which is not in this file"
            return
        found.is_used = True
        text = self._key(name, found, key)
        if text is not None:
            self._values[name] = text
        elif nodes.word(nodes.child(reference, "optional")) != "true":
            self._complain(reference, name, f"ConfigMap {map_name} has no key {key!r}")

    def _key(self, name: str, found: Object, key: str) -> Text | None:
        try:
            return found.data(key)
        except nodes.NotText as error:
            self._problems.append(_key_problem(found, key, error))
            return Text(f"{self._place} {name}", "", nodes.child(found.node, "data", key) or found.node)

    def _read_all(self, source: nodes.Node) -> None:
        """Read every key of a ConfigMap as a variable (`envFrom`)."""
        prefix = nodes.word(nodes.child(source, "prefix"))
        name = nodes.word(nodes.child(source, "configMapRef", "name"))
        found = self._maps.get((self._owner.namespace, name))
        if found is None:
            self._is_open = True
            return
        found.is_used = True
        for key in found.keys():  # noqa: SIM118 (no mapping)
            if (prefix + key).startswith(PREFIX):
                text = self._key(prefix + key, found, key)
                if text is not None:
                    self._values[prefix + key] = text

    def _read_mount(self, mount: nodes.Node) -> None:
        """Note the files that a mounted ConfigMap makes."""
        path, sub_path, volume_name = (
            nodes.word(nodes.child(mount, each)) for each in ("mountPath", "subPath", "name")
        )
        for volume in self._owner.volumes.get(volume_name, ()):
            config_map = nodes.child(volume, "configMap")
            found = self._maps.get((self._owner.namespace, nodes.word(nodes.child(config_map, "name"))))
            if config_map is None or found is None:
                continue
            found.is_used = True
            for file, key in _projected(config_map, found):
                where = path if sub_path == file else f"{path.rstrip('/')}/{file}"
                text = self._key(where, found, key)
                if text is not None and sub_path in {"", file}:
                    self._files[where] = text

    def _string(self, name: str, node: nodes.Node) -> str:
        try:
            return nodes.string(node)
        except nodes.NotText as error:
            self._complain(node, name, str(error))
            return nodes.word(node)

    def _complain(self, node: nodes.Node, name: str, reason: str) -> None:
        self._problems.append(Problem(f"{self._place} {name}", node.line, None, reason))


def _projected(config_map: nodes.Node, found: Object) -> list[tuple[str, str]]:
    """Return (file, key) of each file that a ConfigMap volume makes: those under `items`, else all keys."""
    chosen = nodes.items(nodes.child(config_map, "items"))
    if chosen:
        return [
            (nodes.word(nodes.child(each, "path")), nodes.word(nodes.child(each, "key"))) for each in chosen
        ]
    return [(key, key) for key in found.keys()]  # noqa: SIM118 (no mapping)
