"""Answers as octets, made by hand of single records."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from egress_router.names.message import make_query
from egress_router.names.wire import HEADER, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from egress_router.names.message import Query

QUERY = make_query("www.example.com", Kind.A, edns=True)
TO_QUESTION = b"\xc0\x0c"  # a pointer to the name that was asked for


def record(owner: bytes, kind: int, data: bytes, ttl: int = 30, group: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", kind, group, ttl, len(data)) + data


def message(records: Iterable[bytes], query: Query = QUERY, before: bytes = b"") -> bytes:
    """Return an answer of these records; `before` holds names for them to point to, in a record of its own."""
    answers = [record(b"\0", 16, before), *records] if before else list(records)
    header = query.wire[:2] + struct.pack("!HHHHH", 0x8180, 1, len(answers), 0, 0)
    return header + query.question + b"".join(answers)


PLACE = HEADER + len(QUERY.question) + 11  # of `before` in `message`


def pointer(place: int) -> bytes:
    return struct.pack("!H", 0xC000 | place)


ADDRESS = record(TO_QUESTION, 1, bytes([192, 0, 2, 1]))

SHORT_LABELS = b"\x01a" * 127 + b"\0"  # the name that takes the most steps in the fewest octets


def filled(size: int, make: Callable[[int], bytes], before: bytes = b"") -> bytes:
    """Return an answer of about `size` octets, of the records that `make` makes of their numbers."""
    left = size - PLACE - len(before)
    records: list[bytes] = []
    while left > 0:
        records.append(make(len(records)))
        left -= len(records[-1])
    return message(records[:-1], before=before)


def scattered(kind: int, data: bytes) -> Callable[[int], bytes]:
    """Records whose owners are pointers to ever other labels of 60 long names, the longest tails first."""

    def make(number: int) -> bytes:
        place = PLACE + number % 60 * len(SHORT_LABELS) + number // 60 % 127 * 2
        return record(pointer(place), kind, data)

    return make
