"""The manifests of OKD's document: only the images are others, the addresses are those of the laboratory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from egress_router.lab.network import SOURCE
from tests.images.asking import ask, get

if TYPE_CHECKING:
    from tests.images.node import Object, Sandbox

MANIFESTS = Path(__file__).parent / "manifests"


def manifest(name: str) -> list[Object]:
    return list(yaml.safe_load_all((MANIFESTS / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("name", ["redirect", "failover"])
def test_one_destination_takes_every_port(sandbox: Sandbox, name: str) -> None:
    sandbox.play(*manifest(name))
    for port in (80, 443, 7777):
        seen = ask(sandbox, port)
        assert (seen.server, seen.port, seen.source) == ("203.0.113.25", port, SOURCE)
    lab = sandbox.node.lab
    seen = lab.ask_udp(lab.client, sandbox.address, 53)
    assert (seen.server, seen.source) == ("203.0.113.25", SOURCE)


@pytest.mark.parametrize("name", ["multiple-destinations", "config-map"])
def test_each_port_has_its_destination(sandbox: Sandbox, name: str) -> None:
    sandbox.play(*manifest(name))
    expected = {
        80: ("203.0.113.25", 80),
        8080: ("203.0.113.26", 80),
        8443: ("203.0.113.26", 443),
        7777: ("203.0.113.27", 7777),
    }
    seen = {port: ask(sandbox, port) for port in expected}
    assert {port: (each.server, each.port) for port, each in seen.items()} == expected
    assert {each.source for each in seen.values()} == {SOURCE}


def test_http_proxy(sandbox: Sandbox) -> None:
    sandbox.play(*manifest("http-proxy"))
    allowed = get(sandbox, "http://www.example.org:8000/")
    assert (allowed.status, allowed.server, allowed.source) == (200, "203.0.113.25", SOURCE)
    assert get(sandbox, "http://www.example.com:8000/").status == 403
    assert get(sandbox, "http://192.168.1.7:8000/").status == 403


def test_dns_proxy(sandbox: Sandbox) -> None:
    sandbox.play(*manifest("dns-proxy"))
    expected = {
        80: ("203.0.113.25", 80),
        100: ("203.0.113.26", 100),
        8080: ("203.0.113.26", 80),
        8443: ("203.0.113.28", 443),
    }
    seen = {port: ask(sandbox, port) for port in expected}
    assert {port: (each.server, each.port) for port, each in seen.items()} == expected
    assert {each.source for each in seen.values()} == {SOURCE}
    # EGRESS_DNS_PROXY_DEBUG is set in the document's pod.
    assert "example.com" in sandbox.podman("logs", "egress-dns-proxy-egress-dns-proxy")


def test_a_manifest_works_without_the_annotation_with_what_the_document_adds(bare_sandbox: Sandbox) -> None:
    """docs/migrating.md: what another network plug-in than OpenShift SDN needs, merged into OKD's manifest."""
    document = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text()
    (added,) = (
        yaml.safe_load(block)
        for block in re.findall(r"^```yaml\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
        if "node-namespaces" in block
    )
    pod: Any = manifest("redirect")[0]
    del pod["metadata"]["annotations"]
    (setup,) = pod["spec"]["initContainers"]
    (more,) = added["spec"]["initContainers"]
    setup["env"] += more["env"]
    setup.setdefault("volumeMounts", []).extend(more["volumeMounts"])
    pod["spec"].setdefault("volumes", []).extend(added["spec"]["volumes"])
    bare_sandbox.play(pod)
    seen = ask(bare_sandbox, 443)
    assert (seen.server, seen.source) == ("203.0.113.25", SOURCE)
