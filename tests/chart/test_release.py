"""What the chart says of itself: its table of values, its notes, its images and its Chart.yaml."""

from __future__ import annotations

import base64
import re
import subprocess
import sys

import pytest
import yaml

from tests.chart.charting import CHART, DNS, HTTP, REDIRECT, containers, every_container, notes


def test_images_are_those_that_the_build_names() -> None:
    script = (CHART.parents[1] / "scripts" / "build-images").read_text()
    (registry,) = re.findall(r"^registry=\$\{REGISTRY:-(.*)\}$", script, re.MULTILINE)
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    named = {str(each["image"]) for values in (REDIRECT, HTTP, DNS) for each in every_container(values)}
    expected = {f"{registry}/egress-{image}:{version}" for image in ("router", "http-proxy", "dns-proxy")}
    assert named == expected


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ({"images": {"registry": "r.example/team"}}, "r.example/team/egress-http-proxy"),
        ({"images": {"registry": "r.example:5000/"}}, "r.example:5000/egress-http-proxy"),
        ({"images": {"registry": ""}}, "egress-http-proxy"),
        ({"global": {"imageRegistry": "g.example"}}, "g.example/egress-http-proxy"),
        ({"images": {"httpProxy": {"repository": "own.example/p"}}}, "own.example/p"),
        ({"images": {"httpProxy": {"repository": "localhost/p"}}}, "localhost/p"),
        ({"images": {"httpProxy": {"repository": "team/p"}}}, "localhost/team/p"),
    ],
)
def test_a_registry_stands_before_what_names_none(values: dict[str, object], image: str) -> None:
    (proxy,) = containers({**HTTP, **values})
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert proxy["image"] == f"{image}:{version}"


def test_an_image_may_be_named_by_its_digest() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    (proxy,) = containers({**HTTP, "images": {"httpProxy": {"repository": "r.example/p", "digest": digest}}})
    assert proxy["image"] == f"r.example/p@{digest}"


def test_the_readme_holds_the_table_that_the_comments_give() -> None:
    readme, schema = CHART / "README.md", CHART / "values.schema.json"
    before, schema_before = readme.read_text(), schema.read_text()
    try:
        subprocess.run([sys.executable, CHART.parents[1] / "scripts" / "chart-tables"], check=True)
        assert readme.read_text() == before, "run make chart-tables"
        assert schema.read_text() == schema_before, "run make chart-tables"
    finally:
        readme.write_text(before)
        schema.write_text(schema_before)


def test_notes_say_how_clients_connect() -> None:
    assert "https_proxy=http://db-egress-router.egress.svc:8080/" in notes(HTTP)
    rule = "rewrite name exact api.partner.example db-egress-router.egress.svc.cluster.local answer auto"
    assert rule in notes({**HTTP, "httpProxy": {"transparentPorts": "443"}})
    assert "rewrite" not in notes(HTTP)


def test_the_chart_says_of_itself_what_hubs_show() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    kind, _, data = chart["icon"].partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(data) == (CHART / "icon.svg").read_bytes()
    assert chart["maintainers"]
    assert chart["annotations"]["artifacthub.io/license"] == "Apache-2.0"
    # Its home and sources are known when it is published.
    release = (CHART.parents[1] / ".github" / "workflows" / "release.yml").read_text()
    assert "home: %s\\nsources: [%s]\\n" in release
