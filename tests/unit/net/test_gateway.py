"""What the kernel says of an interface and of its gateways, without privilege."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from egress_router.net import gateway

NOBODY = ip_address("192.0.2.1")


def test_a_gateway_that_the_kernel_knows_nothing_of_is_silent() -> None:
    seen = gateway.look("lo")
    assert seen is not None
    assert (seen.gateways, seen.silent) == ((), ())
    assert gateway.look_again(replace(seen, gateways=(NOBODY,))).silent == (NOBODY,)


def test_there_may_be_no_such_interface() -> None:
    assert gateway.look("nowhere0") is None
