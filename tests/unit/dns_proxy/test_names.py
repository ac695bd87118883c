from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from egress_router.dns_proxy.server import mode
from egress_router.lab.nameserver import in_thread
from egress_router.lab.zone import entry
from egress_router.settings.dns_proxy import read_dns_proxy
from egress_router.upstreams.forbidden import forbidden_reason
from tests.serving import serving
from tests.unit.dns_proxy.lab import ask, backend, both_loops, connect, forwarder, greeting, metric
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from pathlib import Path

    from egress_router.grammar.forward import Forwards
    from egress_router.names.answer import Answer
    from egress_router.settings.policy import Guarded
    from tests.logged import Lines
    from tests.serving import Running

NAME = "db.example.com"


def serving_addresses(running: Running[Guarded[Forwards]]) -> set[str]:
    status = running.call(running.server.status)["upstreams"]
    assert isinstance(status, list)
    return {str(each["address"]).rpartition(":")[0] for each in status if isinstance(each, dict)}


@both_loops
def test_all_addresses_of_a_name_serve_in_turn(tmp_path: Path, loop: str) -> None:
    with (
        backend("127.0.0.1") as one,
        backend("127.0.0.2", one.port),
        backend("127.0.0.3", one.port),
        in_thread({NAME: entry("127.0.0.1", "127.0.0.2", "127.0.0.3", ttl=600)}) as names,
        forwarder(tmp_path, f"80 {NAME} {one.port}", names, loop=loop) as running,
    ):
        served = [ask(running, 80) for _ in range(9)]
    assert {host: served.count(host) for host in served} == {f"127.0.0.{host}": 3 for host in (1, 2, 3)}


@both_loops
def test_connections_that_come_before_the_first_answer_wait_for_it(tmp_path: Path, loop: str) -> None:
    with (
        backend() as target,
        in_thread({NAME: entry("127.0.0.1", delay=0.3)}) as names,
        forwarder(tmp_path, f"80 {NAME} {target.port}", names, loop=loop) as running,
    ):
        assert ask(running, 80) == "127.0.0.1"


def test_a_name_server_that_stays_silent_ends_the_wait_in_time(tmp_path: Path) -> None:
    environ = {"EGRESS_DNS_PROXY_CONNECT_SECONDS": "0.3"}
    with (
        in_thread({NAME: entry(behaviour="silent")}) as names,
        forwarder(tmp_path, f"80 {NAME}", names, environ=environ) as running,
    ):
        assert ask(running, 80) == ""
        until(lambda: metric(running, "connections_total", result="no_address") == 1)


@both_loops
def test_a_name_unknown_at_start_stops_no_other_line_and_serves_later(tmp_path: Path, loop: str) -> None:
    with (
        backend() as target,
        in_thread({}) as names,
        forwarder(
            tmp_path, f"80 {NAME} {target.port}\n81 127.0.0.1 {target.port}", names, loop=loop
        ) as running,
    ):
        assert ask(running, 80) == ""
        assert ask(running, 81) == "127.0.0.1"
        upstreams = running.call(running.server.status)["upstreams"]
        assert isinstance(upstreams, list)
        unresolved = upstreams[-1]
        assert isinstance(unresolved, dict)
        assert unresolved["up"] is False
        assert NAME in str(unresolved["reason"])
        names.zone = {NAME: entry("127.0.0.1")}
        until(lambda: ask(running, 80) == "127.0.0.1")


@both_loops
def test_a_changed_answer_moves_new_connections_and_leaves_old_ones(tmp_path: Path, loop: str) -> None:
    with (
        backend("127.0.0.1") as one,
        backend("127.0.0.2", one.port),
        in_thread({NAME: entry("127.0.0.1", ttl=0)}) as names,
        forwarder(tmp_path, f"80 {NAME} {one.port}", names, loop=loop) as running,
        connect(running, 80) as old,
    ):
        assert greeting(old) == "127.0.0.1"
        names.zone = {NAME: entry("127.0.0.2", ttl=0)}
        until(lambda: serving_addresses(running) == {"127.0.0.2"})
        assert {ask(running, 80) for _ in range(5)} == {"127.0.0.2"}
        old.sendall(b"still here")
        assert old.recv(10) == b"still here"


