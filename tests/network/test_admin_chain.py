"""The administrator's own chain, with real packets: it is there, it decides, and nothing of ours changes it.

So does the chain with the rules of EGRESS_ADMIN_RULES_FILE behind it, which changes with the file alone.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest

from egress_router.kernel.nat.admin_chain import FILE_CHAIN, NAME, TABLE
from egress_router.kernel.nat.counting import OLD_TABLE
from egress_router.lab.network import ROUTER, Laboratory
from tests.network.administration import fetch
from tests.waiting import WAIT_SECONDS, eventually

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from egress_router.lab.host import Host

_NETFILTER, _GROUP = 12, 5
_CONFIGURE = (4 << 8) | 1  # subsystem ULOG, NFULNL_MSG_CONFIG
_COMMAND, _MODE, _BIND, _COPY_PACKET = 1, 2, 1, 2
_REQUEST_ACKNOWLEDGED = 0x1 | 0x4
ENVIRONMENT = {
    "EGRESS_ROUTER_MODE": "init",
    "EGRESS_DESTINATION": "80 tcp 203.0.113.25\n81 tcp 203.0.113.26 80\n",
}


def add(lab: Laboratory, *statements: str) -> None:
    for statement in statements:
        lab.router.run("nft", f"add rule inet {TABLE} {NAME} {statement}")


def listed(lab: Laboratory, chain: str = NAME) -> str:
    return lab.router.run("nft", "list", "chain", "inet", TABLE, chain).stdout


def counted(lab: Laboratory, chain: str = NAME) -> list[int]:
    """Return how many packets each rule with a counter has seen."""
    return [int(packets) for packets in re.findall(r"counter packets (\d+)", listed(lab, chain))]


def fill(host: Host, text: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from egress_router.errors import ConfigError; from egress_router.kernel.nat import admin_rules\n"
        "try: rules = admin_rules.check('EGRESS_ADMIN_RULES_FILE', sys.stdin.read(), 'macvlan0')\n"
        "except ConfigError as error: sys.exit(str(error))\n"
        "admin_rules.put_in_force(rules)\n"
        "print(*admin_rules.read(), sep='\\n')"
    )
    return host.run(sys.executable, "-c", code, check=False, input=text)


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
        assert _refused(lab, 81)
        lines.write_text(lines.read_text() + "82 tcp 203.0.113.26 80\n83 tcp 203.0.113.25 80\n")
        assert eventually(lambda: not _refused(lab, 83))
        assert _refused(lab, 82)
        assert "counter packets 2 " in listed(lab)
        process.kill()
    with lab.staying(environment):
        assert _refused(lab, 81)
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
    assert _refused(lab, 81)
    for again in ({}, {"EGRESS_NAT_BACKEND": "nftables"}, {}):
        lab.finish_setup({**environment, **again})
        saved = lab.router.run("iptables-legacy-save", "-c", "-t", "filter").stdout
        assert re.search(rf"(?m)^\[1:\d+\] -A {NAME} ", saved), "with what it has counted"
    assert lab.ask_tcp(lab.client, ROUTER, 80).server == "203.0.113.25"
    with pytest.raises(ConnectionRefusedError):
        lab.ask_tcp(lab.client, ROUTER, 81)
    assert NAME in lab.router.run("ip6tables-legacy-save").stdout


def test_the_documents_first_example_logs_certain_destinations(lab: Laboratory) -> None:
    lab.serve(["80"])
    lab.finish_setup(ENVIRONMENT)
    with lab.router.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as logged:
        logged.settimeout(WAIT_SECONDS)
        listen_to_log(logged)
        # To a group, because the kernel's own log does not hear of other network namespaces than the first.
        text = f'# what goes to the bank\nip daddr 203.0.113.25 counter log prefix "bank; " group {_GROUP}\n'
        assert fill(lab.router, text).returncode == 0
        # In order: what goes elsewhere would have come first.
        assert lab.ask_tcp(lab.client, ROUTER, 81).server == "203.0.113.26"
        assert lab.ask_tcp(lab.client, ROUTER, 80).server == "203.0.113.25"
        packet = logged.recv(65536)
    assert b"bank; " in packet
    assert socket.inet_aton("203.0.113.25") in packet
    assert counted(lab, FILE_CHAIN)[0] >= 3


def listen_to_log(netlink: socket.socket) -> None:
    """Have the kernel send what rules log to a group (linux/netfilter/nfnetlink_log.h)."""
    header = struct.pack("=BBH", 0, 0, socket.htons(_GROUP))
    for kind, value in ((_COMMAND, bytes([_BIND])), (_MODE, struct.pack("!IBB", 0xFFFF, _COPY_PACKET, 0))):
        body = header + struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
        netlink.send(struct.pack("=IHHII", 16 + len(body), _CONFIGURE, _REQUEST_ACKNOWLEDGED, 1, 0) + body)
        assert struct.unpack_from("=i", netlink.recv(4096), 16)[0] == 0


def test_the_documents_second_example_limits_new_connections_a_second(lab: Laboratory) -> None:
    lab.serve(["80"])
    lab.finish_setup(ENVIRONMENT)
    text = (
        "tcp dport 80 ct state new ip daddr 203.0.113.26"
        " limit rate over 2/second burst 2 packets counter reject with tcp reset\n"
    )
    assert fill(lab.router, text).returncode == 0
    with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as before:
        before.settimeout(WAIT_SECONDS)
        before.connect((ROUTER, 81))
        assert before.recv(4096)
        assert eventually(lambda: _refused(lab, 81)), "as many as one can open in a second are too many"
        # Those that are open go on, other destinations have no limit, and after a while there is room again.
        before.send(b"x")
        assert before.recv(1) == b"x"
        assert not any(_refused(lab, 80) for _ in range(20))
        assert eventually(lambda: not _refused(lab, 81))
    assert counted(lab, FILE_CHAIN)[0] >= 1
    done = fill(lab.router, "accept\n")
    assert "AdminRule(text='accept', packets=None, size=None, " in done.stdout


def test_a_wrong_file_changes_nothing_and_every_line_is_named(lab: Laboratory) -> None:
    lab.finish_setup(ENVIRONMENT)
    assert fill(lab.router, "ip daddr 203.0.113.25 counter\n").returncode == 0
    before = listed(lab, FILE_CHAIN)
    done = fill(lab.router, "ip daddr 203.0.113.25 dropp\naccept\ntcp dport 99999 drop\n")
    assert "EGRESS_ADMIN_RULES_FILE line 1: 'ip daddr 203.0.113.25 dropp': " in done.stderr
    done = fill(lab.router, "accept\naccept; delete table inet egress_router\njump forward\n")
    assert "line 2: 'accept; delete table inet egress_router': one nft statement a line" in done.stderr
    assert "line 3: 'jump forward': a rule cannot leave this chain" in done.stderr
    assert listed(lab, FILE_CHAIN) == before


def test_setup_fills_it_from_a_file_and_follows_it(lab: Laboratory, tmp_path: Path) -> None:
    lab.serve(["80"])
    file = tmp_path / "rules"
    file.write_text("ip daddr 203.0.113.26 dropp\n")
    environment = {**ENVIRONMENT, "EGRESS_ADMIN_RULES_FILE": str(file)}
    with pytest.raises(
        RuntimeError, match=r"EGRESS_ADMIN_RULES_FILE line 1: 'ip daddr 203\.0\.113\.26 dropp'"
    ):
        lab.finish_setup(environment)
    assert "egress" not in lab.router.run("nft", "list", "ruleset").stdout
    file.write_text("ip daddr 203.0.113.26 counter reject with tcp reset\n")
    process = lab.setup({**environment, "EGRESS_ROUTER_MODE": "legacy"})
    assert eventually(lambda: _is_up(lab))
    assert eventually(lambda: _refused(lab, 81))
    # nft adds what a TCP reset needs.
    text = "meta l4proto tcp ip daddr 203.0.113.26 counter reject with tcp reset"
    found = {"text": text, "packets": 1, "bytes": 60, "from": "file"}
    assert eventually(lambda: shown(lab) == {"rules": [found], "error": None}), shown(lab)
    file.write_text("ip daddr 203.0.113.25 reject with tcp reset\n")
    assert eventually(lambda: _refused(lab, 80) and not _refused(lab, 81))
    assert process.poll() is None


def shown(lab: Laboratory) -> dict[str, Any]:
    """Return what `/status` says of the administrator's rules."""
    found: dict[str, Any] = json.loads(fetch(lab.router, "/status"))["admin_rules"]
    return found


