"""The socket on the egress link: frames of the group, requests to gateway and owners, announcements."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Self

from egress_router.errors import RefusedError
from egress_router.kernel.neighbour import announcements
from egress_router.standby.transport import address_resolution as frames
from egress_router.standby.transport import codec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from egress_router.grammar.address import IPAddress

_SOL_PACKET, _ADD_MEMBERSHIP, _ALLMULTI = 263, 1, 2  # linux/if_packet.h
_SO_ATTACH_FILTER = 26
_OUTGOING = 4  # PACKET_OUTGOING: the socket gets our own frames as well
_MAX_A_TURN = 256  # frames: a flood must not delay the heartbeat

# What is received, as classic BPF (linux/filter.h): the group's EtherType, ARP, neighbour advertisements.
_LOAD_HALF, _LOAD_BYTE, _EQUAL, _RETURN = 0x28, 0x30, 0x15, 0x06
_FILTER = (
    (_LOAD_HALF, 0, 0, 12),
    (_EQUAL, 6, 0, codec.ETHERTYPE),
    (_EQUAL, 5, 0, 0x0806),
    (_EQUAL, 0, 5, 0x86DD),
    (_LOAD_BYTE, 0, 0, 20),
    (_EQUAL, 0, 3, 58),
    (_LOAD_BYTE, 0, 0, 54),
    (_EQUAL, 0, 1, 136),
    (_RETURN, 0, 0, 0xFFFF),
    (_RETURN, 0, 0, 0),
)


class LinkSocket:
    """A packet socket on the egress interface."""

    def __init__(self, interface: str, index: int, mac: bytes) -> None:
        """Open it; `mac` is the hardware address that only this router has.

        Raises:
            RefusedError: NET_RAW is missing, or the interface is gone.
        """
        self._mac = mac
        try:
            # With protocol 0 it receives nothing until the filter is attached and the socket is bound.
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        except PermissionError:
            raise RefusedError("cannot exchange messages on the wire", "grant NET_RAW") from None
        try:
            self._socket.setblocking(False)
            _attach_filter(self._socket)
            self._socket.bind((interface, 0x0003))
            membership = struct.pack("iHH8s", index, _ALLMULTI, 0, b"")
            self._socket.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, membership)
        except OSError as error:
            self._socket.close()
            raise RefusedError(
                f"cannot listen on {interface} ({error.strerror})", "make sure that the interface stays up"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        """Send a message to the group; the protocol finds out whether another router receives it."""
        self._put(codec.GROUP_MAC + self._mac + codec.ETHERTYPE.to_bytes(2, "big") + data)

    def ask(self, target: IPAddress, mac: bytes, source: IPAddress | None) -> None:
        """Ask which station has `target`; see `solicitation`."""
        self._put(frames.solicitation(target, mac, source))

    def announce(self, addresses: Sequence[IPAddress], mac: bytes) -> None:
        """Tell every station that the addresses are here."""
        for address in addresses:
            for frame in announcements(address, mac):
                self._put(frame)

    def _put(self, frame: bytes) -> None:
        # ENOBUFS: the fence dropped the frame. ENETDOWN: the interface is down.
        with contextlib.suppress(OSError):
            self._socket.send(frame)

    def receive(self) -> Iterator[bytes]:
        """Yield received frames of other stations, at most 256."""
        for _ in range(_MAX_A_TURN):
            try:
                frame, (_, _, kind, *_) = self._socket.recvfrom(2048)
            except OSError:
                return
            if kind != _OUTGOING:
                yield frame


def _attach_filter(sock: socket.socket) -> None:
    import ctypes  # noqa: PLC0415 (only where a router has a standby)

    program = b"".join(struct.pack("=HBBI", *step) for step in _FILTER)
    buffer = ctypes.create_string_buffer(program)
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(_FILTER), ctypes.addressof(buffer))
    )