def test_an_answer_grows_to_sixty_addresses_and_shrinks_to_one(tmp_path: Path) -> None:
    sixty = [f"127.0.1.{number}" for number in range(1, 61)]
    with (
        backend("127.0.0.1") as one,
        in_thread({NAME: entry("127.0.0.1", ttl=0)}) as names,
        forwarder(tmp_path, f"80 {NAME} {one.port}", names) as running,
    ):
        assert ask(running, 80) == "127.0.0.1"
        names.zone = {NAME: entry(*sixty[:-1], "127.0.0.1", ttl=0)}
        until(lambda: len(serving_addresses(running)) == 60)
        # 59 of them refuse: each connection finds the one that answers.
        assert {ask(running, 80) for _ in range(30)} == {"127.0.0.1"}
        until(lambda: metric_of_up(running) < 60)
        names.zone = {NAME: entry("127.0.0.1", ttl=0)}
        until(lambda: serving_addresses(running) == {"127.0.0.1"})
        assert ask(running, 80) == "127.0.0.1"
        families = running.call(running.context.registry.snapshot)
        assert len(families["upstream_up"].numbers) == 1


def metric_of_up(running: Running[Guarded[Forwards]]) -> float:
    return sum(running.call(running.context.registry.snapshot)["upstream_up"].numbers.values())


@pytest.mark.parametrize("behaviour", ["servfail", "silent"])
def test_the_last_good_addresses_serve_while_the_name_server_fails(tmp_path: Path, behaviour: str) -> None:
    with (
        backend() as target,
        in_thread({NAME: entry("127.0.0.1", ttl=0)}) as names,
        forwarder(tmp_path, f"80 {NAME} {target.port}", names) as running,
    ):
        assert ask(running, 80) == "127.0.0.1"
        names.zone = {NAME: entry(behaviour=behaviour)}
        asked = len(names.asked)
        until(lambda: len(names.asked) >= asked + 2)
        assert ask(running, 80) == "127.0.0.1"


def test_a_name_that_ceases_to_exist_still_serves(tmp_path: Path) -> None:
    with (
        backend() as target,
        in_thread({NAME: entry("127.0.0.1", ttl=0)}) as names,
        forwarder(tmp_path, f"80 {NAME} {target.port}", names) as running,
    ):
        assert ask(running, 80) == "127.0.0.1"
        names.zone = {}
        asked = len(names.asked)
        until(lambda: len(names.asked) >= asked + 2)
        assert ask(running, 80) == "127.0.0.1"


def test_a_name_does_not_lead_to_what_only_this_pod_can_reach(tmp_path: Path) -> None:
    zone = {
        "a.example.com": entry("127.0.0.1", ttl=0),
        "b.example.com": entry("169.254.169.254", ttl=0),
        "c.example.com": entry("127.0.0.2", ttl=0),
    }
    with (
        backend() as target,
        backend("127.0.0.2", target.port),
        in_thread(zone) as names,
        forwarder(
            tmp_path,
            f"80 a.example.com {target.port}\n81 b.example.com {target.port}\n"
            f"82 c.example.com {target.port}\n83 127.0.0.2 {target.port}",
            names,
            forbidden=forbidden_reason,
        ) as running,
    ):
        assert [ask(running, port) for port in (80, 81)] == ["", ""]
        # A line names this address, so names may have it, too.
        assert [ask(running, port) for port in (82, 83)] == ["127.0.0.2", "127.0.0.2"]
        until(lambda: metric(running, "connections_total", result="local_address") == 2)
        status = running.call(running.server.status)["upstreams"]
        assert isinstance(status, list)
        reasons = [each["reason"] for each in status if isinstance(each, dict) and "reason" in each]
        destination = f"b.example.com:{target.port}"
        assert metric(running, "upstream_up", destination=destination, address="") == 0
        assert reasons == ["the name has a loopback, link-local or metadata address that no line names"] * 2