def test_rules_by_hand_stay_beside_those_of_a_file(lab: Laboratory, tmp_path: Path) -> None:
    """With their counters: over a reload of the file, a process that is killed, and another run of setup."""
    lab.serve(["80"])
    file = tmp_path / "rules"
    file.write_text("ip daddr 203.0.113.25 tcp flags syn counter\n")
    environment = {**ENVIRONMENT, "EGRESS_ADMIN_RULES_FILE": str(file), "EGRESS_ROUTER_MODE": "legacy"}
    with lab.staying(environment) as process:
        add(lab, "ip daddr 203.0.113.26 counter reject with tcp reset")
        assert _refused(lab, 81)
        assert lab.ask_tcp(lab.client, ROUTER, 80).server == "203.0.113.25"
        process.kill()
    with lab.staying(environment):
        assert (counted(lab), counted(lab, FILE_CHAIN)) == ([1], [1]), "the same file again changes nothing"
        # What is still to come of the connection before has no SYN.
        file.write_text("ip daddr 203.0.113.25 tcp flags syn counter reject with tcp reset\n")
        assert eventually(lambda: _refused(lab, 80))
        assert _refused(lab, 81)
        by_hand, of_file = shown(lab)["rules"]
        assert (by_hand["packets"], by_hand["from"]) == (2, "chain")
        assert (of_file["packets"], of_file["from"]) == (1, "file")
    lab.finish_setup({**environment, "EGRESS_ROUTER_MODE": "init"})
    assert (counted(lab), counted(lab, FILE_CHAIN)) == ([2], [1])


