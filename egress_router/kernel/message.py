"""A netlink message as pyroute2 decodes it, read with types: a value of a wrong type is an error here."""

from __future__ import annotations

from typing import Protocol, TypeVar, cast

T = TypeVar("T")


class Decoded(Protocol):
    """What pyroute2 returns for a message or a nested attribute."""

    def __getitem__(self, name: str, /) -> object:
        """Return a field of the header."""

    def get_attr(self, name: str, /) -> object:
        """Return the first attribute of this name; None without it."""


class Message:
    """Reads the header's fields and the attributes of a message."""

    __slots__ = ("_decoded",)

    def __init__(self, decoded: Decoded) -> None:
        self._decoded = decoded

    def field(self, name: str) -> int:
        """Return a number of the header."""
        return _typed(self._decoded[name], int, name)

    def word(self, name: str) -> str:
        """Return a text of the header."""
        return _typed(self._decoded[name], str, name)

    def number(self, name: str) -> int | None:
        """Return an attribute that is a number; None without it."""
        return _optional(self._decoded.get_attr(name), int, name)

    def text(self, name: str) -> str | None:
        """Return an attribute that is a text; None without it."""
        return _optional(self._decoded.get_attr(name), str, name)

    def nested(self, name: str) -> Message | None:
        """Return an attribute that holds others, or is a structure; None without it."""
        found = self._decoded.get_attr(name)
        return None if found is None else Message(_decoded(found, name))

    def first(self, name: str) -> Message | None:
        """Return the first entry of an attribute that is a list; None without it."""
        found = _optional(self._decoded.get_attr(name), list, name)
        return Message(_decoded(found[0], name)) if found else None


def _decoded(value: object, name: str) -> Decoded:
    # Every structure of pyroute2 is a dictionary; those with attributes also have `get_attr`.
    return cast("Decoded", _typed(value, dict, name))


def _optional(value: object, kind: type[T], name: str) -> T | None:
    return None if value is None else _typed(value, kind, name)


def _typed(value: object, kind: type[T], name: str) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{name} of a netlink message is {value!r}, not of type {kind.__name__}")
    return value