def test_debug_says_what_names_resolve_to(tmp_path: Path, records: Lines) -> None:
    environ = {"EGRESS_DNS_PROXY_DEBUG": "1"}
    with (
        in_thread({NAME: entry("127.0.0.1", "127.0.0.2", ttl=0)}) as names,
        forwarder(tmp_path, f"80 {NAME} 9", names, environ=environ),
    ):
        until(lambda: records.events("name resolved"))
        names.zone = {NAME: entry("127.0.0.2", "127.0.0.1", ttl=0)}
        asked = len(names.asked)
        until(lambda: len(names.asked) >= asked + 4)
        assert len(records.events("name resolved")) == 1  # the same addresses in another order
        names.zone = {}
        until(lambda: records.events("name does not resolve"))
        names.zone = {NAME: entry("127.0.0.3", ttl=0)}
        until(lambda: len(records.events("name resolved")) == 2)
    first, second = records.events("name resolved")
    assert (first["name"], first["addresses"]) == (NAME, "127.0.0.1, 127.0.0.2")
    assert second["addresses"] == "127.0.0.3"
    assert records.events("name does not resolve")[0]["serving"] == "127.0.0.1, 127.0.0.2"


def test_an_ipv6_address_without_a_route_is_not_tried(tmp_path: Path) -> None:
    """A link-local address without a zone has a route nowhere."""
    with (
        backend() as target,
        in_thread({NAME: entry("127.0.0.1", "fe80::1", ttl=600)}) as names,
        forwarder(tmp_path, f"80 {NAME} {target.port}", names) as running,
    ):
        assert ask(running, 80) == "127.0.0.1"
        assert serving_addresses(running) == {"127.0.0.1"}


def test_lines_of_one_name_share_its_look_ups(tmp_path: Path) -> None:
    with (
        backend() as target,
        in_thread({NAME: entry("127.0.0.1", ttl=600)}) as names,
        forwarder(
            tmp_path, f"80 {NAME} {target.port}\n81 {NAME} {target.port}\n82 127.0.0.1 {target.port}", names
        ) as running,
    ):
        assert [ask(running, port) for port in (80, 81, 82)] == ["127.0.0.1"] * 3
        assert len(names.asked) == 2


def test_a_removed_name_is_not_asked_for_any_more(tmp_path: Path) -> None:
    with (
        in_thread({NAME: entry("127.0.0.1", ttl=0), "other.example.com": entry("127.0.0.1", ttl=0)}) as names,
        forwarder(tmp_path, f"80 {NAME} 9", names) as running,
    ):
        until(lambda: names.asked)
        running.apply("80 other.example.com 9")
        until(lambda: any(each.name == "other.example.com" for each in names.asked))

        def is_only_one() -> bool:
            names.asked.clear()  # a query for the old name may be under way
            until(lambda: len(names.asked) >= 4)
            return {each.name for each in names.asked} == {"other.example.com"}

        until(is_only_one)


def test_a_client_that_waits_for_a_removed_name_is_let_go(tmp_path: Path) -> None:
    answers: list[str] = []
    with (
        in_thread({NAME: entry(behaviour="silent")}) as names,
        forwarder(tmp_path, f"80 {NAME}", names) as running,
    ):
        thread = threading.Thread(target=lambda: answers.append(ask(running, 80)))
        thread.start()
        until(lambda: running.call(running.server.open_connections) == 1)
        running.apply("81 127.0.0.1 9")
        thread.join(WAIT_SECONDS)
        assert answers == [""]


def test_a_fault_of_ours_in_following_a_name_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def resolve(self, name: str, *, denial_seconds: float | None = None) -> Answer:
            raise RuntimeError(f"a fault of ours with {name}")

        def close(self) -> None:
            pass

    settings = read_dns_proxy({"EGRESS_DNS_PROXY_DESTINATION": f"80 {NAME}"})
    with serving(mode(settings, lambda _settings, _registry: Broken()), f"80 {NAME}"):
        until(lambda: f"a fault of ours with {NAME}" in caplog.text)
