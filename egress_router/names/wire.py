"""DNS messages as octets (RFC 1035 section 4): what a resolver needs is read, the rest is skipped. Pure.

An answer may come from an attacker who owns the name, so the work on it is limited: one step (a record, a
label or a pointer) for each octet of the message, and a few more for short ones. What an honest server sends
takes less than half of that. A message that needs more is refused.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEADER: Final = 12  # octets

_CLASS_IN = 1
_FREE_STEPS = 256
_MAX_NAME = 255  # octets, RFC 1035 2.3.4
_MAX_LABELS = 127  # of such a name, each with its length
_LABEL_END = 64  # from here on, a length octet is not that of a label ...
_POINTER = 192  # ... and from here on, it is the first octet of a pointer, RFC 1035 4.1.4
_MAX_TTL = 0x7FFFFFFF
_LEAST_SOA = 22  # octets: two root names and five numbers
_RECORD = struct.Struct("!HHIH")  # type, class, TTL, length of the data
_U32 = struct.Struct("!I")


class Kind(enum.IntEnum):
    """The types of records that are read: RFC 1035 3.2.2, RFC 3596 2.1, RFC 6891 6.1.1."""

    A = 1
    CNAME = 5
    SOA = 6
    AAAA = 28
    OPT = 41


_SIZES = {Kind.A: 4, Kind.AAAA: 16}


class MalformedError(ValueError):
    """A message breaks the format."""


class TooMuchWorkError(MalformedError):
    """A message follows the format, but reading it would take more steps than are allowed."""


class Sections:
    """What the records of one message say; a name is written as `name_key` does.

    `data` holds by owner the records of the type that was asked for, with their TTLs; `aliases` the CNAME
    record of each owner; `denials` for each zone how long its SOA record allows to remember that a name in it
    is missing (RFC 2308 section 5). `extended` is the upper part of the response code, None without EDNS.
    `steps` is how much work reading was.
    """

    __slots__ = ("_budget", "_kind", "_names", "_wire", "aliases", "data", "denials", "extended", "steps")

    def __init__(self, kind: Kind) -> None:
        """Make a reader of answers to a question for `kind` records; it reads one message."""
        self.data: dict[bytes, list[tuple[int, bytes]]] = {}
        self.aliases: dict[bytes, tuple[int, bytes]] = {}
        self.denials: dict[bytes, int] = {}
        self.extended: int | None = None
        self.steps = 0
        self._kind = kind
        self._wire = b""
        self._budget = 0
        self._names: dict[int, bytes] = {}

    def read(self, wire: bytes, offset: int, counts: tuple[int, int, int]) -> None:
        """Read, from `offset` on, `counts` answer, authority and additional records.

        Raises:
            MalformedError: the message breaks the format, or reading it would be too much work.
        """
        self._wire = wire
        self._budget = len(wire) + _FREE_STEPS
        sections: tuple[tuple[set[int], Callable[[int, int, int, int, int], None]], ...] = (
            ({self._kind, Kind.CNAME}, self._answer),
            ({Kind.SOA}, self._authority),
            ({Kind.OPT}, self._additional),
        )
        try:
            for count, (wanted, take) in zip(counts, sections, strict=True):
                offset = self._section(offset, count, wanted, take)
        except (IndexError, struct.error):
            raise MalformedError("it ends inside a record") from None
        if offset != len(wire):
            raise MalformedError("octets follow its last record")

    def _section(
        self, offset: int, count: int, wanted: set[int], take: Callable[[int, int, int, int, int], None]
    ) -> int:
        """Pass the wanted ones of `count` records to `take`; return where the section ends."""
        wire, unpack = self._wire, _RECORD.unpack_from
        for _ in range(count):
            owner = offset
            offset = self._after_name(offset)
            kind, group, ttl, size = unpack(wire, offset)
            start = offset + _RECORD.size
            offset = start + size
            if offset > len(wire):
                raise MalformedError("it ends inside a record")
            if kind in wanted and (group == _CLASS_IN or kind == Kind.OPT):
                take(owner, kind, ttl, start, offset)
        return offset

    def _answer(self, owner: int, kind: int, ttl: int, start: int, end: int) -> None:
        ttl = _lifetime(ttl)
        name = self._name(owner)
        if kind != Kind.CNAME:
            if end - start != _SIZES[self._kind]:
                raise MalformedError("an address has a wrong length")
            self.data.setdefault(name, []).append((ttl, self._wire[start:end]))
            return
        if self._after_name(start) != end:
            raise MalformedError("an alias has a wrong length")
        # RFC 2181 10.1 forbids a second one.
        self.aliases.setdefault(name, (ttl, self._name(start)))

    def _authority(self, owner: int, _: int, ttl: int, start: int, end: int) -> None:
        if end - start < _LEAST_SOA:
            raise MalformedError("an SOA record is too short")
        (minimum,) = _U32.unpack_from(self._wire, end - _U32.size)
        self.denials.setdefault(self._name(owner), min(_lifetime(ttl), _lifetime(minimum)))

    def _additional(self, owner: int, _: int, ttl: int, start: int, end: int) -> None:  # noqa: ARG002
        if self.extended is not None or self._wire[owner]:
            raise MalformedError("its EDNS record is not alone or has an owner")  # RFC 6891 6.1.1
        self.extended = ttl >> 24  # RFC 6891 6.1.3

    def _step(self, count: int = 1) -> None:
        self.steps += count
        if self.steps > self._budget:
            raise TooMuchWorkError("reading it would be too much work")

    def _after_name(self, offset: int) -> int:
        """Return where a name ends, without following a pointer. One step a label, and one for the record."""
        wire, steps = self._wire, 1
        while (length := wire[offset]) and length < _LABEL_END:
            offset += length + 1
            steps += 1
        self._step(steps)
        if not length:
            return offset + 1
        if length < _POINTER:
            raise MalformedError("a label of an unknown kind")  # RFC 1035 4.1.4: 01 and 10 are reserved
        return offset + 2

    def _name(self, start: int) -> bytes:
        """Return the name at `start`; one that was read before costs one step."""
        wire, names, offset = self._wire, self._names, start
        labels, parts, begin = 0, [], start
        # Each pointer must lead to an earlier place than the one before: so no name is endless.
        before = start
        while (known := names.get(offset)) is None:
            length = wire[offset]
            if 0 < length < _LABEL_END and labels < _MAX_LABELS:
                labels += 1
                offset += length + 1
            elif not length:
                known = b"\0"
                break
            elif length >= _POINTER:
                self._step()
                parts.append(wire[begin:offset])
                begin = offset = (length & 0x3F) << 8 | wire[offset + 1]
                if offset >= before or offset < HEADER:
                    raise MalformedError("a pointer that does not lead back")
                before = offset
            else:
                raise MalformedError("a label of an unknown kind, or too many labels")
        self._step(labels + 1)
        parts += (wire[begin:offset], known)
        # Length octets are below 64, so lower case changes letters only (RFC 4343).
        name = b"".join(parts).lower()
        if len(name) > _MAX_NAME:
            raise MalformedError("a name of over 255 octets")
        self._names[start] = name
        # Most records of an answer point to one name: remember it under the place they all point to.
        if wire[start] >= _POINTER:
            self._names[(wire[start] & 0x3F) << 8 | wire[start + 1]] = name
        return name


def _lifetime(ttl: int) -> int:
    """Return a TTL; one with its first bit set counts as 0 (RFC 2181 section 8)."""
    return ttl if ttl <= _MAX_TTL else 0


def name_key(name: str) -> bytes:
    """Return an absolute name of ASCII labels (without its final dot) as in a message, in lower case."""
    labels = name.lower().encode("ascii").split(b".")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def domains(name: bytes) -> Iterator[bytes]:
    """Yield a name and every domain that it is in, the root last."""
    while name[0]:
        yield name
        name = name[name[0] + 1 :]
    yield name
