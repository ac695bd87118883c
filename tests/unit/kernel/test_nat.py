"""The rule set as text (golden), and as the kernel takes it: everything here runs in a namespace of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from egress_router.errors import RefusedError
from egress_router.grammar.redirect import parse
from egress_router.kernel.nat import iptables, nftables, rules, timing
from egress_router.kernel.nat.counters import Traffic
from egress_router.kernel.nat.plan import NatPlan, Surroundings, make_plan

GOLDEN = Path(__file__).parent / "golden"
V4, V6 = ip_address("192.168.12.99"), ip_address("2001:db8:12::99")
RULES = """
80 tcp 203.0.113.25
8080 tcp 203.0.113.26 80
53 udp 203.0.113.53
5000-5100 tcp 203.0.113.28
443 tcp 2001:db8::25
6000-6100 udp 2001:db8::28
"""
FALLBACKS = "203.0.113.27\n2001:db8::27\n"

PLANS = {
    "v4": make_plan(parse("x", "80 tcp 203.0.113.25\n"), [V4], "macvlan0", 9797),
    "dual-fallback": make_plan(parse("x", RULES + FALLBACKS), [V4, V6], "macvlan0", 9797),
    "v6-no-admin": make_plan(parse("x", "443 tcp 2001:db8::25\n"), [V6], "net1", 0),
    "proxy": make_plan(None, [V4], "macvlan0", 9797, Surroundings(None, (ip_network("10.128.0.0/24"),))),
    "parent-inside": make_plan(
        parse("x", "80 tcp 203.0.113.25\n"),
        [V4],
        "macvlan0",
        9797,
        Surroundings("net1", (ip_network("10.128.0.0/24"), ip_network("fd00:128::/64"))),
    ),
}


def in_namespace(*commands: str, text: str = "", unshare: str = "-rn") -> subprocess.CompletedProcess[str]:
    script = " && ".join(commands)
    return subprocess.run(
        ["unshare", unshare, "sh", "-c", script],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("name", sorted(PLANS))
def test_rule_sets_are_as_reviewed(name: str) -> None:
    golden = GOLDEN / f"{name}.nft"
    assert rules.render(PLANS[name]) == golden.read_text()


@pytest.mark.parametrize("name", sorted(PLANS))
def test_the_kernel_takes_it_and_a_second_time_changes_nothing(name: str) -> None:
    golden = GOLDEN / f"{name}.nft"
    done = in_namespace(
        f"nft -f {golden}", "nft list ruleset", "echo ---", f"nft -f {golden}", "nft list ruleset"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split("---\n")
    # Tables are listed in the order in which they were made.
    assert sorted(first.split("\n}\n")) == sorted(second.split("\n}\n"))
    assert "table inet egress_router" in first


def test_a_kernel_without_hashes_gets_none_and_ipv4_ports_are_kept_all_the_same(tmp_path: Path) -> None:
    text = rules.render(PLANS["dual-fallback"], has_hashes=False)
    assert "jhash" not in text
    assert "goto again4_0" in text
    assert "again6" not in text
    (tmp_path / "rules.nft").write_text(text)
    done = in_namespace(f"nft -f {tmp_path / 'rules.nft'}")
    assert done.returncode == 0, done.stderr


def test_a_change_of_lines_leaves_what_the_kernel_learned(tmp_path: Path) -> None:
    again = tmp_path / "again.nft"
    again.write_text(
        rules.render_again(make_plan(parse("x", "81 tcp 203.0.113.26\n"), [V4], "macvlan0", 9797))
    )
    learned = "add element inet egress_router used4_0 { 203.0.113.25 . 80 . 1024 timeout 1h }"
    done = in_namespace(
        *(f"nft -f {GOLDEN / 'v4.nft'}", f"nft '{learned}'", f"nft -f {again}"),
        f"nft list set inet egress_router {rules.layout(PLANS['v4'])}",
        *("nft list set inet egress_router used4_0", "nft list map inet egress_router ports4"),
    )
    assert done.returncode == 0, done.stderr
    assert "203.0.113.25 . 80 . 1024" in done.stdout
    assert "tcp . 81 : 203.0.113.26 . 81" in done.stdout
    assert "tcp . 80 :" not in done.stdout


@pytest.mark.parametrize("name", sorted(PLANS))
def test_the_second_transaction_makes_what_the_first_made(name: str, tmp_path: Path) -> None:
    again = tmp_path / "again.nft"
    again.write_text(rules.render_again(PLANS[name]))
    done = in_namespace(
        *(f"nft -f {GOLDEN / f'{name}.nft'}", "nft list ruleset", "echo ---"),
        *(f"nft -f {again}", "nft list ruleset"),
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split("---\n")
    assert first == second


def test_a_transaction_that_fails_leaves_the_old_rules() -> None:
    broken = rules.render(PLANS["v4"]).replace("203.0.113.25", "203.0.113.999")
    good = GOLDEN / "v4.nft"
    done = in_namespace(f"nft -f {good}", "(nft -f - 2>/dev/null; true)", "nft list ruleset", text=broken)
    assert "203.0.113.25" in done.stdout


def test_thirty_thousand_lines_are_one_transaction() -> None:
    # Without root of the machine, the message is bounded by net.core.wmem_max.
    owns_machine = os.getuid() == 0 and Path("/proc/self/uid_map").read_text().split() == [
        "0",
        "0",
        "4294967295",
    ]
    count = 30_000 if owns_machine else 1_000
    text = "".join(f"{port} tcp 203.0.113.{port % 250 + 1} 443\n" for port in range(1, count + 1))
    plan = make_plan(parse("x", text), [V4], "macvlan0", 9797)
    done = subprocess.run(
        ["unshare", "-n" if os.getuid() == 0 else "-rn", "nft", "-f", "-"],
        input=rules.render(plan),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_counters_are_read_from_the_kernel() -> None:
    elements = {
        "begun_tcp4": "80 counter packets 3 bytes 180",
        "accepted_tcp4": "80 counter packets 2 bytes 120",
        "begun_udp6": "53 counter packets 1 bytes 60",
        "sent_tcp4": "80 counter packets 9 bytes 900, 443 counter packets 1 bytes 60",
        "received_tcp4": "80 counter packets 7 bytes 700",
        "sent_udp6": "53 counter packets 3 bytes 4000000000000",
    }
    rules = "".join(
        f"add element inet egress_router {name} {{ {each} }}\n" for name, each in elements.items()
    )
    code = "from egress_router.kernel.nat import counters; print(sorted(counters.read().items()))"
    done = in_namespace(
        f"nft -f {GOLDEN / 'dual-fallback.nft'}", "nft -f -", f"{sys.executable} -c '{code}'", text=rules
    )
    assert done.stdout.strip() == str(
        [
            (("tcp", 4, 80), Traffic(2, 9, 900, 7, 700, 3)),
            (("tcp", 4, 443), Traffic(0, 1, 60)),
            (("udp", 6, 53), Traffic(1, 3, 4_000_000_000_000, 0, 0, 1)),
        ]
    ), done.stderr


def test_the_time_of_a_connection_is_told_once() -> None:
    times = (
        '{ 7 . 80 : "2026-01-01 00:00:01", 8 . 81 : "2026-01-01 00:00:01", 9 . 82 : "2026-01-01 00:00:01" }',
        # Asked for later than accepted, or never: these times are those of two connections.
        '{ 7 . 80 : "2026-01-01 00:00:03", 8 . 81 : "2026-01-01 00:00:00", 6 . 83 : "2026-01-01 00:00:03" }',
    )
    elements = "".join(
        f"add element inet egress_router {name}6 {each}\n"
        for name, each in zip((timing.ASKED, timing.ACCEPTED), times, strict=True)
    )
    code = (
        "from egress_router.kernel.nat.connect_times import ConnectTimes; times = ConnectTimes();"
        "print([tuple(each) for each in times.read()], times.read())"
    )
    done = in_namespace(
        f"nft -f {GOLDEN / 'dual-fallback.nft'}", "nft -f -", f"{sys.executable} -c '{code}'", text=elements
    )
    assert done.stdout.strip() == "[(6, 80, 2.0)] []", done.stderr


def test_the_admin_port_comes_before_every_translation() -> None:
    chain = rules.render(PLANS["dual-fallback"]).split("chain destinations")[2].split("}\n  chain")[0]
    assert chain.index("tcp dport 9797 accept") < chain.index("dnat")


def test_families_do_not_mix() -> None:
    plan: NatPlan = PLANS["dual-fallback"]
    assert [line.first for line in plan.families[0].lines] == [80, 8080, 53, 5000]
    assert [line.first for line in plan.families[1].lines] == [443, 6000]
    assert plan.families[1].fallback == ip_address("2001:db8::27")


def refusal(setup: str) -> str:
    """Run `apply` after a line of Python and return the error that it raised."""
    code = (
        "from ipaddress import ip_address; from egress_router.kernel.nat import nftables, plan\n"
        "from egress_router.errors import RefusedError\n"
        f"{setup}\n"
        "try: nftables.apply(plan.make_plan(None, [ip_address('192.168.12.99')], 'macvlan0', 0))\n"
        "except RefusedError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_without_net_admin_one_line_says_what_to_grant() -> None:
    # A user namespace has no right over a network namespace that it does not own.
    code = json.dumps(
        "from ipaddress import ip_address; from egress_router.kernel.nat import nftables, plan;"
        "nftables.apply(plan.make_plan(None, [ip_address('192.168.12.99')], 'macvlan0', 0))"
    )
    done = in_namespace(f"{sys.executable} -c {code}", unshare="-r")
    assert done.stderr.splitlines()[-1].endswith(
        "RefusedError: the kernel refused NAT rules (operation not permitted): grant NET_ADMIN"
    )


def test_without_nft_one_line_says_what_to_install() -> None:
    assert refusal("import os; os.environ['PATH'] = '/nowhere'") == (
        "cannot set NAT rules: no nft program: install nftables"
    )


def test_iptables_that_do_not_end_are_refused_in_one_line() -> None:
    with pytest.raises(RefusedError, match=r"not set within 0.01 s: look at the node's load"):
        iptables.apply(PLANS["v4"], timeout=0.01)


def test_without_the_other_backend_there_is_nothing_to_remove(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert nftables.remove() == []
    assert iptables.remove(tmp_path) == []
    (tmp_path / "ip_tables_names").write_text("filter\nraw\n")
    assert iptables.remove(tmp_path, python="/bin/false") == []


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        ("netlink: Error: Could not process rule: Message too long", "raise net.core.wmem_max"),
        (
            "netlink: Error: cache initialization failed: Protocol not supported",
            "EGRESS_NAT_BACKEND=iptables",
        ),
        ("/dev/stdin:9: Error: Could not process rule: No such file or directory", "load nf_tables, nft_nat"),
        ("", "nft failed without a word"),
    ],
)
def test_refusals_of_the_kernel_become_advice(stderr: str, words: str) -> None:
    error = nftables.refusal(stderr)
    assert words in str(error)
