"""Who is busy: clients and destinations by open connections, few of them, and from where it is known."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.net import open_connections
from egress_router.net.open_connections import OpenConnections
from egress_router.service.busiest import busiest
from egress_router.service.seen_by_people import put_together
from tests.waiting import until

if TYPE_CHECKING:
    from typing import Any

    from egress_router.service.mode import Json


def test_few_are_shown_in_a_steady_order_and_how_many_there_are() -> None:
    clients = Counter({f"10.0.0.{number:02}": 5 for number in range(30)})
    clients["10.0.0.07"] = 9
    shown: dict[str, Any] = busiest(clients, Counter())
    assert [each["client"] for each in shown["clients"][:3]] == ["10.0.0.07", "10.0.0.00", "10.0.0.01"]
    assert (len(shown["clients"]), shown["all_clients"]) == (10, 30)
    assert (shown["destinations"], shown["all_destinations"]) == ([], 0)


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_kernels_table_tells_clients_from_destinations(family: socket.AddressFamily, host: str) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((host, 0), family=family))
        port = listener.getsockname()[1]
        stack.enter_context(socket.create_connection((host, port)))
        stack.enter_context(listener.accept()[0])

        def is_counted_once() -> bool:
            seen = open_connections.read({port})
            return seen.clients[ip_address(host)] == seen.destinations[ip_address(host), port] == 1

        until(is_counted_once)  # the kernel may list a connection twice while others begin and end
        hidden = open_connections.read((), {port})
        assert hidden.clients == Counter()


def test_lines_that_are_none_are_left_alone() -> None:
    seen = OpenConnections()
    lines = [
        "",
        "  0: 0100007F:0050 0200007F:9C40 0A 0",
        "  1: 0100007F:0050 0200007F:9C40 01 00000000:00000000 x",
    ]
    open_connections.add(seen, lines, {80}, ())
    assert seen.clients.total() == 1


def test_addresses_have_the_names_of_their_lines_where_workers_know_no_better() -> None:
    seen = OpenConnections(
        destinations=Counter({(ip_address("203.0.113.9"), 443): 4, (ip_address("10.0.0.53"), 53): 1})
    )
    upstreams: list[Json] = [{"destination": "db.example.com:443", "address": "203.0.113.9:443", "up": True}]
    of_lines: dict[str, Any] = put_together({"upstreams": upstreams}, seen)
    assert of_lines["busiest"]["destinations"] == [{"destination": "db.example.com:443", "open": 4}]
    told: dict[str, Any] = put_together(
        {"upstreams": [], "destinations": [{"destination": "a.example:443", "open": 7}]}, seen
    )
    assert told["busiest"]["destinations"] == [{"destination": "a.example:443", "open": 7}]
    assert "destinations" not in told
