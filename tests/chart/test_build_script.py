"""scripts/build-images, with a container engine that only records its commands."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
# As docker with BuildKit: the base of a build is not in the store until somebody pulls it.
ENGINE = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$1 $2" in
"pull --quiet"*) echo "$3" >"$STORE" ;;
"image inspect")
    for image; do :; done
    grep -qsxF "$image" "$STORE" || { echo "no such image: $image" >&2; exit 1; }
    echo 0 ;;
"import "*)
    [ "$(cat "$2")" = good ] || { echo "archive/tar: invalid tar header" >&2; exit 1; }
    echo localhost/egress-base:local >"$STORE" ;;
"save "*) cat "$SAVED" ;;
esac
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    engine = tmp_path / "engine"
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    (tmp_path / "manifest.json").write_text('[{"Layers": []}]')
    subprocess.run(["tar", "-C", tmp_path, "-cf", tmp_path / "saved.tar", "manifest.json"], check=True)
    files = {"CALLS": "calls", "STORE": "store", "SAVED": "saved.tar"}
    return {
        **os.environ,
        "ENGINE": str(engine),
        **{name: str(tmp_path / file) for name, file in files.items()},
    }


def build(environment: dict[str, str], base: str) -> subprocess.CompletedProcess[str]:
    command = ["scripts/build-images", base]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def calls(environment: dict[str, str], command: str) -> list[str]:
    lines = Path(environment["CALLS"]).read_text().splitlines()
    return [line for line in lines if line.startswith(f"{command} ")]


def test_three_images_are_built_on_a_base_that_is_pulled_once(environment: dict[str, str]) -> None:
    done = build(environment, "registry.example/python:3-slim")
    assert done.returncode == 0, done.stderr
    assert len(calls(environment, "build")) == 3
    assert calls(environment, "pull") == ["pull --quiet registry.example/python:3-slim"]
    assert done.stdout.count("MB compressed beyond its base") == 3
    tags = [call.split("--tag ")[1].split()[0] for call in calls(environment, "build")]
    assert tags == [f"localhost/egress-{image}:{VERSION}" for image in ("router", "http-proxy", "dns-proxy")]
    assert done.stderr == ""


def test_images_can_be_named_for_a_registry(environment: dict[str, str]) -> None:
    done = build({**environment, "REGISTRY": "registry.example/team/", "TAG": "2"}, "localhost/own:1")
    assert done.returncode == 0, done.stderr
    named = r"--tag registry\.example/team/egress-[a-z-]+:2 "
    assert [bool(re.search(named, call)) for call in calls(environment, "build")] == [True] * 3


def test_the_base_is_named_by_its_digest_and_is_one(environment: dict[str, str]) -> None:
    files = [*(ROOT / "images").glob("*/Dockerfile"), ROOT / "docker-compose.yml"]
    bases = {
        base for file in files for base in re.findall(r"BASE(?:=|: \$\{BASE:-)([^\s}]+)", file.read_text())
    }
    (base,) = bases
    assert re.fullmatch(r"docker\.io/library/python:3\.\d+-slim[a-z-]*@sha256:[0-9a-f]{64}", base)
    command = ["scripts/build-images"]
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert [f"BASE={base} " in call for call in calls(environment, "build")] == [True] * 3


def test_a_base_that_is_there_is_not_pulled(environment: dict[str, str]) -> None:
    Path(environment["STORE"]).write_text("localhost/own:1\n")
    assert build(environment, "localhost/own:1").returncode == 0
    assert not calls(environment, "pull")


def test_a_base_from_an_archive_is_imported_and_what_is_wrong_with_it_is_told(
    environment: dict[str, str], tmp_path: Path
) -> None:
    archive = tmp_path / "base.tar"
    archive.write_text("good")
    done = build(environment, str(archive))
    assert (done.returncode, done.stderr) == (0, "")
    assert ["BASE=localhost/egress-base:local" in call for call in calls(environment, "build")] == [True] * 3
    archive.write_text("bad")
    done = build(environment, str(archive))
    assert done.returncode != 0
    assert done.stderr == "archive/tar: invalid tar header\n"
