from __future__ import annotations

import os
import subprocess
import sys

import pytest

from egress_router.settings.catalogue import VARIABLES, names, unknown
from tests.measured import measured

KNOWN = names(VARIABLES["http-proxy"])


def test_a_name_that_nobody_reads_is_found() -> None:
    environ = {"EGRESS_HTTP_PROXY_DESTINATIONS": "*", "EGRESS_WORKERS": "1", "HOME": "/", "egress_x": ""}
    assert unknown(environ, KNOWN) == ["EGRESS_HTTP_PROXY_DESTINATIONS"]


def test_the_file_of_rules_is_known() -> None:
    assert unknown({"EGRESS_HTTP_PROXY_DESTINATION_FILE": "/rules"}, KNOWN) == []


def test_variables_of_a_service_of_kubernetes_are_not_meant_for_us() -> None:
    service = {
        "EGRESS_1_SERVICE_HOST": "10.0.0.1",
        "EGRESS_1_SERVICE_PORT": "80",
        "EGRESS_1_SERVICE_PORT_HTTP": "80",
        "EGRESS_1_PORT": "tcp://10.0.0.1:80",
        "EGRESS_1_PORT_80_TCP": "tcp://10.0.0.1:80",
        "EGRESS_1_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert unknown(service, KNOWN) == []
    assert unknown({**service, "EGRESS_2_PORT": "80", "EGRESS_ADMIN_PROT": "1"}, KNOWN) == [
        "EGRESS_2_PORT",
        "EGRESS_ADMIN_PROT",
    ]


@pytest.mark.parametrize("command", ["http-proxy", "setup"])
def test_a_misspelt_variable_is_said_at_the_start_with_the_nearest(command: str) -> None:
    environ = {
        "EGRESS_HTTP_PROXY_DESTINATION": "no rule",  # so that both end soon
        "EGRESS_PARENT_NETNS": "/nowhere",
        "EGRESS_SOURCE": "203.0.113.9/32",
        "EGRESS_GATEWAY": "203.0.113.1",
        "EGRESS_ROUTER_MODE": "http-proxy",
        "EGRESS_ADMIN_PORT": "0",
        "EGRESS_DRAIN_SECOND": "1",
    }
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, "-m", "egress_router", command],
        env={"PATH": os.environ["PATH"], **measured(), **environ},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in {1, 3}, done.stderr
    expected = "variable is not known and has no effect name=EGRESS_DRAIN_SECOND similar=EGRESS_DRAIN_SECONDS"
    assert expected in done.stderr
