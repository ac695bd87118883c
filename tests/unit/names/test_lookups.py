"""Who waits for a look-up, how many there may be, and when one ends or begins anew."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.lab.nameserver import in_thread
from egress_router.lab.zone import entry
from egress_router.names.answer import Failure, ResolveError
from egress_router.settings.names import NamesSettings
from tests.ports import free_port
from tests.waiting import WAIT_SECONDS, until_async

if TYPE_CHECKING:
    from egress_router.names.answer import Answer
    from egress_router.names.resolver import Resolver
    from tests.unit.names.labs import Lab

SILENT = {"*": entry(behaviour="silent"), "good.example.com": entry("192.0.2.1")}


@pytest.fixture(autouse=True)
def _patient(lab: Lab) -> None:
    lab.configure("nameserver 127.0.0.1", options="timeout:30 attempts:1")


def ask(resolver: Resolver, name: str, client: str) -> asyncio.Task[Answer]:
    return asyncio.get_running_loop().create_task(resolver.resolve(name, client=client))


async def given_up(*tasks: asyncio.Task[Answer]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_a_look_up_that_nobody_waits_for_any_more_ends(lab: Lab) -> None:
    async def play(resolver: Resolver) -> None:
        for turn in range(1, 4):
            tasks = [ask(resolver, f"{number}.example.com", "10.0.0.1") for number in range(5)]
            await until_async(lambda: len(server.asked) == 10 * turn)  # noqa: B023
            await given_up(*tasks)
            await until_async(lambda: asyncio.all_tasks() == {asyncio.current_task()})
        assert str((await ask(resolver, "good.example.com", "10.0.0.2")).addresses[0]) == "192.0.2.1"

    with in_thread(SILENT) as server:
        # There is room for five look-ups: those of one turn.
        lab.run(play(lab.resolver(server.port, NamesSettings(max_lookups=5))))
        assert lab.counted("limit_hits_total", limit="dns_lookups") == 0


def test_one_client_does_not_keep_others_from_looking_names_up(lab: Lab) -> None:
    async def play(resolver: Resolver) -> None:
        tasks = [ask(resolver, f"{number}.example.com", "10.0.0.1") for number in range(20)]
        refused = await asyncio.gather(*tasks[3:], return_exceptions=True)
        failures = [each.failure for each in refused if isinstance(each, ResolveError)]
        assert failures == [Failure.OVER_LIMIT] * 17
        assert "for this client" in str(refused[0])
        assert (await ask(resolver, "good.example.com", "10.0.0.2")).addresses
        await given_up(*tasks)
        assert (await ask(resolver, "good.example.com.", "10.0.0.1")).addresses

    with in_thread(SILENT) as server:
        lab.run(play(lab.resolver(server.port, NamesSettings(max_lookups=10, max_lookups_per_client=3))))
        assert lab.counted("limit_hits_total", limit="dns_lookups_per_client") == 17
        assert lab.counted("limit_hits_total", limit="dns_lookups") == 0


def test_a_thousand_clients_with_silent_names_do_not_keep_another_one_from_a_new_name(lab: Lab) -> None:
    """Each client is within its own limit; together they ask for five times as many names as there is room for."""
    most = 200

    async def play(resolver: Resolver) -> None:
        flood: list[asyncio.Task[Answer]] = []
        for number in range(1000):
            flood.append(ask(resolver, f"{number}.example.com", f"10.1.{number >> 8}.{number & 255}"))
            if number % 20 == 19:  # no more at once than the name server's socket has room for
                await until_async(lambda: len(server.asked) == 2 * len(flood))
        await until_async(lambda: sum(each.done() for each in flood) == 1000 - most)
        refused = await asyncio.gather(*flood[:-most], return_exceptions=True)
        # Those that had waited longest gave way; the latest still wait.
        assert {each.failure for each in refused if isinstance(each, ResolveError)} == {Failure.OVER_LIMIT}
        assert len(refused) == 800
        for turn in range(3):
            name = f"{turn}.good.example.com"
            assert (await ask(resolver, name, "10.0.0.2")).addresses
        assert sum(not each.done() for each in flood) >= most - 3
        await given_up(*flood)
        await until_async(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    zone = SILENT | {f"{turn}.good.example.com": entry("192.0.2.1") for turn in range(3)}
    with in_thread(zone) as server:
        lab.run(play(lab.resolver(server.port, NamesSettings(max_lookups=most))))
        assert 800 < lab.counted("limit_hits_total", limit="dns_lookups") <= 803


def test_names_that_nobody_but_the_router_asks_for_do_not_give_way(lab: Lab) -> None:
    async def play(resolver: Resolver) -> None:
        followed = asyncio.get_running_loop().create_task(resolver.resolve("silent.example.com"))
        await until_async(lambda: len(server.asked) == 2)
        with pytest.raises(ResolveError, match="too many names"):
            await ask(resolver, "good.example.com", "10.0.0.1")
        assert not followed.done()
        await given_up(followed)

    with in_thread(SILENT) as server:
        lab.run(play(lab.resolver(server.port, NamesSettings(max_lookups=1))))


def test_many_requests_of_one_client_for_one_name_are_one_look_up(lab: Lab) -> None:
    async def play(resolver: Resolver) -> None:
        tasks = [ask(resolver, "slow.example.com", "10.0.0.1") for _ in range(50)]
        assert len({each.addresses for each in await asyncio.gather(*tasks)}) == 1

    with in_thread({"slow.example.com": entry("192.0.2.1", delay=0.1)}) as server:
        lab.run(play(lab.resolver(server.port, NamesSettings(max_lookups_per_client=1))))
        assert len(server.asked) == 2


def test_renewals_behind_the_scenes_take_half_of_the_places(lab: Lab) -> None:
    names = [f"{number}.example.com" for number in range(8)]

    async def play(resolver: Resolver) -> None:
        for name in names:
            await ask(resolver, name, "10.0.0.1")
        server.zone = SILENT
        lab.clock.advance(30.0)
        stale = await asyncio.gather(*(resolver.resolve(name) for name in names))
        assert all(each.stale for each in stale)
        await until_async(lambda: len(server.asked) == 16 + 2 * 2)
        assert (await ask(resolver, "good.example.com", "10.0.0.1")).addresses
        resolver.close()

    with in_thread({name: entry("192.0.2.1") for name in names}) as server:
        settings = NamesSettings(max_lookups=4, stale_wait_seconds=0.05)
        lab.run(play(lab.resolver(server.port, settings)))


def test_a_look_up_begins_anew_when_resolv_conf_changes(lab: Lab) -> None:
    async def play(resolver: Resolver) -> None:
        waiting = ask(resolver, "a.example.com", "10.0.0.1")
        await until_async(lambda: len(first.asked) == 2)
        lab.configure("nameserver 127.0.0.2")
        lab.clock.advance(1.0)
        assert str((await asyncio.wait_for(waiting, WAIT_SECONDS)).addresses[0]) == "192.0.2.2"
        await until_async(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    with (
        in_thread(SILENT, port=free_port()) as first,
        in_thread({"a.example.com": entry("192.0.2.2")}, address="127.0.0.2", port=first.port),
    ):
        lab.run(play(lab.resolver(first.port)))


def test_servers_of_the_settings_are_asked_instead(lab: Lab) -> None:
    zone = {"a.shop.example": entry("192.0.2.2")}
    lab.configure("nameserver 127.0.0.1", "search shop.example")
    with in_thread(SILENT, port=free_port()) as first, in_thread(zone, address="127.0.0.2", port=first.port):
        settings = NamesSettings(servers=(ip_address("127.0.0.2"),))
        assert lab.resolve(lab.resolver(first.port, settings), "a") == ["192.0.2.2"]
        assert first.asked == []


def test_a_denial_is_not_believed_for_longer_than_who_asks_says(lab: Lab) -> None:
    async def play(resolver: Resolver) -> None:
        async def denied(seconds: float | None) -> None:
            with pytest.raises(ResolveError) as caught:
                await resolver.resolve("a.example.com", denial_seconds=seconds)
            assert caught.value.failure is Failure.NO_SUCH_NAME

        await denied(None)
        lab.clock.advance(4.9)
        await denied(5.0)
        assert len(server.asked) == 2
        lab.clock.advance(0.1)
        await denied(None)
        assert len(server.asked) == 2
        await denied(5.0)
        assert len(server.asked) == 4

    with in_thread({}, negative_ttl=60) as server:
        lab.run(play(lab.resolver(server.port)))


def test_a_denial_without_an_soa_record_is_asked_for_again(lab: Lab) -> None:
    async def play(resolver: Resolver) -> None:
        for turn in (1, 2):
            with pytest.raises(ResolveError):
                await resolver.resolve("a.example.com")
            assert len(server.asked) == 2 * turn

    with in_thread({}, negative_ttl=None) as server:
        lab.run(play(lab.resolver(server.port)))
