"""Which source ports connections get, with real packets: none that a server would refuse, none that is open."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from egress_router.lab.network import GATEWAY, GATEWAY_V6, ROUTER, ROUTER_V6, SOURCE, SOURCE_V6, Laboratory
from tests.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.lab.host import Host

SERVER, SERVER_V6 = "203.0.113.25", "2001:db8:113::25"
ENVIRONMENT = {
    "EGRESS_ROUTER_MODE": "init",
    "EGRESS_SOURCE": f"{SOURCE}/24,{SOURCE_V6}/64",
    "EGRESS_GATEWAY": f"{GATEWAY},{GATEWAY_V6}",
    "EGRESS_DESTINATION": f"80 tcp {SERVER}\n80 tcp {SERVER_V6}\n53 udp {SERVER}\n",
}
_NETFILTER = 12
_DELETE = (1 << 8) | 2  # linux/netfilter/nfnetlink_conntrack.h: IPCTNL_MSG_CT_DELETE
_REQUEST_ACKNOWLEDGED = 0x1 | 0x4


@contextlib.contextmanager
def server(lab: Laboratory, address: str = SERVER) -> Iterator[socket.socket]:
    """Listen on an external server."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with lab.outside.socket(family, socket.SOCK_STREAM) as listening:
        listening.settimeout(WAIT_SECONDS)
        listening.bind((address, 80))
        listening.listen(64)
        yield listening


def begin(
    client: Host, listening: socket.socket, address: str = ROUTER, own_port: int = 0
) -> tuple[socket.socket, socket.socket, int]:
    """Connect through the router; return both ends, and the source port that the server sees."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = client.socket(family, socket.SOCK_STREAM)
    sock.settimeout(WAIT_SECONDS)
    if own_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", own_port))
    sock.connect((address, 80))
    accepted, peer = listening.accept()
    return sock, accepted, int(peer[1])


def visit(client: Host, listening: socket.socket, address: str = ROUTER, own_port: int = 0) -> int:
    """Connect, and have the server close first, so that it holds TIME_WAIT; return the source port."""
    sock, accepted, port = begin(client, listening, address, own_port)
    with sock, accepted:
        accepted.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
        sock.shutdown(socket.SHUT_WR)
        assert accepted.recv(1) == b""
    return port


def forget_connections(host: Host) -> None:
    """Empty connection tracking; elsewhere its entries go one by one, where clients use their ports again."""
    with host.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as netlink:
        netlink.settimeout(WAIT_SECONDS)
        body = struct.pack("=BBH", 0, 0, 0)
        netlink.send(struct.pack("=IHHII", 16 + len(body), _DELETE, _REQUEST_ACKNOWLEDGED, 1, 0) + body)
        assert struct.unpack_from("=i", netlink.recv(4096), 16)[0] == 0


def counted(host: Host, name: str) -> int:
    shown = host.run("nstat", "--zeros", "--ignore", "--noupdate", name).stdout
    return int(shown.split()[-2])


@pytest.mark.parametrize(("address", "remote"), [(ROUTER, SERVER), (ROUTER_V6, SERVER_V6)])
def test_no_port_comes_back_while_a_server_may_remember_it(
    lab: Laboratory, address: str, remote: str
) -> None:
    """Of 2,000 random ports out of 64,000, 30 would come twice; half of these meet TIME_WAIT and wait a second."""
    lab.finish_setup(ENVIRONMENT)
    # The kernel keeps for all namespaces together which port a client uses next. Another laboratory beside this one
    # may set it back, and a client's port that is used again is tested below; so these clients choose their ports.
    own_ports = range(20_000, 21_000)
    with server(lab, remote) as listening:
        ports = [visit(lab.client, listening, address, own_port) for own_port in own_ports]
        forget_connections(lab.router)
        ports += [visit(lab.remote, listening, address, own_port) for own_port in own_ports]
    assert len(set(ports)) == len(ports)
    assert counted(lab.outside, "TcpExtPAWSTimewait") == 0


@pytest.mark.parametrize(("address", "remote"), [(ROUTER, SERVER), (ROUTER_V6, SERVER_V6)])
def test_a_client_s_port_that_comes_back_leaves_by_the_same_one(
    lab: Laboratory, address: str, remote: str
) -> None:
    """Then timestamps and sequence numbers go on, and the server ends TIME_WAIT for the new connection."""
    lab.finish_setup(ENVIRONMENT)
    with server(lab, remote) as listening:
        first = [visit(lab.client, listening, address, port) for port in range(40_000, 40_100)]
        second = [visit(lab.client, listening, address, port) for port in range(40_000, 40_100)]
        other = [visit(lab.remote, listening, address, port) for port in range(40_000, 40_100)]
    assert first == second
    assert not set(first) & set(other)
    assert counted(lab.outside, "TcpExtPAWSTimewait") == 0


def test_clients_that_have_one_hash_in_common_have_ports_of_their_own(lab: Laboratory) -> None:
    """IPv6 addresses are too long for nft, so clients are known by two hashes (source_ports).

    These two have the first one in common, 0xe8c1e2a8: jhash of client, port, server and port, with the seed 1.
    """
    destination = "2001:db8:113::27"
    lab.finish_setup({**ENVIRONMENT, "EGRESS_DESTINATION": f"80 tcp {destination}\n"})
    with server(lab, destination) as listening:
        repeated = counted(lab.remote, "TcpExtTCPSynRetrans")
        sock, accepted, first = begin(lab.client, listening, ROUTER_V6, 16_477)
        with sock, accepted:
            other = visit(lab.remote, listening, ROUTER_V6, 11_032)
            assert other != first
            sock.sendall(b"still open")
            assert accepted.recv(10) == b"still open"
        assert counted(lab.remote, "TcpExtTCPSynRetrans") == repeated


def test_ports_of_open_connections_are_passed_over(lab: Laboratory) -> None:
    lab.finish_setup(ENVIRONMENT)
    with server(lab) as listening, contextlib.ExitStack() as open_ones:
        held = []
        for _ in range(600):
            sock, accepted, port = begin(lab.client, listening)
            open_ones.enter_context(sock)
            open_ones.enter_context(accepted)
            held.append(port)
        # The router begins again at the first port, and knows from connection tracking which ports are open.
        lab.router.run("nft", "delete", "table", "inet", "egress_router")
        lab.finish_setup(ENVIRONMENT)
        repeated = counted(lab.remote, "TcpExtTCPSynRetrans")
        fresh = [visit(lab.remote, listening) for _ in range(50)]
        assert counted(lab.remote, "TcpExtTCPSynRetrans") == repeated
        assert not set(fresh) & set(held)


def test_lines_change_and_the_turn_goes_on(lab: Laboratory) -> None:
    lab.finish_setup(ENVIRONMENT)
    with server(lab) as listening:
        before = [visit(lab.client, listening) for _ in range(20)]
        lab.finish_setup({**ENVIRONMENT, "EGRESS_DESTINATION": f"80 tcp {SERVER}\n81 tcp {SERVER}\n"})
        forget_connections(lab.router)
        after = [visit(lab.remote, listening) for _ in range(20)]
    assert not set(before) & set(after)


def test_udp_ports_stay_random(lab: Laboratory) -> None:
    lab.serve()
    lab.finish_setup(ENVIRONMENT)
    ports = [lab.ask_udp(lab.client, ROUTER, 53).source_port for _ in range(30)]
    steps = {second - first for first, second in itertools.pairwise(ports)}
    assert len(steps) > 20
    assert max(ports) - min(ports) > 1000
