from __future__ import annotations

import os
from ipaddress import ip_address
from typing import TYPE_CHECKING

from egress_router.names.hosts import parse_hosts
from egress_router.names.watched import WatchedFile

if TYPE_CHECKING:
    from pathlib import Path


def test_hosts_gathers_the_addresses_of_a_name_from_all_lines() -> None:
    text = """
127.0.0.1 localhost   # this machine
::1       localhost ip6-localhost
::ffff:192.0.2.7 Db.Example.
192.0.2.7 db.example bad..name
not-an-address db.example
fe80::1%eth0 db.example
192.0.2.8
"""
    assert parse_hosts(text) == {
        "localhost": (ip_address("127.0.0.1"), ip_address("::1")),
        "ip6-localhost": (ip_address("::1"),),
        "db.example": (ip_address("192.0.2.7"),),
    }


def test_hosts_keeps_64_addresses_of_a_name() -> None:
    text = "\n".join(f"192.0.2.{number} many.example" for number in range(100))
    assert len(parse_hosts(text)["many.example"]) == 64


def test_a_file_is_looked_at_once_a_second_and_parsed_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    parsed: list[str] = []

    def parse(text: str) -> str:
        parsed.append(text)
        return text

    watched = WatchedFile(path, parse)
    assert watched.value(10.0) == ""
    path.write_text("one")
    assert watched.value(10.9) == ""
    assert watched.value(11.0) == "one"
    assert watched.value(12.0) == "one"
    path.unlink()
    assert watched.value(13.0) == ""
    assert parsed == ["", "one", ""]


def test_a_swapped_symbolic_link_is_a_change(tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).write_text(version)
    link = tmp_path / "link"
    link.symlink_to("one")
    watched = WatchedFile(link, str)
    assert watched.value(0.0) == "one"
    (tmp_path / "new").symlink_to("two")
    os.replace(tmp_path / "new", link)  # noqa: PTH105 (the atomic rename is the point)
    assert watched.value(1.0) == "two"


def test_what_is_no_text_does_not_raise(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe1")
    assert WatchedFile(tmp_path / "bytes", str).value(0.0).endswith("1")


def test_a_file_that_cannot_be_read_is_as_it_was_until_it_can(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    watched = WatchedFile(path, str)
    assert watched.value(0.0) == "one"
    path.unlink()
    path.mkdir()
    assert watched.value(1.0) == "one"
    path.rmdir()
    path.write_text("two")
    assert watched.value(2.0) == "two"
