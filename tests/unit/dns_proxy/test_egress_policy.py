"""The egress policy before the lines: an address that it denies is not dialled while another one is allowed."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from egress_router.dns_proxy.server import mode
from egress_router.lab.nameserver import in_thread
from egress_router.lab.zone import entry
from egress_router.settings.dns_proxy import read_dns_proxy
from egress_router.settings.policy import joined
from tests.manual_clock import ManualClock
from tests.record_schema import check_record
from tests.serving import serving
from tests.unit.dns_proxy.lab import ask, at_once, backend, connect, forwarder, greeting, is_reset, metric
from tests.unit.upstreams.scripted import ScriptedNames
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.logged import Lines

NAME = "db.example.com"
ALL = ("Deny", "cidrSelector", "0.0.0.0/0")


def policy(*entries: tuple[str, str, str]) -> str:
    egress = [{"type": effect, "to": {selector: value}} for effect, selector, value in entries]
    return json.dumps({"kind": "EgressNetworkPolicy", "apiVersion": "v1", "spec": {"egress": egress}})


def allow(network: str) -> tuple[str, str, str]:
    return ("Allow", "cidrSelector", network)


def given(text: str) -> dict[str, str]:
    return {"EGRESS_POLICY": text}


def test_a_line_to_a_denied_address_is_closed_and_counted_by_entry(tmp_path: Path, records: Lines) -> None:
    rules = policy(allow("127.0.0.1/32"), ALL)
    with backend("127.0.0.1") as one, backend("127.0.0.2", one.port):
        lines = f"80 127.0.0.1 {one.port}\n81 127.0.0.2 {one.port}"
        with forwarder(tmp_path, joined(lines, rules), environ=given(rules)) as running:
            assert ask(running, 80) == "127.0.0.1"
            assert ask(running, 81) == ""
            until(lambda: metric(running, "policy_denied_total", entry="2") == 1)
            until(lambda: metric(running, "connections_total", result="policy") == 1)
            shown = str(running.call(running.server.status)["upstreams"])
            assert "policy entry 2 (Deny 0.0.0.0/0) denies it" in shown
            denied = running.call(running.server.status)["denied"]
    # Denials have records without EGRESS_ACCESS_LOG; what was relayed has none.
    (record,) = records.events("connection")
    check_record(record)
    expected = {
        "verdict": "denied",
        "reason": "policy",
        "rule": "policy entry 2: Deny 0.0.0.0/0",
        "local_port": 81,
    }
    assert expected.items() <= record.items()
    assert isinstance(denied, list)
    last: list[dict[str, object]] = [{**each} for each in denied if isinstance(each, dict)]
    assert [(each["rule"], each["target"]) for each in last] == [
        (record["rule"], f"127.0.0.2:{record['port']}")
    ]
    assert record["address"] == "127.0.0.2"


def test_of_a_name_only_addresses_that_are_allowed_are_dialled(tmp_path: Path) -> None:
    rules = policy(allow("127.0.0.2/32"), ALL)
    with (
        backend("127.0.0.1") as one,
        backend("127.0.0.2", one.port),
        in_thread({NAME: entry("127.0.0.1", "127.0.0.2")}) as names,
        forwarder(tmp_path, joined(f"80 {NAME} {one.port}", rules), names, environ=given(rules)) as running,
    ):
        assert {ask(running, 80) for _ in range(6)} == {"127.0.0.2"}


def test_an_entry_by_name_allows_the_addresses_of_the_name(tmp_path: Path) -> None:
    rules = policy(("Allow", "dnsName", NAME), ALL)
    with (
        backend("127.0.0.1") as one,
        in_thread({NAME: entry("127.0.0.1")}) as names,
        forwarder(
            tmp_path,
            joined(f"80 {NAME} {one.port}\n81 127.0.0.1 {one.port}\n82 127.0.0.2 {one.port}", rules),
            names,
            environ=given(rules),
        ) as running,
    ):
        assert ask(running, 80) == "127.0.0.1"
        # Allowed by its address, as soon as the policy has looked its own name up.
        until(lambda: ask(running, 81) == "127.0.0.1")
        assert ask(running, 82) == ""


def test_a_changed_policy_ends_what_it_denies_and_nothing_else(tmp_path: Path) -> None:
    before, after = policy(allow("127.0.0.0/8"), ALL), policy(allow("127.0.0.1/32"), ALL)
    with backend("127.0.0.1") as one, backend("127.0.0.2", one.port):
        lines = f"80 127.0.0.1 {one.port}\n81 127.0.0.2 {one.port}"
        with (
            forwarder(tmp_path, joined(lines, before), environ=given(before), drain_seconds=0.05) as running,
            connect(running, 80) as kept,
            connect(running, 81) as cut,
        ):
            assert (greeting(kept), greeting(cut)) == ("127.0.0.1", "127.0.0.2")
            running.apply(joined(lines, after))
            with contextlib.suppress(ConnectionResetError):
                assert greeting(cut) == ""
            assert ask(running, 81) == ""
            kept.sendall(b"still here\n")
            assert greeting(kept) == "still here"
            running.apply(joined(lines, before))
            assert ask(running, 81) == "127.0.0.2"


def test_a_denial_that_is_taken_back_in_time_closes_nothing(tmp_path: Path) -> None:
    before, after = policy(allow("127.0.0.0/8"), ALL), policy(allow("127.0.0.1/32"), ALL)
    with backend("127.0.0.1") as one, backend("127.0.0.2", one.port):
        other, line = f"80 127.0.0.1 {one.port}", f"81 127.0.0.2 {one.port}"
        both = joined(f"{line}\n{other}", before)
        with (
            forwarder(tmp_path, both, environ=given(before), drain_seconds=0.05) as running,
            connect(running, 80) as gone,
            connect(running, 81) as kept,
        ):
            assert (greeting(gone), greeting(kept)) == ("127.0.0.1", "127.0.0.2")
            at_once(running, joined(f"{line}\n{other}", after), joined(line, before))
            assert is_reset(gone)  # whose deadline is later than that of the denial
            kept.sendall(b"still here\n")
            assert greeting(kept) == "still here"
            running.apply(joined(line, after))
            assert is_reset(kept)


def test_a_policy_by_a_name_that_was_never_asked_for_closes_nothing_that_it_allows() -> None:
    """What it allows by name is denied until the answer is there, which here is at once."""
    by_address, by_name = policy(allow("127.0.0.1/32"), ALL), policy(("Allow", "dnsName", NAME), ALL)
    names = ScriptedNames(ManualClock())
    names.known[NAME] = ("127.0.0.1",)
    with backend("127.0.0.1") as one:
        other, line = f"80 127.0.0.1 {one.port}", f"81 127.0.0.1 {one.port}"
        settings = read_dns_proxy({"EGRESS_DNS_PROXY_DESTINATION": line, **given(by_name)})
        made = mode(settings, lambda _settings, _registry: names)
        with (
            serving(made, joined(f"{line}\n{other}", by_address), drain_seconds=0.05) as running,
            connect(running, 80) as gone,
            connect(running, 81) as kept,
        ):
            assert (greeting(gone), greeting(kept)) == ("127.0.0.1", "127.0.0.1")
            running.apply(joined(line, by_name))
            assert is_reset(gone)
            kept.sendall(b"still here\n")
            assert greeting(kept) == "still here"
            names.known[NAME] = ("127.0.0.2",)
            assert is_reset(kept)


def test_a_line_that_comes_back_in_time_with_a_policy_that_denies_it_is_cut(tmp_path: Path) -> None:
    before, after = policy(allow("127.0.0.0/8"), ALL), policy(allow("127.0.0.1/32"), ALL)
    with backend("127.0.0.2") as two:
        line, other = f"80 127.0.0.2 {two.port}", f"81 127.0.0.1 {two.port}"
        with (
            forwarder(tmp_path, joined(line, before), environ=given(before), drain_seconds=0.05) as running,
            connect(running, 80) as client,
        ):
            assert greeting(client) == "127.0.0.2"
            at_once(running, joined(other, before), joined(line, after))
            assert is_reset(client)


def test_a_line_that_comes_back_for_one_that_is_denied_is_cut_when_it_goes_again(tmp_path: Path) -> None:
    before, after = policy(allow("127.0.0.0/8"), ALL), policy(allow("127.0.0.1/32"), ALL)
    with backend("127.0.0.1") as one:
        line, denied = f"80 127.0.0.1 {one.port}", f"80 127.0.0.2 {one.port}"
        with (
            forwarder(tmp_path, joined(line, before), environ=given(before), drain_seconds=1.0) as running,
            connect(running, 80) as first,
        ):
            assert greeting(first) == "127.0.0.1"
            at_once(running, joined(denied, before), joined(line, after))
            with connect(running, 80) as second:
                assert greeting(second) == "127.0.0.1"
                running.apply(joined("81 127.0.0.1 9", after))
                assert is_reset(first)
                assert is_reset(second)
