"""Names in EGRESS_DESTINATION with real packets: good days and bad ones."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from egress_router.lab import wiring
from egress_router.lab.network import (
    GATEWAY,
    GATEWAY_V6,
    NAME_SERVER,
    ROUTER,
    ROUTER_V6,
    SOURCE,
    SOURCE_V6,
    Laboratory,
)
from tests.network.administration import fetch
from tests.waiting import WAIT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

NAME = "db.example.com"
# Answers are asked for again after a moment, so that a test need not wait for a TTL.
QUICK = {"EGRESS_DNS_TTL_FLOOR": "0.1", "EGRESS_ROUTER_MODE": "legacy"}
ONE, TWO, THREE = "203.0.113.25", "203.0.113.26", "203.0.113.27"
NOBODY = "203.0.113.99"


def zone(*addresses: str, behaviour: str = "honest", **others: list[str]) -> dict[str, object]:
    names: dict[str, object] = {
        name.replace("_", "."): {"addresses": found, "ttl": 0} for name, found in others.items()
    }
    if addresses or behaviour != "honest":
        names[NAME] = {"addresses": list(addresses), "ttl": 0, "behaviour": behaviour}
    return names


@contextlib.contextmanager
def following(
    lab: Laboratory, rules: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a router that stays, from the moment at which its network is set up."""
    process = lab.setup({**QUICK, "EGRESS_DESTINATION": rules, **(environment or {})})
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "network is set up" in line:
            break
    else:
        pytest.fail(f"setup ended: {said}")
    # What it says from here on must not fill the pipe.
    reader = threading.Thread(target=lambda: said.extend(process.stderr or ()))
    reader.start()
    try:
        yield process
    finally:
        process.kill()
        process.wait(WAIT_SECONDS)
        reader.join(WAIT_SECONDS)


def upstreams(lab: Laboratory) -> dict[str, bool]:
    text = fetch(lab.router, "/status")
    return {each["address"]: each["up"] for each in json.loads(text)["upstreams"]} if text else {}


def reasons(lab: Laboratory) -> set[str]:
    text = fetch(lab.router, "/status")
    return {each.get("reason", "") for each in json.loads(text)["upstreams"]} if text else set()


def servers(lab: Laboratory, port: int, count: int = 24) -> set[str]:
    """Return who answers so many connections."""
    found = [lab.ask_tcp(lab.client, ROUTER, port) for _ in range(count)]
    assert {each.source for each in found} == {SOURCE}
    return {each.server for each in found}


def settles(lab: Laboratory, port: int, *wanted: str) -> bool:
    """Wait until these serve; what the router knows is in force a moment later."""

    def serve() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            return servers(lab, port) == set(wanted)
        return False

    return eventually(serve)


def test_a_name_is_followed_and_its_dead_address_left_out(lab: Laboratory) -> None:
    lab.serve()
    lab.set_zone(zone(ONE, TWO, NOBODY))
    with following(lab, f"443 tcp {NAME}\n8080 tcp {NAME} 80\n5000-5100 tcp {NAME}\n"):
        # Each port is checked by itself.
        known = {f"{NOBODY}:{port}": False for port in (80, 443)}
        known |= {f"{each}:{port}": True for each in (ONE, TWO) for port in (80, 443)}
        assert eventually(lambda: known.items() <= upstreams(lab).items()), upstreams(lab)
        assert settles(lab, 443, ONE, TWO)
        assert settles(lab, 8080, ONE, TWO)
        assert lab.ask_tcp(lab.client, ROUTER, 8080).port == 80
        lab.set_zone(zone(THREE))
        assert settles(lab, 443, THREE)
        metrics = fetch(lab.router, "/metrics")
        assert (
            f'egress_router_upstream_up{{address="{THREE}:443",destination="{NAME}:443/tcp"}} 1.0' in metrics
        )
        assert "egress_router_dns_lookups_total" in metrics


