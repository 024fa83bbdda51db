"""Local mode: the command of the README, run as a user runs it, and what it says of itself."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.figure import Figure, at_least, at_most

# AlexNet behind a 4G uplink of DADS's Table I: its early layers shrink the picture, its last ones are a server's work.
_ALEXNET = (
    "zoo://alexnet", "--network", "device-edge=5.85Mbit/s:10ms,edge-cloud=18.88Mbit/s:20ms",
    "--speeds", "device=0.05,edge=0.5,cloud=1", "--worsen", "none", "--requests", "12",
)  # fmt: skip


def figures() -> Iterator[Figure]:
    """Figures of the sample's scenario, and of one where nothing forbids a single tier."""
    began = time.perf_counter()
    sample = _run("samples/resnet18.yaml")
    yield Figure("local", "tierflow run samples/resnet18.yaml takes", (time.perf_counter() - began) * 1000, "ms")
    for phase, seconds in sample["seconds"].items():
        yield Figure("local", f"of that {phase}", seconds * 1000, "ms")
    yield from _latency_figures(sample, "ResNet-18")
    yield from _replanning_figures(sample["replanning"])
    alexnet = _run(*_ALEXNET)
    yield from _latency_figures(alexnet, "AlexNet")
    plan, *alone = alexnet["measurements"]
    best = min(found["p50Milliseconds"] for found in alone)
    yield at_least("local", "AlexNet: best single tier against plan", best / plan["p50Milliseconds"], "x", 1.0)
    failures = [*sample["failures"], *alexnet["failures"]]
    yield at_most("local", "checks that failed", len(failures), "count", 0)


def _run(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tierflow_cli.main", "run", *arguments, "--profile", "measure", "--json"]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    if not found.stdout:
        raise RuntimeError(f"{' '.join(command)} ended with code {found.returncode}: {found.stderr}")
    document: dict[str, Any] = json.loads(found.stdout)
    return document


def _latency_figures(report: dict[str, Any], name: str) -> Iterator[Figure]:
    plan, *others = report["measurements"]
    yield Figure("local", f"{name}: latency of the plan, p50", plan["p50Milliseconds"], "ms")
    yield Figure("local", f"{name}: latency of the plan, p99", plan["p99Milliseconds"], "ms")
    errors = [
        abs(found["p50Milliseconds"] / found["predictedLatencyMilliseconds"] - 1) * 100 for found in (plan, *others)
    ]
    yield at_most("local", f"{name}: median error of predicted latency", statistics.median(errors), "%", 15)
    for found in others:
        broken = " (against its constraints)" if found["breaks"] else ""
        ratio = found["p50Milliseconds"] / plan["p50Milliseconds"]
        if found["name"] != "new plan":
            yield Figure("local", f"{name}: {found['name']} against plan{broken}", ratio, "x")


def _replanning_figures(replanning: dict[str, Any]) -> Iterator[Figure]:
    yield Figure("local", "link gets worse until decided", replanning["decidedAfterSeconds"] * 1000, "ms")
    yield Figure("local", "decided until the new plan is in force", replanning["rolloutSeconds"] * 1000, "ms")
    yield Figure("local", "requests sent meanwhile", replanning["sent"], "count")
    yield at_most("local", "requests lost or wrong meanwhile", replanning["lost"] + replanning["wrong"], "count", 0)
    yield Figure("local", "requests sent again by their client meanwhile", replanning["resent"], "count")
    untouched = sum(not worker["changed"] for worker in replanning["workers"])
    yield at_least("local", "workers not touched by the new plan", untouched, "count", 1)
