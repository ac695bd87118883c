"""The ways in which connections come into the data plane, and how each way tells of them."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

from egress_router.relay.dataplane import Forwarding
from egress_router.relay.tunnel import REASONS, CloseReason, Closing, Relay
from tests.serving import listening
from tests.unit.relay.model import Model
from tests.waiting import until

if TYPE_CHECKING:
    import random

    from egress_router.grammar.address import Target
    from egress_router.relay._plane import Failures
    from egress_router.relay.news import Arrival, End, Identity, Sums
    from tests.unit.relay.relay_thread import RelayThread

CONNECT_REFUSED = 6  # plane.h


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
        """Check that what has no record of its own is in the sums."""

    def end(self) -> None:
        self.relay_thread.call(lambda: self.relay_thread.plane.stop_listening(self.listener))
        self.relay_thread.call(self.relay_thread.plane.catch_up)
        self.server.close()
        self.check()


class SilentMaker(Maker):
    """Its connections are only added up, except a failed one and the three after it."""

    def __init__(self, relay_thread: RelayThread, host: str | None = None) -> None:
        super().__init__(relay_thread, tells=False, host=host)
        self.done: list[Model] = []
        self.told: list[Model] = []

    def ended(self, end: End) -> None:
        self.told.append(self.accepted[end.client])
        super().ended(end)

    def has_told(self, model: Model) -> bool:
        """Return at once: there is no record, and the sums are checked at the end."""
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
    """Its clients begin with the head of a known CONNECT; those that then send nothing for long are handed over."""

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