def test_a_name_that_is_unknown_at_start_is_rejected_at_once_while_others_serve(lab: Laboratory) -> None:
    lab.serve()
    lab.set_zone({"other.example.com": {"addresses": [ONE], "ttl": 0}})
    # The fallback must not take what belongs to the line.
    with following(lab, f"443 tcp {NAME}\n53 udp {NAME}\n80 tcp other.example.com\n{TWO}\n"):
        assert eventually(lambda: upstreams(lab).get("") is False)
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                lab.ask_tcp(lab.client, ROUTER, 443)
            with pytest.raises(ConnectionRefusedError):
                lab.ask_udp(lab.client, ROUTER, 53)
        assert servers(lab, 80, 3) == {ONE}
        assert lab.ask_tcp(lab.client, ROUTER, 7777).server == TWO
        assert f'upstream_up{{address="",destination="{NAME}:443/tcp"}} 0.0' in fetch(lab.router, "/metrics")
        lab.set_zone(zone(THREE, other_example_com=[ONE]))

        def serves() -> bool:
            with contextlib.suppress(ConnectionRefusedError):
                return lab.ask_tcp(lab.client, ROUTER, 443).server == THREE
            return False

        assert eventually(serves)
        assert eventually(lambda: lab.ask_udp(lab.client, ROUTER, 53).server == THREE)


def test_an_answer_grows_to_60_addresses_and_shrinks_to_one(lab: Laboratory) -> None:
    many = [f"203.0.113.{last}" for last in range(100, 160)]
    wiring.address(lab.outside, "eth0", *(f"{each}/24" for each in many))
    lab.serve()
    lab.set_zone(zone(ONE))
    with following(lab, f"443 tcp {NAME}\n"):
        assert settles(lab, 443, ONE)
        lab.set_zone(zone(*many))
        seen: set[str] = set()

        def all_seen() -> bool:
            seen.update(servers(lab, 443))
            return seen >= set(many)

        assert eventually(all_seen), set(many) - seen
        lab.set_zone(zone(TWO))
        assert settles(lab, 443, TWO)


@pytest.mark.slow
def test_a_name_server_that_is_silent_for_a_minute_changes_nothing(lab: Laboratory) -> None:
    lab.serve()
    lab.set_zone(zone(ONE, TWO))
    lab.router.write("/etc/resolv.conf", f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:1\n")
    with following(lab, f"443 tcp {NAME}\n"):
        assert settles(lab, 443, ONE, TWO)
        lab.set_zone(zone(behaviour="silent"))
        stale = "egress_router_dns_stale_answers_total "

        def count() -> float:
            found = [line for line in fetch(lab.router, "/metrics").splitlines() if line.startswith(stale)]
            return float(found[0].split()[1]) if found else 0.0

        assert eventually(lambda: count() >= 3), fetch(lab.router, "/metrics")
        # The minute is what is tested: it is asked again after 1, 2, 4, 8 and 16 s, and waited for each time.
        end = time.monotonic() + 60
        while time.monotonic() < end:
            assert servers(lab, 443, 8) <= {ONE, TWO}
            time.sleep(1)
        assert servers(lab, 443) == {ONE, TWO}
        lab.set_zone(zone(THREE))
        assert settles(lab, 443, THREE)


def test_when_every_address_is_dead_all_are_tried_and_one_that_comes_back_serves(lab: Laboratory) -> None:
    lab.serve(["80"])
    lab.set_zone(zone(ONE, TWO))
    with following(lab, f"443 tcp {NAME}\n80 tcp {NAME}\n"):
        dead = {f"{ONE}:443": False, f"{TWO}:443": False, f"{ONE}:80": True}
        assert eventually(lambda: dead.items() <= upstreams(lab).items()), upstreams(lab)
        with pytest.raises(ConnectionRefusedError):
            lab.ask_tcp(lab.client, ROUTER, 443)
        lab.serve(["443"])
        assert settles(lab, 443, ONE, TWO)


def test_a_name_of_both_families_is_served_in_each_that_the_router_has(lab: Laboratory) -> None:
    lab.serve()
    lab.set_zone(zone(ONE, "2001:db8:113::25"))
    dual = {
        "EGRESS_SOURCE": f"{SOURCE}/24,{SOURCE_V6}/64",
        "EGRESS_GATEWAY": f"{GATEWAY},{GATEWAY_V6}",
    }
    with following(lab, f"443 tcp {NAME}\n"):
        assert settles(lab, 443, ONE)
        assert eventually(lambda: set(upstreams(lab)) == {f"{ONE}:443"})
    with following(lab, f"443 tcp {NAME}\n", dual):
        assert settles(lab, 443, ONE)

        def over_v6() -> bool:
            seen = lab.ask_tcp(lab.client, ROUTER_V6, 443)
            return (seen.server, seen.source) == ("2001:db8:113::25", SOURCE_V6)

        assert eventually(over_v6)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (ROUTER, "it is this router itself"),
        (SOURCE, f"{SOURCE} is EGRESS_SOURCE itself; expected the address of an external server"),
        ("10.128.0.1", "it is on the network of the pod's first interface, which no line leads to"),
        ("127.0.0.1", "the name has a loopback, link-local or metadata address that no line names"),
    ],
)
def test_a_name_does_not_lead_to_the_router_or_to_the_node(
    lab: Laboratory, address: str, reason: str
) -> None:
    lab.serve()
    lab.set_zone(zone(address))
    with following(lab, f"443 tcp {NAME}\n"):
        assert eventually(lambda: reasons(lab) == {reason}), reasons(lab)
        with pytest.raises(ConnectionRefusedError):
            lab.ask_tcp(lab.client, ROUTER, 443)
        lab.set_zone(zone(address, ONE))
        assert eventually(lambda: set(upstreams(lab)) == {f"{ONE}:443"})
        assert settles(lab, 443, ONE)


