from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.kernel.neighbour import announcements, mac_bytes, probe, rival

MINE, OTHER = mac_bytes("02:00:00:00:00:01"), mac_bytes("02:00:00:00:00:02")
V4, V6 = ip_address("192.168.12.99"), ip_address("fd00:12::99")


def test_the_arp_probe_is_byte_for_byte_rfc_5227() -> None:
    expected = (
        "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 00000000 000000000000 c0a80c63"
    )
    assert probe(V4, MINE) == bytes.fromhex(expected)


def test_announcements_are_a_request_and_a_reply_that_name_the_owner() -> None:
    request, reply = announcements(V4, MINE)
    assert (request[20:22], reply[20:22]) == (b"\x00\x01", b"\x00\x02")
    for frame in (request, reply):
        assert frame[22:28] == MINE
        assert frame[28:32] == frame[38:42] == V4.packed


@pytest.mark.parametrize("address", [V4, V6])
def test_another_station_that_owns_or_probes_is_a_rival(address: object) -> None:
    assert isinstance(address, type(V4) | type(V6))
    for frame in (*announcements(address, OTHER), probe(address, OTHER)):
        assert rival(frame, address, MINE) == OTHER
        assert rival(frame, address, OTHER) is None, "one's own frames are no rival's"
        elsewhere = ip_address("192.168.12.98") if address is V4 else ip_address("fd00:12::98")
        assert rival(frame, elsewhere, MINE) is None


@pytest.mark.parametrize("frame", [probe(V6, MINE), *announcements(V6, MINE)])
def test_the_icmpv6_checksum_is_right(frame: bytes) -> None:
    packet = frame[14:]
    length = int.from_bytes(packet[4:6], "big")
    pseudo = packet[8:40] + struct.pack("!II", length, 58)
    total = sum(struct.unpack(f"!{(len(pseudo) + length) // 2}H", pseudo + packet[40 : 40 + length]))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF  # RFC 1071: a right packet sums up to all ones


def test_an_advertisement_that_a_router_forwarded_is_not_believed() -> None:
    (frame,) = announcements(V6, OTHER)
    forwarded = frame[:21] + b"\xfe" + frame[22:]
    assert rival(forwarded, V6, MINE) is None


@given(st.binary(max_size=128))
def test_any_frame_is_judged_without_an_error(frame: bytes) -> None:
    for kind in (b"", b"\x08\x06", b"\x86\xdd"):
        whole = frame[:12] + kind + frame[12:]
        for address in (V4, V6):
            found = rival(whole, address, MINE)
            assert found is None or len(found) == 6
