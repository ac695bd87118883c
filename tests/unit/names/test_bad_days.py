"""Name servers that fail, lie or are silent, on real sockets and on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from typing import TYPE_CHECKING

import pytest
from dns.rdatatype import RdataType

from egress_router.lab.nameserver import in_thread
from egress_router.lab.zone import entry
from egress_router.names.answer import Failure, ResolveError
from egress_router.settings.names import NamesSettings
from tests.ports import free_port
from tests.unit.names.bad_servers import GOOD, NAME, behaving, failure_of, no_leak
from tests.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.lab.zone import Zone
    from egress_router.names.resolver import Resolver
    from tests.unit.names.labs import Lab


@pytest.fixture
def short_time_out(lab: Lab) -> None:
    """Let a silent server cost no more than an honest one may need on a machine that is busy."""
    lab.time_out = 3.0


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
