"""`setup` in real namespaces: the interface, repair, the modes, and what it says when it is refused."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from egress_router.lab import wiring
from egress_router.lab.network import GATEWAY, ROUTER, ROUTER_V6, SOURCE, SOURCE_V6, Laboratory
from tests.network.administration import get
from tests.network.setting_up import DUAL, INIT, PROXY, refused, state
from tests.waiting import WAIT_SECONDS, eventually

if TYPE_CHECKING:
    from pathlib import Path


def test_creation_in_the_parent_namespace(lab: Laboratory) -> None:
    lab.node.ip("link set uplink0 mtu 1450")
    lab.finish_setup({**PROXY, "EGRESS_MACVLAN_MODE": "private"})
    shown = lab.router.run("ip", "-d", "link", "show", "macvlan0").stdout
    assert "mtu 1450" in shown
    assert "macvlan mode private" in shown
    assert "LOWER_UP" in shown
    assert "macvlan" not in lab.node.run("ip", "-d", "link").stdout, "something stayed in the node"


def test_creation_on_a_named_parent_in_the_same_namespace(lab: Laboratory) -> None:
    wiring.cable(lab.router, "net1", lab.gateway, "port3")
    wiring.plug(lab.gateway, "wire", "port3")
    lab.serve()
    lab.finish_setup({**INIT, "EGRESS_PARENT_NETNS": "", "EGRESS_PARENT_INTERFACE": "net1"})
    assert lab.ask_tcp(lab.client, ROUTER, 80).source == SOURCE


def test_an_interface_that_is_there_is_used_as_it_is(lab: Laboratory) -> None:
    wiring.cable(lab.router, "net1", lab.gateway, "port3")
    wiring.plug(lab.gateway, "wire", "port3")
    lab.serve()
    lab.finish_setup({**INIT, "EGRESS_PARENT_NETNS": "", "EGRESS_INTERFACE": "net1"})
    assert lab.ask_tcp(lab.client, ROUTER, 80).source == SOURCE
    assert "macvlan" not in lab.router.run("ip", "-d", "link").stdout


def test_a_second_run_changes_nothing(lab: Laboratory) -> None:
    lab.finish_setup({**INIT, **DUAL})
    before = state(lab.router)
    lab.finish_setup({**INIT, **DUAL})
    assert state(lab.router) == before


def test_a_run_after_a_different_or_half_finished_one_repairs(lab: Laboratory) -> None:
    lab.serve()
    lab.finish_setup({**INIT, **DUAL, "EGRESS_SOURCE": "192.168.12.98/25,fd00:12::98/64"})
    lab.router.ip("route del default")
    lab.router.ip("rule del priority 9797")
    lab.router.ip("-6 route flush table 9797")
    lab.router.ip("link set macvlan0 down")
    lab.finish_setup({**INIT, **DUAL})
    assert lab.ask_tcp(lab.client, ROUTER, 80).source == SOURCE
    assert lab.ask_tcp(lab.remote, ROUTER, 80).source == SOURCE
    addresses = lab.router.run("ip", "addr", "show", "macvlan0").stdout
    assert "192.168.12.98" not in addresses
    assert "fd00:12::98" not in addresses
    assert f"{SOURCE}/24" in addresses
    with pytest.raises(OSError):
        lab.ask_tcp(lab.gateway, "192.168.12.98", 80, timeout=0.4)


def test_another_egress_interface_than_that_of_an_earlier_run_is_refused(lab: Laboratory) -> None:
    lab.finish_setup(PROXY)
    before = state(lab.router)
    status, said = refused(lab, {**PROXY, "EGRESS_INTERFACE": "net1"})
    assert status == 3
    assert "set EGRESS_INTERFACE=macvlan0" in said
    assert "`ip link del macvlan0` where an earlier run of setup made it" in said
    assert state(lab.router) == before
    lab.router.ip("link del macvlan0")
    lab.serve()
    lab.finish_setup({**PROXY, "EGRESS_INTERFACE": "net1"})
    assert lab.ask_tcp(lab.router, "203.0.113.25", 80).source == SOURCE


def test_dns_proxy_mode_lets_non_root_bind_low_ports(lab: Laboratory) -> None:
    lab.router.run("sh", "-c", "echo 1024 >/proc/sys/net/ipv4/ip_unprivileged_port_start")
    lab.finish_setup({"EGRESS_ROUTER_MODE": "dns-proxy"})
    assert lab.router.run("cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start").stdout == "0\n"
    assert "dnat" not in lab.router.run("nft", "list", "ruleset").stdout


def test_configuration_errors_come_before_any_change(lab: Laboratory) -> None:
    before = state(lab.router)
    process = lab.setup(
        {
            "EGRESS_ROUTER_MODE": "init",
            "EGRESS_GATEWAY": "10.9.9.9",
            "EGRESS_SOURCE": f"{SOURCE}/24",
            "EGRESS_DESTINATION": "80 sctpp 10.4.5.6\n99999 tcp 10.0.0.1",
        }
    )
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 1
    assert "10.9.9.9" in errors
    assert state(lab.router) == before
    process = lab.setup({**INIT, "EGRESS_DESTINATION": "80 sctpp 10.4.5.6\n99999 tcp 10.0.0.1"})
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 1
    assert "EGRESS_DESTINATION line 1: '80 sctpp 10.4.5.6': unknown protocol 'sctpp'" in errors
    assert "EGRESS_DESTINATION line 2" in errors
    assert state(lab.router) == before


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"EGRESS_PARENT_INTERFACE": "bond7"}, "no parent interface bond7"),
        ({"EGRESS_PARENT_NETNS": "/proc/4194304/ns/net"}, "EGRESS_PARENT_NETNS"),
        (
            {"EGRESS_PARENT_NETNS": "/etc/hosts"},
            "/etc/hosts is no network namespace: set EGRESS_PARENT_NETNS",
        ),
    ],
)
def test_what_is_wrong_with_the_parent_is_said(
    lab: Laboratory, environment: dict[str, str], said: str
) -> None:
    status, line = refused(lab, {**PROXY, **environment})
    assert status == 3
    assert said in line


@pytest.mark.parametrize(("capability", "said"), [("net_admin", "NET_ADMIN"), ("net_raw", "NET_RAW")])
def test_a_missing_capability_is_named(lab: Laboratory, capability: str, said: str) -> None:
    program = ["setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}"]
    command = [*program, sys.executable, "-m", "egress_router", "setup"]
    environment = {
        **PROXY,
        "EGRESS_SOURCE": SOURCE,
        "EGRESS_GATEWAY": GATEWAY,
        "EGRESS_PARENT_NETNS": str(lab.node.path),
        "EGRESS_PARENT_INTERFACE": "uplink0",
    }
    wiring.cable(lab.router, "macvlan0", lab.gateway, "port3")
    process = lab.router.start(command, environment)
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 3, errors
    assert said in errors.strip().splitlines()[-1]
    assert "Traceback" not in errors


@pytest.mark.parametrize("netns", ["", "/proc/1/ns/net"])
def test_a_namespace_of_the_node_that_may_not_be_seen_is_refused(lab: Laboratory, netns: str) -> None:
    command = ["setpriv", "--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all"]
    environment = {**PROXY, "EGRESS_SOURCE": SOURCE, "EGRESS_GATEWAY": GATEWAY, "EGRESS_PARENT_NETNS": netns}
    process = lab.router.start([*command, sys.executable, "-m", "egress_router", "setup"], environment)
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 3, errors
    assert "cannot enter the network namespace /proc/1/ns/net (Permission denied)" in errors
    assert "run the container privileged, with the node's /proc/1/ns as a hostPath volume" in errors


def test_read_only_proc_sys_is_refused_only_where_forwarding_is_off(lab: Laboratory) -> None:
    lab.router.run("sh", "-c", "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys")
    status, said = refused(lab, INIT)
    assert status == 3
    assert "net.ipv4.ip_forward" in said
    lab.router.run("sh", "-c", "umount /proc/sys && echo 1 >/proc/sys/net/ipv4/ip_forward")
    lab.router.run("sh", "-c", "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys")
    lab.serve()
    lab.finish_setup(INIT)
    assert lab.ask_tcp(lab.client, ROUTER, 80).source == SOURCE


# A router in two containers: a privileged one that ends, and one that stays, without access to the node.
WITHOUT_THE_NODE = ["setpriv", "--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all"]


@pytest.mark.parametrize("first_mode", ["network", "init"])
def test_what_stays_needs_nothing_of_the_node(lab: Laboratory, tmp_path: Path, first_mode: str) -> None:
    lab.serve()
    lab.router.run("mount", "--bind", f"/proc/{lab.node.pid}/ns", str(tmp_path))
    first = {**INIT, **DUAL, "EGRESS_ROUTER_MODE": first_mode, "EGRESS_PARENT_NETNS": str(tmp_path / "net")}
    lab.finish_setup(first)
    lab.router.run("umount", str(tmp_path))
    lab.router.run("sh", "-c", "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys")
    lines = "80 tcp 203.0.113.26\n443 tcp 2001:db8:113::26\n"
    process = lab.router.start(
        [*WITHOUT_THE_NODE, sys.executable, "-m", "egress_router", "setup"],
        {**DUAL, "EGRESS_ROUTER_MODE": "legacy", "EGRESS_DESTINATION": lines, "EGRESS_LOG_LEVEL": "info"},
    )
    assert process.stderr is not None
    said = next(line for line in process.stderr if "network is set up" in line or "egress_router" in line)
    assert "network is set up" in said
    for client in (lab.client, lab.remote):
        assert lab.ask_tcp(client, ROUTER, 80).server == "203.0.113.26"
        assert lab.ask_tcp(client, ROUTER_V6, 443).source == SOURCE_V6
    assert eventually(lambda: get(lab.client, "/readyz", ROUTER)[0] == 200)
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_SECONDS) == 0
    assert "warning" not in process.stderr.read()


def test_mode_network_redirects_nothing_and_lets_nothing_in(lab: Laboratory) -> None:
    lab.finish_setup({**DUAL, "EGRESS_ROUTER_MODE": "network"})
    assert "dnat" not in lab.router.run("nft", "list", "ruleset").stdout
    assert lab.router.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout == "1\n"
    with pytest.raises(TimeoutError):
        lab.ask_tcp(lab.gateway, SOURCE, 80, timeout=0.3)


@pytest.mark.slow
def test_without_root_in_a_user_namespace() -> None:
    """The laboratory and `setup` in it, started by a process that may not touch any network of the machine.

    CAP_SETFCAP alone is left, without which the kernel lets nobody map user 0 into a user namespace.
    """
    command = ["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all", "--no-new-privs"]
    done = subprocess.run(
        [*command, sys.executable, "-m", "egress_router.lab.demo"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert "Everything was as promised." in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
