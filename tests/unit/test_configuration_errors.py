from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.unit.command_line import errors_of

if TYPE_CHECKING:
    from pathlib import Path


def test_a_configuration_error_of_a_service_needs_no_traceback() -> None:
    text = "\n".join(errors_of("setup", {}))
    assert "EGRESS_SOURCE" in text
    assert "EGRESS_GATEWAY" in text


SETUP = {"EGRESS_SOURCE": "192.168.12.99/24", "EGRESS_GATEWAY": "10.9.9.9"}


@pytest.mark.parametrize(
    ("command", "variable", "rules", "others", "expected"),
    [
        (
            "setup",
            "EGRESS_DESTINATION",
            "80 sctpp 10.4.5.6\n443 tcp 2001:db8::25\n9797 tcp 10.4.5.6",
            SETUP,
            [
                "EGRESS_GATEWAY: '10.9.9.9': is not on the subnet",
                "{} line 1: '80 sctpp 10.4.5.6': unknown protocol 'sctpp'",
                "{} line 2: '443 tcp 2001:db8::25': EGRESS_SOURCE has no IPv6 address",
                "{} line 3: '9797 tcp 10.4.5.6': tcp port 9797 is the administration port",
            ],
        ),
        (
            "setup",
            "EGRESS_DESTINATION",
            "443 tcp 2001:db8::25\nx",
            {**SETUP, "EGRESS_SOURCE": "x", "EGRESS_ADMIN_PORT": "x", "EGRESS_ROUTER_MODE": "x"},
            [
                "EGRESS_SOURCE: 'x'",
                "EGRESS_ROUTER_MODE: 'x'",
                "EGRESS_ADMIN_PORT: 'x'",
                "{} line 2: 'x'",
            ],
        ),
        (
            "http-proxy",
            "EGRESS_HTTP_PROXY_DESTINATION",
            "*\nexample.com",
            {"EGRESS_WORKERS": "0"},
            ["EGRESS_WORKERS: '0'", "{} line 1: '*': Wildcard must be last rule"],
        ),
        (
            "dns-proxy",
            "EGRESS_DNS_PROXY_DESTINATION",
            "80 intranet\n9797 example.com",
            {"EGRESS_WORKERS": "0"},
            [
                "EGRESS_WORKERS: '0'",
                "{} line 1: '80 intranet'",
                "{} line 2: '9797 example.com': port 9797 is the",
            ],
        ),
    ],
)
def test_errors_of_settings_and_rules_come_together(
    tmp_path: Path, command: str, variable: str, rules: str, others: dict[str, str], expected: list[str]
) -> None:
    path = tmp_path / "rules"
    path.write_text(rules)
    for name, environ in (
        (variable, {variable: rules}),
        (f"{variable}_FILE {path}", {f"{variable}_FILE": str(path)}),
    ):
        found = errors_of(command, {**others, **environ})
        assert len(found) == len(expected), found
        for error, start in zip(found, expected, strict=True):
            assert error.startswith(start.replace("{}", name))


def test_a_file_that_cannot_be_read_is_said_with_the_rest() -> None:
    found = errors_of("setup", {**SETUP, "EGRESS_DESTINATION_FILE": "/nowhere/rules"})
    assert found[1:] == [
        "EGRESS_DESTINATION_FILE: '/nowhere/rules': cannot be read: No such file or directory"
    ]


def test_setup_for_a_proxy_reads_no_rules() -> None:
    environ = {**SETUP, "EGRESS_ROUTER_MODE": "http-proxy", "EGRESS_DESTINATION_FILE": "/nowhere/rules"}
    assert len(errors_of("setup", environ)) == 1


@pytest.mark.parametrize(
    ("command", "environ"),
    [
        ("dns-proxy", {"EGRESS_DNS_PROXY_DESTINATION": "8000 203.0.113.25"}),
        ("http-proxy", {"EGRESS_HTTP_PROXY_DESTINATION": "*"}),
        (
            "setup",
            {
                "EGRESS_SOURCE": "192.0.2.9/24",
                "EGRESS_GATEWAY": "192.0.2.1",
                "EGRESS_DESTINATION": "203.0.113.1",
            },
        ),
    ],
)
def test_errors_of_a_policy_are_told_with_all_others(command: str, environ: dict[str, str]) -> None:
    given = {
        **environ,
        "EGRESS_POLICY": "kind: EgressNetworkPolicy\napiVersion: v2\n",
        "EGRESS_ADMIN_PORT": "x",
    }
    run = [sys.executable, "-m", "egress_router", command]
    done = subprocess.run(run, env={**os.environ, **given}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "EGRESS_ADMIN_PORT: 'x'" in done.stderr
    assert (
        "EGRESS_POLICY line 2: has the apiVersion 'v2'; expected v1 or network.openshift.io/v1" in done.stderr
    )


def test_a_policy_that_would_not_be_enforced_is_refused(tmp_path: Path) -> None:
    """In a proxy's pod the proxy decides what is reached, not `setup`."""
    policy = tmp_path / "policy.json"
    policy.write_text('{"kind": "EgressNetworkPolicy", "apiVersion": "v1", "spec": {"egress": []}}')
    given = {
        "EGRESS_SOURCE": "192.0.2.9/24",
        "EGRESS_GATEWAY": "192.0.2.1",
        "EGRESS_ROUTER_MODE": "http-proxy",
        "EGRESS_POLICY_FILE": str(policy),
    }
    run = [sys.executable, "-m", "egress_router", "setup"]
    done = subprocess.run(run, env={**os.environ, **given}, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith(
        "EGRESS_POLICY_FILE is set, and setup in mode http-proxy does not enforce an egress policy"
    )
