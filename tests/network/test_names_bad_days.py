"""Names in EGRESS_DESTINATION with real packets: what fails, and what changes all the time."""

from __future__ import annotations

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

from egress_router.lab.network import NAME_SERVER, ROUTER, Laboratory
from tests.network.administration import fetch
from tests.network.following import NAME, ONE, THREE, TWO, following, servers, settles, upstreams, zone
from tests.waiting import WAIT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.slow
def test_a_name_server_that_is_silent_for_a_minute_changes_nothing(lab: Laboratory) -> None:
    lab.serve()
    lab.name(zone(ONE, TWO))
    lab.router.write("/etc/resolv.conf", f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:1\n")
    with following(lab, f"443 tcp {NAME}\n"):
        assert settles(lab, 443, ONE, TWO)
        lab.name(zone(behaviour="silent"))
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
        lab.name(zone(THREE))
        assert settles(lab, 443, THREE)


def test_when_every_address_is_dead_all_are_tried_and_one_that_comes_back_serves(lab: Laboratory) -> None:
    lab.serve(["80"])
    lab.name(zone(ONE, TWO))
    with following(lab, f"443 tcp {NAME}\n80 tcp {NAME}\n"):
        dead = {f"{ONE}:443": False, f"{TWO}:443": False, f"{ONE}:80": True}
        assert eventually(lambda: dead.items() <= upstreams(lab).items()), upstreams(lab)
        with pytest.raises(ConnectionRefusedError):
            lab.ask_tcp(lab.client, ROUTER, 443)
        lab.serve(["443"])
        assert settles(lab, 443, ONE, TWO)


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
    lab.name(zone(ONE))
    with following(lab, f"443 tcp {NAME}\n"):
        assert settles(lab, 443, ONE)
        crowd = lab.client.start(
            [sys.executable, "-m", "egress_router.lab.crowd", ROUTER, "443", "500", "20"],
            stdin=subprocess.PIPE,
        )
        changes = transactions(lab)
        # Ten times a second the name server says something else.
        turns = [[ONE, TWO], [TWO], [TWO, THREE], [ONE, TWO, THREE], [THREE], [THREE, ONE]]
        lab.name({NAME: {"turns": turns, "ttl": 0}})
        assert eventually(lambda: changes() >= 100, 90), changes()
        output, errors = crowd.communicate(timeout=WAIT_SECONDS)
        said = json.loads(output)
        assert (said["failed"], said["broken"]) == ({}, {}), errors
        assert set(said["answered"]) == {ONE, TWO, THREE}
        assert said["words"] >= 20


def test_what_nft_refuses_is_tried_again_and_the_old_addresses_stay(lab: Laboratory, tmp_path: Path) -> None:
    refusing, nft = tmp_path / "refusing", tmp_path / "nft"
    nft.write_text(
        f'#!/bin/sh\n[ -e {refusing} ] && {{ echo "no memory" >&2; exit 1; }}\n'
        f'PATH={os.environ["PATH"]} exec nft "$@"\n'
    )
    nft.chmod(0o755)
    lab.serve()
    lab.name(zone(ONE))
    with following(lab, f"443 tcp {NAME}\n", {"PATH": f"{tmp_path}:{os.environ['PATH']}"}):
        assert settles(lab, 443, ONE)
        refusing.touch()
        lab.name(zone(TWO))
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
    lab.name(zone(ONE))
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
            lab.name(zone(TWO))
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
    lab.name(zone(ONE))
    with following(lab, f"53 udp {NAME}\n"):
        assert eventually(lambda: lab.ask_udp(lab.client, ROUTER, 53).server == ONE)
        with lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(WAIT_SECONDS)
            sock.connect((ROUTER, 53))

            def server() -> str:
                sock.send(b"who am I?")
                return str(json.loads(sock.recv(4096))["server"])

            assert server() == ONE
            lab.name(zone(TWO))
            assert eventually(lambda: lab.ask_udp(lab.client, ROUTER, 53).server == TWO)
            changed = time.monotonic()
            # Until it is moved, the flow goes on and loses no datagram. An answer that is under way while its
            # conntrack entry is deleted matches no entry and is lost: this may happen to one.
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
