"""The fence in a real kernel: what passes, for how long, and what a stopped process can still do."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.kernel import neighbour
from egress_router.kernel.fence import render
from egress_router.lab import wiring
from egress_router.lab.hosts import Hosts
from tests.waiting import WAIT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.lab.host import Host

SOURCE, SOURCE_V6 = ip_address("192.168.12.99"), ip_address("fd00:12::99")
SHARED, OWN = bytes.fromhex("020000000099"), bytes.fromhex("020000000001")

# Does what its standard input says, one step a line, and says when each is done.
KEEPER = """
import sys
from ipaddress import ip_address
from egress_router.kernel.fence import Fence, FenceError, GateClosedError
fence = Fence("macvlan0", [ip_address("192.168.12.99"), ip_address("fd00:12::99")], "02:00:00:00:00:99", "earlier")
print("up", flush=True)
for line in sys.stdin:
    word, *numbers = line.split()
    try:
        if word == "arm":
            fence.arm(int(numbers[0]), float(numbers[1]))
        elif word == "approve":
            fence.approve(int(numbers[0]))
        elif word == "extend":
            fence.extend(int(numbers[0]))
        elif word == "close":
            fence.close()
        elif word == "restore":
            fence.restore()
        print("done", flush=True)
    except GateClosedError:
        print("closed", flush=True)
    except FenceError as error:
        print(error.strerror, flush=True)
