"""Records of redirect mode with real packets: what was connected and what was rejected, with the same fields."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from egress_router.lab.network import GATEWAY, GATEWAY_V6, ROUTER, ROUTER_V6, SOURCE, SOURCE_V6, Laboratory
from tests.network.administration import fetch
from tests.record_schema import check_record
from tests.status_keys import check_status
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

NAMES = {"db.example.com": {"addresses": ["203.0.113.25"], "ttl": 0}}
LINES = (
    "80 tcp db.example.com\n81 tcp gone.example.com\n82 tcp 203.0.113.26\n53 udp 203.0.113.26\n"
    "82 tcp 2001:db8:113::26\n"
)
POLICY = json.dumps(
    {
        "kind": "EgressNetworkPolicy",
        "apiVersion": "v1",
        "metadata": {"name": "default"},
        "spec": {
            "egress": [
                {"type": "Deny", "to": {"cidrSelector": "203.0.113.26/32"}},
                {"type": "Deny", "to": {"cidrSelector": "2001:db8:113::/64"}},
            ]
        },
    }
)
ENVIRONMENT = {
    "EGRESS_SOURCE": f"{SOURCE},{SOURCE_V6}",
    "EGRESS_GATEWAY": f"{GATEWAY},{GATEWAY_V6}",
    "EGRESS_DESTINATION": LINES,
    "EGRESS_POLICY": POLICY,
    "EGRESS_LOG_FORMAT": "json",
    "EGRESS_DNS_TTL_FLOOR": "0.1",
}


@contextlib.contextmanager
def recording(lab: Laboratory, environment: Mapping[str, str]) -> Iterator[list[dict[str, object]]]:
    lab.serve()
    lab.set_zone(NAMES)
    records: list[dict[str, object]] = []
    with lab.staying({**ENVIRONMENT, **environment}) as process:
        reader = threading.Thread(
            target=lambda: records.extend(map(json.loads, process.stdout or ())), daemon=True
        )
        reader.start()
        assert eventually(lambda: "203.0.113.25" in fetch(lab.router, "/status"))
        yield records


def turned_away(lab: Laboratory, port: int, router: str = ROUTER) -> None:
    with pytest.raises(ConnectionRefusedError):
        lab.ask_tcp(lab.client, router, port)


def turn_away(lab: Laboratory) -> None:
    """Connect to a line without an address, to no line, and to what the policy denies."""
    for port in (81, 83, 82):
        turned_away(lab, port)
    turned_away(lab, 82, ROUTER_V6)
    with lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((ROUTER, 53))
        for _ in range(3):  # one flow, so one record
            with contextlib.suppress(OSError):
                sock.send(b"x")


def by_port(records: list[dict[str, object]]) -> dict[tuple[object, object], tuple[object, ...]]:
    return {
        (each["protocol"], each["local_port"]): tuple(
            each.get(field) for field in ("verdict", "reason", "rule", "name", "address", "port")
        )
        for each in records
    }


FIRST = "policy entry 1: Deny 203.0.113.26/32"


def test_every_connection_has_a_record(lab: Laboratory) -> None:
    with recording(lab, {"EGRESS_ACCESS_LOG": "1"}) as records:
        assert lab.ask_tcp(lab.client, ROUTER, 80).server == "203.0.113.25"
        turn_away(lab)
        assert eventually(lambda: len(records) == 6), records
    for each in records:
        check_record(each)
        assert each["event"] == "connection"
        assert each["client_port"]
    assert len({each["id"] for each in records}) == 6
    six = [each for each in records if ":" in str(each["client"])]
    assert [(each["address"], each["rule"]) for each in six] == [
        ("2001:db8:113::26", "policy entry 2: Deny 2001:db8:113::/64")
    ]
    found = by_port([each for each in records if each not in six])
    connected = found.pop(("tcp", 80))
    assert connected[:1] + connected[2:] == (
        "allowed", "80 tcp db.example.com", "db.example.com", "203.0.113.25", 80,
    )  # fmt: skip
    assert found == {
        ("tcp", 81): ("allowed", "no_address", "81 tcp gone.example.com", "gone.example.com", None, None),
        ("tcp", 83): ("denied", "no_rule", None, None, None, None),
        ("tcp", 82): ("denied", "policy", FIRST, None, "203.0.113.26", 82),
        ("udp", 53): ("denied", "policy", FIRST, None, "203.0.113.26", 53),
    }


def test_denied_ones_have_a_record_unasked_and_a_place_in_the_status(lab: Laboratory) -> None:
    with recording(lab, {}) as records:
        assert lab.ask_tcp(lab.client, ROUTER, 80).server == "203.0.113.25"
        turn_away(lab)
        assert eventually(lambda: len(records) == 4), records
        denied: list[dict[str, object]] = []

        def all_denied() -> bool:
            denied[:] = json.loads(fetch(lab.router, "/status"))["denied"]
            return len({each["target"] for each in denied}) == 4

        assert eventually(all_denied), denied
        assert eventually(lambda: 'result="no_address"} 1.0' in fetch(lab.router, "/metrics")), fetch(
            lab.router, "/metrics"
        )
        told = fetch(lab.router, "/metrics")
    assert {(each["protocol"], each["local_port"]) for each in records} == {
        ("tcp", 83), ("tcp", 82), ("udp", 53),
    }  # fmt: skip
    assert {(each["target"], each["reason"]) for each in denied} == {
        ("tcp port 83", "no_rule"),
        ("203.0.113.26:82/tcp", "policy"),
        ("[2001:db8:113::26]:82/tcp", "policy"),
        ("203.0.113.26:53/udp", "policy"),
    }
    assert 'connections_total{result="no_rule"} 1.0' in told
    assert 'connections_total{result="policy"} 3.0' in told
    assert 'rule_failures_total{rule="81 tcp gone.example.com"} 1.0' in told


def test_the_status_says_who_is_busy(lab: Laboratory) -> None:
    with recording(lab, {}), lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.connect((ROUTER, 80))
        sock.recv(1000)
        found: dict[str, Any] = {}

        def is_seen() -> bool:
            found.update(json.loads(fetch(lab.router, "/status")))
            return bool(found["busiest"]["all_clients"] == 1)

        assert eventually(is_seen)
    busy = found["busiest"]
    check_status(found)
    assert busy["clients"] == [{"client": "10.128.0.10", "open": 1}]
    assert busy["destinations"] == [{"destination": "80 tcp db.example.com", "open": 1}]
