"""The fence of a standby router: no frame with its source address leaves unless a kernel timer permits it.

While the gate is closed, a netdev egress chain on the interface drops every frame from the addresses (also
ARP and neighbour advertisements) or from the shared hardware address. The gate is open while an element with
a timeout is in the set `asked` and the map `approved` points to it. Elements are numbered; each is added
before a question is asked, and never again. So an approval permits nothing after the timer of its own
question, even if the process that writes it was stopped for an hour.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from typing import TYPE_CHECKING, Self

from egress_router.errors import RefusedError
from egress_router.kernel.nat import nft

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from egress_router.grammar.address import IPAddress

TABLE = "egress_router_fence"
_NETLINK_NETFILTER = 12
_NF_NETDEV, _NF_TABLES = 5, 10  # NFPROTO_NETDEV; NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW_ELEMENT, _DELETE_ELEMENT = 12, 14
_REQUEST, _ACK, _CREATE = 0x001, 0x004, 0x400
_ERROR = 2
_NESTED = 0x8000
_ANSWER_SECONDS = 5.0


class FenceError(OSError):
    """The kernel did not do what was asked: the tables were flushed, or the interface is gone."""


def render(interface: str, addresses: Sequence[IPAddress], mac: str | None, run: str) -> str:
    """Return the text that replaces any fence by a closed one, in one transaction.

    `run` is part of the sets' names, so that a late write of an earlier process cannot open this gate.
    """
    gate = f"meta mark set meta oif map @approved_{run} meta mark @asked_{run} meta mark set 0 accept"
    rules = [f"ether saddr {mac} goto gate"] if mac is not None else []
    rules += [rule for address in addresses for rule in _rules(address)]
    lines = [
        f"add table netdev {TABLE}",
        f"delete table netdev {TABLE}",
        f"table netdev {TABLE} {{",
        f"  set asked_{run} {{ type mark; flags timeout; gc-interval 10s; }}",
        f"  map approved_{run} {{ type iface_index : mark; }}",
        f"  chain gate {{ {gate}; drop; }}",
        "  chain egress {",
        f'    type filter hook egress device "{interface}" priority filter; policy accept;',
        *(f"    {rule}" for rule in rules),
        "  }",
        "}",
    ]
    return "\n".join([*lines, ""])


def _rules(address: IPAddress) -> Iterator[str]:
    if address.version == 4:
        yield f"ip saddr {address} goto gate"
        yield f"arp saddr ip {address} goto gate"
        return
    yield f"ip6 saddr {address} goto gate"
    # The target of an advertisement, 8 octets into it (RFC 4861 4.4): its sender may be a link-local address.
    yield f"icmpv6 type nd-neighbor-advert @th,64,128 {int(address):#034x} goto gate"


class GateClosedError(OSError):
    """The gate had closed before it could be kept open: another router's may be open by now."""


