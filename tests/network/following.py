"""Routers that follow names, what their name server says, and who serves then."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import TYPE_CHECKING

import pytest

from egress_router.lab.network import ROUTER, SOURCE, Laboratory
from tests.network.administration import fetch
from tests.waiting import WAIT_SECONDS, eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping

NAME = "db.example.com"
# Answers are asked for again after a moment, so that a test need not wait for a TTL.
QUICK = {"EGRESS_DNS_TTL_FLOOR": "0.1", "EGRESS_ROUTER_MODE": "legacy"}
ONE, TWO, THREE = "203.0.113.25", "203.0.113.26", "203.0.113.27"
NOBODY = "203.0.113.99"


def zone(*addresses: str, behaviour: str = "honest", **others: list[str]) -> dict[str, object]:
    names: dict[str, object] = {
        name.replace("_", "."): {"addresses": found, "ttl": 0} for name, found in others.items()
    }
    if addresses or behaviour != "honest":
        names[NAME] = {"addresses": list(addresses), "ttl": 0, "behaviour": behaviour}
    return names


@contextlib.contextmanager
def following(
    lab: Laboratory, rules: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a router that stays, from the moment at which its network is set up."""
    process = lab.setup({**QUICK, "EGRESS_DESTINATION": rules, **(environment or {})})
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "network is set up" in line:
            break
    else:
        pytest.fail(f"setup ended: {said}")
    # What it says from here on must not fill the pipe.
    reader = threading.Thread(target=lambda: said.extend(process.stderr or ()))
    reader.start()
    try:
        yield process
    finally:
        process.kill()
        process.wait(WAIT_SECONDS)
        reader.join(WAIT_SECONDS)


def upstreams(lab: Laboratory) -> dict[str, bool]:
    text = fetch(lab.router, "/status")
    return {each["address"]: each["up"] for each in json.loads(text)["upstreams"]} if text else {}


def servers(lab: Laboratory, port: int, count: int = 24) -> set[str]:
    """Return who answers so many connections."""
    found = [lab.ask_tcp(lab.client, ROUTER, port) for _ in range(count)]
    assert {each.source for each in found} == {SOURCE}
    return {each.server for each in found}


def settles(lab: Laboratory, port: int, *wanted: str) -> bool:
    """Wait until these serve; what the router knows is in force a moment later."""

    def serve() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            return servers(lab, port) == set(wanted)
        return False

    return eventually(serve)
