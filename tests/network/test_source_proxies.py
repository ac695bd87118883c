"""Several source addresses in the proxies' pods, with real packets: setup claims them, lines say which one."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from egress_router.lab import wiring
from egress_router.lab.network import GATEWAY, GATEWAY_V6, SOURCE, SOURCE_V6, Laboratory
from egress_router.upstreams.pool import FAILURES_DOWN
from tests.network.administration import fetch
from tests.network.test_policy_proxies import connected, said
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    Way = Callable[[int], tuple[int, str]]

SECOND, THIRD = "192.168.12.100", "192.168.12.101"
SOURCES = f"{SOURCE}/24,{SECOND}/24,{THIRD}/24,{SOURCE_V6}/64"
NETWORK = {"EGRESS_SOURCE": SOURCES, "EGRESS_GATEWAY": f"{GATEWAY},{GATEWAY_V6}"}
LIST = f"""\
203.0.113.26 from {SECOND}
203.0.113.27 from *
203.0.113.28 from {THIRD}
[2001:db8:113::27] from *
*
"""
LINES = f"""\
1025 203.0.113.25 80
1026 203.0.113.26 80 from {SECOND}
1027 203.0.113.27 80 from *
1028 203.0.113.28 80 from {THIRD}
1029 2001:db8:113::27 80 from *
"""
SERVERS = {
    1025: "203.0.113.25:80",
    1026: "203.0.113.26:80",
    1027: "203.0.113.27:80",
    1028: "203.0.113.28:80",
    1029: "[2001:db8:113::27]:80",
}
# For each mode, how a client reaches a line's server: the router's port, and what CONNECT names.
MODES: list[tuple[str, str, Way]] = [
    ("http-proxy", LIST, lambda line: (8080, SERVERS[line])),
    ("dns-proxy", LINES, lambda line: (line, "")),
]


def rules(mode: str, text: str) -> dict[str, str]:
    variable = f"EGRESS_{mode.upper().replace('-', '_')}_DESTINATION"
    return {variable: text, "EGRESS_SOURCE": SOURCES, "EGRESS_WORKERS": "1"}


def source(lab: Laboratory, way: tuple[int, str]) -> str:
    """Return with which address the server sees a connection; empty: there was none."""
    with connected(lab, *way) as sock:
        _, found, rest = said(sock).decode().partition('"source": "')
        return rest.partition('"')[0] if found else ""


@pytest.mark.parametrize(("mode", "text", "way"), MODES)
def test_setup_claims_all_and_each_line_leaves_with_its_own(
    lab: Laboratory, mode: str, text: str, way: Way
) -> None:
    lab.serve()
    assert lab.finish_setup({**NETWORK, "EGRESS_ROUTER_MODE": mode}).count("address claimed") == 4
    with lab.proxy(mode, rules(mode, text), way(1025)[0]):
        assert source(lab, way(1025)) == SOURCE
        assert {source(lab, way(1026)) for _ in range(3)} == {SECOND}
        assert {source(lab, way(1028)) for _ in range(3)} == {THIRD}
        assert {source(lab, way(1029)) for _ in range(3)} == {SOURCE_V6}
        counted = f'egress_router_source_ports_in_use{{source="{THIRD}"}}'
        assert eventually(lambda: counted in fetch(lab.router, "/metrics"))
        with connected(lab, *way(1028)) as sock:
            said(sock)
            uses = json.loads(fetch(lab.router, "/status"))["source_ports"]
        assert {"source": THIRD, "destination": "203.0.113.28:80/tcp", "in_use": 1} in uses
        spread = [source(lab, way(1027)) for _ in range(9)]
        assert {each: spread.count(each) for each in spread} == dict.fromkeys((SOURCE, SECOND, THIRD), 3)


@pytest.mark.parametrize(("mode", "text", "way"), MODES)
def test_an_address_that_another_station_has_is_left_out(
    lab: Laboratory, mode: str, text: str, way: Way
) -> None:
    """Lines that name it wait for it; `from *` and lines without `from` use the other addresses."""
    lab.serve()
    wiring.address(lab.rival, "eth0", f"{SECOND}/24")
    environment = {**NETWORK, "EGRESS_ROUTER_MODE": mode, "EGRESS_CLAIM_TIMEOUT": "1"}
    assert "address is left out: another station has it" in lab.finish_setup(environment)
    with lab.proxy(mode, rules(mode, text), way(1025)[0]):
        assert source(lab, way(1025)) == SOURCE
        assert source(lab, way(1026)) == ""
        assert {source(lab, way(1027)) for _ in range(6)} == {SOURCE, THIRD}
        assert eventually(lambda: "source_not_held" in fetch(lab.router, "/metrics"))


@pytest.mark.parametrize(("mode", "text", "way"), MODES)
def test_without_a_free_source_port_the_server_is_not_to_blame(
    lab: Laboratory, mode: str, text: str, way: Way
) -> None:
    lab.serve()
    lab.finish_setup({**NETWORK, "EGRESS_ROUTER_MODE": mode})
    with lab.proxy(mode, rules(mode, text), way(1025)[0]), connected(lab, *way(1025)) as sock:
        port = json.loads(said(sock).splitlines()[-1])["source_port"]
        lab.router.sysctl("net/ipv4/ip_local_port_range", f"{port} {port}")  # which is in use
        answers = []
        for _ in range(2 * FAILURES_DOWN):
            with connected(lab, *way(1025)) as other:
                answers.append(said(other).decode())
        lab.router.sysctl("net/ipv4/ip_local_port_range", "32768 60999")  # `fetch` needs ports, too
        if mode == "http-proxy":
            assert all("503" in each and "no free port" in each for each in answers)
        assert all('"source"' not in each for each in answers)
        counted = rf'_total{{\w+="source_not_held"}} {len(answers)}\.0\n'
        assert eventually(lambda: re.search(counted, fetch(lab.router, "/metrics")))
        upstreams = json.loads(fetch(lab.router, "/status"))["upstreams"]
        assert all(each["up"] for each in upstreams if each["address"] == SERVERS[1025])


def test_the_first_that_is_held_is_that_of_lines_without_from(lab: Laboratory) -> None:
    lab.serve()
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    lab.finish_setup({**NETWORK, "EGRESS_ROUTER_MODE": "http-proxy", "EGRESS_CLAIM_TIMEOUT": "1"})
    with lab.proxy("http-proxy", rules("http-proxy", LIST), 8080):
        assert source(lab, (8080, SERVERS[1025])) == SECOND


def test_a_proxy_needs_the_sources_only_where_a_line_names_one(lab: Laboratory) -> None:
    lab.finish_setup({**NETWORK, "EGRESS_ROUTER_MODE": "dns-proxy"})
    with lab.proxy("dns-proxy", {"EGRESS_DNS_PROXY_DESTINATION": "1025 203.0.113.25 80"}, 1025):
        pass
    environment = {"EGRESS_DNS_PROXY_DESTINATION": "1025 203.0.113.25 80 from *"}
    with (
        pytest.raises(RuntimeError, match="`from` needs EGRESS_SOURCE in the environment"),
        lab.proxy("dns-proxy", environment, 1025),
    ):
        pass
