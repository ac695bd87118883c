"""Lines that end in `from`: what the destination sees as the client's address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.lab.nameserver import in_thread
from egress_router.lab.zone import entry
from tests.ports import free_port
from tests.unit.dns_proxy.lab import Observing, ask, backend, forwarder, metric
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from egress_router.grammar.forward import Forwards
    from egress_router.settings.policy import Guarded
    from tests.serving import Running

NAME = "db.example.com"
NOT_HELD = "203.0.113.9"  # of the network that nobody has (RFC 5737)
SOURCES = f"127.0.0.5 127.0.0.6 {NOT_HELD} ::1"


def is_up(running: Running[Guarded[Forwards]]) -> bool:
    """Say whether the only upstream is up."""
    return "'up': True" in str(running.call(running.server.status)["upstreams"])


def test_a_line_leaves_with_its_source(tmp_path: Path) -> None:
    with backend("127.0.0.1", kind=Observing) as four, backend("::1", kind=Observing) as six:
        lines = f"""80 127.0.0.1 {four.port} from 127.0.0.6
            81 127.0.0.1 {four.port}
            82 ::1 {six.port} from ::1
            83 127.0.0.1 {four.port} from 127.0.0.5"""
        with forwarder(tmp_path, lines, sources=SOURCES) as running:
            seen = [[ask(running, port) for _ in range(2)] for port in (80, 81, 82, 83)]
    assert seen == [[each] * 2 for each in ("127.0.0.6", "127.0.0.1", "::1", "127.0.0.5")]


def test_a_line_is_spread_over_all_sources_and_all_addresses(tmp_path: Path) -> None:
    with (
        backend("127.0.0.1", kind=Observing) as one,
        backend("127.0.0.2", one.port) as two,
        in_thread({NAME: entry("127.0.0.1", "127.0.0.2")}) as names,
        forwarder(tmp_path, f"80 {NAME} {one.port} from *", names, sources="127.0.0.5 127.0.0.6") as running,
    ):
        seen = sorted(ask(running, 80) for _ in range(8))
        assert seen == ["127.0.0.2"] * 4 + ["127.0.0.5"] * 2 + ["127.0.0.6"] * 2
        until(lambda: two.served == 4)


def test_a_source_that_is_not_held_is_passed_over_where_others_are(tmp_path: Path) -> None:
    with backend(kind=Observing) as one:
        lines = f"80 127.0.0.1 {one.port} from *"
        with forwarder(tmp_path, lines, sources=f"{NOT_HELD} 127.0.0.6") as running:
            assert {ask(running, 80) for _ in range(4)} == {"127.0.0.6"}
            assert is_up(running)


def test_a_source_that_is_not_held_closes_and_is_counted(tmp_path: Path) -> None:
    with backend() as one:
        lines = f"80 127.0.0.1 {one.port} from {NOT_HELD}\n81 127.0.0.1 {one.port}"
        with forwarder(tmp_path, lines, sources=SOURCES) as running:
            assert [ask(running, 80) for _ in range(4)] == [""] * 4
            until(lambda: metric(running, "connections_total", result="source_not_held") == 4)
            # It is no fault of the destination, whose health other lines use.
            assert is_up(running)
            assert ask(running, 81) == "127.0.0.1"


def test_a_name_without_an_address_of_the_family_closes_and_is_counted(tmp_path: Path) -> None:
    with (
        backend() as one,
        in_thread({NAME: entry("127.0.0.1")}) as names,
        forwarder(tmp_path, f"80 {NAME} {one.port} from ::1", names, sources=SOURCES) as running,
    ):
        assert [ask(running, 80) for _ in range(2)] == ["", ""]
        until(lambda: metric(running, "connections_total", result="other_family") == 2)
        until(lambda: metric(running, "connections_total", result="connected") == 0)


def test_of_a_name_only_addresses_of_the_family_are_dialled(tmp_path: Path) -> None:
    with (
        backend("127.0.0.1", kind=Observing) as one,
        backend("::1", one.port),
        in_thread({NAME: entry("127.0.0.1", "::1")}) as names,
        forwarder(tmp_path, f"80 {NAME} {one.port} from 127.0.0.6", names, sources=SOURCES) as running,
    ):
        assert {ask(running, 80) for _ in range(4)} == {"127.0.0.6"}


def test_a_changed_source_is_that_of_new_connections(tmp_path: Path) -> None:
    with backend(kind=Observing) as one:
        lines = f"80 127.0.0.1 {one.port} from "
        with forwarder(tmp_path, f"{lines}127.0.0.5", sources=SOURCES) as running:
            assert ask(running, 80) == "127.0.0.5"
            running.apply(f"{lines}127.0.0.6")
            assert ask(running, 80) == "127.0.0.6"


def test_one_connection_counts_once_for_the_health_of_an_address(tmp_path: Path) -> None:
    """However many sources were tried: an address is down after three failures in a row, and this is one."""
    port = free_port()
    sources = "127.0.0.5 127.0.0.6 127.0.0.7"
    # No check shall add to it.
    with forwarder(tmp_path, f"80 127.0.0.1 {port} from *", sources=sources, check_seconds=3600.0) as running:
        assert ask(running, 80) == ""
        until(lambda: metric(running, "connections_total", result="refused") == 1)
        assert is_up(running)
