"""When first packets are looked at: only while a connection may come back."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from egress_router.dns_proxy.nearby import Nearby

_TCP_SAVE_SYN = 27
OWN, CLUSTER = ((ip_address(each), 80) for each in ("127.0.0.1", "172.30.0.10"))


def looks(listener: socket.socket) -> bool:
    return bool(listener.getsockopt(socket.IPPROTO_TCP, _TCP_SAVE_SYN))


def test_listeners_look_from_the_first_target_in_the_cluster_on() -> None:
    found = Nearby("none0", lambda address, _: address == CLUSTER[0])
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        found.listen([one])
        assert found.of([OWN]) == frozenset()
        assert not looks(one)
        assert found.of([OWN, CLUSTER]) == {CLUSTER}
        assert looks(one)
        found.listen([one, two])
        assert looks(two)
        found.listen([])
    # Those that were closed are left alone.
    assert found.of([CLUSTER]) == {CLUSTER}


def test_an_own_address_is_no_way_round() -> None:
    found = Nearby("none0")
    found.refresh()
    assert found.of([OWN]) == frozenset()
