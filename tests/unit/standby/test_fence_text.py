from __future__ import annotations

from ipaddress import ip_address

import pytest

from egress_router.kernel import fence

OWN = ip_address("192.168.12.99")


@pytest.mark.parametrize(
    ("address", "rules"),
    [
        ("192.168.12.99", ["ip saddr 192.168.12.99 goto gate", "arp saddr ip 192.168.12.99 goto gate"]),
        (
            "2001:db8::99",
            ["ip6 saddr 2001:db8::99 goto gate", "@th,64,128 0x20010db8000000000000000000000099 goto"],
        ),
    ],
)
def test_all_that_would_say_whose_the_address_is_goes_to_the_gate(address: str, rules: list[str]) -> None:
    text = fence.render("macvlan0", [ip_address(address)], None, "abc")
    assert all(rule in text for rule in rules)
    assert "ether saddr" not in text


def test_the_gate_is_of_one_run_and_begins_closed() -> None:
    text = fence.render("macvlan0", [OWN], "02:00:00:00:00:01", "abc")
    assert "ether saddr 02:00:00:00:00:01 goto gate" in text
    assert (
        "map approved_abc { type iface_index : mark; }" in text
    )  # without an element: nothing is let through
    assert "abc" not in fence.render("macvlan0", [OWN], None, "def")
