"""The laboratory's name server: what the other tests stand on."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.resolver
import pytest
from dns.rdatatype import RdataType

from egress_router.lab.nameserver import in_thread
from egress_router.lab.zone import EVERYTHING_ELSE, entry, parse_zone
from tests.ports import free_port
from tests.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from pathlib import Path


def ask(port: int, name: str, seconds: float = WAIT_SECONDS) -> dns.message.Message:
    return dns.query.udp(dns.message.make_query(name, "A"), "127.0.0.1", port=port, timeout=seconds)


def texts(message: dns.message.Message) -> list[str]:
    return [str(record) for record in message.answer]


def test_a_zone_file_is_the_arguments_of_an_entry() -> None:
    zone = {
        "www.example.com": {"addresses": ["192.0.2.1", "2001:db8::1"], "ttl": 5},
        "*": {"behaviour": "silent", "only": "AAAA"},
    }
    assert parse_zone(json.dumps(zone)) == {
        "www.example.com": entry("192.0.2.1", "2001:db8::1", ttl=5),
        EVERYTHING_ELSE: entry(behaviour="silent", only="AAAA"),
    }


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"a": 1}', '{"a": {"addresses": ["x"]}}', '{"a": {"behaviour": "x"}}', '{"a": {"other": 1}}', '{"a": {"only": "x y"}}'],
)  # fmt: skip
def test_what_is_no_zone(text: str) -> None:
    with pytest.raises(ValueError):
        parse_zone(text)


def test_a_foreign_resolver_understands_it() -> None:
    zone = {
        "www.example.com": entry("192.0.2.1", "2001:db8::1", ttl=5),
        "alias.example.com": entry(alias="www.example.com"),
    }
    with in_thread(zone) as server:
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], server.port
        resolver.timeout = resolver.lifetime = WAIT_SECONDS
        assert [str(record) for record in resolver.resolve("alias.example.com", "AAAA")] == ["2001:db8::1"]
        with pytest.raises(dns.resolver.NXDOMAIN):
            resolver.resolve("gone.example.com")
        with pytest.raises(dns.resolver.NoAnswer):
            resolver.resolve("www.example.com", "MX")


def test_a_zone_changes_while_it_runs_and_queries_are_noted() -> None:
    with in_thread({"a.example": entry("192.0.2.1")}) as server:
        assert texts(ask(server.port, "a.example")) == ["a.example. 30 IN A 192.0.2.1"]
        server.zone = {"a.example": entry("192.0.2.2", ttl=0)}
        assert texts(ask(server.port, "a.example")) == ["a.example. 0 IN A 192.0.2.2"]
        assert [(asked.name, asked.kind, asked.transport) for asked in server.asked] == [
            ("a.example", RdataType.A, "udp")
        ] * 2


def test_garbage_stops_nothing() -> None:
    with in_thread({}) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"\0\3abc")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"abc", ("127.0.0.1", server.port))
        assert ask(server.port, "a.example").rcode() is dns.rcode.NXDOMAIN


def test_as_a_process_it_reads_its_zone_file_again(tmp_path: Path) -> None:
    zone = tmp_path / "zone.json"
    zone.write_text('{"a.example": {"addresses": ["192.0.2.1"]}}')
    port = free_port()
    command = [sys.executable, "-m", "egress_router.lab.nameserver", f"127.0.0.1:{port}", str(zone)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert comes(port, "192.0.2.1")
            zone.write_text("no zone")
            assert process.stderr is not None
            assert "zone refused" in process.stderr.readline()
            assert comes(port, "192.0.2.1")
            new = tmp_path / "new"
            new.write_text('{"a.example": {"addresses": ["192.0.2.77"]}}')
            os.replace(new, zone)  # noqa: PTH105 (the atomic rename is the point)
            assert comes(port, "192.0.2.77")
        finally:
            process.terminate()


def comes(port: int, address: str) -> bool:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        # A port where nothing listens yet is silent to a socket that is not connected.
        with contextlib.suppress(dns.exception.Timeout):
            if texts(ask(port, "a.example", seconds=0.2)) == [f"a.example. 30 IN A {address}"]:
                return True
    return False
