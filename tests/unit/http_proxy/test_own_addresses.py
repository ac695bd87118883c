from __future__ import annotations

import errno
import json
import subprocess
from ipaddress import ip_address, ip_network

from egress_router.http_proxy import own_addresses
from egress_router.http_proxy.own_addresses import OwnAddresses
from egress_router.policy.access_list import Own
from tests.manual_clock import ManualClock


def test_own_addresses_are_those_that_ip_lists() -> None:
    listed = json.loads(subprocess.run(["ip", "-json", "address"], capture_output=True, check=True).stdout)
    addresses = {ip_address(each["local"]) for link in listed for each in link["addr_info"]}
    assert ip_address("127.0.0.1") in addresses
    assert own_addresses.seen("macvlan0").addresses == addresses


def test_own_addresses_are_read_again() -> None:
    clock, looks = ManualClock(), 0
    answer: Own | OSError = Own(frozenset(), frozenset())

    def look() -> Own:
        nonlocal looks
        looks += 1
        if isinstance(answer, OSError):
            raise answer
        return answer

    places = OwnAddresses(frozenset({8080}), look, clock)
    places.add_ports(frozenset({18080}))
    assert places.current() == Own(frozenset(), frozenset({8080, 18080}))
    assert looks == 1
    answer = Own(frozenset({ip_address("192.0.2.9")}), frozenset(), frozenset({ip_network("10.0.0.0/24")}))
    clock.advance(5)
    after = places.current()
    assert after == Own(answer.addresses, frozenset({8080, 18080}), answer.neighbours)
    answer = OSError(errno.EMFILE, "too many open files")
    clock.advance(5)
    assert places.current() == after
    assert looks == 3
