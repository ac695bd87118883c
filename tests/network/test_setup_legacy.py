"""A live redirect router in real namespaces: it stays, follows its file, repairs, logs and answers questions."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.kernel.neighbour import announcements, mac_bytes
from egress_router.lab import wiring
from egress_router.lab.network import GATEWAY, ROUTER, SOURCE, Laboratory
from tests.network.administration import get
from tests.network.setting_up import INIT, mac_of
from tests.network.staying import SET_UP
from tests.record_schema import check_record
from tests.waiting import WAIT_SECONDS, eventually

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path


def test_legacy_follows_its_file_without_touching_open_connections(lab: Laboratory, tmp_path: Path) -> None:
    lab.serve()
    rules = tmp_path / "destinations"
    rules.write_text("80 tcp 203.0.113.25\n")
    process = lab.setup(
        {"EGRESS_ROUTER_MODE": "legacy", "EGRESS_DESTINATION_FILE": str(rules), "EGRESS_DESTINATION": ""}
    )
    assert process.stderr is not None
    assert any("network is set up" in line for line in process.stderr)
    with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(WAIT_SECONDS)
        sock.connect((ROUTER, 80))
        lines = sock.makefile("rb")
        assert b"203.0.113.25" in lines.readline()

        rules.write_text("8080 tcp 203.0.113.26 80\n")
        assert any("changed rules are in force" in line for line in process.stderr)
        assert lab.ask_tcp(lab.client, ROUTER, 8080).server == "203.0.113.26"
        with pytest.raises(ConnectionRefusedError):
            lab.ask_tcp(lab.client, ROUTER, 80)
        sock.sendall(b"still here\n")
        assert lines.readline() == b"still here\n"

        rules.write_text("8080 tcp nowhere\n")
        assert any("the old ones stay in force" in line for line in process.stderr)
        assert lab.ask_tcp(lab.client, ROUTER, 8080).server == "203.0.113.26"
        lines.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_SECONDS) == 0


def test_legacy_follows_the_link_swap_of_a_config_map(lab: Laboratory, tmp_path: Path) -> None:
    for number, rule in enumerate(("80 tcp 203.0.113.25\n", "80 tcp 203.0.113.26\n")):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "rules").write_text(rule)
    (tmp_path / "..data").symlink_to("..0")
    (tmp_path / "rules").symlink_to("..data/rules")
    lab.serve()
    process = lab.setup({"EGRESS_ROUTER_MODE": "legacy", "EGRESS_DESTINATION_FILE": str(tmp_path / "rules")})
    assert process.stderr is not None
    assert any("network is set up" in line for line in process.stderr)
    (tmp_path / "..new").symlink_to("..1")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert any("changed rules are in force" in line for line in process.stderr)
    assert lab.ask_tcp(lab.client, ROUTER, 80).server == "203.0.113.26"


def test_legacy_follows_its_file_while_its_second_announcement_waits(lab: Laboratory, tmp_path: Path) -> None:
    lab.serve()
    rules = tmp_path / "rules"
    rules.write_text("80 tcp 203.0.113.25\n")
    process = staying(
        lab,
        "second_announcement=3600",
        {"EGRESS_DESTINATION_FILE": str(rules), "EGRESS_DESTINATION": ""},
    )
    assert process.stderr is not None
    rules.write_text("80 tcp 203.0.113.26\n")
    assert any("changed rules are in force" in line for line in process.stderr)
    assert lab.ask_tcp(lab.client, ROUTER, 80).server == "203.0.113.26"


def test_legacy_tries_again_what_the_kernel_refused(lab: Laboratory, tmp_path: Path) -> None:
    rules, refusing = tmp_path / "rules", tmp_path / "refusing"
    rules.write_text("80 tcp 203.0.113.25\n")
    nft = tmp_path / "nft"
    nft.write_text(
        f'#!/bin/sh\n[ -e {refusing} ] && {{ echo "no memory" >&2; exit 1; }}\nPATH={os.environ["PATH"]} exec nft "$@"\n'
    )
    nft.chmod(0o755)
    process = staying(
        lab,
        "",
        {
            "EGRESS_DESTINATION_FILE": str(rules),
            "EGRESS_DESTINATION": "",
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
        },
    )
    assert process.stderr is not None
    refusing.touch()
    rules.write_text("81 tcp 203.0.113.25\n")
    assert any("the old ones stay in force" in line for line in process.stderr)
    refusing.unlink()
    assert any("changed rules are in force" in line for line in process.stderr)
    assert "203.0.113.25 . 81" in lab.router.run("nft", "list", "ruleset").stdout


def test_legacy_logs_connections_with_both_their_ends(lab: Laboratory) -> None:
    lab.serve()
    process = lab.setup(
        {
            "EGRESS_ROUTER_MODE": "legacy",
            "EGRESS_DESTINATION": "80 tcp 203.0.113.25\n81 tcp 203.0.113.25 9\n53 udp 203.0.113.25",
            "EGRESS_ACCESS_LOG": "1",
            "EGRESS_LOG_FORMAT": "json",
        }
    )
    assert process.stderr is not None
    assert process.stdout is not None
    assert any("network is set up" in line for line in process.stderr)
    assert eventually(lambda: get(lab.client, "/readyz", ROUTER)[0] == 200)
    with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.connect((ROUTER, 80))
        client_port = sock.getsockname()[1]
        assert b"203.0.113.25" in sock.recv(1000)
        sock.sendall(b"x" * 1000)
    with pytest.raises(ConnectionRefusedError):
        lab.ask_tcp(lab.client, ROUTER, 81)
    records = [json.loads(process.stdout.readline()) for _ in range(2)]
    for each in records:
        check_record(each)
    served = next(each for each in records if each["local_port"] == 80)
    refused = next(each for each in records if each["local_port"] == 81)
    assert {
        "event": "connection", "client": "10.128.0.10", "client_port": client_port, "protocol": "tcp",
        "address": "203.0.113.25", "port": 80, "source": SOURCE, "rule": "80 tcp 203.0.113.25",
        "verdict": "allowed",
    }.items() <= served.items()  # fmt: skip
    assert served["reason"] in {"finished", "reset"}
    assert served["sent"] > 1000
    assert served["received"] > 0
    assert 0 <= served["seconds"] < 60
    assert served["id"] != refused["id"]
    assert (refused["reason"], refused["port"]) == ("refused", 9)


def test_legacy_answers_questions(lab: Laboratory) -> None:
    lab.serve()
    # Nobody has 203.0.113.99.
    rules = (
        "80   tcp 203.0.113.25  # the bank\n81 tcp 203.0.113.99\n5000-5100 tcp 203.0.113.28\n"
        "82 tcp 203.0.113.25 9\n203.0.113.27\n"
    )
    process = lab.setup({"EGRESS_ROUTER_MODE": "legacy", "EGRESS_DESTINATION": rules})
    assert process.stderr is not None
    assert any("network is set up" in line for line in process.stderr)
    assert eventually(lambda: get(lab.client, "/readyz", ROUTER)[0] == 200)
    with pytest.raises(OSError, match=r"route to host|timed out"):
        lab.ask_tcp(lab.client, ROUTER, 81)
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            lab.ask_tcp(lab.client, ROUTER, 82)
    for port in (80, 80, 5000, 5001, 7777):
        lab.ask_tcp(lab.client, ROUTER, port)

    def hits() -> dict[int, int]:
        status: dict[str, list[dict[str, int]]] = json.loads(get(lab.client, "/status", ROUTER)[1])
        return {each["line"]: each["hits"] for each in status["rules"]}

    assert eventually(lambda: hits() == {1: 2, 2: 0, 3: 2, 4: 0, 5: 1}), hits()
    # The sources' ports are read after the counters.
    ports = 'egress_router_snat_ports_in_use{destination="203.0.113.25:80/tcp",source="192.168.12.99"} 2.0'
    assert eventually(lambda: ports in get(lab.client, "/metrics", ROUTER)[1])
    _, metrics = get(lab.client, "/metrics", ROUTER)
    assert 'egress_router_rule_connections_total{rule="80 tcp 203.0.113.25"} 2.0' in metrics
    assert 'egress_router_connections_total{result="connected"} 5.0' in metrics
    assert 'egress_router_rule_connect_seconds_count{rule="80 tcp 203.0.113.25"} 2.0' in metrics
    assert "egress_router_connect_seconds_count 5.0" in metrics
    assert 0 < float(metrics.partition("\negress_router_connect_seconds_sum ")[2].split()[0]) < 5
    # However often its SYN was sent again, it counts once, when no answer can come any more.
    failed = 'egress_router_connections_total{result="timeout"} 1.0'
    assert eventually(lambda: failed in get(lab.client, "/metrics", ROUTER)[1])
    assert 'egress_router_connections_total{result="refused"} 2.0' in get(lab.client, "/metrics", ROUTER)[1]
    with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.connect((ROUTER, 80))
        assert eventually(
            lambda: "egress_router_connections_open 1.0" in get(lab.client, "/metrics", ROUTER)[1]
        )
    addresses = json.loads(get(lab.client, "/status", ROUTER)[1])["interface"]["addresses"]
    assert addresses == [SOURCE], "the kernel's own link-local address is nobody's source"
    assert "egress_router_conntrack_entries " in metrics

    wiring.set_down(lab.router, "macvlan0")
    assert eventually(lambda: get(lab.client, "/readyz", ROUTER) == (503, "interface macvlan0 is down\n"))


def impatient(lab: Laboratory) -> subprocess.Popen[str]:
    """Start `setup` in mode legacy; it looks after its network twice a second instead of once a minute."""
    return staying(lab, "keep_network=0.5", {})


def staying(lab: Laboratory, intervals: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start `setup` in mode legacy with these intervals, and wait until the network is set up."""
    program = SET_UP.format(intervals)
    process = lab.router.start(
        [sys.executable, "-c", program],
        {
            **INIT,
            "EGRESS_ROUTER_MODE": "legacy",
            "EGRESS_SOURCE": SOURCE,
            "EGRESS_GATEWAY": GATEWAY,
            "EGRESS_PARENT_NETNS": str(lab.node.path),
            **environment,
        },
    )
    assert process.stderr is not None
    assert any("network is set up" in line for line in process.stderr)
    return process


