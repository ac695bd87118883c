from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from egress_router.standby import network

if TYPE_CHECKING:
    import pytest


def test_loopback_and_the_egress_interface_are_not_the_pods_own_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {1: "lo", 2: "macvlan0", 3: "eth0"}
    known = [(1, "127.0.0.1"), (2, "192.168.12.99"), (3, "fe80::1"), (3, "2001:db8::5"), (3, "10.1.2.3")]
    held = [(index, ip_address(each)) for index, each in known]
    monkeypatch.setattr("egress_router.net.rtnetlink.addresses", lambda: held)
    monkeypatch.setattr("socket.if_indextoname", names.__getitem__)
    assert network.pod_address("macvlan0") == ip_address("10.1.2.3")
    assert network.pod_address("eth0") == ip_address("192.168.12.99")
