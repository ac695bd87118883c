"""The pods that the Helm chart renders, run with traffic. The interface is there, as with OKD or Multus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from helm_python.chart import Chart

from egress_router.lab.network import GATEWAY, SOURCE
from tests.images.asking import ask, await_readiness, get
from tests.waiting import until

if TYPE_CHECKING:
    from tests.images.node import Object, Sandbox

CHART = Path(__file__).parents[2] / "charts" / "egress-router"
NETWORK: dict[str, object] = {"source": f"{SOURCE}/24", "gateway": GATEWAY, "interface": {"provider": "okd"}}
REDIRECT: dict[str, object] = {
    **NETWORK,
    "destinations": "80 tcp 203.0.113.25\n8443 tcp 203.0.113.26 443\n",
    "sysctls": [{"name": "net.ipv4.ip_forward", "value": "1"}],
}


def rendered(
    sandbox: Sandbox, values: dict[str, object], *, hooks: bool = False, name: str = "bank"
) -> list[Object]:
    """Render what makes a pod: ConfigMap and Deployment; or what runs before anything is changed."""
    images = sandbox.node.images
    named = {
        key: {"repository": image.partition(":")[0], "tag": "test"}
        for key, image in (
            ("router", images.router),
            ("httpProxy", images.http_proxy),
            ("dnsProxy", images.dns_proxy),
        )
    }
    # The images are named in full, with their registry.
    with Chart.load(CHART) as chart:
        files = chart.render(values={**values, "images": named}, name=name, namespace="egress")
    documents = [each for text in files.values() for each in _documents(text)]
    kinds = {"ConfigMap", "Job"} if hooks else {"ConfigMap", "Deployment"}
    return [each for each in documents if each["kind"] in kinds and _is_hook(each) is hooks]


def _is_hook(document: Object) -> bool:
    metadata: Any = document["metadata"]
    return "helm.sh/hook" in metadata.get("annotations", {})


def _documents(text: str) -> list[Object]:
    return [] if "apiVersion" not in text else [each for each in yaml.safe_load_all(text) if each]


@pytest.mark.parametrize("live", [True, False])
def test_redirect(sandbox: Sandbox, live: bool) -> None:
    redirect = {"live": live, "pauseImage": sandbox.node.images.pause}
    sandbox.play(*rendered(sandbox, {**REDIRECT, "redirect": redirect}))
    if live:
        await_readiness(sandbox)
    assert ask(sandbox, 80).server == "203.0.113.25"
    seen = ask(sandbox, 8443)
    assert (seen.server, seen.port, seen.source) == ("203.0.113.26", 443, SOURCE)


@pytest.mark.parametrize("mode", ["redirect", "http-proxy", "dns-proxy"])
def test_setup_makes_the_interface(bare_sandbox: Sandbox, mode: str) -> None:
    """The default: a pod without an interface, the node's namespaces mounted into its privileged container."""
    rules = {
        "redirect": "80 tcp 203.0.113.25",
        "http-proxy": "*.example.org",
        "dns-proxy": "80 www.example.org",
    }
    values: dict[str, object] = {
        "source": f"{SOURCE}/24",
        "gateway": GATEWAY,
        "mode": mode,
        "destinations": rules[mode],
    }
    bare_sandbox.play(*rendered(bare_sandbox, values))
    await_readiness(bare_sandbox)
    if mode == "http-proxy":
        assert get(bare_sandbox, "http://www.example.org:8000/").source == SOURCE
    else:
        seen = ask(bare_sandbox, 80)
        assert (seen.server, seen.source) == ("203.0.113.25", SOURCE)
    name = "bank-egress-router"
    for stays in {"redirect": "router"}.get(mode, "proxy").split():
        mounts = bare_sandbox.podman("inspect", "--format={{json .Mounts}}", f"{name}-{stays}")
        assert "/node-ns" not in mounts


def test_what_stays_needs_no_privilege_after_a_container_that_had_it(sandbox: Sandbox) -> None:
    """No sysctl is given: the privileged container, which ends, has set them."""
    values = {**REDIRECT, "sysctls": [], "setup": {"privileged": True}}
    sandbox.play(*rendered(sandbox, values))
    await_readiness(sandbox)
    assert ask(sandbox, 80).source == SOURCE
    sandbox.change_config_map("destinations", "80 tcp 203.0.113.26\n")
    until(lambda: ask(sandbox, 80).server == "203.0.113.26", "the changed rules")


def test_http_proxy(sandbox: Sandbox) -> None:
    values = {**NETWORK, "mode": "http-proxy", "destinations": "*.example.org\n"}
    sandbox.play(*rendered(sandbox, values))
    await_readiness(sandbox)
    reply = get(sandbox, "http://www.example.org:8000/")
    assert (reply.status, reply.source) == (200, SOURCE)
    assert get(sandbox, "http://www.example.com:8000/").status == 403


@pytest.mark.parametrize(("rules", "status"), [("80 tcp 203.0.113.25\n", "0"), ("80 tcp 203.0.113\n", "1")])
def test_the_check_before_an_upgrade_fails_where_the_rules_are_wrong(
    sandbox: Sandbox, rules: str, status: str
) -> None:
    values = {**REDIRECT, "destinations": rules}
    sandbox.play(*rendered(sandbox, values, hooks=True))
    name = "bank-egress-router-check-rules"
    sandbox.podman("wait", name)
    assert sandbox.podman("inspect", "--format={{.State.ExitCode}}", name).strip() == status, sandbox.logs()


def test_dns_proxy(sandbox: Sandbox) -> None:
    values = {**NETWORK, "mode": "dns-proxy", "destinations": "80 www.example.org\n"}
    sandbox.play(*rendered(sandbox, values))
    await_readiness(sandbox)
    seen = ask(sandbox, 80)
    assert (seen.server, seen.source) == ("203.0.113.25", SOURCE)


def test_a_changed_config_map_takes_effect_without_a_restart(sandbox: Sandbox) -> None:
    values = {**NETWORK, "mode": "http-proxy", "destinations": "*.example.org\n"}
    sandbox.play(*rendered(sandbox, values))
    await_readiness(sandbox)
    assert get(sandbox, "http://www.example.com:8000/").status == 403
    sandbox.change_config_map("destinations", "*.example.com\n")
    until(lambda: get(sandbox, "http://www.example.com:8000/").status == 200, "the changed list")
    assert get(sandbox, "http://www.example.org:8000/").status == 403