"""


class Bench:
    """A host with a macvlan behind a fence, its wire, and the process that keeps the fence."""

    def __init__(self, router: Host, wire: Host) -> None:
        self.router = router
        self.keeper = subprocess.Popen(
            router.command(sys.executable, "-c", KEEPER),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.line() == "up"
        self.sender = router.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.sender.bind(("macvlan0", 0x0003))
        self.receiver = wire.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        self.receiver.bind(("eth0", 0x0003))
        self.receiver.settimeout(WAIT_SECONDS)

    def close(self) -> None:
        os.kill(self.keeper.pid, signal.SIGCONT)
        self.keeper.kill()
        self.keeper.wait()
        for stream in (self.keeper.stdin, self.keeper.stdout):
            if stream is not None:
                stream.close()
        self.sender.close()
        self.receiver.close()

    def write(self, line: str) -> None:
        assert self.keeper.stdin is not None
        self.keeper.stdin.write(line + "\n")
        self.keeper.stdin.flush()

    def line(self) -> str:
        assert self.keeper.stdout is not None
        return self.keeper.stdout.readline().strip()

    def do(self, line: str) -> str:
        self.write(line)
        return self.line()

    def passes(self, frame: bytes) -> bool:
        """Send a frame, then one that always passes, and see whether the first one came before it."""
        mark = os.urandom(8)
        with contextlib.suppress(OSError):
            self.sender.send(frame)
        self.sender.send(b"\xff" * 6 + OWN + b"\x88\xb5" + mark.ljust(46, b"\0"))
        seen = False
        while True:
            got = self.receiver.recv(2048)
            if got[12:14] == b"\x88\xb5" and got[14:22] == mark:
                return seen
            seen = seen or got.startswith(frame)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Hosts() as hosts:
        router, wire = hosts.host("router"), hosts.host("wire")
        wiring.cable(router, "uplink0", wire, "eth0")
        wiring.macvlan(router, router, "uplink0")
        wiring.set_up(router, "macvlan0")
        built = Bench(router, wire)
        hosts.at_end(built.close)
        yield built


def ipv4(source: str, mac: bytes = OWN) -> bytes:
    packed = ip_address(source).packed
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, packed, bytes([192, 168, 12, 1]))
    return b"\xff" * 6 + mac + b"\x08\x00" + head + struct.pack("!HHHH", 1, 2, 8, 0)


def ipv6(source: str, mac: bytes = OWN) -> bytes:
    head = (
        struct.pack("!IHBB", 6 << 28, 8, 17, 64) + ip_address(source).packed + ip_address("fd00:12::1").packed
    )
    return b"\xff" * 6 + mac + b"\x86\xdd" + head + struct.pack("!HHHH", 1, 2, 8, 0)


def advertisement(sender: str) -> bytes:
    """A neighbour advertisement for the source address, sent with another one."""
    (frame,) = neighbour.announcements(SOURCE_V6, OWN)
    return frame[:22] + ip_address(sender).packed + frame[38:]


SPEAKS_FOR_IT = {
    "IPv4": ipv4("192.168.12.99"),
    "ARP request": neighbour.announcements(SOURCE, OWN)[0],
    "ARP reply": neighbour.announcements(SOURCE, OWN)[1],
    "IPv6": ipv6("fd00:12::99"),
    "neighbour advertisement": neighbour.announcements(SOURCE_V6, OWN)[0],
    "neighbour advertisement from a link-local address": advertisement("fe80::1"),
    "anything from the shared hardware address": ipv4("192.168.12.10", SHARED),
}
ALWAYS = {
    "another IPv4 address": ipv4("192.168.12.10"),
    "another IPv6 address": ipv6("fe80::1"),
    "ARP probe": neighbour.probe(SOURCE, OWN),
    "IPv6 probe": neighbour.probe(SOURCE_V6, OWN),
}


def test_a_closed_gate_lets_nothing_pass_that_speaks_for_the_addresses(bench: Bench) -> None:
    passed = {name for name, frame in (SPEAKS_FOR_IT | ALWAYS).items() if bench.passes(frame)}
    assert passed == set(ALWAYS)


def test_an_open_gate_lets_everything_pass(bench: Bench) -> None:
    assert bench.do("arm 1 30") == "done"
    assert not bench.passes(SPEAKS_FOR_IT["IPv4"]), "a question is no answer"
    assert bench.do("approve 1") == "done"
    assert {name for name, frame in (SPEAKS_FOR_IT | ALWAYS).items() if bench.passes(frame)} == (
        set(SPEAKS_FOR_IT) | set(ALWAYS)
    )
    assert bench.do("close") == "done"
    assert not any(bench.passes(frame) for frame in SPEAKS_FOR_IT.values())


def test_the_gate_closes_by_itself_while_its_keeper_is_stopped(bench: Bench) -> None:
    assert bench.do("arm 1 0.5") == "done"
    begun = time.monotonic()  # the kernel's timer already runs, however slow this machine is
    assert bench.do("approve 1") == "done"
    os.kill(bench.keeper.pid, signal.SIGSTOP)
    last = begun
    while time.monotonic() < begun + 1.0:
        asked = time.monotonic()
        if bench.passes(SPEAKS_FOR_IT["ARP reply"]):
            last = asked
    # 30 ms cover two ticks of a kernel with 100 Hz. A late frame finds the gate closed.
    assert last - begun < 0.5 + 0.03


def test_what_a_stopped_keeper_still_writes_opens_nothing(bench: Bench) -> None:
    """It was stopped between its decision and the write, and goes on after the timer of its request."""
    assert bench.do("arm 1 0.3") == "done"
    os.kill(bench.keeper.pid, signal.SIGSTOP)
    bench.write("approve 1")
    assert eventually(lambda: "expires" not in bench.router.run("nft", "list", "ruleset").stdout)
    os.kill(bench.keeper.pid, signal.SIGCONT)
    assert bench.line() == "done"
    assert not bench.passes(SPEAKS_FOR_IT["IPv4"])


def test_what_extends_an_open_gate_keeps_it_open(bench: Bench) -> None:
    assert bench.do("extend 1") == "closed"
    for question in (1, 2, 3):
        assert bench.do(f"arm {question} 30") == "done"
    assert bench.do("approve 1") == "done"
    assert bench.do("extend 2") == "done"
    assert bench.do("extend 3") == "done"
    assert bench.passes(SPEAKS_FOR_IT["IPv4"])
    listed = bench.router.run("nft", "list", "ruleset").stdout
    assert listed.count("expires") == 1, "what held the gate open before is gone"


def test_what_extends_a_closed_gate_opens_nothing(bench: Bench) -> None:
    """Its keeper does not know that the timer of its last request has ended: its clock was stopped, too."""
    assert bench.do("arm 1 0.3") == "done"
    assert bench.do("approve 1") == "done"
    assert bench.do("arm 2 30") == "done"
    assert eventually(lambda: not bench.passes(SPEAKS_FOR_IT["IPv4"]))
    assert bench.do("extend 2") == "closed"
    assert not bench.passes(SPEAKS_FOR_IT["IPv4"])
    assert bench.do("arm 3 30") == "done"
    assert bench.do("approve 3") == "done", "a new lease opens it"
    assert bench.passes(SPEAKS_FOR_IT["IPv4"])


def test_an_earlier_keeper_cannot_open_the_gate_of_a_later_one(bench: Bench) -> None:
    assert bench.do("arm 1 30") == "done"
    bench.router.run("nft", "-f", "-", input=render("macvlan0", [SOURCE], "02:00:00:00:00:99", "later"))
    assert bench.do("approve 1") == "No such file or directory"
    assert not bench.passes(SPEAKS_FOR_IT["IPv4"])


def test_a_flushed_fence_is_noticed_at_the_next_question(bench: Bench) -> None:
    bench.router.run("nft", "flush", "ruleset")
    assert bench.do("arm 1 30") == "No such file or directory"
    assert bench.do("restore") == "done"
    assert not bench.passes(SPEAKS_FOR_IT["IPv4"])
    assert bench.do("arm 2 30") == "done"
    assert bench.do("approve 2") == "done"
    assert bench.passes(SPEAKS_FOR_IT["IPv4"])
