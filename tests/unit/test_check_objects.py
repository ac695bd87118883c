"""`check` on manifests that hold no router, unknown kinds, or text that is no object of Kubernetes."""

from __future__ import annotations

import pytest

from egress_router.check import manifests
from tests.unit.test_check_manifests import line_with, problems, text_of

NOTHING = "nothing was checked: no container here has an EGRESS_* variable"


@pytest.mark.parametrize(
    "text", ["", "---\n---\n", "kind: Service\nmetadata: {name: s}", "kind: Pod", "kind: Pod\nspec: 7"]
)
def test_where_nothing_was_checked_it_is_said(text: str) -> None:
    (found,) = problems(text)
    assert found.startswith(f"pod.yaml: {NOTHING}")
    assert found.endswith("rules alone: egress-router check redirect|http-proxy|dns-proxy FILE")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("80 tcp 203.0.113.25", "document 1 line 1: '80 tcp 203.0.113.25': "),
        (
            "# comment\n80 tcp 203.0.113.25\n8080 tcp 203.0.113.26\n",
            "document 1 line 2: '80 tcp 203.0.113.25",
        ),
        ("kind: Service\n---\n42", "document 2 line 3: '42': "),
        ("[]", "document 1 line 1: "),
        ("- kind: Pod", "document 1 line 1: "),
        ("kind: [Pod]", "document 1 line 1: "),
        ("? [a]\n: b", "document 1 line 1: "),
        ("apiVersion: v1\nspec: {}", "document 1 line 1: "),
        ("kind: List\nitems:\n- 7", "document 1 line 3: '7': "),
    ],
)
def test_what_is_no_object_of_kubernetes_is_an_error(text: str, place: str) -> None:
    first, second = problems(text)
    assert first.startswith(f"pod.yaml {place}")
    assert first.endswith("is not a Kubernetes object (a mapping with `kind`)")
    assert NOTHING in second


def test_an_allow_list_that_is_no_yaml_is_told_how_to_be_checked() -> None:
    first, second = problems("*.example.com\n!*.bad.example.com\n")
    assert "is not YAML" in first
    assert "check redirect|http-proxy|dns-proxy FILE" in second


def test_what_is_no_object_beside_a_right_pod_is_an_error() -> None:
    (found,) = problems(text_of("redirect.yaml") + "---\n80 tcp 203.0.113.25\n")
    assert "'80 tcp 203.0.113.25': is not a Kubernetes object" in found


def test_an_unknown_kind_with_variables_is_an_error_where_it_is() -> None:
    first, second = problems("---\n" + text_of("redirect.yaml").replace("kind: Pod", "kind: Pdo"))
    assert first.startswith(
        "pod.yaml document 1 (Pdo egress-1) line 3: 'kind: Pdo': is not read, but has EGRESS_SOURCE; expected one of Pod,"
    )
    assert NOTHING in second


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("  initContainers:", "  initContainer:"),
        ("  initContainers:\n  - name", "  initContainers:\n    name"),
        ("    env:\n", "    envs:\n"),
        (
            "    - name: EGRESS_SOURCE\n      value: 192.168.12.99/24",
            "    - Name: EGRESS_SOURCE\n      value: x",
        ),
        ("    - name: EGRESS_SOURCE\n      value: 192.168.12.99/24", "    - EGRESS_SOURCE: 192.168.12.99/24"),
        ("    - name: EGRESS_SOURCE\n      value: 192.168.12.99/24", "    - EGRESS_SOURCE=192.168.12.99/24"),
    ],
)
def test_variables_where_nobody_reads_them_are_errors(right: str, wrong: str) -> None:
    text = text_of("redirect.yaml")
    assert right in text
    broken = text.replace(right, wrong, 1)
    line = line_with(broken, "EGRESS_SOURCE")
    assert (
        f"pod.yaml document 1 (Pod egress-1) EGRESS_SOURCE line {line}: is not where variables are read;"
        " expected a list `env` of `name` and `value`, in a list `containers` or `initContainers`"
    ) in problems(broken)


def test_variables_as_a_mapping_are_errors() -> None:
    found = problems("kind: Pod\nspec: {containers: [{name: a, env: {EGRESS_SOURCE: nonsense, OTHER: x}}]}")
    assert "EGRESS_SOURCE line 2: is not where variables are read" in found[0]
    assert len(found) == 2


def test_a_misspelt_field_of_a_variable_is_an_error() -> None:
    text = text_of("redirect.yaml").replace("value: init", "valu: init")
    (found,) = problems(text)
    assert found.endswith(
        f"EGRESS_ROUTER_MODE line {line_with(text, 'valu: init')}: has the field 'valu';"
        " expected one of name, value, valueFrom"
    )
    text = text_of("redirect-configmap-here.yaml").replace("configMapKeyRef", "configMapKeyref")
    found, *_ = (each for each in problems(text) if "configMapKeyref" in each)
    assert "EGRESS_DESTINATION" in found


def test_what_is_named_like_a_variable_elsewhere_is_no_error() -> None:
    text = """\
kind: Pod
metadata: {name: p, labels: {EGRESS_X: y}}
spec:
  containers:
  - name: a
    args: [printenv, EGRESS_WORKERS, "$(EGRESS_WORKERS)"]
    env:
    - {name: EGRESS_DNS_PROXY_DESTINATION, valueFrom: {secretKeyRef: {name: s, key: EGRESS_RULES}}}
---
kind: Secret
stringData: {EGRESS_RULES: 80 example.com}
---
kind: SealedSecret
spec: {encryptedData: {EGRESS_RULES: xxx}}
---
kind: ConfigMap
metadata: {name: other}
data: {text: EGRESS_X}
"""
    assert "not checked: secretKeyRef" in manifests(("x", text)).text


WRAPPED = {
    "DeploymentConfig": "spec: {template: {spec: %s}}",
    "Job": "spec: {template: {spec: %s}}",
    "CronJob": "spec: {jobTemplate: {spec: {template: {spec: %s}}}}",
}

NONSENSE = "{containers: [{name: a, image: egress-router, env: [{name: EGRESS_SOURCE, value: nonsense}]}]}"


@pytest.mark.parametrize("kind", sorted(WRAPPED))
def test_kinds_that_make_pods_are_read(kind: str) -> None:
    found = problems(f"kind: {kind}\nmetadata: {{name: x}}\n{WRAPPED[kind] % NONSENSE}")
    assert any(
        each.startswith(f"pod.yaml document 1 ({kind} x) container a EGRESS_SOURCE line 3: 'nonsense':")
        for each in found
    )
