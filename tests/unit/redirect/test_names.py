"""Names of lines, followed and checked for real on loopback; the time for UDP flows and retries is set."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.errors import RefusedError
from egress_router.grammar.redirect import NamedRedirect, Redirects, parse
from egress_router.metrics import Registry
from egress_router.names.answer import Failure
from egress_router.redirect.names import LineNames
from egress_router.redirect.updates import NameUpdates
from egress_router.service.rule_follower import RETRY_SECONDS
from egress_router.settings.policy import Guarded
from egress_router.upstreams.report import UpstreamReport
from tests.manual_clock import ManualClock
from tests.ports import free_port
from tests.unit.upstreams.scripted import ScriptedNames
from tests.waiting import until_async

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.redirect.lines import Departure, Resolved

NAME = "db.example.com"


class Quiet:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def info(self, event: str, **fields: object) -> None:
        self.said.append(f"{event} {fields}")

    warning = info


class Following:
    """Lines with names on a kernel that notes what it is told, or refuses."""

    def __init__(self, text: str) -> None:
        self.clock = ManualClock()
        self.resolver = ScriptedNames(self.clock, ttl=0.0)
        self.registry = Registry()
        self.log = Quiet()
        self.rules = parse("R", text)
        self.unusable: dict[str, str] = {}
        self.refusal: RefusedError | None = None
        self.kernel: list[list[list[str]]] = []
        self.kernel_rules: list[Redirects] = []
        self.kernel_is_free = asyncio.Event()
        self.kernel_is_free.set()
        self.attempts = 0
        self.moved: list[str] = []
        self.updates = NameUpdates(
            self._put, self._move, lambda: Guarded(self.rules, None), self.registry, {}, self.clock
        )
        self.names = LineNames(
            self.resolver,
            UpstreamReport(self.registry, self.log),  # type: ignore[arg-type]
            lambda _, address: self.unusable.get(str(address)),
            self.updates.changed,
            clock=self.clock,
            interval=0.02,
        )

    async def _put(self, guarded: Guarded[Redirects], resolved: Resolved) -> None:
        self.attempts += 1
        await self.kernel_is_free.wait()
        if self.refusal is not None:
            raise self.refusal
        self.kernel_rules.append(guarded.rules)
        self.kernel.append([list(map(str, resolved[line])) for line in guarded.rules.names])

    async def _move(self, departed: Sequence[Departure]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.moved += [str(each.address) for each in departed]

    async def becomes(self, *lines: list[str]) -> None:
        await until_async(lambda: self.kernel and self.kernel[-1] == list(lines))

    def up(self) -> dict[str, float]:
        family = self.registry.snapshot().get("upstream_up")
        samples = {} if family is None else family.numbers
        return {dict(labels)["address"]: value for labels, value in samples.items()}


def play(text: str, scene: object) -> None:
    async def run() -> None:
        following = Following(text)
        task = asyncio.get_running_loop().create_task(following.updates.run(following.names))
        try:
            await scene(following)  # type: ignore[operator]
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            following.names.close()

    asyncio.run(run())


def test_a_name_that_is_unknown_at_start_and_known_later() -> None:
    async def scene(following: Following) -> None:
        await until_async(lambda: following.up() == {"": 0})
        await until_async(lambda: following.log.said)
        (upstream,) = following.names.upstreams()
        assert upstream.reason == f"{NAME}: no_such_name"
        following.resolver.known[NAME] = ("192.0.2.2", "192.0.2.1")
        await following.becomes(["192.0.2.1", "192.0.2.2"])
        assert following.up() == {"192.0.2.1:514": 1, "192.0.2.2:514": 1}

    play(f"514 udp {NAME}", scene)


def test_an_answer_in_another_order_changes_nothing() -> None:
    async def scene(following: Following) -> None:
        following.resolver.known[NAME] = ("192.0.2.2", "192.0.2.1")
        await following.becomes(["192.0.2.1", "192.0.2.2"])
        following.resolver.known[NAME] = ("192.0.2.1", "192.0.2.2")
        asked = len(following.resolver.asked)
        await until_async(lambda: len(following.resolver.asked) > asked + 2)
        assert len(following.kernel) == 1

    play(f"514 udp {NAME}", scene)


def test_lines_of_one_name_share_its_look_ups() -> None:
    async def scene(following: Following) -> None:
        following.resolver.ttl = 30.0
        following.resolver.known[NAME] = ("192.0.2.1",)
        await following.becomes(["192.0.2.1"], ["192.0.2.1"])
        assert len(following.resolver.asked) == 1

    play(f"514 udp {NAME}\n5000-5100 tcp {NAME}", scene)


def test_what_is_down_gets_nothing_and_all_serve_when_all_are_down() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as one:

        async def scene(following: Following) -> None:
            following.resolver.known[NAME] = ("127.0.0.1", "127.0.0.2")
            # The second address has no server.
            await following.becomes(["127.0.0.1"])
            assert following.up() == {f"127.0.0.1:{port}": 1, f"127.0.0.2:{port}": 0}
            one.close()
            await following.becomes(["127.0.0.1", "127.0.0.2"])
            with socket.create_server(("127.0.0.2", port)):
                await following.becomes(["127.0.0.2"])

        play(f"{port} tcp {NAME}", scene)


def test_addresses_that_are_of_no_use_are_left_out_and_said() -> None:
    async def scene(following: Following) -> None:
        following.unusable["192.0.2.1"] = "it is this router itself"
        following.resolver.known[NAME] = ("192.0.2.1",)
        await until_async(lambda: any("left out" in each for each in following.log.said))
        (upstream,) = following.names.upstreams()
        assert (upstream.up, upstream.reason) == (False, "it is this router itself")
        following.resolver.known[NAME] = ("192.0.2.1", "192.0.2.2")
        await following.becomes(["192.0.2.2"])

    play(f"514 udp {NAME}", scene)


def test_udp_flows_are_moved_once_their_address_is_gone_for_25_s() -> None:
    async def scene(following: Following) -> None:
        following.resolver.known[NAME] = ("192.0.2.1",)
        await following.becomes(["192.0.2.1"])
        following.resolver.known[NAME] = ("192.0.2.2",)
        await following.becomes(["192.0.2.2"])
        assert following.moved == []
        following.clock.advance(25.0)
        following.refusal = RefusedError("cannot change connection tracking", "grant NET_ADMIN")
        following.updates.changed()
        await until_async(lambda: following.updates.problem)
        following.refusal = None
        following.clock.advance(RETRY_SECONDS)
        await until_async(lambda: following.moved == ["192.0.2.1"])

    play(f"514 udp {NAME}", scene)


def test_what_the_kernel_refuses_is_tried_again_and_the_old_addresses_stay() -> None:
    async def scene(following: Following) -> None:
        following.resolver.known[NAME] = ("192.0.2.1",)
        await following.becomes(["192.0.2.1"])
        following.refusal = RefusedError("nft refused the rules", "look at the log")
        following.resolver.known[NAME] = ("192.0.2.2",)
        await until_async(lambda: following.updates.problem)
        assert (len(following.kernel), following.attempts) == (1, 2)
        await following.updates.update(following.names)
        assert following.attempts == 2, "not before a while"
        following.refusal = None
        following.clock.advance(RETRY_SECONDS)
        await following.becomes(["192.0.2.2"])
        assert following.updates.problem is None
        errors = following.registry.snapshot()["name_update_errors_total"].numbers
        assert sum(errors.values()) == 1

    play(f"514 udp {NAME}", scene)


def test_changed_rules_wait_for_the_first_answers_about_their_names() -> None:
    async def scene(following: Following) -> None:
        following.resolver.known |= {NAME: ("192.0.2.1",), "b.example.com": ("192.0.2.9",)}
        await following.becomes(["192.0.2.1"])
        changed = parse("R", f"514 udp {NAME}\n515 udp b.example.com")
        following.refusal = RefusedError("nft refused the rules", "look at the log")
        with pytest.raises(RefusedError):
            await following.updates.put_in_force(following.names, Guarded(changed, None))
        following.refusal = None
        await following.updates.put_in_force(following.names, Guarded(changed, None))
        following.rules = changed
        assert following.kernel == [[["192.0.2.1"]], [["192.0.2.1"], ["192.0.2.9"]]]
        gone = parse("R", "515 udp b.example.com")
        await following.updates.put_in_force(following.names, Guarded(gone, None))
        following.rules = gone
        await until_async(lambda: set(following.up()) == {"192.0.2.9:515"})
        assert following.kernel[-1] == [["192.0.2.9"]]

    play(f"514 udp {NAME}", scene)


def test_rules_that_are_put_in_force_once_more_are_those_of_the_change_before() -> None:
    async def scene(following: Following) -> None:
        changed = parse("R", "81 tcp 203.0.113.25")

        async def reload() -> None:
            await following.updates.put_in_force(following.names, Guarded(changed, None))
            following.rules = changed

        following.kernel_is_free.clear()
        reloading = asyncio.create_task(reload())
        await until_async(lambda: following.attempts)
        again = asyncio.create_task(following.updates.put_again(following.names))
        await asyncio.sleep(0)  # it waits for its turn now
        following.kernel_is_free.set()
        await asyncio.gather(reloading, again)
        assert following.kernel_rules == [changed, changed]

    play("80 tcp 203.0.113.25", scene)


def test_what_was_known_before_serves_until_the_name_was_asked_for() -> None:
    async def scene() -> None:
        following = Following(f"514 udp {NAME}")
        line: NamedRedirect = following.rules.names[0]
        known: tuple[IPAddress, ...] = (ip_address("192.0.2.7"),)
        following.names.follow([line], {line: known})
        assert following.names.resolved([line]) == {line: known}
        following.resolver.known[NAME] = Failure.TIMEOUT
        await following.names.answered([line], 10.0)
        assert following.names.resolved([line]) == {line: known}
        following.names.close()

    asyncio.run(scene())


def test_what_a_policy_denies_is_put_in_force_when_its_names_change_and_again_after_a_refusal() -> None:
    async def scene(following: Following) -> None:
        following.resolver.known[NAME] = ("192.0.2.1",)
        await following.becomes(["192.0.2.1"])
        before = len(following.kernel)
        following.updates.policy_changed()
        await until_async(lambda: len(following.kernel) == before + 1)
        following.refusal = RefusedError("nft refused the rules", "look at the log")
        following.updates.policy_changed()
        await until_async(lambda: following.updates.problem)
        following.refusal = None
        following.clock.advance(RETRY_SECONDS)
        await until_async(lambda: len(following.kernel) == before + 2)
        assert following.updates.problem is None

    play(f"514 udp {NAME}", scene)
