"""The chain of EGRESS_ADMIN_RULES_FILE, with real packets: it changes with the file alone, behind rules by hand."""

from __future__ import annotations

import json
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest

from egress_router.kernel.nat.admin_chain import FILE_CHAIN, NAME, TABLE
from egress_router.lab.network import ROUTER, Laboratory
from tests.network.admin_rules import ENVIRONMENT, add, counted, is_refused, listed
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


def fill(host: Host, text: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from egress_router.errors import ConfigError; from egress_router.kernel.nat import admin_rules\n"
        "try: rules = admin_rules.check('EGRESS_ADMIN_RULES_FILE', sys.stdin.read(), 'macvlan0')\n"
        "except ConfigError as error: sys.exit(str(error))\n"
        "admin_rules.put_in_force(rules)\n"
        "print(*admin_rules.read(), sep='\\n')"
    )
    return host.run(sys.executable, "-c", code, check=False, input=text)


def test_the_documents_first_example_logs_certain_destinations(lab: Laboratory) -> None:
    lab.serve(["80"])
    lab.finish_setup(ENVIRONMENT)
    with lab.router.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as logged:
        logged.settimeout(WAIT_SECONDS)
        listen_to_log(logged)
        # To a group: the kernel's own log takes nothing from other network namespaces than the first.
        text = f'# what goes to the bank\nip daddr 203.0.113.25 counter log prefix "bank; " group {_GROUP}\n'
        assert fill(lab.router, text).returncode == 0
        # In this order: if the first were logged, too, its packet would be read first.
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
        assert eventually(lambda: is_refused(lab, 81)), "as many as one can open in a second are too many"
        # Open connections go on, other destinations have no limit, and after a while new ones pass again.
        before.send(b"x")
        assert before.recv(1) == b"x"
        assert not any(is_refused(lab, 80) for _ in range(20))
        assert eventually(lambda: not is_refused(lab, 81))
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
    assert eventually(lambda: is_refused(lab, 81))
    # nft adds what a TCP reset needs.
    text = "meta l4proto tcp ip daddr 203.0.113.26 counter reject with tcp reset"
    found = {"text": text, "packets": 1, "bytes": 60, "from": "file"}
    assert eventually(lambda: shown(lab) == {"rules": [found], "error": None}), shown(lab)
    file.write_text("ip daddr 203.0.113.25 reject with tcp reset\n")
    assert eventually(lambda: is_refused(lab, 80) and not is_refused(lab, 81))
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
        assert is_refused(lab, 81)
        assert lab.ask_tcp(lab.client, ROUTER, 80).server == "203.0.113.25"
        process.kill()
    with lab.staying(environment):
        assert (counted(lab), counted(lab, FILE_CHAIN)) == ([1], [1]), "the same file again changes nothing"
        # Late packets of the connection before have no SYN.
        file.write_text("ip daddr 203.0.113.25 tcp flags syn counter reject with tcp reset\n")
        assert eventually(lambda: is_refused(lab, 80))
        assert is_refused(lab, 81)
        by_hand, of_file = shown(lab)["rules"]
        assert (by_hand["packets"], by_hand["from"]) == (2, "chain")
        assert (of_file["packets"], of_file["from"]) == (1, "file")
    lab.finish_setup({**environment, "EGRESS_ROUTER_MODE": "init"})
    assert (counted(lab), counted(lab, FILE_CHAIN)) == ([2], [1])


def test_rules_by_hand_come_before_those_of_the_file(lab: Laboratory) -> None:
    lab.serve(["80"])
    lab.finish_setup(ENVIRONMENT)
    assert fill(lab.router, "reject with tcp reset\n").returncode == 0
    assert is_refused(lab, 80)
    add(lab, "ip daddr 203.0.113.25 accept")
    assert lab.ask_tcp(lab.client, ROUTER, 80).server == "203.0.113.25"
    assert is_refused(lab, 81)


def test_rules_by_hand_and_of_the_file_stay_when_the_backend_changes(lab: Laboratory, tmp_path: Path) -> None:
    lab.serve(["80"])
    file = tmp_path / "rules"
    file.write_text("ip daddr 203.0.113.25 counter reject with tcp reset\n")
    lab.finish_setup({**ENVIRONMENT, "EGRESS_ADMIN_RULES_FILE": str(file)})
    add(lab, "ip daddr 203.0.113.26 counter reject with tcp reset")
    for number, backend in enumerate(["iptables", "nftables", "iptables"]):
        assert (counted(lab), counted(lab, FILE_CHAIN)) == ([number], [number])
        lab.finish_setup({**ENVIRONMENT, "EGRESS_NAT_BACKEND": backend})
        assert is_refused(lab, 80)
        assert is_refused(lab, 81)


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
    assert is_refused(lab, 81)
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


def _is_up(lab: Laboratory) -> bool:
    with lab.router.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        return sock.connect_ex(("127.0.0.1", 9797)) == 0
