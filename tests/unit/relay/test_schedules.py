"""Random schedules of reads, writes, half-closes and resets against a model; every byte and every record counts."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import select
import socket
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING

from egress_router.relay.dataplane import Forwarding
from egress_router.relay.tunnel import REASONS, CloseReason, Closing, Relay
from tests.serving import LOOPS, listening
from tests.unit.relay.relay_thread import RelayThread
from tests.unit.relay.test_tunnel import reset
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from egress_router.grammar.address import Target
    from egress_router.relay._plane import Failures
    from egress_router.relay.news import Arrival, End, Identity, Sums
    from egress_router.relay.tunnel import Tunnel

FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS", "3"))  # `make fuzz` takes longer
BLOCK = random.Random(11).randbytes(1 << 20)
SIZES = (1, 100, 5_000, 70_000, 600_000)
AT_ONCE = 8
CONNECT_REFUSED = 6  # plane.h
CUT_SHORT = {errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN}


def stream(place: int, count: int) -> bytes:
    """Return a part of the endless stream that every side sends."""
    place %= len(BLOCK)
    return (BLOCK[place:] + BLOCK)[:count] if place + count > len(BLOCK) else BLOCK[place : place + count]


class Side:
    """One peer of a connection, and what the model knows of it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.sent = self.got = 0
        self.ended = self.at_end = self.gone = self.urgent = False

    def send(self, size: int) -> None:
        if self.ended or self.gone:
            return
        with contextlib.suppress(BlockingIOError):
            self.sent += self.sock.send(stream(self.sent, size))

    def send_urgent(self) -> None:
        """One only: a second one makes the first an ordinary byte (tcp(7))."""
        if self.urgent or self.ended or self.gone:
            return
        with contextlib.suppress(BlockingIOError):
            self.sock.send(b"!", socket.MSG_OOB)
            self.urgent = True

    def receive(self, size: int) -> None:
        if self.at_end or self.gone:
            return
        with contextlib.suppress(BlockingIOError):
            data = self.sock.recv(size)
            assert data == stream(self.got, len(data)), f"other bytes than were sent, from {self.got} on"
            self.got += len(data)
            self.at_end = not data

    def end(self) -> None:
        if not self.ended and not self.gone:
            self.ended = True
            self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        if not self.gone:
            self.gone = True
            reset(self.sock)


class Model:
    """A connection through the data plane: its two peers, and what may become of it."""

    def __init__(self, client: socket.socket, server: socket.socket, tunnel: Tunnel | None) -> None:
        self.client, self.server = Side(client), Side(server)
        self.tunnel = tunnel
        self.allowed: set[CloseReason] = set()
        self.closing: Closing | None = None

    def step(self, dice: random.Random, relay_thread: RelayThread) -> None:
        here = dice.choice([self.client, self.server])
        what = dice.random()
        if what < 0.45:
            here.send(dice.choice(SIZES))
        elif what < 0.96:
            here.receive(dice.choice(SIZES))
        elif what < 0.97:
            here.send_urgent()
        elif what < 0.985:
            here.end()
        elif what < 0.99:
            self.allowed.add(CloseReason.CLIENT_RESET if here is self.client else CloseReason.UPSTREAM_RESET)
            here.reset()
        elif what < 0.993 and self.tunnel is not None:
            self.allowed.add(CloseReason.CLOSED)
            relay_thread.call(self.tunnel.close)

    def finish(self) -> None:
        """Let both sides end, and read to the end."""
        limit = time.monotonic() + WAIT_SECONDS
        while not all(side.at_end or side.gone for side in (self.client, self.server)):
            assert time.monotonic() < limit, f"stuck: {self}"
            for side in (self.client, self.server):
                side.end()
                side.receive(1 << 20)
            waiting = [side.sock for side in (self.client, self.server) if not side.at_end and not side.gone]
            select.select(waiting, [], [], 0.1)

    def close(self) -> None:
        for side in (self.client, self.server):
            side.sock.close()

    def check(self) -> None:
        """Hold the record against the bytes."""
        assert self.closing is not None
        reason, sent, received, _, first_byte = self.closing
        assert self.server.got <= sent <= self.client.sent, str(self)
        assert self.client.got <= received <= self.server.sent, str(self)
        assert first_byte is None or self.server.sent, str(self)
        if reason is CloseReason.FINISHED:
            assert (sent, received) == (self.client.sent, self.server.sent), str(self)
        else:
            assert reason in self.allowed, str(self)
        if not self.allowed:
            assert (self.server.got, self.client.got) == (self.client.sent, self.server.sent), str(self)

    def __str__(self) -> str:
        return f"{vars(self.client)} {vars(self.server)} {self.allowed} {self.closing}"


