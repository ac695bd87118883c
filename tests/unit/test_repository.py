"""What the repository says of itself in several places is the same everywhere."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize(
    ("files", "pattern", "least"),
    [
        ("charts/egress-router/Chart.yaml", r"^(?:appV|v)ersion: (\S+)$", 2),
        ("images/*/Dockerfile", r"^ARG VERSION=(\S*)$", 3),
        ("docker-compose.yml", r"\$\{TAG:-([^}]*)\}", 3),
        ("README.md", r"--version (\S+)", 1),
        ("docs/*.md", r"\begress-(?:router|http-proxy|dns-proxy):([0-9][^ \n`]*)", 6),
    ],
)
def test_the_version_is_that_of_the_package(files: str, pattern: str, least: int) -> None:
    found = [
        version
        for path in sorted(ROOT.glob(files))
        for version in re.findall(pattern, path.read_text(), re.MULTILINE)
    ]
    assert len(found) >= least
    assert set(found) == {VERSION}, "run scripts/set-version"


def test_the_pythons_that_are_promised_are_those_that_are_tested_and_shipped() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "Programming Language :: Python :: "
    promised = [each.removeprefix(prefix) for each in project["classifiers"] if each.startswith(prefix)]
    ci = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert promised == ci["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert project["requires-python"] == f">={promised[0]}"
    bases = [
        re.search(r"python:([0-9.]+)-slim", path.read_text()) for path in ROOT.glob("images/*/Dockerfile")
    ]
    assert {base and base[1] for base in bases} == {promised[-1]}


def test_the_changelog_begins_with_this_version() -> None:
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == VERSION


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name
)
def test_workflows_call_only_targets_that_there_are(path: Path) -> None:
    """A workflow is only run where it is published; this keeps it in step with the Makefile and the scripts."""
    text = path.read_text()
    yaml.safe_load(text)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = set(re.findall(r"\bmake ([a-z-]+)", text))
    assert called <= targets
    for script in re.findall(r"\bscripts/[a-z-]+", text):
        assert (ROOT / script).exists(), script


def test_every_job_of_a_workflow_has_a_time_limit() -> None:
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for name, job in yaml.safe_load(path.read_text())["jobs"].items():
            assert "timeout-minutes" in job, f"{path.name}: {name}"


def test_a_published_chart_asks_for_the_images_that_are_published() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert "tags: ${{ env.NAME }}:${{ steps.version.outputs.version }}" in text
    assert 'version=${GITHUB_REF_NAME#v}"' in text
    (pattern,) = re.findall(r"s,(\^  registry: localhost\$),", text)
    values = (ROOT / "charts" / "egress-router" / "values.yaml").read_text()
    assert len(re.findall(pattern, values, re.MULTILINE)) == 1
    assert yaml.safe_load(values)["images"]["registry"] == "localhost"


RELEASE = (ROOT / ".github" / "workflows" / "release.yml").read_text()


def test_a_release_has_both_architectures_bills_of_materials_provenance_and_signatures() -> None:
    jobs = yaml.safe_load(RELEASE)["jobs"]
    assert jobs["wheels"]["strategy"]["matrix"]["runner"] == ["ubuntu-24.04", "ubuntu-24.04-arm"]
    assert jobs["images"]["strategy"]["matrix"]["image"] == ["router", "http-proxy", "dns-proxy"]
    (build,) = [step["with"] for step in jobs["images"]["steps"] if "build-push" in step.get("uses", "")]
    expected = {"platforms": "linux/amd64,linux/arm64", "push": True, "sbom": True, "provenance": "mode=max"}
    assert expected.items() <= build.items()
    for job in ("images", "chart"):
        assert "cosign sign --yes" in yaml.safe_dump(jobs[job])
        assert jobs[job]["permissions"]["id-token"] == "write"
    assert "attest-build-provenance" in yaml.safe_dump(jobs["release"])


def test_the_readme_installs_what_a_release_publishes_and_says_what_to_do_before() -> None:
    text = (ROOT / "README.md").read_text()
    assert 'helm push egress-router-*.tgz "oci://$REGISTRY/charts"' in RELEASE
    assert "helm install bank oci://REGISTRY/charts/egress-router --version" in text
    assert "helm install bank charts/egress-router --set images.registry=" in text


def test_a_release_has_its_own_part_of_the_changelog(tmp_path: Path) -> None:
    (script,) = re.findall(r"^ *(awk .*) CHANGELOG.md > notes$", RELEASE, re.MULTILINE)
    text = "# Changelog\n\n## 1.2.30\n- later\n\n## 1.2.3 (today)\n- this\n\n### More\n- that\n\n## 1.2.2\n- before\n"
    (tmp_path / "CHANGELOG.md").write_text(text)
    command = f"version=1.2.3; {script} CHANGELOG.md"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == "- this\n\n### More\n- that\n\n"
