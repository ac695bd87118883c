"""Name servers that fail, lie or are silent, on real sockets and on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import threading
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from dns.rdatatype import RdataType

from egress_router.lab.nameserver import in_thread
from egress_router.lab.zone import entry
from egress_router.names.answer import Failure, ResolveError
from egress_router.settings.names import NamesSettings
from tests.ports import free_port
from tests.waiting import WAIT_SECONDS, until_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from egress_router.lab.zone import Zone
    from egress_router.names.resolver import Resolver
    from tests.unit.names.labs import Lab

DESCRIPTORS = Path("/proc/self/fd")
NAME = "a.example.com"
GOOD = {NAME: entry("192.0.2.1", ttl=0)}


def behaving(behaviour: str, only: str | None = None) -> Zone:
    return {NAME: entry("192.0.2.1", "2001:db8::1", behaviour=behaviour, only=only)}


@pytest.fixture
def short_time_out(lab: Lab) -> None:
    """Let a silent server cost no more than an honest one may need on a machine that is busy."""
    lab.time_out = 3.0


def descriptors() -> int:
    return len(list(DESCRIPTORS.iterdir()))


@contextlib.contextmanager
def no_leak(lab: Lab, resolver: Resolver) -> Iterator[None]:
    """Fail if look-ups in the block leave descriptors open; a first one opens what the loop itself keeps."""

    async def count() -> int:
        return descriptors()

    with contextlib.suppress(ResolveError):
        lab.resolve(resolver, "warm-up.example.com")
    before = lab.run(count())
    yield
    # The other end of a connection may be closed a moment later.
    lab.run(until_async(lambda: descriptors() <= before))


def failure_of(lab: Lab, resolver: Resolver) -> Failure:
    with pytest.raises(ResolveError) as caught:
        lab.resolve(resolver, NAME)
    return caught.value.failure


@pytest.mark.parametrize(
    ("behaviour", "failure"),
    [
        ("silent", Failure.TIMEOUT),
        ("lies", Failure.TIMEOUT),
        ("servfail", Failure.SERVER_FAILURE),
        ("refused", Failure.SERVER_FAILURE),
        ("referral", Failure.SERVER_FAILURE),
    ],
)
def test_the_only_server_fails(lab: Lab, behaviour: str, failure: Failure) -> None:
    with in_thread(behaving(behaviour)) as server:
        resolver = lab.resolver(server.port)
        with no_leak(lab, resolver):
            if failure is Failure.TIMEOUT:
                lab.time_out = 0.2
            assert failure_of(lab, resolver) is failure


def test_lies_are_ignored_until_the_truth_comes(lab: Lab) -> None:
    with in_thread(behaving("lies-first")) as server:
        assert lab.resolve(lab.resolver(server.port), NAME) == ["192.0.2.1", "2001:db8::1"]
        assert lab.counted("dns_datagrams_ignored_total") == 8
        assert {asked.transport for asked in server.asked} == {"udp"}


@pytest.mark.parametrize("behaviour", ["truncated", "flood"])
def test_tcp_serves_where_udp_does_not(lab: Lab, behaviour: str) -> None:
    with in_thread(behaving(behaviour)) as server:
        assert lab.resolve(lab.resolver(server.port), NAME) == ["192.0.2.1", "2001:db8::1"]
        assert sorted(asked.transport for asked in server.asked) == ["tcp", "tcp", "udp", "udp"]
        assert lab.counted("dns_queries_total", transport="tcp", result="answered") == 2


def test_a_server_that_does_not_know_edns_is_asked_without(lab: Lab) -> None:
    with in_thread(behaving("no-edns")) as server:
        assert lab.resolve(lab.resolver(server.port), NAME) == ["192.0.2.1", "2001:db8::1"]
        assert [asked.payload for asked in server.asked if asked.kind is RdataType.A] == [1232, None]


@pytest.mark.parametrize("behaviour", ["silent", "servfail", "refused", "referral"])
def test_the_next_server_answers_instead(lab: Lab, behaviour: str) -> None:
    # A silent one costs little, and the other one has time all the same.
    lab.time_out = 0.2
    lab.configure("nameserver 127.0.0.1", "nameserver 127.0.0.2", options="attempts:100")
    with (
        in_thread(behaving(behaviour), port=free_port()) as first,
        in_thread(GOOD, address="127.0.0.2", port=first.port),
    ):
        assert lab.resolve(lab.resolver(first.port), NAME) == ["192.0.2.1"]


def test_a_server_whose_port_is_closed_costs_no_time_out(lab: Lab) -> None:
    lab.configure("nameserver 127.0.0.3", "nameserver 127.0.0.2", options="timeout:30")
    with in_thread(GOOD, address="127.0.0.2") as server:
        assert lab.resolve(lab.resolver(server.port), NAME) == ["192.0.2.1"]
        assert lab.counted("dns_queries_total", transport="udp", result="unreachable") == 2


def test_no_such_name_is_final(lab: Lab) -> None:
    lab.configure("nameserver 127.0.0.1", "nameserver 127.0.0.2")
    with (
        in_thread({}, port=free_port()) as first,
        in_thread(GOOD, address="127.0.0.2", port=first.port) as second,
    ):
        assert failure_of(lab, lab.resolver(first.port)) is Failure.NO_SUCH_NAME
        assert second.asked == []


def test_a_failing_server_is_asked_as_often_as_attempts_says(lab: Lab) -> None:
    lab.configure("nameserver 127.0.0.1", options="attempts:3")
    with in_thread(behaving("servfail")) as server:
        failure_of(lab, lab.resolver(server.port))
        assert len(server.asked) == 6


@pytest.mark.usefixtures("short_time_out")
def test_a_silent_server_is_asked_last_from_then_on(lab: Lab) -> None:
    lab.configure("nameserver 127.0.0.1", "nameserver 127.0.0.2")
    silent: Zone = {"*": entry(behaviour="silent")}
    good = GOOD | {"b.example.com": entry("192.0.2.2")}
    with in_thread(silent, port=free_port()) as first, in_thread(good, address="127.0.0.2", port=first.port):
        resolver = lab.resolver(first.port)
        lab.resolve(resolver, NAME)
        assert len(first.asked) == 2
        lab.resolve(resolver, "b.example.com")
        assert len(first.asked) == 2


@pytest.mark.usefixtures("short_time_out")
def test_a_server_is_not_silent_because_of_one_question(lab: Lab) -> None:
    lab.configure("nameserver 127.0.0.1", "nameserver 127.0.0.2")
    zone = {NAME: entry(behaviour="silent", only="AAAA"), "b.example.com": entry("192.0.2.2")}
    with (
        in_thread(zone, port=free_port()) as first,
        in_thread({}, address="127.0.0.2", port=first.port) as second,
    ):
        resolver = lab.resolver(first.port)
        assert failure_of(lab, resolver) is Failure.NO_SUCH_NAME
        assert [asked.kind for asked in second.asked] == [RdataType.AAAA]
        assert lab.resolve(resolver, "b.example.com") == ["192.0.2.2"]
        assert len(second.asked) == 1


@pytest.mark.parametrize("behaviour", ["silent", "servfail", "lies"])
@pytest.mark.parametrize(("only", "left"), [("A", ["2001:db8::1"]), ("AAAA", ["192.0.2.1"])])
def test_one_family_fails_and_the_other_serves(lab: Lab, behaviour: str, only: str, left: list[str]) -> None:
    settings = NamesSettings(other_family_seconds=0.05)
    lab.configure("nameserver 127.0.0.1", options="timeout:30")
    with in_thread(behaving(behaviour, only)) as server:
        answer = lab.run(asyncio.wait_for(lab.resolver(server.port, settings).resolve(NAME), WAIT_SECONDS))
        assert [str(address) for address in answer.addresses] == left


def test_a_name_that_is_unknown_at_start_and_known_later(lab: Lab) -> None:
    with in_thread({}) as server:
        resolver = lab.resolver(server.port)
        assert failure_of(lab, resolver) is Failure.NO_SUCH_NAME
        server.zone = GOOD
        lab.become(resolver, NAME, "192.0.2.1")


def test_a_server_that_comes_up_after_start(lab: Lab) -> None:
    port = free_port()
    resolver = lab.resolver(port)
    assert failure_of(lab, resolver) is Failure.SERVER_FAILURE
    with in_thread(GOOD, port=port):
        lab.become(resolver, NAME, "192.0.2.1")


def test_the_last_good_answer_serves_while_the_server_fails(lab: Lab) -> None:
    with in_thread(GOOD) as server:
        resolver = lab.resolver(server.port)
        assert lab.resolve(resolver, NAME) == ["192.0.2.1"]
        server.zone = behaving("servfail")
        lab.clock.advance(1.0)
        assert resolver.cached(NAME) is None
        stale = lab.run(resolver.resolve(NAME))
        assert ([str(address) for address in stale.addresses], stale.stale) == (["192.0.2.1"], True)
        assert resolver.cached(NAME) == stale
        assert lab.counted("dns_stale_answers_total") == 2
        # From here on only `cached` is called: it alone must bring the renewal about.
        server.zone = {NAME: entry("192.0.2.77")}
        lab.clock.advance(1.0)
        lab.run(until_async(lambda: _addresses(resolver) == ["192.0.2.77"]))


def _addresses(resolver: Resolver) -> list[str]:
    answer = resolver.cached(NAME)
    return [] if answer is None else [str(address) for address in answer.addresses]


def test_what_was_known_before_serves_while_the_server_fails(lab: Lab) -> None:
    with in_thread(behaving("servfail")) as server:
        resolver = lab.resolver(server.port)
        resolver.remember(NAME, (ip_address("192.0.2.7"),))
        assert resolver.cached(NAME) is None  # it is asked for all the same
        answer = lab.run(resolver.resolve(NAME))
        assert ([str(address) for address in answer.addresses], answer.stale) == (["192.0.2.7"], True)
        lab.clock.advance(NamesSettings().stale_seconds)
        assert failure_of(lab, resolver) is Failure.SERVER_FAILURE


def test_a_name_server_that_is_silent_for_a_day(lab: Lab) -> None:
    with in_thread(GOOD) as server:
        resolver = lab.resolver(server.port, NamesSettings(stale_wait_seconds=10.0))
        lab.resolve(resolver, NAME)
        server.zone = behaving("silent")
        lab.time_out = 0.01
        asked = len(server.asked)
        for hour in range(1, 24):
            lab.clock.advance(3600.0)
            answer = lab.run(resolver.resolve(NAME))
            assert (answer.stale, len(answer.addresses)) == (True, 1), hour
        assert len(server.asked) <= asked + 2 * 23
        lab.clock.advance(3601.0)
        assert failure_of(lab, resolver) is Failure.TIMEOUT
        server.zone, lab.time_out = GOOD, None
        lab.become(resolver, NAME, "192.0.2.1")


def test_nobody_waits_long_for_a_silent_server_while_there_is_a_last_good_answer(lab: Lab) -> None:
    lab.configure("nameserver 127.0.0.1", options="timeout:30")
    with in_thread(GOOD) as server:
        resolver = lab.resolver(server.port, NamesSettings(stale_wait_seconds=0.05))
        lab.resolve(resolver, NAME)
        server.zone = behaving("silent")
        lab.clock.advance(1.0)
        assert lab.run(asyncio.wait_for(resolver.resolve(NAME), WAIT_SECONDS)).stale
        assert _addresses(resolver) == ["192.0.2.1"]
        resolver.close()


def test_the_last_good_answer_is_not_served_beyond_its_bound(lab: Lab) -> None:
    with in_thread(GOOD) as server:
        resolver = lab.resolver(server.port, NamesSettings(stale_seconds=3.0))
        lab.resolve(resolver, NAME)
        server.zone = behaving("servfail")
        lab.clock.advance(3.5)
        assert lab.run(resolver.resolve(NAME)).stale
        lab.clock.advance(0.5)
        assert resolver.cached(NAME) is None
        assert failure_of(lab, resolver) is Failure.SERVER_FAILURE


def test_a_name_that_ceased_to_exist_is_not_served(lab: Lab) -> None:
    with in_thread(GOOD) as server:
        resolver = lab.resolver(server.port)
        lab.resolve(resolver, NAME)
        server.zone = {}
        lab.clock.advance(1.0)
        assert failure_of(lab, resolver) is Failure.NO_SUCH_NAME


@contextlib.contextmanager
def scripted(datagrams: Callable[[bytes], list[bytes]], stream: Callable[[bytes], bytes]) -> Iterator[int]:
    """Answer each datagram and each connection with the bytes that the functions make of the query."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.create_server(("127.0.0.1", free_port())) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        udp.bind(tcp.getsockname())
        stop = threading.Event()

        def serve_udp() -> None:
            while not stop.is_set():
                query, client = udp.recvfrom(4096)
                for answer in datagrams(query) if query else ():
                    # A stranger is another port of the same machine, so only the port tells him apart.
                    sender = stranger if b"stranger" in answer else udp
                    sender.sendto(answer, client)

        def serve_tcp() -> None:
            while not stop.is_set():
                connection, _ = tcp.accept()
                with connection:
                    query = connection.recv(4096)
                    connection.sendall(stream(query[2:]) if query else b"")

        threads = [threading.Thread(target=serve) for serve in (serve_udp, serve_tcp)]
        for thread in threads:
            thread.start()
        try:
            yield tcp.getsockname()[1]
        finally:
            stop.set()
            socket.create_connection(tcp.getsockname()).close()
            stranger.sendto(b"", udp.getsockname())
            for thread in threads:
                thread.join(WAIT_SECONDS)