def test_legacy_announces_again_and_repairs(lab: Laboratory) -> None:
    lab.serve()
    impatient(lab)
    request, _ = announcements(ip_address(SOURCE), mac_bytes(mac_of(lab.router, "macvlan0")))
    with lab.rival.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as capture:
        capture.bind(("eth0", 0))
        capture.settimeout(WAIT_SECONDS)
        for _ in range(2):
            while capture.recv(2048) != request:
                pass
    lab.router.ip("route del default")
    assert eventually(lambda: "dev macvlan0" in lab.router.run("ip", "route", "show", "default").stdout)
    assert lab.ask_tcp(lab.client, ROUTER, 80).source == SOURCE


def test_legacy_ends_at_once_while_it_waits_for_the_address(lab: Laboratory) -> None:
    process = impatient(lab)
    lab.router.ip(f"addr del {SOURCE}/32 dev macvlan0")
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    assert process.stderr is not None
    assert any("waiting for its owner to go" in line for line in process.stderr)
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_SECONDS) == 0
    assert "Traceback" not in process.stderr.read()


def test_legacy_outlives_an_interface_that_goes_down_while_it_probes(lab: Laboratory) -> None:
    process = impatient(lab)
    assert process.stderr is not None
    lab.router.run("sh", "-c", f"ip addr del {SOURCE}/32 dev macvlan0; sleep 0.8; ip link set macvlan0 down")
    assert any("address claimed" in line for line in process.stderr), "in the end"
    assert process.poll() is None
