"""The chart, rendered by Helm's own library, checked by the Kubernetes schemas; and how pods start and end."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import kubernetes_validate
import pytest
import yaml
from helm_python.chart import lint

from egress_router.settings.setup import read_setup

if TYPE_CHECKING:
    from collections.abc import Iterator
from tests.chart.charting import (
    CHART,
    DNS,
    EVERYTHING,
    HTTP,
    KUBERNETES,
    MATRIX,
    PACKAGE,
    REDIRECT,
    containers,
    environment,
    every_container,
    rendered,
    the,
)


def cases() -> Iterator[tuple[str, str]]:
    for name in MATRIX:
        for version in KUBERNETES:
            yield name, version


@pytest.mark.parametrize(("name", "version"), list(cases()))
def test_every_object_fits_the_kubernetes_schemas(name: str, version: str) -> None:
    documents = rendered(MATRIX[name])
    assert len(documents) >= 4
    for document in documents:
        if "coreos.com" in str(document["apiVersion"]) or "cni.cncf.io" in str(document["apiVersion"]):
            continue  # custom resources: Kubernetes has no schema for them
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("name", list(MATRIX))
def test_helm_lint_finds_nothing(name: str) -> None:
    report = lint(CHART, MATRIX[name], strict=True)
    assert not report.get("errors"), report


def test_there_is_never_a_second_pod_and_a_dead_node_is_left_in_seconds() -> None:
    spec = json.loads(json.dumps(the("Deployment", HTTP)))["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}
    tolerations = spec["template"]["spec"]["tolerations"]
    assert {toleration["tolerationSeconds"] for toleration in tolerations} == {10}


@pytest.mark.parametrize("name", list(MATRIX))
def test_every_container_says_what_it_needs_and_why_it_failed(name: str) -> None:
    for container in every_container(MATRIX[name]):
        assert container["resources"]["limits"]["memory"], container["name"]
        assert container["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, container["name"]
        assert container["terminationMessagePolicy"] == "FallbackToLogsOnError", container["name"]


@pytest.mark.parametrize("values", [REDIRECT, HTTP, DNS])
def test_a_replacement_waits_for_nothing_longer_than_it_must(values: dict[str, object]) -> None:
    pod = json.loads(json.dumps(the("Deployment", values)))["spec"]["template"]["spec"]
    (stays,) = pod["containers"]
    assert environment(stays)["EGRESS_DRAIN_SECONDS"] == "5"
    assert pod["terminationGracePeriodSeconds"] == 10
    assert stays["startupProbe"]["periodSeconds"] == stays["readinessProbe"]["periodSeconds"] == 1
    assert stays["livenessProbe"]["terminationGracePeriodSeconds"] == 2


def test_setup_waits_in_place_for_the_address_and_no_probe_ends_it_meanwhile() -> None:
    (init,) = containers(HTTP, "initContainers")
    assert read_setup(environment(init)).claim_timeout == 600
    (stays,) = containers(REDIRECT)
    assert read_setup(environment(stays)).claim_timeout == 600
    probe = json.loads(json.dumps(stays["startupProbe"]))
    assert probe["periodSeconds"] * probe["failureThreshold"] > 600
    (proxy,) = containers(HTTP)
    assert json.loads(json.dumps(proxy["startupProbe"]))["failureThreshold"] == 60


@pytest.mark.parametrize("values", [REDIRECT, HTTP, DNS])
def test_alerts_and_dashboard_name_metrics_that_the_program_has(values: dict[str, object]) -> None:
    documents = rendered({**values, **EVERYTHING})
    texts = [
        yaml.safe_dump(document, width=10_000)
        for document in documents
        if document["kind"] in {"PrometheusRule", "ConfigMap"}
    ]
    named = set(re.findall(r"egress_router_([a-z_]+)", "\n".join(texts)))
    sources = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    assert {"rules_valid", "build_info", "bytes_total"} <= named
    assert not {name for name in named if f'"{name.removesuffix("_bucket")}"' not in sources}


def test_the_dashboard_is_json_with_a_query_in_every_panel() -> None:
    maps = [each for each in rendered({**HTTP, **EVERYTHING}) if each["kind"] == "ConfigMap"]
    (text,) = [
        data for each in maps for name, data in json.loads(json.dumps(each))["data"].items() if "json" in name
    ]
    panels = json.loads(text)["panels"]
    assert panels
    assert all(target["expr"] for panel in panels for target in panel["targets"])