def transactions(lab: Laboratory) -> Callable[[], int]:
    """Return a function that says how often the router's rules have changed since now."""
    process = lab.router.start(["nft", "monitor"])
    seen: list[str] = []
    lines = process.stdout or ()
    threading.Thread(target=lambda: seen.extend(lines), daemon=True).start()
    return lambda: sum("new generation" in line for line in seen)


def test_an_answer_that_changes_all_the_time_breaks_no_connection(lab: Laboratory) -> None:
    """A hundred changes while 500 connections a second begin and 20 are held; the benchmark takes a minute."""
    lab.serve()
    lab.set_zone(zone(ONE))
    with following(lab, f"443 tcp {NAME}\n"):
        assert settles(lab, 443, ONE)
        crowd = lab.client.start(
            [sys.executable, "-m", "egress_router.lab.crowd", ROUTER, "443", "500", "20"],
            stdin=subprocess.PIPE,
        )
        changes = transactions(lab)
        # Ten times a second the name server says something else.
        turns = [[ONE, TWO], [TWO], [TWO, THREE], [ONE, TWO, THREE], [THREE], [THREE, ONE]]
        lab.set_zone({NAME: {"turns": turns, "ttl": 0}})
        assert eventually(lambda: changes() >= 100, 90), changes()
        output, errors = crowd.communicate(timeout=WAIT_SECONDS)
        said = json.loads(output)
        assert (said["failed"], said["broken"]) == ({}, {}), errors
        assert set(said["answered"]) == {ONE, TWO, THREE}
        assert said["words"] >= 20


def test_lines_of_one_name_have_its_addresses_and_a_health_each(lab: Laboratory) -> None:
    lab.serve(["443", "5001"])
    lab.set_zone(zone(ONE, TWO))
    ports = ("443 tcp", "80 tcp", "443 udp", "5000-5100 udp")
    with following(lab, "".join(f"{each} {NAME}\n" for each in ports) + f"8443 tcp {NAME} 443\n"):
        # Nobody listens on port 80: that line's addresses are down, the others' are not.
        known = {f"{each}:{port}": port == 443 for each in (ONE, TWO) for port in (80, 443)}
        assert eventually(lambda: known.items() <= upstreams(lab).items()), upstreams(lab)
        assert settles(lab, 443, ONE, TWO)
        assert settles(lab, 8443, ONE, TWO)
        with pytest.raises(ConnectionRefusedError):
            lab.ask_tcp(lab.client, ROUTER, 80)
        for port in (443, 5001):
            assert {lab.ask_udp(lab.client, ROUTER, port).server for _ in range(24)} == {ONE, TWO}
        lab.set_zone(zone(THREE))
        assert settles(lab, 443, THREE)
        assert settles(lab, 8443, THREE)
        assert {lab.ask_udp(lab.client, ROUTER, port).server for port in (443, 5001)} == {THREE}


