"""Medians of several rounds, ratios to a peer, and the two formats in which results are kept."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.workloads import Result, Workload

# One folder for each Python version: the figures depend on it.
RESULTS = Path(__file__).parent / "results" / "python{}.{}".format(*sys.version_info)
OURS = "egress-router"


@dataclass(frozen=True, slots=True)
class Entry:
    """All rounds of one workload with one contestant."""

    workload: Workload
    contestant: str
    results: tuple[Result, ...]

    @property
    def cost(self) -> float:
        """The median cost."""
        return statistics.median(result.cost for result in self.results)


def rendered(entries: Sequence[Entry]) -> str:
    """Return a table in Markdown, with one row for each workload and contestant."""
    heads = ["work", "contestant", "CPU (or memory), median", "least to most", "egress-router takes"]
    heads += ["a second", "p50 µs", "p99 µs", "p99.9 µs"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    ours = {entry.workload.name: entry.cost for entry in entries if entry.contestant == OURS}
    for entry in entries:
        costs = [result.cost for result in entry.results]
        mine = ours.get(entry.workload.name)
        ratio = (
            ""
            if entry.contestant == OURS or not entry.cost or mine is None
            else f"{mine / entry.cost:.2f} of it"
        )
        cost = f"{entry.cost:.4g} {entry.workload.unit}" if entry.cost else "-"
        spread = f"{min(costs):.4g} to {max(costs):.4g}" if entry.cost else ""
        lines.append(
            f"| {entry.workload.name} | {entry.contestant} | {cost} | {spread} | {ratio} | {_speeds(entry)} |"
        )
    return "\n".join([*lines, ""])


def _speeds(entry: Entry) -> str:
    def middle(values: Sequence[float]) -> float:
        return statistics.median(values)

    rate = middle([result.rate for result in entry.results])
    if not rate:
        return "| | | "
    rate_text = f"{rate:.2f} GiB" if entry.workload.unit == "s/GiB" else f"{rate:,.0f}"
    latencies = (
        middle([result.p50 for result in entry.results]),
        middle([result.p99 for result in entry.results]),
        middle([result.p999 for result in entry.results]),
    )
    return " | ".join([rate_text, *(f"{value:,.0f}" for value in latencies)])


def keep(name: str, title: str, entries: Sequence[Entry]) -> None:
    """Print the table; keep it and all rounds, with machine and versions, in the folder of this Python."""
    text = rendered(entries)
    print(f"{title}\n\n{text}")
    keep_text(name, title, text)
    data = {"machine": machine(), "entries": [asdict(entry) for entry in entries]}
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def keep_text(name: str, title: str, table: str) -> None:
    """Keep a table, with machine and versions, in the folder of this Python."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    facts = "".join(f"- {key}: {value}\n" for key, value in machine().items())
    (RESULTS / f"{name}.md").write_text(f"# {title}\n\n{table}\n{facts}", encoding="utf-8")


def machine() -> dict[str, str]:
    """Return the machine and the versions that the figures depend on."""
    versions = {
        "squid": ["squid", "-v"],
        "haproxy": ["haproxy", "-v"],
        "tinyproxy": ["tinyproxy", "-v"],
        "nginx": ["nginx", "-v"],
    }
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    facts = {
        "processor": f"{model}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    for name, command in versions.items():
        if shutil.which(name) is None:
            continue
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        facts[name] = (done.stdout or done.stderr).partition("\n")[0].strip()
    return facts
