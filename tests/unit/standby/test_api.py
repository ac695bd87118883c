"""The Lease and the EndpointSlice, against a stand-in with real compare-and-swap."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from egress_router.lab.api_server import ApiServer, endpoint_slice, lease
from egress_router.settings.standby import ObjectName, StandbySettings
from egress_router.standby.kubernetes.api_thread import ApiThread
from egress_router.standby.kubernetes.client import Cluster
from egress_router.standby.protocol.commands import ArbiterAnswer, AskArbiter
from egress_router.standby.protocol.role import Role
from egress_router.standby.status import Status
from tests.waiting import until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NAME = ObjectName("egress", "router")
LEASE, SLICE = lease("egress", "router"), endpoint_slice("egress", "router")
POD = ip_address("10.128.0.2")


class Line:
    """A router's line to the stand-in; answers arrive in a queue."""

    def __init__(self, cluster: Cluster, dead: frozenset[int] = frozenset()) -> None:
        self.thread = ApiThread(
            cluster, StandbySettings(lease=NAME, service=NAME, port=9798), dead, POD, 15.0
        )
        self.answers: queue.SimpleQueue[ArbiterAnswer] = queue.SimpleQueue()
        self.troubles: list[str | None] = []
        self.thread.answer = self.answers.put
        self.thread.trouble = self.troubles.append
        self.thread.start()
        self._token = 0

    async def ask(self, members: frozenset[int] | None, term: int = 0, version: str = "") -> ArbiterAnswer:
        self._token += 1
        self.thread.ask(AskArbiter(self._token, members, term, version))
        answer = await asyncio.to_thread(self.answers.get, True, 30)
        assert answer.token == self._token
        return answer


@contextlib.asynccontextmanager
async def cluster(server: ApiServer, folder: Path) -> AsyncIterator[Cluster]:
    runner = web.AppRunner(server.application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    token = folder / "token"
    token.write_text("first\n")
    try:
        yield Cluster(f"http://127.0.0.1:{port}", token, folder / "ca.crt", 0)
    finally:
        await runner.cleanup()


def stand_in() -> ApiServer:
    return ApiServer(dict([LEASE, SLICE]), {"first"})


def endpoints(server: ApiServer) -> object:
    return server.objects[SLICE[0]]["endpoints"]


def test_of_two_that_write_at_once_one_wins(tmp_path: Path) -> None:
    async def scene() -> None:
        async with cluster(stand_in(), tmp_path) as where:
            one, two = Line(where), Line(where)
            before = await one.ask(None)
            assert (before.members, before.term) == (frozenset(), 0)
            assert before.version is not None
            answers = await asyncio.gather(
                one.ask(frozenset({1}), 1, before.version), two.ask(frozenset({2}), 1, before.version)
            )
            assert sorted(answer.applied for answer in answers) == [False, True]
            (winner,) = (answer for answer in answers if answer.applied)
            (loser,) = (answer for answer in answers if not answer.applied)
            # The loser learns at once who won.
            assert loser[2:] == winner[2:]

    asyncio.run(scene())


def test_a_sign_of_life_changes_the_version_only(tmp_path: Path) -> None:
    async def scene() -> None:
        async with cluster(stand_in(), tmp_path) as where:
            line = Line(where)
            version = (await line.ask(None)).version or ""
            first = await line.ask(frozenset({1, 2}), 1, version)
            second = await line.ask(frozenset({1, 2}), 1, first.version or "")
            assert second.applied
            assert second.version != first.version
            assert second.members == frozenset({1, 2})

    asyncio.run(scene())


def test_an_earlier_run_in_this_pod_is_dead(tmp_path: Path) -> None:
    async def scene() -> None:
        async with cluster(stand_in(), tmp_path) as where:
            old = Line(where)
            version = (await old.ask(None)).version or ""
            await old.ask(frozenset({7}), 1, version)
            assert (await Line(where, frozenset({7})).ask(None)).members == frozenset()
            assert (await Line(where).ask(None)).members == frozenset({7})

    asyncio.run(scene())


def test_a_renewed_token_is_used(tmp_path: Path) -> None:
    async def scene() -> None:
        server = stand_in()
        async with cluster(server, tmp_path) as where:
            line = Line(where)
            assert (await line.ask(None)).version
            server.tokens = {"second"}
            assert (await line.ask(None)).version is None
            assert "401 Unauthorized" in str(line.troubles[-1])
            where.token.write_text("second\n")
            assert (await line.ask(None)).version
            assert line.troubles[-1] is None

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ("failing", "503 the server is currently unable"),
        ("delay", "no answer within 1 s"),
        ("lose_answers", "the Lease egress/router cannot be used"),
        ("foreign", "holderIdentity 'somebody' was not written by an egress router"),
        ("gone", "403 cannot get resource"),
    ],
)
def test_a_failure_is_an_answer_that_knows_nothing(tmp_path: Path, failure: str, said: str) -> None:
    async def scene() -> None:
        server = stand_in()
        async with cluster(server, tmp_path) as where:
            line = Line(where)
            await line.ask(None)
            if failure == "failing":
                server.failing = 503
            elif failure == "delay":
                server.delay = 5.0
            elif failure == "lose_answers":
                server.lose_answers = True
            elif failure == "foreign":
                server.objects[LEASE[0]]["spec"] = {"holderIdentity": "somebody"}
            else:
                del server.objects[LEASE[0]]
            answer = await line.ask(None)
            assert answer[1:] == (False, None, 0, None)
            assert said in str(line.troubles[-1])

    asyncio.run(scene())


def test_the_slice_follows_the_active_router(tmp_path: Path) -> None:
    async def scene() -> None:
        server = stand_in()
        async with cluster(server, tmp_path) as where:
            line = Line(where)
            line.thread.status(Status(role=Role.STANDBY))
            await line.ask(None)
            assert endpoints(server) == []
            server.failing = 500
            line.thread.status(Status(role=Role.ACTIVE))
            await until_async(lambda: ("GET", SLICE[0]) in server.seen)
            server.failing = 0
            wanted = [{"addresses": [str(POD)], "conditions": {"ready": True}}]
            await until_async(lambda: endpoints(server) == wanted)
            # Only its endpoints have changed, as the Role allows.
            metadata = server.objects[SLICE[0]]["metadata"]
            assert isinstance(metadata, dict)
            assert metadata["labels"] == {"kubernetes.io/service-name": "router"}

    asyncio.run(scene())
