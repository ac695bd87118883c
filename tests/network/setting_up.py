"""What the tests of `setup` share: environments, and what of a namespace it may change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.lab.network import GATEWAY, GATEWAY_V6, SOURCE, SOURCE_V6, Laboratory
from tests.waiting import WAIT_SECONDS, eventually

if TYPE_CHECKING:
    from egress_router.lab.host import Host


INIT = {"EGRESS_ROUTER_MODE": "init", "EGRESS_DESTINATION": "80 tcp 203.0.113.25"}

PROXY = {"EGRESS_ROUTER_MODE": "http-proxy"}

DUAL = {
    "EGRESS_SOURCE": f"{SOURCE}/24,{SOURCE_V6}/64",
    "EGRESS_GATEWAY": f"{GATEWAY},{GATEWAY_V6}",
}


def state(host: Host) -> str:
    """Return everything that `setup` may change in a namespace, as text, once the kernel is done with it."""
    assert eventually(host.is_settled)
    commands = (
        "ip -o -d link show",
        "ip -o addr show",
        "ip route show table all",
        "ip -6 route show table all",
        "ip rule show",
        "ip -6 rule show",
        "iptables-legacy-save",
    )
    text = "".join(host.run(*words.split()).stdout for words in commands)
    # A table that was replaced comes last in the list.
    text += "".join(sorted(host.run("nft", "list", "ruleset").stdout.split("\n}\n")))
    # Counters, life times and dates differ between two looks.
    words = (line for line in text.splitlines() if not line.startswith("#"))
    return "\n".join(line.split(" expires ")[0] for line in words)


def refused(lab: Laboratory, environment: dict[str, str], timeout: float = WAIT_SECONDS) -> tuple[int, str]:
    process = lab.setup(environment)
    _, errors = process.communicate(timeout=timeout)
    assert "Traceback" not in errors
    return process.returncode, errors.strip().splitlines()[-1]


def mac_of(host: Host, name: str = "eth0") -> str:
    shown = host.run("ip", "-o", "link", "show", name).stdout
    return shown.split("link/ether ")[1].split()[0]
