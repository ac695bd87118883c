"""docker-compose.yml, run by podman-compose: its client asks through each mode and tells what the server saw."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = f"{Path(sys.executable).parent}/podman-compose"
# Networks are written to the folders of the machine's own engine, which must not see these.
HIDE = """
for folder in /etc/cni/net.d /etc/containers/networks /var/lib/cni; do
    [ ! -d $folder ] || mount -t tmpfs none $folder
done
ip link set lo up
"""
RUN = """
compose() { "$COMPOSE" --podman-path "$ENGINE" --in-pod false --project-name compose "$@"; }
compose up --no-build --no-color --exit-code-from client
status=$?
compose down --timeout 1 >/dev/null 2>&1
exit $status
"""


def test_every_second_interface_has_a_name() -> None:
    """podman and Docker Engine 28 attach networks in any order: without names, interfaces may be exchanged."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    routers = [each["networks"] for each in services.values() if len(each.get("networks", ())) > 1]
    assert len(routers) == 3
    for networks in routers:
        for network, name in {"cluster": "eth0", "outside": "eth1"}.items():
            assert networks[network]["x-podman.interface_name"] == name
            assert networks[network]["driver_opts"] == {"com.docker.network.endpoint.ifname": name}


def test_compose_shows_every_mode(tmp_path: Path) -> None:
    storage = os.environ.get("EGRESS_TEST_STORAGE")
    if storage is None:
        pytest.fail("this test needs built images: run `make test-compose`", pytrace=False)
    engine = tmp_path / "podman"
    engine.write_text(
        f"#!/bin/sh\nexec podman --root {storage}/root --runroot {storage}/run"
        ' --runtime runc --cgroup-manager cgroupfs "$@"\n'
    )
    engine.chmod(0o755)
    unshare = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork"]
    done = subprocess.run(
        [*unshare, "--mount-proc", "--kill-child", "bash", "-c", HIDE + RUN],
        env={**os.environ, "COMPOSE": COMPOSE, "ENGINE": str(engine), "TAG": "test"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    seen = re.findall(r'(redirect|http-proxy|dns-proxy) \{.*"source": "([\d.]+)"', done.stdout)
    assert sorted(seen) == [
        ("dns-proxy", "192.168.12.103"),
        ("http-proxy", "192.168.12.102"),
        ("redirect", "192.168.12.101"),
    ], done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
