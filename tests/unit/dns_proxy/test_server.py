"""Lines that forward: to whom, to whom never, within which limits, and what the status, logs and metrics say."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from egress_router.lab.nameserver import in_thread
from egress_router.lab.zone import entry
from tests.record_schema import check_record
from tests.unit.dns_proxy.lab import (
    ask,
    backend,
    both_loops,
    connect,
    forwarder,
    forwarding,
    greeting,
    metric,
)
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.logged import Lines


@both_loops
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_line_forwards_over_both_families(tmp_path: Path, loop: str, host: str) -> None:
    with backend() as target, forwarder(tmp_path, f"80 127.0.0.1 {target.port}", loop=loop) as running:
        with connect(running, 80, host) as client:
            assert greeting(client) == "127.0.0.1"
            client.sendall(b"there and back")
            client.shutdown(socket.SHUT_WR)
            assert client.makefile("rb").read() == b"there and back"
        until(lambda: running.call(running.server.open_connections) == 0)
        until(lambda: metric(running, "connections_total", result="connected") == 1)
        until(lambda: metric(running, "connections_open") == 0)
        until(lambda: metric(running, "bytes_total", direction="sent") == 14)
        until(lambda: metric(running, "bytes_total", direction="received") == 14 + len("127.0.0.1\n"))


def test_an_ipv6_address_is_a_destination(tmp_path: Path) -> None:
    with backend("::1") as target, forwarder(tmp_path, f"80 ::1 {target.port}") as running:
        assert ask(running, 80) == "::1"


def test_status_names_lines_and_addresses(tmp_path: Path) -> None:
    with (
        backend() as target,
        forwarder(tmp_path, f"# two\n80 127.0.0.1 {target.port}\n\n81 127.0.0.1 9\n") as running,
    ):
        ask(running, 80)
        ask(running, 80)
        status = running.call(running.server.status)
    where = f"127.0.0.1:{target.port}"
    assert status == {
        "rules": [
            {"line": 2, "text": f"80 127.0.0.1 {target.port}", "hits": 2},
            {"line": 4, "text": "81 127.0.0.1 9", "hits": 0},
        ],
        "upstreams": [
            {"destination": where, "address": where, "up": True},
            {"destination": "127.0.0.1:9", "address": "127.0.0.1:9", "up": True},
        ],
        "denied": [],
        "listeners": [80, 81],
        "policy": [],
    }


def test_a_refused_connection_ends_the_clients_in_order(tmp_path: Path) -> None:
    with forwarder(tmp_path, "80 127.0.0.1 9") as running:
        assert ask(running, 80) == ""
        until(lambda: metric(running, "connections_total", result="refused") == 1)
        until(lambda: metric(running, "connections_open") == 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1"])
def test_a_line_that_leads_to_the_router_itself_goes_nowhere(tmp_path: Path, host: str) -> None:
    """Each connection would make the next one, and so would the first health check."""
    with forwarder(tmp_path, f"80 {host} 81\n81 {host} 80\n82 {host} 9\n") as running:
        assert ask(running, 80) == ""
        until(lambda: metric(running, "connections_total", result="loop") == 1)
        upstreams = running.call(running.server.status)["upstreams"]
        assert isinstance(upstreams, list)
        said = [each for each in upstreams if isinstance(each, dict) and not each["address"]]
        assert [each["reason"] for each in said] == ["it is this router itself"] * 2
        # Without line 80, line 81 leads to somebody else again.
        running.apply(f"81 {host} 80\n")
        assert ask(running, 81) == ""
        until(lambda: metric(running, "connections_total", result="refused") == 1)


def test_a_name_that_leads_to_the_router_itself_goes_nowhere(tmp_path: Path) -> None:
    with (
        in_thread({"a.example": entry("127.0.0.1")}) as names,
        forwarder(tmp_path, "80 a.example 80", names) as running,
    ):
        assert ask(running, 80) == ""
        until(lambda: metric(running, "connections_total", result="loop") == 1)


@both_loops
def test_limits_close_what_is_over_them(tmp_path: Path, loop: str) -> None:
    with (
        backend() as target,
        forwarder(tmp_path, f"80 127.0.0.1 {target.port}", loop=loop, most=3, per_client=2) as running,
    ):
        with (
            connect(running, 80) as first,
            connect(running, 80) as second,
            connect(running, 80, "::1") as third,
        ):
            assert [greeting(each) for each in (first, second, third)] == ["127.0.0.1"] * 3
            assert ask(running, 80) == ""
            assert ask(running, 80, "::1") == ""
        until(lambda: metric(running, "connections_total", result="limit") == 2)
        until(lambda: running.call(running.server.open_connections) == 0)
        assert ask(running, 80) == "127.0.0.1"


def test_an_idle_connection_ends(tmp_path: Path, records: Lines) -> None:
    environ = {"EGRESS_DNS_PROXY_IDLE_SECONDS": "1", "EGRESS_ACCESS_LOG": "1"}
    with (
        backend() as target,
        forwarder(tmp_path, f"80 127.0.0.1 {target.port}", environ=environ) as running,
        connect(running, 80) as client,
    ):
        greeting(client)
        assert client.recv(1) == b""
        until(lambda: records.events("connection"))
    assert records.events("connection")[0]["reason"] == "idle"


def test_the_access_log_has_one_line_for_each_connection(tmp_path: Path, records: Lines) -> None:
    with (
        backend() as target,
        forwarder(
            tmp_path, f"80 127.0.0.1 {target.port}\n81 127.0.0.1 9", environ={"EGRESS_ACCESS_LOG": "1"}
        ) as running,
    ):
        ask(running, 80)
        ask(running, 81)
        until(lambda: len(records.seen) == 2)
        snapshot = running.call(running.context.registry.snapshot)
        lines = (("rule", f"80 127.0.0.1 {target.port}"),), (("rule", "81 127.0.0.1 9"),)
        assert [snapshot["rule_connections_total"].numbers[line] for line in lines] == [1, 1]
        assert [snapshot["rule_failures_total"].numbers[line] for line in lines] == [0, 1]
    by_port = {line["local_port"]: line for line in records.seen}
    relayed, refused = by_port[80], by_port[81]
    assert relayed["event"] == refused["event"] == "connection"
    assert relayed["client"] == "127.0.0.1"
    assert (relayed["address"], relayed["port"], relayed["rule"]) == (
        "127.0.0.1", target.port, f"80 127.0.0.1 {target.port}",
    )  # fmt: skip
    assert (relayed["source"], relayed["sent"], relayed["received"]) == ("127.0.0.1", 0, 10)
    assert 0 not in {relayed["client_port"], relayed["source_port"], refused["client_port"]}
    assert (refused["reason"], refused["rule"]) == ("refused", "81 127.0.0.1 9")
    for each in (relayed["connect_seconds"], relayed["seconds"], refused["seconds"]):
        assert isinstance(each, float)
        assert 0 < each < WAIT_SECONDS
    assert relayed["id"] != refused["id"]
    for each in records.seen:
        check_record(each)


def test_without_a_setting_nothing_goes_to_stdout(tmp_path: Path, records: Lines) -> None:
    with backend() as target, forwarder(tmp_path, f"80 127.0.0.1 {target.port}") as running:
        ask(running, 80)
        until(lambda: running.call(running.server.open_connections) == 0)
    assert records.seen == []


def test_debug_says_connections_and_health(tmp_path: Path, records: Lines) -> None:
    with backend() as target:
        text = f"80 127.0.0.1 {target.port}\n81 127.0.0.1 9"
        with forwarder(tmp_path, text, environ={"EGRESS_DNS_PROXY_DEBUG": "1"}) as running:
            ask(running, 80)
            for _ in range(3):
                ask(running, 81)
            until(lambda: records.events("upstream does not answer"))
            assert [line["address"] for line in records.events("upstream does not answer")] == ["127.0.0.1:9"]
            until(lambda: len(records.events("connection")) == 4)
    assert [line["local_port"] for line in records.events("connected")] == [80]
    (ended,) = [line for line in records.events("connection") if line["local_port"] == 80]
    assert records.events("connected")[0]["id"] == ended["id"]


def test_a_summary_for_people(tmp_path: Path) -> None:
    made = forwarding(tmp_path)
    rules = made.parse("RULES", "80 203.0.113.25\n8443 foobar.com 443\n")
    assert made.summary(rules) == ("80 203.0.113.25 80", "8443 foobar.com 443")
    assert made.ports(rules) == {80, 8443}


@pytest.mark.parametrize("access_log", ["0", "1"])
def test_the_time_to_the_first_byte_is_noted_by_line(tmp_path: Path, access_log: str) -> None:
    with (
        backend() as target,
        forwarder(
            tmp_path, f"80 127.0.0.1 {target.port}\n", environ={"EGRESS_ACCESS_LOG": access_log}
        ) as running,
    ):
        for _ in range(3):
            assert ask(running, 80) == "127.0.0.1"

        def noted() -> int:
            found = running.call(running.context.registry.snapshot).get("rule_first_byte_seconds")
            return 0 if found is None else sum(sum(counts) for _, counts, _ in found.histograms.values())

        until(lambda: noted() == 3)
