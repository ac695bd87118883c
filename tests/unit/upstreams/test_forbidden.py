from __future__ import annotations

from ipaddress import ip_address

import pytest

from egress_router.upstreams.forbidden import ForbiddenReason, forbidden_reason

OWN = ip_address("10.128.0.7")


def forbidden(host: str, address: str, port: int = 443) -> ForbiddenReason | None:
    literal = (
        host if any(letter.isalpha() and letter not in "abcdef" for letter in host) else ip_address(host)
    )
    return forbidden_reason(
        literal,
        (ip_address(address), port),
        named={ip_address("127.0.0.9"), ip_address("169.254.20.10")},
        ports={80, 8443},
        admin_port=9797,
        is_own=lambda each: each == OWN or each.is_loopback,
    )


@pytest.mark.parametrize(
    ("address", "port", "expected"),
    [
        ("192.0.2.1", 443, None),
        ("10.0.0.1", 9797, None),
        ("127.0.0.1", 443, ForbiddenReason.LOCAL),
        ("::1", 443, ForbiddenReason.LOCAL),
        ("169.254.169.254", 80, ForbiddenReason.LOCAL),
        ("fe80::1", 443, ForbiddenReason.LOCAL),
        ("fd00:ec2::254", 80, ForbiddenReason.LOCAL),
        ("0.0.0.0", 443, ForbiddenReason.LOCAL),
        ("224.0.0.1", 443, ForbiddenReason.LOCAL),
        ("64:ff9b::7f00:1", 443, ForbiddenReason.LOCAL),
        ("10.128.0.7", 443, None),
        ("10.128.0.7", 9797, ForbiddenReason.ADMINISTRATION),
        ("10.128.0.7", 80, ForbiddenReason.LOOP),
        ("127.0.0.1", 8443, ForbiddenReason.LOOP),
        ("127.0.0.9", 443, None),
        ("127.0.0.9", 8443, ForbiddenReason.LOOP),
        ("169.254.20.10", 443, None),
    ],
)
def test_where_a_name_must_not_lead(address: str, port: int, expected: ForbiddenReason | None) -> None:
    assert forbidden("db.example.com", address, port) is expected


@pytest.mark.parametrize(
    ("address", "port", "expected"),
    [("127.0.0.1", 443, None), ("10.128.0.7", 9797, None), ("10.128.0.7", 8443, ForbiddenReason.LOOP)],
)
def test_an_address_in_a_line_is_a_users_own_wish(
    address: str, port: int, expected: ForbiddenReason | None
) -> None:
    assert forbidden(address, address, port) is expected
