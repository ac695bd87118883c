"""Readiness asks the gateway for real, without any privilege."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from egress_router.lab import wiring
from egress_router.lab.network import GATEWAY, GATEWAY_V6, ROUTER, SOURCE, SOURCE_V6
from tests.network.administration import get
from tests.waiting import eventually

if TYPE_CHECKING:
    from typing import Any

    from egress_router.lab.network import Laboratory

PROXY = {"EGRESS_ROUTER_MODE": "http-proxy"}
DUAL = {"EGRESS_SOURCE": f"{SOURCE}/24,{SOURCE_V6}/64", "EGRESS_GATEWAY": f"{GATEWAY},{GATEWAY_V6}"}
LOOK = """
import asyncio, json
from egress_router.service.gateway_monitor import GatewayMonitor
outside = GatewayMonitor("macvlan0")
asyncio.run(outside.look())
print(json.dumps([outside.problems(), outside.status()]))
"""


def look(lab: Laboratory) -> Any:
    """Return problems and status, seen by a process that has no capability."""
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", LOOK]
    return json.loads(lab.router.run(*command).stdout)


def test_a_pod_without_the_interface_has_no_gateway_to_ask(lab: Laboratory) -> None:
    assert look(lab) == [[], None]


NEIGHBOURS = """
import json
from egress_router.net.own import neighbours
print(json.dumps(sorted(map(str, neighbours("macvlan0")))))
"""


def test_neighbours_are_what_the_other_interfaces_have_on_their_links(lab: Laboratory) -> None:
    def seen() -> list[str]:
        return list(json.loads(lab.router.run(sys.executable, "-c", NEIGHBOURS).stdout))

    assert seen() == []  # without an egress interface, there is no other side
    lab.finish_setup({**PROXY, **DUAL})
    assert [each for each in seen() if not each.startswith("fe80:")] == ["10.128.0.0/24", "fd00:128::/64"]
    lab.router.run("ip", "route", "add", "10.129.0.0/16", "via", "10.128.0.1", "dev", "eth0")
    assert "10.128.0.1/32" in seen()  # the node, which is on the way to other pods
    assert "10.129.0.0/16" not in seen()


def test_gateways_of_both_families_answer_until_they_are_gone(lab: Laboratory) -> None:
    lab.finish_setup({**PROXY, **DUAL})
    status: dict[str, Any] = {}

    def answers() -> bool:
        problems, found = look(lab)
        status.update(found)
        return not problems

    assert eventually(answers)
    assert status["addresses"][:1] == [SOURCE]
    assert SOURCE_V6 in status["addresses"]
    assert status["gateways"] == [
        {"address": GATEWAY, "answers": True},
        {"address": GATEWAY_V6, "answers": True},
    ]
    lab.gateway.run("ip", "address", "del", f"{GATEWAY}/24", "dev", "wire")
    lab.router.run("ip", "neighbour", "flush", "dev", "macvlan0")
    # The other one has a second for its answer.
    assert eventually(lambda: look(lab)[0] == [f"gateway {GATEWAY} does not answer on macvlan0"])
    wiring.address(lab.gateway, "wire", f"{GATEWAY}/24")
    assert eventually(lambda: look(lab)[0] == [])


def test_an_interface_that_is_down_or_has_no_route_is_said(lab: Laboratory) -> None:
    lab.finish_setup(PROXY)
    lab.router.run("ip", "route", "del", "default", "dev", "macvlan0")
    assert look(lab)[0] == ["interface macvlan0 has no default route"]
    lab.router.run("ip", "link", "set", "macvlan0", "down")
    assert look(lab)[0] == ["interface macvlan0 is down"]


def test_a_proxy_is_ready_only_while_its_gateway_answers(lab: Laboratory) -> None:
    lab.finish_setup(PROXY)

    def ready() -> int:
        return get(lab.client, "/readyz", ROUTER)[0]

    with lab.proxy("http-proxy", {"EGRESS_HTTP_PROXY_DESTINATION": "*"}, 8080):
        assert eventually(lambda: ready() == 200)
        lab.gateway.run("ip", "address", "del", f"{GATEWAY}/24", "dev", "wire")
        lab.router.run("ip", "neighbour", "flush", "dev", "macvlan0")
        assert eventually(lambda: ready() == 503)
        wiring.address(lab.gateway, "wire", f"{GATEWAY}/24")
        assert eventually(lambda: ready() == 200)