def cut(query: bytes) -> bytes:
    """Return a truncated answer to a query."""
    answer = dns.message.make_response(dns.message.from_wire(query))
    answer.flags |= dns.flags.TC
    return answer.to_wire()


def good(query: bytes, *addresses: str) -> bytes:
    asked = dns.message.from_wire(query)
    answer = dns.message.make_response(asked, recursion_available=True)
    if asked.question[0].rdtype is RdataType.A:
        answer.answer.append(dns.rrset.from_text(f"{NAME}.", 30, "IN", "A", *addresses))
    return answer.to_wire(max_size=65535)


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


@pytest.mark.parametrize(
    "stream",
    [
        lambda query: b"",
        lambda query: framed(good(query, "192.0.2.1"))[:-5],
        lambda query: framed(cut(query)),
        lambda query: framed(b"xx" + good(query, "192.0.2.1")[2:]),
        lambda query: framed(b""),
    ],
    ids=["closed", "cut short", "truncated again", "wrong id", "empty"],
)
def test_tcp_answers_that_are_none(lab: Lab, stream: Callable[[bytes], bytes]) -> None:
    with scripted(lambda query: [cut(query)], stream) as port:
        resolver = lab.resolver(port)
        with no_leak(lab, resolver):
            assert failure_of(lab, resolver) is Failure.SERVER_FAILURE


