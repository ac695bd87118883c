"""The administrator's own chain, with real packets: it is there, it decides, and nothing of ours changes it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from egress_router.kernel.nat.admin_chain import NAME
from egress_router.kernel.nat.counting import OLD_TABLE
from egress_router.lab.network import ROUTER, Laboratory
from tests.network.admin_rules import ENVIRONMENT, add, is_refused, listed
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path


def test_rules_of_the_administrator_decide_and_stay(lab: Laboratory) -> None:
    """Also over another run, other lines, another source, an old table of ours, the other backend and back."""
    lab.serve(["80"])
    lab.finish_setup(ENVIRONMENT)
    add(lab, "ip daddr 203.0.113.26 counter reject with tcp reset")
    rules = listed(lab)
    for changed in (
        {},
        {"EGRESS_DESTINATION": "80 tcp 203.0.113.25\n81 tcp 203.0.113.26 80\n82 tcp 203.0.113.27\n"},
        {"EGRESS_SOURCE": "192.168.12.98"},
        {"EGRESS_SOURCE": "192.168.12.97"},
        {"EGRESS_NAT_BACKEND": "iptables"},
        {"EGRESS_NAT_BACKEND": "nftables"},
    ):
        make_old_tables(lab)
        lab.finish_setup({**ENVIRONMENT, **changed})
        assert lab.ask_tcp(lab.client, ROUTER, 80).server == "203.0.113.25"
        with pytest.raises(ConnectionRefusedError):
            lab.ask_tcp(lab.client, ROUTER, 81)
        assert re.sub("packets.*bytes [0-9]+", "", listed(lab)) == re.sub("packets.*bytes [0-9]+", "", rules)


def make_old_tables(lab: Laboratory) -> None:
    """Leave what other versions may have left: a table of counters, and our table with something else in it."""
    lab.router.run("nft", f"table inet {OLD_TABLE} {{ set seen {{ type inet_service; }}; }}")
    lab.router.run("nft", "delete table inet egress_router", check=False)
    old = "type filter hook forward priority filter; policy accept;"
    lab.router.run(
        "nft", f"table inet egress_router {{ chain forward {{ {old} ip daddr 203.0.113.25 drop; }}; }}"
    )


def test_a_reload_and_a_new_process_leave_it(lab: Laboratory, tmp_path: Path) -> None:
    lab.serve(["80"])
    lines = tmp_path / "lines"
    lines.write_text(ENVIRONMENT["EGRESS_DESTINATION"])
    environment = {"EGRESS_DESTINATION_FILE": str(lines)}
    with lab.staying(environment) as process:
        add(lab, "ip daddr 203.0.113.26 counter reject with tcp reset")
        assert is_refused(lab, 81)
        lines.write_text(lines.read_text() + "82 tcp 203.0.113.26 80\n83 tcp 203.0.113.25 80\n")
        assert eventually(lambda: not is_refused(lab, 83))
        assert is_refused(lab, 82)
        assert "counter packets 2 " in listed(lab)
        process.kill()
    with lab.staying(environment):
        assert is_refused(lab, 81)
        assert "counter packets 3 " in listed(lab)


def test_the_pod_itself_passes_it(lab: Laboratory) -> None:
    lab.serve(["80"])
    lab.finish_setup({"EGRESS_ROUTER_MODE": "http-proxy"})
    add(lab, "ip daddr 203.0.113.26 reject with tcp reset")
    assert lab.ask_tcp(lab.router, "203.0.113.25", 80).server == "203.0.113.25"
    with pytest.raises(ConnectionRefusedError):
        lab.ask_tcp(lab.router, "203.0.113.26", 80)


def test_iptables_have_the_chain_and_keep_what_is_in_it(lab: Laboratory) -> None:
    lab.serve(["80"])
    environment = {**ENVIRONMENT, "EGRESS_NAT_BACKEND": "iptables"}
    lab.finish_setup(environment)
    lab.router.run("iptables-legacy", "-A", NAME, "-d", "203.0.113.26", "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")  # fmt: skip
    assert is_refused(lab, 81)
    for again in ({}, {"EGRESS_NAT_BACKEND": "nftables"}, {}):
        lab.finish_setup({**environment, **again})
        saved = lab.router.run("iptables-legacy-save", "-c", "-t", "filter").stdout
        assert re.search(rf"(?m)^\[1:\d+\] -A {NAME} ", saved), "with what it has counted"
    assert lab.ask_tcp(lab.client, ROUTER, 80).server == "203.0.113.25"
    with pytest.raises(ConnectionRefusedError):
        lab.ask_tcp(lab.client, ROUTER, 81)
    assert NAME in lab.router.run("ip6tables-legacy-save").stdout
