"""Records the frames that speak for the source address, and heartbeats, with their times and cables.

It shows a second owner, even if both sent for a moment only.
"""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self

from egress_router.standby.transport.codec import ETHERTYPE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.lab.host import Host

_ALL, _OUTGOING = 0x0003, 4  # linux/if_ether.h, linux/if_packet.h
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35
_HEARTBEAT = ETHERTYPE.to_bytes(2, "big")
_SOON = 0.4  # seconds: less than any router needs to lose its lease and get it again


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: when it came, through which cable, and from which hardware address."""

    at: float
    cable: str
    mac: str


class WireWatch:
    """Listens on some ports of a switch, from its creation until `close`."""

    def __init__(self, switch: Host, cables: Sequence[str], addresses: Sequence[str]) -> None:
        self._cables = tuple(cables)
        self._addresses = tuple(ip_address(each).packed for each in addresses)
        self.frames: deque[Frame] = deque(maxlen=1_000_000)
        self.heartbeats: deque[Frame] = deque(maxlen=100_000)
        self._ended = threading.Event()
        sock = switch.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
        sock.settimeout(0.2)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 * 1024 * 1024)
        # The time at which the kernel got a frame, not at which this thread reads it.
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._thread = threading.Thread(target=self._capture, args=(sock,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening."""
        self._ended.set()
        self._thread.join()

    def _capture(self, sock: socket.socket) -> None:
        with sock:
            while not self._ended.is_set():
                try:
                    frame, extra, _, (cable, _, kind, *_) = sock.recvmsg(256, 64)
                except TimeoutError:
                    continue
                if kind == _OUTGOING or cable not in self._cables:
                    continue
                if _speaks_for(frame, self._addresses):
                    self.frames.append(Frame(_timestamp(extra), cable, frame[6:12].hex(":")))
                elif frame[12:14] == _HEARTBEAT:
                    self.heartbeats.append(Frame(_timestamp(extra), cable, frame[6:12].hex(":")))

    def forget(self) -> None:
        """Discard all frames so far."""
        self.frames.clear()
        self.heartbeats.clear()

    def heartbeat_gap(self, cable: str) -> float:
        """Return the longest time between two heartbeats of the router at a cable."""
        times = sorted(each.at for each in self.heartbeats.copy() if each.cable == cable)
        return max((after - before for before, after in itertools.pairwise(times)), default=0.0)

    def second_owner(self) -> list[Frame]:
        """Return the frames that came while another cable was in use: those of a second owner.

        A cable is in use from one frame to the next if that comes within 0.4 s: a gate is closed for longer.
        """
        frames = sorted(self.frames, key=lambda frame: frame.at)
        uses = [use for cable in self._cables for use in _uses(frames, cable)]
        return [
            frame
            for frame in frames
            if any(cable != frame.cable and first < frame.at < last for cable, first, last in uses)
        ]


def _uses(frames: list[Frame], cable: str) -> list[tuple[str, float, float]]:
    """Return the periods in which a cable was in use: cable, first frame, last frame."""
    uses: list[tuple[str, float, float]] = []
    for frame in frames:
        if frame.cable != cable:
            continue
        if uses and frame.at - uses[-1][2] < _SOON:
            uses[-1] = (cable, uses[-1][1], frame.at)
        else:
            uses.append((cable, frame.at, frame.at))
    return uses


def _speaks_for(frame: bytes, addresses: Sequence[bytes]) -> bool:
    kind = frame[12:14]
    if kind == b"\x08\x00":
        return frame[26:30] in addresses
    if kind == b"\x08\x06":
        return frame[28:32] in addresses
    if kind == b"\x86\xdd":
        is_advertised = frame[20] == 58 and frame[54] == 136 and frame[62:78] in addresses
        return frame[22:38] in addresses or is_advertised
    return False


def _timestamp(extra: list[tuple[int, int, bytes]]) -> float:
    seconds, nanoseconds = struct.unpack("qq", extra[0][2][:16])
    return float(seconds) + float(nanoseconds) / 1e9
