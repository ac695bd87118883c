"""The resolver against a real name server on loopback, on both event loops."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from egress_router.lab.nameserver import in_thread
from egress_router.lab.zone import entry
from egress_router.names.answer import Answer, Failure, ResolveError
from egress_router.settings.names import NamesSettings
from tests.ports import free_port
from tests.waiting import until_async

if TYPE_CHECKING:
    from egress_router.lab.nameserver import Asked
    from egress_router.names import resolver as resolver_module
    from tests.unit.names.labs import Lab

ZONE = {
    "www.example.com": entry("2001:db8::1", "192.0.2.1", "192.0.2.2", ttl=30),
    "alias.example.com": entry(alias="www.example.com", ttl=300),
    "loop.example.com": entry(alias="pool.example.com"),
    "pool.example.com": entry(alias="loop.example.com"),
    "nothing.example.com": entry(),
    "broken.example.com": entry("192.0.2.9", alias="gone.example.com"),
}


def test_both_families_of_a_name_ipv4_first(lab: Lab) -> None:
    with in_thread(ZONE) as server:
        resolver = lab.resolver(server.port)
        answer = lab.run(resolver.resolve("www.example.com"))
        assert [str(address) for address in answer.addresses] == ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
        assert answer.expires == lab.clock.monotonic() + 30
        assert answer.name == "www.example.com"
        assert resolver.cached("www.example.com") == answer
        assert sorted(asked.kind.name for asked in server.asked) == ["A", "AAAA"]
        assert {(asked.transport, asked.payload) for asked in server.asked} == {("udp", 1232)}


def test_an_alias_is_followed_and_its_ttl_counts(lab: Lab) -> None:
    with in_thread(ZONE) as server:
        answer = lab.run(lab.resolver(server.port).resolve("alias.example.com"))
        assert (len(answer.addresses), answer.name) == (3, "alias.example.com")
        assert answer.expires == lab.clock.monotonic() + 30


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("nowhere.example.com", Failure.NO_SUCH_NAME),
        ("nothing.example.com", Failure.NO_ADDRESS),
        ("broken.example.com", Failure.NO_SUCH_NAME),
        ("loop.example.com", Failure.SERVER_FAILURE),
    ],
)
def test_why_a_name_has_no_address(lab: Lab, name: str, failure: Failure) -> None:
    with in_thread(ZONE) as server:
        with pytest.raises(ResolveError, match=name) as caught:
            lab.resolve(lab.resolver(server.port), name)
        assert caught.value.failure is failure
        assert lab.counted("dns_lookups_total", result=failure.value) == 1


def test_a_failure_is_remembered(lab: Lab) -> None:
    with in_thread(ZONE) as server:
        resolver = lab.resolver(server.port)
        for _ in range(3):
            with pytest.raises(ResolveError):
                lab.resolve(resolver, "nowhere.example.com")
        assert len(server.asked) == 2
        assert lab.counted("dns_cache_hits_total") == 2


def test_addresses_and_hosts_are_never_asked_for(lab: Lab) -> None:
    lab.hosts.write_text("192.0.2.7 www.example.com db1\n")
    with in_thread(ZONE) as server:
        resolver = lab.resolver(server.port)
        assert lab.resolve(resolver, "192.0.2.5") == ["192.0.2.5"]
        assert lab.resolve(resolver, "2001:db8::5") == ["2001:db8::5"]
        assert lab.resolve(resolver, "www.example.com") == ["192.0.2.7"]
        assert lab.resolve(resolver, "db1") == ["192.0.2.7"]
        assert resolver.cached("db2") is None  # ends as an address may, but is none
        assert server.asked == []


def test_hosts_are_read_again_when_they_change(standard_lab: Lab) -> None:
    resolver = standard_lab.resolver(port=9)
    answer = resolver.cached("db.example.com")
    assert answer is None
    for address in ("192.0.2.7", "192.0.2.88"):
        standard_lab.hosts.write_text(f"{address} db.example.com\n")
        standard_lab.clock.advance(1.0)
        answer = resolver.cached("db.example.com")
        assert answer is not None
        assert (answer.addresses, answer.name) == ((ip_address(address),), "db.example.com")


def test_resolv_conf_is_read_again_when_it_changes(standard_lab: Lab) -> None:
    with (
        in_thread({"a.example.com": entry("192.0.2.1")}, port=free_port()) as first,
        in_thread({"a.example.com": entry("192.0.2.2")}, address="127.0.0.2", port=first.port),
    ):
        resolver = standard_lab.resolver(first.port)
        assert standard_lab.resolve(resolver, "a.example.com") == ["192.0.2.1"]
        standard_lab.configure("nameserver 127.0.0.2")
        standard_lab.clock.advance(30.0)
        assert standard_lab.resolve(resolver, "a.example.com") == ["192.0.2.2"]


def test_short_names_go_through_the_search_list(lab: Lab) -> None:
    zone = {name: entry("192.0.2.3") for name in ("db.shop.example", "www.example.svc.example")}
    lab.configure("nameserver 127.0.0.1", "search svc.example shop.example", options="ndots:5")
    with in_thread(zone) as server:
        resolver = lab.resolver(server.port)
        assert resolver.candidates("db") == ("db.svc.example", "db.shop.example", "db")
        answer = lab.run(resolver.resolve("db"))
        assert ([str(each) for each in answer.addresses], answer.name) == (["192.0.2.3"], "db.shop.example")
        assert _asked_names(server.asked) == ["db.svc.example", "db.shop.example"]
        for name in ("www.example", "db."):
            with pytest.raises(ResolveError):
                lab.resolve(resolver, name)
        assert _asked_names(server.asked)[2:] == ["www.example", "db"]


def _asked_names(asked: list[Asked]) -> list[str]:
    return list(dict.fromkeys(each.name for each in asked))


def test_a_search_domain_that_fails_leaves_the_name_unknown_for_a_moment_only(lab: Lab) -> None:
    zone = {"db.one.example": entry(behaviour="servfail")}
    lab.configure("nameserver 127.0.0.1", "search one.example")
    with in_thread(zone) as server, pytest.raises(ResolveError) as caught:
        lab.resolve(lab.resolver(server.port), "db")
    assert caught.value.failure is Failure.SERVER_FAILURE


def test_a_name_server_with_an_ipv6_address(lab: Lab) -> None:
    lab.configure("nameserver ::1")
    zone = {"a.example.com": entry("192.0.2.1"), "b.example.com": entry("192.0.2.2", behaviour="truncated")}
    with in_thread(zone, address="::1") as server:
        resolver = lab.resolver(server.port)
        assert lab.resolve(resolver, "a.example.com") == ["192.0.2.1"]
        assert lab.resolve(resolver, "b.example.com") == ["192.0.2.2"]


def test_rotate_spreads_the_questions(lab: Lab) -> None:
    lab.configure("nameserver 127.0.0.1", "nameserver 127.0.0.2", options="rotate")
    zone = {f"{number}.example.com": entry("192.0.2.1") for number in range(5)}
    with (
        in_thread(zone, port=free_port()) as first,
        in_thread(zone, address="127.0.0.2", port=first.port) as second,
    ):
        resolver = lab.resolver(first.port)
        for name in zone:
            lab.resolve(resolver, name)
        assert (len(first.asked), len(second.asked)) == (5, 5)


def test_without_rotate_only_the_first_is_asked(lab: Lab) -> None:
    lab.configure("nameserver 127.0.0.1", "nameserver 127.0.0.2")
    with (
        in_thread(ZONE, port=free_port()) as first,
        in_thread(ZONE, address="127.0.0.2", port=first.port) as second,
    ):
        lab.resolve(lab.resolver(first.port), "www.example.com")
        assert (len(first.asked), len(second.asked)) == (2, 0)


def test_ids_and_source_ports_are_random(standard_lab: Lab) -> None:
    zone = {f"{number}.example.com": entry("192.0.2.1") for number in range(50)}
    with in_thread(zone) as server:
        resolver = standard_lab.resolver(server.port)
        for name in zone:
            standard_lab.resolve(resolver, name)
        for values in ([asked.id for asked in server.asked], [asked.port for asked in server.asked]):
            assert len(set(values)) > 90
            steps = {after - before for before, after in pairwise(values)}
            assert len(steps) > 90


def test_those_who_ask_for_one_name_share_one_look_up(lab: Lab) -> None:
    async def ask(resolver: resolver_module.Resolver) -> list[Answer]:
        return await asyncio.gather(*(resolver.resolve("slow.example.com") for _ in range(50)))

    with in_thread({"slow.example.com": entry("192.0.2.1", delay=0.1)}) as server:
        answers = lab.run(ask(lab.resolver(server.port)))
        assert len(set(answers)) == 1
        assert len(server.asked) == 2


def test_who_stops_waiting_does_not_end_it_for_others(lab: Lab) -> None:
    async def ask(resolver: resolver_module.Resolver) -> Answer:
        tasks = [asyncio.ensure_future(resolver.resolve("slow.example.com")) for _ in range(3)]
        await until_async(lambda: len(server.asked) == 2)
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        tasks[1].cancel()
        return await tasks[2]

    with in_thread({"slow.example.com": entry("192.0.2.1", delay=0.1)}) as server:
        assert not lab.run(ask(lab.resolver(server.port))).stale
        assert len(server.asked) == 2


def test_closing_ends_what_is_being_looked_up(lab: Lab) -> None:
    async def ask(resolver: resolver_module.Resolver) -> None:
        waiting = asyncio.ensure_future(resolver.resolve("silent.example.com"))
        await until_async(lambda: len(server.asked) == 2)
        resolver.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await until_async(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    lab.configure("nameserver 127.0.0.1", options="timeout:30")
    with in_thread({"silent.example.com": entry(behaviour="silent")}) as server:
        lab.run(ask(lab.resolver(server.port)))


def test_look_ups_at_one_time_are_bounded(lab: Lab) -> None:
    async def ask(resolver: resolver_module.Resolver) -> None:
        waiting = asyncio.ensure_future(resolver.resolve("slow.example.com"))
        await until_async(lambda: server.asked)
        with pytest.raises(ResolveError) as caught:
            await resolver.resolve("other.example.com")
        assert caught.value.failure is Failure.OVER_LIMIT
        await waiting
        await resolver.resolve("other.example.com")

    zone = {"slow.example.com": entry("192.0.2.1", delay=0.05), "other.example.com": entry("192.0.2.2")}
    with in_thread(zone) as server:
        lab.run(ask(lab.resolver(server.port, NamesSettings(max_lookups=1))))
        assert lab.counted("dns_lookups_total", result="over_limit") == 1
        assert lab.counted("limit_hits_total", limit="dns_lookups") == 1


def test_what_is_counted(lab: Lab) -> None:
    with in_thread(ZONE) as server:
        resolver = lab.resolver(server.port)
        for _ in range(3):
            lab.resolve(resolver, "www.example.com")
        assert lab.counted("dns_lookups_total", result="found") == 1
        assert lab.counted("dns_queries_total", transport="udp", result="answered") == 2
        assert lab.counted("dns_cache_hits_total") == 2
        [(_, counts, _)] = lab.registry.snapshot()["dns_lookup_seconds"].histograms.values()
        assert sum(counts) == 1


@pytest.mark.parametrize(("ttl", "kept"), [(0, 2.0), (7 * 86400, 100.0)])
def test_ttl_0_and_a_ttl_of_a_week_are_kept_within_bounds(lab: Lab, ttl: int, kept: float) -> None:
    settings = NamesSettings(ttl_floor=2.0, ttl_ceiling=100.0)
    with in_thread({"a.example.com": entry("192.0.2.1", ttl=ttl)}) as server:
        answer = lab.run(lab.resolver(server.port, settings).resolve("a.example.com"))
        assert answer.expires == lab.clock.monotonic() + kept


def test_an_answer_that_grows_to_60_addresses_and_shrinks_to_one(lab: Lab) -> None:
    many = [f"2001:db8::{number:x}" for number in range(1, 61)]
    with in_thread({"a.example.com": entry("2001:db8::1", ttl=0)}) as server:
        resolver = lab.resolver(server.port)
        assert lab.resolve(resolver, "a.example.com") == ["2001:db8::1"]
        server.zone = {"a.example.com": entry(*many, ttl=0)}
        lab.clock.advance(1.0)
        assert lab.resolve(resolver, "a.example.com") == many
        # 60 IPv6 addresses are over the 1232 bytes of a datagram.
        assert "tcp" in {asked.transport for asked in server.asked}
        server.zone = {"a.example.com": entry("192.0.2.1", ttl=0)}
        lab.clock.advance(1.0)
        assert lab.resolve(resolver, "a.example.com") == ["192.0.2.1"]