def test_of_an_answer_with_a_thousand_addresses_64_are_kept(lab: Lab) -> None:
    many = [f"192.0.{high}.{low}" for high in range(5) for low in range(250)]
    with scripted(lambda query: [cut(query)], lambda query: framed(good(query, *many))) as port:
        assert len(lab.resolve(lab.resolver(port), NAME)) == 64


def test_what_another_sender_answers_never_arrives(lab: Lab) -> None:
    def answers(query: bytes) -> list[bytes]:
        lie = dns.message.from_wire(good(query, "192.0.2.66"))
        lie.additional.append(dns.rrset.from_text(f"{NAME}.", 30, "IN", "TXT", "stranger"))
        return [lie.to_wire(), good(query, "192.0.2.1")]

    with scripted(answers, lambda query: b"") as port:
        assert lab.resolve(lab.resolver(port), NAME) == ["192.0.2.1"]
        assert lab.counted("dns_datagrams_ignored_total") == 0


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Let no file or socket be opened in the block, also where others are closed meanwhile. Open ones work on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptor_is_left_and_then_there_is(lab: Lab) -> None:
    async def ask(resolver: Resolver) -> None:
        with pytest.raises(ResolveError):  # from here on it knows where the server is
            await resolver.resolve("nowhere.example.com")
        with no_descriptors(), pytest.raises(ResolveError) as caught:
            await resolver.resolve(NAME)
        assert caught.value.failure is Failure.SERVER_FAILURE
        await lab.becoming(resolver, NAME, "192.0.2.1")

    with in_thread(GOOD) as server:
        lab.run(ask(lab.resolver(server.port)))
