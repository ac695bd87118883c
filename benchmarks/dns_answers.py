"""`make bench-dns`: what it costs to read one DNS answer: honest ones, and the worst known ones.

CPU time of this process, the least of several runs. A plain Python loop beside it makes the ratio comparable
between machines. dnspython is measured, too, where it does not take too long.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import dns.message

from egress_router.names.message import make_query, read_reply
from egress_router.names.wire import HEADER, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 15
QUERY = make_query("www.example.com", Kind.A, edns=True)
LONG = b"\x01a" * 127 + b"\0"
PLACE = HEADER + len(QUERY.question) + 11  # where `before` begins in a `message`


def record(owner: bytes, kind: int, data: bytes) -> bytes:
    """Return one record of class IN."""
    return owner + struct.pack("!HHIH", kind, 1, 30, len(data)) + data


def pointer(place: int) -> bytes:
    """Return a pointer to an earlier name."""
    return struct.pack("!H", 0xC000 | place)


def message(size: int, make: Callable[[int], bytes], before: bytes = b"\0") -> bytes:
    """Return an answer of about `size` octets; the names in `before` are targets for pointers."""
    records = [record(b"\0", 16, before)]
    left = size - PLACE - len(before)
    while left > 0:
        records.append(make(len(records)))
        left -= len(records[-1])
    records = records[:-1]
    header = QUERY.wire[:2] + struct.pack("!HHHHH", 0x8180, 1, len(records), 0, 0)
    return header + QUERY.question + b"".join(records)


def scattered(kind: int, data: bytes) -> Callable[[int], bytes]:
    """Return a maker of records whose owners point to different labels of 60 long names."""
    return lambda number: record(
        pointer(PLACE + number % 60 * len(LONG) + number // 60 % 127 * 2), kind, data
    )


def chained(number: int) -> bytes:
    """Return an alias whose owner is the target of the alias before it."""
    names = [b"\x07%07d\xc0\x0c" % each for each in (number, number + 1)]
    return record(names[0] if number > 1 else b"\xc0\x0c", 5, names[1])


@dataclass(frozen=True, slots=True)
class Case:
    """One answer; `limit`: how many milliseconds it may take."""

    name: str
    wire: bytes
    limit: float
    beside_dnspython: bool = False


def cases() -> list[Case]:
    """Return the answers that are measured."""
    mail = b"\0\0" + pointer(PLACE)
    chain = b"".join(pointer(PLACE + 2 * number) for number in range(5000))
    honest = message(16384, lambda n: record(b"\xc0\x0c", 1, struct.pack("!I", 0x0A000000 + n)))
    largest = message(65535, lambda n: record(b"\xc0\x0c", 1, struct.pack("!I", 0x0A000000 + n)))
    few = message(512, lambda _: record(b"\xc0\x0c", 15, mail), LONG)
    hops = message(
        65535, lambda n: record(pointer(PLACE + 2 + 2 * (n * 7 % 5000)), 1, bytes(4)), b"\0\0" + chain
    )
    return [
        Case("honest, 16 KiB of addresses", honest, 10, beside_dnspython=True),
        Case("honest, 64 KiB of addresses", largest, 20),
        Case("64 KiB, a chain of aliases", message(65535, chained), 20),
        Case("64 KiB of texts", message(65535, lambda _: record(b"\xc0\x0c", 16, b"\xff" + bytes(255))), 20),
        Case("512 octets of mail exchangers", few, 20, beside_dnspython=True),
        Case("64 KiB of mail exchangers", message(65535, lambda _: record(b"\xc0\x0c", 15, mail), LONG), 20),
        Case("64 KiB of the smallest records", message(65535, lambda _: record(b"\0", 16, b"")), 20),
        Case("64 KiB of names of short labels", message(65535, lambda _: record(LONG, 15, b"")), 20),
        Case("64 KiB of addresses of them", message(65535, lambda _: record(LONG, 1, bytes(4))), 20),
        Case("64 KiB of aliases of them", message(65535, lambda _: record(LONG, 5, LONG)), 20),
        Case("64 KiB, owners by pointers", message(65535, scattered(1, bytes(4)), LONG * 60), 20),
        Case("64 KiB, aliases by pointers", message(65535, scattered(5, pointer(PLACE)), LONG * 60), 20),
        Case("64 KiB, pointers to pointers", hops, 20),
    ]


def least(work: Callable[[], object], runs: int = RUNS) -> float:
    """Return the least CPU time of several runs, in milliseconds."""
    times = []
    for _ in range(runs):
        before = time.process_time()
        work()
        times.append(time.process_time() - before)
    return min(times) * 1000


def plain_loop() -> int:
    """Do 100,000 additions in Python."""
    total = 0
    for number in range(100_000):
        total += number
    return total


def main() -> None:
    """Print the table; end with status 1 if a case takes longer than its limit."""
    loop = least(plain_loop)
    print(f"100,000 additions: {loop:.2f} ms\n")
    print(f"{'':36}{'ms':>8}{'limit':>8}{'loops':>8}{'dnspython, ms':>16}")
    over = []
    for case in cases():
        taken = least(partial(read_reply, QUERY, case.wire))
        other = ""
        if case.beside_dnspython:
            other = f"{least(partial(dns.message.from_wire, case.wire), 2):.0f}"
        print(f"{case.name:36}{taken:8.2f}{case.limit:8.0f}{taken / loop:8.1f}{other:>16}")
        if taken > case.limit:
            over.append(case.name)
    if over:
        raise SystemExit(f"over the limit: {', '.join(over)}")


if __name__ == "__main__":
    main()
