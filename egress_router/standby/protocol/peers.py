"""What is known of the other routers of the group. Pure."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from egress_router.standby.protocol.role import Role

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.standby.protocol.commands import Message

_FORGET_INTERVAL = 1.0  # seconds between two searches for peers to forget
_REMEMBERED = 32  # messages: more than are heard during a lease
_MAX_PEERS = 8  # a group has two routers, three during a rollout; more can only be hostile


class Peer:
    """One other router: its last message, and the last request of ours that it acknowledged."""

    __slots__ = ("_history", "acked", "heard", "last")

    def __init__(self, message: Message, now: float) -> None:
        self._history: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)
        self.acked = 0
        self.hear(message, now)

    def hear(self, message: Message, now: float) -> None:
        """Record a newer message."""
        self.last = message
        self.heard = now
        self._history.append((message.seq, now))

    def asked_before(self, when: float) -> int:
        """Return its last request that was heard by `when`; 0 if none is remembered."""
        return max((seq for seq, heard in self._history if heard <= when), default=0)


class PeerTable:
    """All other routers, by their number."""

    __slots__ = ("_by_id", "_forget", "_look_again", "_silent")

    def __init__(self, silent: float, forget: float) -> None:
        self._by_id: dict[int, Peer] = {}
        self._silent = silent
        self._forget = forget
        self._look_again = -math.inf

    def hear(self, message: Message, now: float) -> Peer | None:
        """Record a message and return its peer; None if it is older than the last one, or its copy.

        An older message is dropped with its acknowledgement: the later one says the same or more.
        """
        peer = self._by_id.get(message.sender)
        if peer is None:
            if len(self._by_id) >= _MAX_PEERS:
                del self._by_id[min(self._by_id, key=lambda number: self._by_id[number].heard)]
            peer = self._by_id[message.sender] = Peer(message, now)
        elif message.seq <= peer.last.seq:
            return None
        else:
            peer.hear(message, now)
        return peer

    def drop(self, number: int) -> None:
        """Forget a router whose last message said that it ends."""
        self._by_id.pop(number, None)

    def get(self, number: int) -> Peer | None:
        """Return a router by its number; None if it is not known."""
        return self._by_id.get(number)

    def acked_by(self, number: int) -> int:
        """Return our last request that a router acknowledged; 0 if there is none."""
        peer = self._by_id.get(number)
        return 0 if peer is None else peer.acked

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._by_id.values())

    def live(self, now: float) -> list[Peer]:
        """Return the routers that were heard lately."""
        since = now - self._silent
        return [peer for peer in self._by_id.values() if peer.heard > since]

    def is_live(self, number: int, now: float) -> bool:
        """Return whether a router was heard lately."""
        peer = self._by_id.get(number)
        return peer is not None and peer.heard > now - self._silent

    def discount_silence(self, seconds: float, now: float) -> None:
        """Do not count as silence the time in which this router itself did not run and could hear nobody."""
        for peer in self._by_id.values():
            peer.heard = min(now, peer.heard + seconds)

    def forget(self, now: float) -> None:
        """Drop routers that were silent for very long; to be called often."""
        if now < self._look_again:
            return
        self._look_again = now + _FORGET_INTERVAL
        for number in [each for each, peer in self._by_id.items() if peer.heard < now - self._forget]:
            del self._by_id[number]

    def active(self, now: float) -> Peer | None:
        """Return the active router, if one was heard lately."""
        return next((peer for peer in self.live(now) if peer.last.role is Role.ACTIVE), None)
