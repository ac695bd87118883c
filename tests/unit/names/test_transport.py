from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address

import pytest

from egress_router.metrics import Registry
from egress_router.names.metrics import DnsMetrics
from egress_router.names.transport import Server, ServerError, Transport
from egress_router.names.wire import Kind


@pytest.mark.parametrize("zone", ["lo", str(socket.if_nametoindex("lo"))])
def test_the_zone_of_a_link_local_server_becomes_an_interface(zone: str) -> None:
    server = Server(ip_address(f"fe80::53%{zone}"), 53)
    assert server.sockaddr() == ("fe80::53", 53, 0, socket.if_nametoindex("lo"))


def test_a_zone_that_is_no_interface_is_a_fault_of_that_server() -> None:
    transport = Transport(DnsMetrics(Registry()))
    with pytest.raises(ServerError) as caught:
        asyncio.run(transport.ask(Server(ip_address("fe80::53%none"), 53), "a.example", Kind.A, 5.0))
    assert not caught.value.silent