def test_rules_by_hand_come_before_those_of_the_file(lab: Laboratory) -> None:
    lab.serve(["80"])
    lab.finish_setup(ENVIRONMENT)
    assert fill(lab.router, "reject with tcp reset\n").returncode == 0
    assert _refused(lab, 80)
    add(lab, "ip daddr 203.0.113.25 accept")
    assert lab.ask_tcp(lab.client, ROUTER, 80).server == "203.0.113.25"
    assert _refused(lab, 81)


def test_rules_by_hand_and_of_the_file_stay_when_the_backend_changes(lab: Laboratory, tmp_path: Path) -> None:
    lab.serve(["80"])
    file = tmp_path / "rules"
    file.write_text("ip daddr 203.0.113.25 counter reject with tcp reset\n")
    lab.finish_setup({**ENVIRONMENT, "EGRESS_ADMIN_RULES_FILE": str(file)})
    add(lab, "ip daddr 203.0.113.26 counter reject with tcp reset")
    for number, backend in enumerate(["iptables", "nftables", "iptables"]):
        assert (counted(lab), counted(lab, FILE_CHAIN)) == ([number], [number])
        lab.finish_setup({**ENVIRONMENT, "EGRESS_NAT_BACKEND": backend})
        assert _refused(lab, 80)
        assert _refused(lab, 81)


@pytest.mark.parametrize("in_front", [False, True])
def test_a_table_in_which_the_file_filled_the_administrators_chain_is_taken_over(
    lab: Laboratory, tmp_path: Path, *, in_front: bool
) -> None:
    lab.serve(["80"])
    rule = "ip daddr 203.0.113.26 reject with tcp reset"
    file = tmp_path / "rules"
    file.write_text(f"ip daddr 203.0.113.25 tcp dport 80 counter\n{rule}\n")
    make_old_layout(lab, *file.read_text().splitlines())
    by_hand = "ip daddr 203.0.113.25 tcp flags syn counter"
    lab.router.run("nft", f"{'insert' if in_front else 'add'} rule inet {TABLE} {NAME} {by_hand}")
    environment = {**ENVIRONMENT, "EGRESS_ADMIN_RULES_FILE": str(file)}
    lab.finish_setup(environment)
    assert lab.ask_tcp(lab.client, ROUTER, 80).server == "203.0.113.25"
    assert _refused(lab, 81)
    assert counted(lab) == [1], "the rule by hand, and it alone"
    file.write_text("# none\n")
    lab.finish_setup(environment)
    assert lab.ask_tcp(lab.client, ROUTER, 81).server == "203.0.113.26"
    assert lab.ask_tcp(lab.client, ROUTER, 80).server == "203.0.113.25"
    assert counted(lab) == [2]


def make_old_layout(lab: Laboratory, *rules: str) -> None:
    """Leave the table as earlier versions made it: with one chain, which the file filled."""
    hooks = [
        f"chain {hook} {{ type filter hook {hook} priority filter + 10; policy accept;"
        f' oifname "macvlan0" jump {NAME}; }};'
        for hook in ("forward", "output")
    ]
    lab.router.run(
        "nft", f"table inet {TABLE} {{ chain {NAME} {{ {'; '.join([*rules, ''])} }}; {''.join(hooks)} }}"
    )


def _refused(lab: Laboratory, port: int) -> bool:
    try:
        lab.ask_tcp(lab.client, ROUTER, port)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def _is_up(lab: Laboratory) -> bool:
    with lab.router.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        return sock.connect_ex(("127.0.0.1", 9797)) == 0