class Maker(Forwarding):
    """Makes connections through the data plane: accepted there, or handed over."""

    def __init__(self, relay_thread: RelayThread, *, tells: bool = True, host: str | None = None) -> None:
        super().__init__(10.0, 60.0, 0, tells, False, host)
        self.relay_thread = relay_thread
        self.sums: list[Sums] = []
        self.answers = 0
        self.accepted: dict[str, Model] = {}
        self.made = 0
        self.server = socket.create_server(("127.0.0.1", 0))
        self.listener = listening()
        self.port = self.listener.getsockname()[1]
        target = (ip_address("127.0.0.1"), self.server.getsockname()[1])
        relay_thread.call(lambda: relay_thread.plane.aim(self, (target,), 1))
        relay_thread.call(lambda: relay_thread.plane.listen(self.listener, self))

    def connected(self, client: str, target: Target, seconds: float, failures: Failures, _: Identity) -> None:
        assert (str(target[0]), failures) == ("127.0.0.1", ())
        assert seconds < 60
        assert client.startswith("127.")

    def wanted(self) -> None:
        raise AssertionError("there is a target")

    def ended(self, end: End) -> None:
        model = self.accepted.pop(end.client)
        if end.reason == CONNECT_REFUSED:
            # The server's reset came before the data plane had looked at its new connection.
            assert end.target is None
            model.closing = Closing(CloseReason.UPSTREAM_RESET, 0, 0, end.seconds)
        else:
            model.closing = Closing(REASONS[end.reason], end.sent, end.received, end.seconds)

    def summed(self, sums: Sums) -> None:
        self.sums.append(sums)

    def answered(self, _: Target, count: int) -> None:
        self.answers += count

    def make(self) -> Model:
        self.made += 1
        source = f"127.{self.made >> 14 & 127}.{self.made >> 7 & 127}.{self.made & 127 | 128}"
        client = socket.create_connection(("127.0.0.1", self.port), 10, (source, 0))
        self.prepare(client)
        server, _ = self.server.accept()
        model = self.accepted[source] = Model(client, server, None)
        return model

    def prepare(self, client: socket.socket) -> None:
        """Do what comes before the bytes of a connection."""

    def has_told(self, model: Model) -> bool:
        return model.closing is not None

    def check(self) -> None:
        """See that what was not told one by one is in the sums."""

    def end(self) -> None:
        self.relay_thread.call(lambda: self.relay_thread.plane.stop_listening(self.listener))
        self.relay_thread.call(self.relay_thread.plane.catch_up)
        self.server.close()
        self.check()


class SilentMaker(Maker):
    """Its connections are only added up, but for a failed one and the next three after it."""

    def __init__(self, relay_thread: RelayThread, host: str | None = None) -> None:
        super().__init__(relay_thread, tells=False, host=host)
        self.done: list[Model] = []
        self.told: list[Model] = []

    def ended(self, end: End) -> None:
        self.told.append(self.accepted[end.client])
        super().ended(end)

    def has_told(self, model: Model) -> bool:
        """Nobody tells: the model's part of the sums is checked at the end."""
        self.done.append(model)
        return True

    def check(self) -> None:
        until(lambda: len(self.told) + self.summed_up() == self.made)
        for model in self.told:
            model.check()
        connects = sum(sum(each.connects[0]) for each in self.sums)
        assert connects == sum(sum(each.lives[0]) for each in self.sums)
        assert self.answers in {0, connects}
        summed = [model for model in self.done if model.closing is None]
        sent, received = sum(each.sent for each in self.sums), sum(each.received for each in self.sums)
        assert sum(each.server.got for each in summed) <= sent
        assert sent <= sum(each.client.sent for each in summed)
        assert sum(each.client.got for each in summed) <= received
        assert received <= sum(each.server.sent for each in summed)

    def summed_up(self) -> int:
        """Return how many connections the sums hold: made ones, and clients that left before theirs was made."""
        refused = sum(count for each in self.sums for _, count in each.refused)
        return refused + sum(sum(each.lives[0]) for each in self.sums)


