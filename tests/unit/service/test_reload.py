"""Rules that change under a running service."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, cast

from egress_router.files import Signature, signature
from egress_router.names.watched import WatchedFile
from egress_router.service import file_watch
from egress_router.service.rule_follower import RuleFollower
from tests.ports import free_port
from tests.unit.service.routers import Router, router, word
from tests.waiting import WAIT_SECONDS, until, until_async

if TYPE_CHECKING:
    from egress_router.service.file_watch import Signatures
    from egress_router.service.rule_store import RuleStore


def test_a_file_changed_in_place_takes_effect_in_all_workers(tmp_path: Path) -> None:
    with router(tmp_path, EGRESS_WORKERS="2") as running, running.connect() as old:
        running.rules.write_text(f"{running.port} two\n")
        until(lambda: "changed rules are in force" in running.said(), "the reload")
        until(lambda: all(word(running) == "two" for _ in range(10)), "new rules in all workers")
        assert old.echo("untouched") == "untouched"
        until(lambda: running.metric("reloads_total") == 1, "the count of the reload")
        said = running.said()
        assert f'rule removed rule="{running.port} one"' in said
        assert f'rule added rule="{running.port} two"' in said


def test_the_link_swap_of_a_configmap_takes_effect(tmp_path: Path) -> None:
    # As kubelet does it: the file is a link through ..data, and ..data is replaced by rename.
    port = free_port()
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "rules").write_text(f"{port} {version}\n")
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "mounted").symlink_to("..data/rules")
    running = Router(tmp_path / "mounted", port, tmp_path / "errors")
    running.start({})
    try:
        running.wait_ready()
        assert word(running) == "one"
        (tmp_path / "..data_tmp").symlink_to("two")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        until(lambda: word(running) == "two", "the other version")
    finally:
        running.process.kill()
        running.wait()


def test_ports_come_and_go_without_closing_the_others(tmp_path: Path) -> None:
    with router(tmp_path, EGRESS_WORKERS="2") as running, running.connect() as old:
        more = free_port()
        running.rules.write_text(f"{running.port} one\n{more} more\n")
        running.process.send_signal(signal.SIGHUP)
        until(lambda: running.status()["ports"] == sorted([running.port, more]), "the port in the status")
        assert word(running, more) == "more"
        running.rules.write_text(f"{running.port} one\n")
        running.process.send_signal(signal.SIGHUP)
        until(lambda: running.refuses(more), "the port closed")
        assert old.echo("untouched") == "untouched"
        assert word(running) == "one"


def test_more_ports_than_one_message_carries(tmp_path: Path) -> None:
    with router(tmp_path) as running:
        ports = [running.port, *(free_port() for _ in range(600))]
        running.rules.write_text("".join(f"{port} w{port}\n" for port in ports))
        until(lambda: not running.refuses(ports[-1]), "the last port")
        assert all(word(running, port) == f"w{port}" for port in ports)


def test_a_bad_file_is_refused_and_a_good_one_heals(tmp_path: Path) -> None:
    with router(tmp_path) as running:
        running.rules.write_text("nonsense\n")
        running.process.send_signal(signal.SIGHUP)
        until(lambda: running.metric("reload_errors_total") >= 1, "the refusal")
        reload = running.status()["reload"]
        assert len(reload["errors"]) == 1
        assert "line 1: 'nonsense': expected PORT WORD" in reload["errors"][0]
        assert reload["errors"][0] in running.said().replace('\\"', '"')
        assert running.metric("rules_valid") == 0
        assert word(running) == "one"
        assert running.get("/readyz")[0] == 200, "the old rules still serve"
        running.rules.write_text(f"{running.port} healed\n")
        running.process.send_signal(signal.SIGHUP)
        until(lambda: word(running) == "healed", "the good file")
        assert running.status()["reload"]["errors"] == []
        until(lambda: running.metric("rules_valid") == 1, "rules that are said to be right")


def test_a_file_that_is_being_written_is_left_alone_until_it_is_quiet() -> None:
    seen: list[Signature | None] = [(1, 1, 1, 1, size) for size in (10, 0, 5, 20, 20, 20, 0, 20, 20, 30, 30)]
    steps = iter(seen)

    async def first_two() -> list[Signatures]:
        changes = file_watch.changes([Path("rules")], 0, lambda _: next(steps))
        return [await anext(changes), await anext(changes)]

    assert asyncio.run(first_two()) == [((1, 1, 1, 1, 20),), ((1, 1, 1, 1, 30),)]


def test_rules_and_policy_are_left_alone_until_both_are_quiet() -> None:
    quiet: Signature = (1, 1, 1, 1, 10)
    sizes = iter((0, 5, 10, 15, 20, 20))

    def look(path: Path) -> Signature:
        return quiet if path.name == "rules" else (1, 1, 1, 1, next(sizes))

    async def first() -> Signatures:
        return await anext(file_watch.changes([Path("rules"), Path("policy")], 0, look))

    assert asyncio.run(first()) == (quiet, (1, 1, 1, 1, 20))


def test_what_was_refused_is_not_tried_again_while_one_of_the_files_is_being_written() -> None:
    sizes = itertools.count()
    writing, said = True, list[str]()

    class Store:
        async def reload(self, _: object) -> None:
            said.append("reload")

        async def retry(self, _: object) -> None:
            said.append("retry")

    def look(path: Path) -> Signature:
        return (1, 1, 1, 1, next(sizes) if writing and path.name == "policy" else 0)

    async def main() -> None:
        nonlocal writing
        paths = [Path("rules"), Path("policy")]
        store = cast("RuleStore[str]", Store())
        follower = RuleFollower(store, paths, put_in_force, retry_seconds=0.0, look=look)
        tasks = [asyncio.create_task(each) for each in follower.tasks()]
        await until_async(lambda: next(sizes) > 100)
        assert said == []
        writing = False
        await until_async(lambda: "retry" in said)
        assert said[0] == "reload"
        for each in tasks:
            each.cancel()

    async def put_in_force(_: str, __: frozenset[int]) -> None:
        """Put rules in force."""

    asyncio.run(main())


def test_a_file_that_is_gone_for_a_moment_changes_nothing(tmp_path: Path) -> None:
    with router(tmp_path) as running:
        running.rules.rename(tmp_path / "away")
        running.process.send_signal(signal.SIGHUP)
        until(lambda: running.metric("reload_errors_total") >= 1, "the refusal")
        assert "No such file" in running.status()["reload"]["errors"][0]
        (tmp_path / "away").rename(running.rules)
        running.process.send_signal(signal.SIGHUP)
        until(lambda: running.metric("rules_valid") == 1, "the file again")
        assert running.metric("reloads_total") == 0
        assert word(running) == "one"


def test_a_port_that_is_taken_refuses_the_whole_change(tmp_path: Path) -> None:
    taken = free_port()
    with router(tmp_path) as running, socket.create_server(("127.0.0.1", taken)):
        free = free_port()
        running.rules.write_text(f"{running.port} two\n{free} more\n{taken} taken\n")
        until(lambda: running.metric("reload_errors_total") >= 1, "the refusal")
        assert f"port {taken} (Address already in use)" in running.status()["reload"]["errors"][0]
        assert word(running) == "one"
        assert running.refuses(free)
        running.rules.write_text(f"{running.admin} own\n")
        running.process.send_signal(signal.SIGHUP)
        reason = "is the administration port; set EGRESS_ADMIN_PORT"
        until(lambda: reason in running.status()["reload"]["errors"][0], "the second refusal")
        assert word(running) == "one"


def test_a_port_that_was_taken_is_had_when_it_is_free(tmp_path: Path) -> None:
    taken = free_port()
    with router(tmp_path) as running:
        with socket.create_server(("127.0.0.1", taken)):
            running.rules.write_text(f"{running.port} two\n{taken} taken\n")
            until(lambda: running.metric("reload_errors_total") == 1, "the refusal")
        until(lambda: running.metric("rules_valid") == 1, "another attempt")
        # The supervisor has handed them on; the worker goes over to them in its own time.
        until(lambda: word(running) == "two", "the new rules")
        assert word(running, taken) == "taken"
        assert running.metric("reload_errors_total") == 1


def test_a_worker_that_cannot_put_rules_in_force_is_replaced_by_one_that_has_them(tmp_path: Path) -> None:
    with router(tmp_path, EGRESS_WORKERS="2") as running:
        before = set(running.workers())
        running.rules.write_text(f"{running.port} breaks\n")
        running.process.send_signal(signal.SIGHUP)
        until(lambda: running.metric("worker_restarts_total") == 2, "both workers replaced")
        until(lambda: len(running.workers()) == 2, "two workers")
        assert not before & set(running.workers())
        assert word(running) == "breaks"
        assert "ZeroDivisionError: rules that break" in running.said()
        assert "exit_status=1" in running.said()


def test_a_storm_of_reloads_under_load_loses_no_connection(tmp_path: Path) -> None:
    with router(tmp_path, EGRESS_WORKERS="2") as running, running.connect() as old:
        failures: list[BaseException] = []
        served = [0]
        done = threading.Event()

        def load() -> None:
            while not done.is_set():
                try:
                    with running.connect() as client:
                        assert client.echo("x") == "x"
                    served[0] += 1
                except BaseException as error:  # noqa: BLE001 (whatever it is, the test must see it)
                    failures.append(error)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for count in range(1, 101):
            before = served[0]
            (tmp_path / "next").write_text(f"{running.port} version{count}\n")
            (tmp_path / "next").rename(running.rules)
            running.process.send_signal(signal.SIGHUP)
            until(lambda before=before: served[0] > before, "load between two changes")  # type: ignore[misc]
            assert old.echo(str(count)) == str(count)
        until(lambda: all(word(running) == "version100" for _ in range(10)), "the last version")
        done.set()
        for thread in threads:
            thread.join(WAIT_SECONDS)
        assert not failures
        assert running.metric("worker_restarts_total") == 0
        until(lambda: running.metric("reloads_total") > 10, "the count of the reloads")


def test_a_signature_differs_when_only_the_content_does(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert signature(path) is None
    path.write_text("one")
    first = signature(path)
    other = tmp_path / "other"
    other.write_text("two")
    other.rename(path)
    assert signature(path) != first


def test_a_signature_differs_when_size_and_time_are_set_back_or_the_mode_changes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    watched = WatchedFile(path, str)
    seen, values = {signature(path)}, [watched.value(0.0)]
    overwrite_as_cp_p(path, "two")
    seen.add(signature(path))
    values.append(watched.value(10.0))
    let_clock_tick(path)
    path.chmod(0)
    seen.add(signature(path))
    assert len(seen) == 3
    assert values == ["one", "two"]


def let_clock_tick(path: Path) -> None:
    """Wait until a change of now has another time than the last one: a file system's clock is coarse."""
    probe = path.with_name("probe")

    def ticked() -> bool:
        probe.write_text("")
        return probe.stat().st_ctime_ns > path.stat().st_ctime_ns

    until(ticked, "the next tick of the file system's clock")


def overwrite_as_cp_p(path: Path, text: str) -> None:
    times = path.stat()
    let_clock_tick(path)
    path.write_text(text)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
