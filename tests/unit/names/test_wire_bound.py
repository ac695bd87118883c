"""How much work it is to read an answer: the worst ones, honest ones and mutated ones stay within the bound."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from egress_router.names import message as message_module
from egress_router.names import wire as wire_module
from egress_router.names.message import Records, Refusal, read_reply
from egress_router.names.wire import HEADER, Kind, MalformedError, Sections, TooMuchWorkError
from tests.unit.names.wire_answers import (
    ADDRESS,
    PLACE,
    QUERY,
    SHORT_LABELS,
    TO_QUESTION,
    filled,
    message,
    pointer,
    record,
    scattered,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

Trace = Any  # of sys.settrace
READER = {wire_module.__file__, message_module.__file__}
POINTERS = b"".join(pointer(PLACE + 2 * number) for number in range(5000))
WORST: dict[str, Callable[[int], bytes]] = {
    "the smallest records": lambda size: filled(size, lambda _: record(b"\0", 16, b"")),
    "names of short labels": lambda size: filled(size, lambda _: record(SHORT_LABELS, 15, b"")),
    "addresses of such names": lambda size: filled(size, lambda _: record(SHORT_LABELS, 1, bytes(4))),
    "addresses of names by pointers": lambda size: filled(size, scattered(1, bytes(4)), SHORT_LABELS * 60),
    "aliases by pointers": lambda size: filled(size, scattered(5, pointer(PLACE)), SHORT_LABELS * 60),
    "pointers to pointers": lambda size: filled(
        size,
        lambda number: record(pointer(PLACE + 2 + 2 * (number % 5000)), 1, bytes(4)),
        b"\0\0" + POINTERS,
    ),
    "mail exchangers by pointers": lambda size: filled(
        size, lambda _: record(TO_QUESTION, 15, b"\0\0" + pointer(PLACE)), SHORT_LABELS
    ),
}


@pytest.mark.parametrize("size", [512, 4096, 16384, 65535])
@pytest.mark.parametrize("make", WORST.values(), ids=WORST.keys())
def test_the_worst_answer_costs_a_step_for_each_octet(make: Callable[[int], bytes], size: int) -> None:
    if size < 16384:
        make = WORST["names of short labels"]  # the others do not fit
    wire = make(size)
    assert len(wire) <= size
    start = HEADER + len(QUERY.question)
    counts = struct.unpack_from("!HHH", wire, 6)
    sections = Sections(Kind.A)
    with contextlib.suppress(TooMuchWorkError):
        sections.read(wire, start, counts)
    # What a record adds at once is at most a name.
    assert sections.steps <= len(wire) + 256 + 128


def test_too_much_work_is_a_bad_answer() -> None:
    reply = read_reply(QUERY, WORST["addresses of names by pointers"](65535))
    assert reply == Refusal("bad answer: reading it would be too much work")


def _chained(number: int) -> bytes:
    """Return an alias whose owner is what the one before leads to; the first is that of the question."""
    names = [b"\x07%07d" % each + TO_QUESTION for each in (number, number + 1)]
    return record(names[0] if number else TO_QUESTION, 5, names[1])


def _with_counts(wire: bytes, *counts: int) -> bytes:
    return wire[:4] + struct.pack("!HHHH", *counts) + wire[12:]


def _in_authority(size: int, make: Callable[[int], bytes], before: bytes = b"") -> bytes:
    wire = filled(size, make, before)
    first = bool(before)
    return _with_counts(wire, 1, first, struct.unpack_from("!H", wire, 6)[0] - first, 0)


def _options(size: int) -> bytes:
    """Return an answer whose EDNS record has as many options as it can have (RFC 6891 6.1.2)."""
    options = struct.pack("!HH", 10, 0) * ((size - PLACE - 27) // 4)
    return _with_counts(message([ADDRESS, record(b"\0", 41, options)]), 1, 1, 0, 1)


LONG_ANSWERS: dict[str, Callable[[int], bytes]] = {
    **WORST,
    "addresses": lambda size: filled(size, lambda number: record(TO_QUESTION, 1, struct.pack("!I", number))),
    "addresses of other names": lambda size: filled(
        size, lambda number: record(b"\x04" + struct.pack("!I", number) + TO_QUESTION, 1, bytes(4))
    ),
    "a chain of aliases": lambda size: filled(size, _chained),
    "texts": lambda size: filled(size, lambda _: record(TO_QUESTION, 16, b"\xff" + bytes(255))),
    "persons by pointers": lambda size: filled(
        size, lambda _: record(TO_QUESTION, 17, pointer(PLACE) * 2), SHORT_LABELS
    ),
    "name servers by pointers": lambda size: _in_authority(
        size, lambda number: record(pointer(PLACE + number % 120 * 2), 2, pointer(PLACE)), SHORT_LABELS
    ),
    "zones by pointers": lambda size: _in_authority(
        size, lambda number: record(pointer(PLACE + number % 120 * 2), 6, bytes(22)), SHORT_LABELS
    ),
    "options": _options,
    "cut in the middle": lambda size: WORST["aliases by pointers"](65535)[:size],
    "many questions": lambda size: _with_counts(
        message([QUERY.question] * ((size - PLACE) // len(QUERY.question))), 65535, 0, 0, 0
    ),
}


def lines_run(work: Callable[[], object]) -> int:
    """Return how many lines of the reader's modules a call runs: a measure that needs no clock."""
    ran = 0

    def in_reader(_frame: FrameType, event: str, _argument: object) -> Trace:
        nonlocal ran
        ran += event == "line"
        return in_reader

    def entered(frame: FrameType, _event: str, _argument: object) -> Trace | None:
        return in_reader if frame.f_code.co_filename in READER else None

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        work()
    finally:
        sys.settrace(before)
    return ran