def test_what_nft_refuses_is_tried_again_and_the_old_addresses_stay(lab: Laboratory, tmp_path: Path) -> None:
    refusing, nft = tmp_path / "refusing", tmp_path / "nft"
    nft.write_text(
        f'#!/bin/sh\n[ -e {refusing} ] && {{ echo "no memory" >&2; exit 1; }}\n'
        f'PATH={os.environ["PATH"]} exec nft "$@"\n'
    )
    nft.chmod(0o755)
    lab.serve()
    lab.set_zone(zone(ONE))
    with following(lab, f"443 tcp {NAME}\n", {"PATH": f"{tmp_path}:{os.environ['PATH']}"}):
        assert settles(lab, 443, ONE)
        refusing.touch()
        lab.set_zone(zone(TWO))
        failed = "egress_router_name_update_errors_total "

        def failures() -> bool:
            found = [line for line in fetch(lab.router, "/metrics").splitlines() if line.startswith(failed)]
            return bool(found) and float(found[0].split()[1]) >= 1

        assert eventually(failures)
        assert servers(lab, 443) == {ONE}
        refusing.unlink()
        assert settles(lab, 443, TWO)


def test_a_router_that_starts_anew_keeps_open_flows_and_serves_at_once(lab: Laboratory) -> None:
    lab.serve()
    lab.set_zone(zone(ONE))
    with following(lab, f"443 tcp {NAME}\n") as process:
        assert settles(lab, 443, ONE)
        with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(WAIT_SECONDS)
            sock.connect((ROUTER, 443))
            lines = sock.makefile("rb")
            assert ONE.encode() in lines.readline()
            process.send_signal(signal.SIGKILL)
            process.wait(WAIT_SECONDS)
            assert servers(lab, 443, 3) == {ONE}
            lab.set_zone(zone(TWO))
            with following(lab, f"443 tcp {NAME}\n"):
                # Until the new process has an answer, the addresses that the last one knew go on serving.
                assert servers(lab, 443, 3) <= {ONE, TWO}
                assert settles(lab, 443, TWO)
                sock.sendall(b"still here\n")
                assert lines.readline() == b"still here\n"
                lines.close()


@pytest.mark.slow
def test_a_udp_flow_whose_address_is_gone_moves_within_30_s(lab: Laboratory) -> None:
    lab.serve()
    lab.set_zone(zone(ONE))
    with following(lab, f"53 udp {NAME}\n"):
        assert eventually(lambda: lab.ask_udp(lab.client, ROUTER, 53).server == ONE)
        with lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(WAIT_SECONDS)
            sock.connect((ROUTER, 53))

            def server() -> str:
                sock.send(b"who am I?")
                return str(json.loads(sock.recv(4096))["server"])

            assert server() == ONE
            lab.set_zone(zone(TWO))
            assert eventually(lambda: lab.ask_udp(lab.client, ROUTER, 53).server == TWO)
            changed = time.monotonic()
            # The flow goes on, and no datagram of it is lost, until it is moved. The answer that is under way
            # while its conntrack entry is deleted has no entry that it belongs to, and is lost: one may be.
            assert server() == ONE
            sock.settimeout(10)
            lost, stayed = 0, changed

            def moved() -> bool:
                nonlocal lost, stayed
                try:
                    if server() == TWO:
                        return True
                    stayed = time.monotonic()
                except TimeoutError:
                    lost += 1
                return False

            assert eventually(moved)
            assert lost <= 1
            assert 15 < stayed - changed < 40


def test_explain_asks_the_name_servers_that_the_router_is_told(lab: Laboratory) -> None:
    lab.set_zone(zone(ONE))
    lab.router.write("/etc/resolv.conf", f"nameserver {NOBODY}\n")
    done = lab.router.run(
        *(sys.executable, "-m", "egress_router", "explain", "--resolve", "-", NAME),
        input=f"{ONE}\n",
        env={**os.environ, "EGRESS_DNS_SERVERS": NAME_SERVER},
    )
    assert done.stdout.startswith(f"{NAME} has the addresses {ONE}\n")


def test_names_need_a_router_that_stays_and_nftables(lab: Laboratory) -> None:
    process = lab.setup({"EGRESS_ROUTER_MODE": "init", "EGRESS_DESTINATION": f"443 tcp {NAME}"})
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 1
    assert "a name needs EGRESS_ROUTER_MODE=legacy, because somebody has to follow it" in errors
    before = lab.router.run("nft", "list", "ruleset").stdout
    process = lab.setup({**QUICK, "EGRESS_DESTINATION": f"443 tcp {NAME}", "EGRESS_NAT_BACKEND": "iptables"})
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 3
    assert f"names need nftables, and line 1 leads to {NAME}" in errors
    assert lab.router.run("nft", "list", "ruleset").stdout == before
