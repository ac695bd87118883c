"""What every mode's /metrics must keep to: Prometheus' naming, and no label that a client could choose."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.ports import free_port
from tests.status_keys import check_status
from tests.unit.service.routers import ROOT
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator

# Every label that there is; whoever adds one says here why nobody outside can choose its values.
LABELS = {
    "address": "of an upstream that the rules name or resolve to",
    "destination": "as the rules have it",
    "direction": "sent, received",
    "le": "a bucket",
    "limit": "a setting's name",
    "mode": "a command of this program",
    "reason": "one of a fixed list",
    "result": "one of a fixed list",
    "rule": "a line of the rules, at most 1,000 of them",
    "source": "an address of EGRESS_SOURCE",
    "stream": "stderr, stdout",
    "transport": "udp, tcp",
    "verdict": "one of a fixed list",
    "version": "of this program",
}
CHOSEN = "chosen-by-a-client"
UNITS = (
    "_seconds",
    "_bytes",
    "_info",
    "_total",
    "_open",
    "_up",
    "_fds",
    "_valid",
    "_ready",
    "_serving",
    "_entries",
    "_limit",
    "_in_use",
)
FOREIGN_UNITS = re.compile(r"_(ms|milliseconds|minutes|kb|kib|mb|mib|percent|micros|us)(_|$)")

# One proxy of each mode serves all of these tests: one process of the test runner has them.
pytestmark = pytest.mark.xdist_group("metrics-lint")


def environment(mode: str, port: int) -> dict[str, str]:
    rules = {
        "http-proxy": {
            "EGRESS_HTTP_PROXY_DESTINATION": "!*.bad.example\n127.0.0.0/8",
            "EGRESS_HTTP_PROXY_PORT": str(port),
        },
        "dns-proxy": {"EGRESS_DNS_PROXY_DESTINATION": f"{port} 127.0.0.1 9"},
    }
    return rules[mode]


@pytest.fixture(scope="module", params=["http-proxy", "dns-proxy"])
def exposed(request: pytest.FixtureRequest) -> Iterator[str]:
    mode, port, admin = request.param, free_port(), free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "egress_router", mode],
        env={**os.environ, **environment(mode, port), "EGRESS_ADMIN_PORT": str(admin), "EGRESS_WORKERS": "2"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            until(lambda: fetched(admin, "/readyz") == "ok\n", "ready")
            for _ in range(4):
                provoke(port)
            name = "requests_total" if mode == "http-proxy" else "connections_total"
            until(lambda: counted(fetched(admin, "/metrics"), name) >= 4, "the traffic counted")
            check_status(json.loads(fetched(admin, "/status")))
            yield fetched(admin, "/metrics")
        finally:
            process.kill()


def fetched(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=WAIT_SECONDS) as answer:
            found: bytes = answer.read()
            return found.decode()
    except OSError:
        return ""


def provoke(port: int) -> None:
    """Send what a client may choose to every place that could put it into a label."""
    request = f"BREW{CHOSEN} http://{CHOSEN}.bad.example/{CHOSEN} HTTP/1.1\r\nHost: {CHOSEN}\r\n\r\n"
    for text in (request.replace(f"BREW{CHOSEN}", "GET"), request):
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) as client:
            client.sendall(text.encode())
            try:
                client.recv(1000)
            except ConnectionResetError:
                continue


def counted(text: str, name: str) -> float:
    found = re.findall(rf"^egress_router_{name}{{.*}} (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def test_every_family_has_help_and_type_once_and_in_front(exposed: str) -> None:
    seen: list[str] = []
    for line in exposed.splitlines():
        if line.startswith("# HELP "):
            seen.append(line.split()[2])
            assert len(line.split(" ", 3)[3]) > 10, f"too little help: {line}"
        elif line.startswith("# TYPE "):
            assert seen[-1] == line.split()[2]
        else:
            assert line.startswith(seen[-1]), f"{line} has no HELP"
    assert len(seen) == len(set(seen))


def test_names_follow_the_conventions(exposed: str) -> None:
    for line in re.findall(r"^# TYPE (.*)$", exposed, re.MULTILINE):
        name, kind = line.split()
        assert re.fullmatch(r"egress_router_[a-z][a-z_]*", name)
        assert kind in {"counter", "gauge", "histogram"}
        assert name.endswith("_total") == (kind == "counter"), f"{name} is a {kind}"
        assert name.endswith(UNITS), f"{name} ends in no known unit"
        assert not FOREIGN_UNITS.search(name), f"{name} is in no base unit"
        if kind == "histogram":
            assert name.endswith(("_seconds", "_bytes"))


def test_labels_are_few_and_never_chosen_by_a_client(exposed: str) -> None:
    assert CHOSEN not in exposed
    for family in text_string_to_metric_families(exposed):
        for sample in family.samples:
            assert set(sample.labels) <= set(LABELS), f"{sample.name} has labels that nobody vouched for"
            assert len(sample.labels) <= 3


def test_histograms_are_whole(exposed: str) -> None:
    for family in text_string_to_metric_families(exposed):
        if family.type != "histogram":
            continue
        buckets = [s for s in family.samples if s.name.endswith("_bucket")]
        counts = [s for s in family.samples if s.name.endswith("_count")]
        assert [s.value for s in buckets if s.labels["le"] == "+Inf"] == [s.value for s in counts]
        for count in counts:
            series = [s.value for s in buckets if {**s.labels, "le": ""} == {**count.labels, "le": ""}]
            assert series == sorted(series)


def test_every_gauge_of_the_service_is_there(exposed: str) -> None:
    for name in ("build_info", "workers_serving", "rules_valid", "process_open_fds", "connections_open"):
        assert f"\negress_router_{name}" in "\n" + exposed
    assert "egress_router_workers_serving 2.0" in exposed


def test_every_metric_is_documented(exposed: str) -> None:
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([a-z_]+)(?:{[a-z,]+})?`", text))
    for name in re.findall(r"^# TYPE egress_router_(\S+)", exposed, re.MULTILINE):
        assert name in documented, f"docs/operating.md does not know {name}"