@pytest.mark.parametrize("size", [16384, 65535])
@pytest.mark.parametrize("make", LONG_ANSWERS.values(), ids=LONG_ANSWERS.keys())
def test_the_lines_that_are_run_for_an_answer_are_six_for_each_octet_at_most(
    make: Callable[[int], bytes], size: int
) -> None:
    """`steps` is what the reader counts itself; this is what it does, with the judgement after it."""
    wire = make(size)
    assert size * 0.9 < len(wire) <= size
    assert 0 < lines_run(lambda: read_reply(QUERY, wire)) <= 6 * size


@pytest.mark.parametrize("owner", [TO_QUESTION, QUERY.name, b"\x03WwW\xc0\x10"])
def test_an_honest_answer_needs_less_than_half_of_the_bound(owner: bytes) -> None:
    wire = filled(65535, lambda number: record(owner, 1, struct.pack("!I", 0x0A000000 + number)))
    sections = Sections(Kind.A)
    sections.read(wire, HEADER + len(QUERY.question), struct.unpack_from("!HHH", wire, 6))
    assert len(sections.data[QUERY.name]) > 1500
    assert sections.steps < len(wire) / 2
    reply = read_reply(QUERY, wire)
    assert isinstance(reply, Records)
    assert len(reply.addresses) == 64


FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS", "1"))  # `make fuzz` takes longer
SEEDS = [
    message([ADDRESS] * 3),
    message([record(TO_QUESTION, 5, b"\x01b\xc0\x10"), record(pointer(PLACE + 1), 1, bytes(4))]),
    filled(600, scattered(5, pointer(PLACE)), SHORT_LABELS),
    message([record(b"\0", 6, b"\0\0" + bytes(20)), record(b"\0", 41, b"", group=1232)]),
]


def test_mutated_answers_are_judged_within_the_bound() -> None:
    dice = random.Random(6)
    end = time.monotonic() + FUZZ_SECONDS
    while time.monotonic() < end:
        wire = bytearray(dice.choice(SEEDS))
        for _ in range(dice.randint(1, 6)):
            place = dice.randrange(len(wire))
            noise = dice.choice([pointer(dice.randrange(1024)), b"\0", b"\xff", b"\x3f", dice.randbytes(2)])
            wire[place : place + dice.randint(0, 3)] = noise
        wire[:2] = QUERY.wire[:2]
        read_reply(QUERY, bytes(wire))
        sections = Sections(Kind.A)
        counts = struct.unpack_from("!HHH", wire.ljust(HEADER, b"\0"), 6)
        with contextlib.suppress(MalformedError):
            sections.read(bytes(wire), HEADER + len(QUERY.question), counts)
        assert sections.steps <= len(wire) + 256 + 128
