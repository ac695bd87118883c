"""The manifests in docs/ are what Kubernetes and this program accept, so that they can be copied."""

from __future__ import annotations

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from helm_python.chart import Chart

from egress_router.check import manifests

ROOT = Path(__file__).parents[2]
CUSTOM = ("k8s.cni.cncf.io", "operator.openshift.io")


def blocks(name: str) -> list[str]:
    found = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / name).read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found


def pod_with(text: str) -> str:
    """A part of a pod's specification, as the pod that it is part of."""
    spec = yaml.safe_load(text)
    return yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "part"}, "spec": spec})


@pytest.mark.parametrize("text", blocks("install.md"))
def test_manifests_can_be_applied(text: str) -> None:
    if "apiVersion" not in text:
        text = pod_with(text)
    for thing in yaml.safe_load_all(text):
        if not thing["apiVersion"].startswith(CUSTOM):
            kubernetes_validate.validate(thing, kubernetes_validate.latest_version(), strict=True)
    # ConfigError where a variable is wrong.
    assert " setup " in manifests(("install.md", text)).text


def test_the_values_for_an_openshift_resource_render_the_same_router() -> None:
    _, resource, values = map(yaml.safe_load, blocks("migrating.md"))
    with Chart.load(ROOT / "charts" / "egress-router") as chart:
        text = "\n".join(chart.render(values=values, name="bank", namespace="egress").values())
    (address,) = resource["spec"]["addresses"]
    assert f"value: {address['ip']}" in text.replace('"', "")
    assert f"value: {address['gateway']}" in text.replace('"', "")
    for rule in resource["spec"]["redirect"]["redirectRules"]:
        words = [rule["port"], rule["protocol"].lower(), rule["destinationIP"], rule.get("targetPort")]
        assert re.search(r"\s+".join(str(word) for word in words if word is not None), text)
    assert resource["spec"]["redirect"]["fallbackIP"] in text