class KnownMaker(SilentMaker):
    """Its clients begin with the head of a known CONNECT; those who then say nothing for long are handed over."""

    HEAD = b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n"

    def __init__(self, relay_thread: RelayThread) -> None:
        super().__init__(relay_thread, host="x")
        self.relay = Relay(relay_thread.plane, relay_thread.poller)
        acceptor = GoesOn(self)
        self.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 10)
        relay_thread.call(lambda: relay_thread.plane.listen(self.listener, acceptor))
        relay_thread.call(lambda: relay_thread.plane.know(acceptor, self, self.HEAD, 1e6))

    def prepare(self, client: socket.socket) -> None:
        client.sendall(self.HEAD)
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += client.recv(1)
        assert answer == b"HTTP/1.1 200 Connection established\r\n\r\n"

    def goes_on(self, arrival: Arrival) -> None:
        assert arrival.known is not None
        if arrival.client[0] not in self.accepted:  # `make` is not through yet
            self.relay_thread.loop.call_later(0.01, self.goes_on, arrival)
            return
        client = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, arrival.descriptor)
        upstream = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, arrival.known.descriptor)
        model = self.accepted.pop(arrival.client[0])

        def closed(closing: Closing) -> None:
            self.told.append(model)
            model.closing = closing

        self.relay.start(
            client, upstream, 60.0, closed, to_upstream=arrival.early, admission=arrival.admission
        )


class GoesOn(Forwarding):
    """The port of a `KnownMaker`."""

    def __init__(self, maker: KnownMaker) -> None:
        super().__init__(0.0, 0.0, 0, False, True)
        self.accepted = maker.goes_on


class TunnelMaker:
    """Hands two connected sockets over."""

    def __init__(self, relay_thread: RelayThread, dice: random.Random) -> None:
        self.relay_thread = relay_thread
        self.dice = dice

    def make(self) -> Model:
        # With little room in the kernel a direction blocks long before it counts as bulk.
        client, server, tunnel = self.relay_thread.tunnel(send_buffer=self.dice.choice([None, 4_096, 50_000]))
        return Model(client, server, tunnel)

    def has_told(self, model: Model) -> bool:
        if model.tunnel is not None and model.tunnel in self.relay_thread.closed:
            model.closing = self.relay_thread.closed.pop(model.tunnel)
        return model.closing is not None

    def end(self) -> None: ...


def act(model: Model, dice: random.Random, relay_thread: RelayThread) -> bool:
    """Take some steps; return whether the connection is still to be used."""
    try:
        for _ in range(dice.randrange(1, 20)):
            model.step(dice, relay_thread)
        if dice.random() < 0.05:
            model.finish()
            return False
    except OSError as error:
        if error.errno in CUT_SHORT and model.allowed:
            return False
        raise AssertionError(str(model)) from error
    return not (model.client.gone and model.server.gone)


def test_random_schedules_are_relayed_to_the_byte() -> None:
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it with a failure
    with contextlib.closing(RelayThread(*LOOPS["own"]())) as relay_thread:
        makers = (
            TunnelMaker(relay_thread, dice),
            Maker(relay_thread),
            SilentMaker(relay_thread),
            KnownMaker(relay_thread),
        )
        models: list[tuple[Model, TunnelMaker | Maker]] = []
        end = time.monotonic() + FUZZ_SECONDS
        while time.monotonic() < end or models:
            while len(models) < AT_ONCE and time.monotonic() < end:
                maker = dice.choice(makers)
                models.append((maker.make(), maker))
            model, maker = one = dice.choice(models)
            going = time.monotonic() < end
            if act(model, dice, relay_thread) and going:
                continue
            models.remove(one)
            settle(model)
            until(lambda: maker.has_told(model))  # noqa: B023
            model.close()
            if model.closing is not None:
                model.check()
        for maker in makers:
            maker.end()
        assert relay_thread.plane.open_connections() == 0
        assert relay_thread.plane.pipes_lent == 0


def settle(model: Model) -> None:
    """Bring a connection to its end, whatever has become of it."""
    with contextlib.suppress(OSError):
        model.finish()