class Fence:
    """The gate of one interface; `with` closes the socket, and leaves the fence as it is."""

    def __init__(self, interface: str, addresses: Sequence[IPAddress], mac: str | None, run: str) -> None:
        """Put up the fence, closed; `run` names this process's run.

        Raises:
            RefusedError: the kernel or this image cannot do it.
        """
        self._interface = interface
        self._addresses = tuple(addresses)
        self._mac = mac
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._sock.bind((0, 0))
        self._sock.settimeout(_ANSWER_SECONDS)
        self._sequence = 0
        self._approved: int | None = None
        self._index = 0
        self._run = run
        self.predecessors = _runs()
        self.restore()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()

    def shut(self) -> None:
        """Close the socket; the gate closes by itself."""
        self._sock.close()

    def restore(self) -> None:
        """Put the fence up again, closed.

        Raises:
            RefusedError: as above.
        """
        self._approved = None
        done = nft.run("-f", "-", text=render(self._interface, self._addresses, self._mac, self._run))
        if done.returncode:
            raise _refusal(done.stderr)
        self._index = socket.if_nametoindex(self._interface)

    def arm(self, slot: int, seconds: float) -> None:
        """Start the timer of a question.

        Raises:
            FenceError: the fence is not there any more.
        """
        self._do([(_NEW_ELEMENT, self._element("asked", slot, seconds=seconds))])

    def approve(self, slot: int) -> None:
        """Open the gate for as long as the timer of this question runs.

        Raises:
            FenceError: the fence is not there any more.
        """
        self._do(self._pointing_to(slot))
        self._approved = slot

    def extend(self, slot: int) -> None:
        """Keep the open gate open for as long as the timer of this question runs.

        The kernel does not find an element whose time is over (ENOENT), and then does none of the steps. A
        process that was stopped, or whose clock was, cannot know whether the gate was open all the time.

        Raises:
            GateClosedError: it was not open, or the fence is not there any more.
        """
        if self._approved is None:
            raise GateClosedError(errno.ENOENT, "the gate is closed")
        current = (_DELETE_ELEMENT, self._element("asked", self._approved))
        try:
            self._do([current, *self._pointing_to(slot)])
        except FenceError as error:
            if error.errno == errno.ENOENT:
                raise GateClosedError(error.errno, error.strerror) from None
            raise
        self._approved = slot

    def close(self) -> None:
        """Close the gate now.

        Raises:
            FenceError: the fence is not there any more.
        """
        if self._approved is not None:
            self._do([(_DELETE_ELEMENT, self._element("approved", self._index))])
            self._approved = None

    def _pointing_to(self, slot: int) -> list[tuple[int, bytes]]:
        """Return the steps that make `approved` point to this question only."""
        steps = [(_NEW_ELEMENT, self._element("approved", self._index, value=slot))]
        if self._approved is not None:
            steps.insert(0, (_DELETE_ELEMENT, self._element("approved", self._index)))
        return steps

    def _element(
        self, kind: str, key: int, *, value: int | None = None, seconds: float | None = None
    ) -> bytes:
        # Numbers of questions and interfaces are in the host's order, as nft writes them.
        inner = _attribute(1, _attribute(1, struct.pack("=I", key)), nested=True)
        if value is not None:
            inner += _attribute(2, _attribute(1, struct.pack("=I", value)), nested=True)
        if seconds is not None:
            inner += _attribute(4, struct.pack("!Q", max(1, round(seconds * 1000))))
        listed = _attribute(3, _attribute(1, inner, nested=True), nested=True)
        name = f"{kind}_{self._run}"
        return _attribute(1, TABLE.encode() + b"\0") + _attribute(2, name.encode() + b"\0") + listed

    def _do(self, steps: Sequence[tuple[int, bytes]]) -> None:
        """Do the steps in one transaction, and wait until they are done."""
        first = self._sequence + 1
        self._sequence += len(steps) + 2
        batch = [_message(_BATCH_BEGIN, 0, first - 1, socket.AF_UNSPEC, _NF_TABLES, b"")]
        for number, (kind, body) in enumerate(steps, first):
            flags = _ACK | (_CREATE if kind == _NEW_ELEMENT else 0)
            batch.append(_message(_NF_TABLES << 8 | kind, flags, number, _NF_NETDEV, 0, body))
        batch.append(_message(_BATCH_END, 0, first + len(steps), socket.AF_UNSPEC, _NF_TABLES, b""))
        try:
            self._sock.sendto(b"".join(batch), (0, 0))
            waiting = set(range(first, first + len(steps)))
            while waiting:
                self._read_answers(waiting)
        except TimeoutError:
            raise FenceError(errno.ETIMEDOUT, "the kernel did not answer") from None
        except OSError as error:
            raise FenceError(error.errno, os.strerror(error.errno or 0)) from None

    def _read_answers(self, waiting: set[int]) -> None:
        data = self._sock.recv(65536)
        while len(data) >= 16:
            length, kind, _, number = struct.unpack_from("=IHHI", data)
            if kind == _ERROR and number in waiting:
                code = struct.unpack_from("=i", data, 16)[0]
                if code:
                    raise OSError(-code, os.strerror(-code))
                waiting.discard(number)
            data = data[max(16, (length + 3) & ~3) :]


def _runs() -> frozenset[str]:
    """Return the runs whose fence is in force now."""
    listed = nft.run("list", "sets", "netdev").stdout
    return frozenset(re.findall(r"^\s*set asked_(\w+) ", listed, re.MULTILINE))


def _message(kind: int, flags: int, number: int, family: int, resource: int, body: bytes) -> bytes:
    """Return one netlink message with the header of nfnetlink (linux/netfilter/nfnetlink.h)."""
    whole = struct.pack("!BBH", family, 0, resource) + body
    return struct.pack("=IHHII", 16 + len(whole), kind, flags | _REQUEST, number, 0) + whole


def _attribute(kind: int, value: bytes, *, nested: bool = False) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind | (_NESTED if nested else 0)) + value + b"\0" * (-length % 4)


def _refusal(stderr: str) -> RefusedError:
    first = next((line.strip() for line in stderr.splitlines() if line.strip()), "nft failed without a word")
    if "Operation not permitted" in stderr:
        return RefusedError("the kernel refused the fence of EGRESS_STANDBY", "grant NET_ADMIN")
    return RefusedError(
        f"nft refused the fence of EGRESS_STANDBY ({first})",
        "use a kernel with CONFIG_NETFILTER_EGRESS (Linux 5.16, RHEL 9) and nftables 1.0.1 or later,"
        " or leave EGRESS_STANDBY off",
    )
