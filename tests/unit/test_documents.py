"""What the documents name exists: values of the chart, variables, metrics. People on call copy them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from egress_router.settings.catalogue import VARIABLES, names

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    *(each for each in sorted((ROOT / "docs").glob("*.md")) if each.name != "architecture.md"),
]
SOURCES = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "egress_router").rglob("*.py"))
# Fields of Kubernetes and of others that documents name as well.
FOREIGN = frozenset(
    ("addressType", "allowedUnsafeSysctls", "cidrSelector", "configMapKeyRef", "destinationIP", "dnsName",
     "fallbackIP", "hostNetwork", "hostPID", "podSelector", "resourceNames", "restartPolicy",
     "securityContext.sysctls", "subPath", "syncFrequency", "targetPort", "terminationGracePeriodSeconds",
     "toFQDNs")
)  # fmt: skip
KNOWN_ELSEWHERE = frozenset({"EGRESS_ROUTER_IMAGE"})


def ids(path: Path) -> str:
    return path.name


def code(path: Path) -> Iterator[str]:
    """Yield what stands between backticks, and the lines that are set in."""
    text = path.read_text(encoding="utf-8")
    yield from re.findall(r"`([^`\n]+)`", text)
    yield from re.findall(r"^ {4}\S.*$", text, re.MULTILINE)


def paths(values: object, before: str = "") -> Iterator[str]:
    if isinstance(values, dict):
        for name, value in values.items():
            yield f"{before}{name}"
            yield from paths(value, f"{before}{name}.")


VALUES = frozenset(paths(yaml.safe_load((ROOT / "charts/egress-router/values.yaml").read_text())))


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_values_of_the_chart_are_there(path: Path) -> None:
    unknown = []
    top = {value.partition(".")[0] for value in VALUES}
    for piece in code(path):
        named = set(re.findall(r"--set(?:-file|-string)? ([A-Za-z.]+)=", piece))
        word = re.fullmatch(r"([a-z]+[A-Z][A-Za-z]*|[a-z][A-Za-z]*(?:\.[a-z][A-Za-z]*)+)(?:[:=].*)?", piece)
        if word is not None and (word[1].partition(".")[0] in top or re.fullmatch("[A-Za-z]+", word[1])):
            named.add(word[1])
        # Where any variable may be named, the schema knows which.
        unknown += [
            piece
            for each in named - FOREIGN - VALUES
            if each.rpartition(".")[0] not in {"env", "setup.env", "global"}
        ]
    assert not unknown, f"{path.name}: the chart has no such values"


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_variables_are_known(path: Path) -> None:
    known = {name for command in VARIABLES for name in names(VARIABLES[command])} | KNOWN_ELSEWHERE
    for name in re.findall(r"\bEGRESS_[A-Z0-9_]*[A-Z0-9]\b(?![_…*])", path.read_text(encoding="utf-8")):
        assert name in known, f"{path.name}: {name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_metrics_are_there(path: Path) -> None:
    form = r"(?:egress_router_)?([a-z_]+_(?:total|entries|in_use|up|valid|active|peers))(?:\{[^}]*\})?"
    for piece in code(path):
        found = re.fullmatch(form, piece)
        if found is not None and not found[1].startswith("process_"):
            assert f'"{found[1]}"' in SOURCES, f"{path.name}: there is no metric {found[1]}"
