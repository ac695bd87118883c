"""Several source addresses in redirect mode, with real packets: which line leaves with which."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from egress_router.lab.network import GATEWAY, ROUTER, SOURCE, Laboratory
from tests.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

SECOND, THIRD = "192.168.12.100", "192.168.12.101"
RULES = f"""\
80   tcp 203.0.113.25
443  tcp 203.0.113.25 from {SECOND}
53   udp 203.0.113.53 from {THIRD}
5000-5100 tcp 203.0.113.28 from {THIRD}
8443 tcp 203.0.113.27 from *
203.0.113.26 from {SECOND}
"""
ENVIRONMENT = {
    "EGRESS_ROUTER_MODE": "init",
    "EGRESS_SOURCE": f"{SOURCE}/24,{SECOND}/24,{THIRD}/24",
    "EGRESS_GATEWAY": GATEWAY,
    "EGRESS_DESTINATION": RULES,
}


# All tests of one laboratory run in one process, which builds it once.
@pytest.fixture(
    scope="module",
    params=[
        pytest.param(each, marks=pytest.mark.xdist_group(f"spreading-{each}"))
        for each in ("nftables", "iptables")
    ],
)
def spreading(request: pytest.FixtureRequest) -> Iterator[Laboratory]:
    """A router with three addresses, by each backend; tests only send through it."""
    with Laboratory() as lab:
        lab.serve()
        lab.finish_setup({**ENVIRONMENT, "EGRESS_NAT_BACKEND": request.param})
        yield lab


@pytest.mark.parametrize(
    ("port", "source"), [(80, SOURCE), (443, SECOND), (5000, THIRD), (5100, THIRD), (7777, SECOND)]
)
def test_each_line_leaves_with_its_address(spreading: Laboratory, port: int, source: str) -> None:
    assert {spreading.ask_tcp(spreading.client, ROUTER, port).source for _ in range(3)} == {source}


def test_udp_leaves_with_its_address(spreading: Laboratory) -> None:
    assert spreading.ask_udp(spreading.client, ROUTER, 53).source == THIRD


def test_from_all_takes_them_in_turn(spreading: Laboratory) -> None:
    seen = [spreading.ask_tcp(spreading.client, ROUTER, 8443).source for _ in range(9)]
    assert {source: seen.count(source) for source in seen} == dict.fromkeys((SOURCE, SECOND, THIRD), 3)


def test_the_pod_itself_leaves_with_the_first(spreading: Laboratory) -> None:
    assert spreading.ask_tcp(spreading.router, "203.0.113.25", 80).source == SOURCE


def test_a_client_s_port_that_comes_back_does_not_bring_another_line_s_address(lab: Laboratory) -> None:
    """Both lines lead to one address and port; a client's port is remembered for one source only."""
    lab.serve(["80"])
    rules = f"80 tcp 203.0.113.25\n81 tcp 203.0.113.25 80 from {SECOND}\n"
    lab.finish_setup({**ENVIRONMENT, "EGRESS_DESTINATION": rules})
    for _ in range(3):
        for port, source in ((80, SOURCE), (81, SECOND)):
            with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                # Closed by reset, so that the client's port is free again at once.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.settimeout(WAIT_SECONDS)
                sock.bind(("10.128.0.10", 40_000))
                sock.connect((ROUTER, port))
                assert source.encode() in sock.recv(4096)
