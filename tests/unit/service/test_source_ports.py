"""Source ports in use, by the router's addresses."""

from __future__ import annotations

import asyncio
from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING

from egress_router.metrics import Registry
from egress_router.net import port_range
from egress_router.net.open_connections import OpenConnections, add
from egress_router.service import source_ports
from egress_router.service.source_ports import SourcePorts
from tests.shortages import refuse_thread
from tests.waiting import until_async

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

ONE, TWO, POD = map(ip_address, ("192.168.12.99", "192.168.12.100", "10.128.0.2"))
BANK, SHOP = (ip_address("203.0.113.25"), 443), (ip_address("203.0.113.26"), 443)


def published(registry: Registry) -> dict[str, float]:
    numbers = registry.snapshot()["source_ports_in_use"].numbers
    return {dict(labels)["source"]: value for labels, value in numbers.items()}


def test_what_counts_is_the_destination_that_has_most_of_them() -> None:
    registry = Registry()
    ports = SourcePorts(registry, "none0", frozenset, ())
    ways = Counter({(ONE, BANK): 7, (ONE, SHOP): 5, (TWO, SHOP): 1, (POD, BANK): 9})
    ports.show(ways, [ONE, TWO])
    assert published(registry) == {str(ONE): 7, str(TWO): 1}
    assert registry.snapshot()["source_ports_limit"].numbers == {(): port_range.size()}
    ports.show(Counter(), [TWO])
    assert published(registry) == {str(TWO): 0}


def test_a_look_for_which_no_thread_starts_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    started = refuse_thread(monkeypatch)

    async def main() -> None:
        watching = asyncio.create_task(SourcePorts(registry, "none0", frozenset, (), 0.0).watch())
        await until_async(lambda: watching.done() or "source_ports_limit" in registry.snapshot())
        assert not watching.done()
        watching.cancel()

    asyncio.run(main())
    assert started[:2] == [False, True]


def test_the_limit_is_that_of_the_kernel(tmp_path: Path) -> None:
    file = tmp_path / "range"
    assert port_range.size(file) == 28_232
    file.write_text("1024\t65535\n")
    assert port_range.size(file) == 64_512


def test_the_status_names_what_they_lead_to() -> None:
    shop = (ip_address("2001:db8:113::26"), 443)
    ways = Counter({(ONE, BANK): 7, (POD, BANK): 9, (TWO, shop): 8})
    assert source_ports.shown(ways, [ONE, TWO]) == [
        {"source": str(TWO), "destination": "[2001:db8:113::26]:443/tcp", "in_use": 8},
        {"source": str(ONE), "destination": "203.0.113.25:443/tcp", "in_use": 7},
    ]
    many = Counter({(ONE, (ip_address(f"192.0.2.{index}"), 1)): index + 1 for index in range(200)})
    found = source_ports.shown(many, [ONE])
    assert len(found) == 100
    assert found[0] == {"source": str(ONE), "destination": "192.0.2.199:1/tcp", "in_use": 200}


def test_they_are_read_from_the_kernels_table() -> None:
    line = "  0: 630CA8C0:A000 197100CB:01BB 01 00000000:00000000 00:00000000 00000000 0 0 1"
    found = OpenConnections()
    add(found, [line, line.replace("A000", "A001"), line.replace(" 01 ", " 06 ")], [8080], [9797])
    assert found.ways == {(ONE, BANK): 2}
    add(found, [line.replace("A000", "1F90")], [8080], [9797])
    assert found.ways == {(ONE, BANK): 2}, "a client's connection leaves with nothing of ours"
