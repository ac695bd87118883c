# What egress_router/relay/plane/module.c offers to Python.

from typing import TypeAlias

from _typeshed import ReadableBuffer, WriteableBuffer

from egress_router.grammar.address import Target

Failures: TypeAlias = tuple[tuple[Target, int], ...]
# Number of an accepted one, the client's port, source address and port to the upstream ("", 0: unknown).
Identity: TypeAlias = tuple[int, int, str, int]
# Object, kind of news, client, target, seconds of the dial, attempts that failed, identity.
Connected: TypeAlias = tuple[object, int, str, Target, float, Failures, Identity]
# Object, kind, client, target, reason, bytes sent and received, seconds, failures, a socket or -1, identity,
# seconds from the connection to the upstream's first byte, seconds to the connection of a line.
Closed: TypeAlias = tuple[
    object, int, str, Target | None, int, int, int, float, Failures, int, Identity, float | None, float | None
]
Wanted: TypeAlias = tuple[object, int]
# Counts by upper bound, and the sum of all times in seconds.
Times: TypeAlias = tuple[tuple[int, ...], float]
# Line, kind, and: bytes sent and received, refusals by reason, times to connect, lifetimes, times to
# the first byte.
Summed: TypeAlias = tuple[object, int, tuple[int, int, list[tuple[int, int]], Times, Times, Times]]
# Line, kind, target, and how many connections it has answered.
Answered: TypeAlias = tuple[object, int, Target, int]
# Line of a known CONNECT, the upstream's socket, seconds of the dial.
KnownUpstream: TypeAlias = tuple[object, int, float]
# Object, kind, client and its port, its admission, its socket, what has come already, and the upstream of a
# known CONNECT that was answered.
Accepted: TypeAlias = tuple[object, int, tuple[str, int], Pair, int, bytes, KnownUpstream | None]

OWN_BYTES: int  # bytes of memory in which data planes note what they made

class Pair:
    @property
    def sent(self) -> int: ...
    @property
    def received(self) -> int: ...

class Forwarding:
    def __init__(
        self,
        connect_seconds: float,
        idle_seconds: float,
        turn: int,
        tells: bool = True,
        hands_over: bool = False,
        host: str | None = None,
        /,
    ) -> None: ...
    @property
    def hits(self) -> int: ...
    @property
    def open(self) -> int: ...

class Plane:
    def __init__(
        self,
        counts: WriteableBuffer,
        own: WriteableBuffer,
        slot: int,
        maximum: int,
        possible: int,
        max_of_client: int,
        quiet: float,
        most_held: int,
        connect_bounds: tuple[float, ...],
        life_bounds: tuple[float, ...],
        /,
    ) -> None: ...
    def relay(
        self,
        pair: Pair,
        client: int,
        upstream: int,
        idle_seconds: float,
        to_upstream: ReadableBuffer,
        to_client: ReadableBuffer,
        admission: Pair | None,
        /,
    ) -> None: ...
    def dial(
        self,
        pair: Pair,
        targets: tuple[Target, ...],
        addresses: ReadableBuffer,
        seconds: float,
        stagger: float,
        turns: int,
        /,
    ) -> None: ...
    def cut(self, pair: Pair, /) -> None: ...
    def listen(self, descriptor: int, line: Forwarding, /) -> None: ...
    def stop_listening(self, descriptor: int, /) -> None: ...
    def aim(
        self,
        line: Forwarding,
        targets: tuple[Target, ...],
        addresses: ReadableBuffer,
        good: int,
        refuses: int,
        /,
    ) -> None: ...
    def know(self, acceptor: Forwarding, line: Forwarding, head: bytes, seconds: float, /) -> None: ...
    def forget(self) -> None: ...
    def end_line(self, line: Forwarding, /) -> None: ...
    def release_line(self, line: Forwarding, /) -> None: ...
    def turns(self, admission: Pair, descriptor: int, /) -> int: ...
    def ring(self) -> None: ...
    def ring_late(self) -> None: ...
    def collect(self, most: int, /) -> list[Connected | Closed | Wanted | Accepted | Summed | Answered]: ...
    def waiting(self) -> bool: ...
    def settle(self) -> None: ...
    def stop(self) -> None: ...
    def sweep(self) -> None: ...
    def counts(self) -> tuple[int, int, int, int, bool, int, int, int, int]: ...
    def fileno(self) -> int: ...
