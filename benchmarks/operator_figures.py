"""The operator at scale: a thousand nodes, a hundred pipelines, a real API server; with and without a Prometheus."""

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Final

from benchmarks.figure import Figure, at_most
from benchmarks.operator_cluster import Cluster, Figures, MeasuredOperator, names, running
from testbed.process import wait_for
from testbed.prometheus_server import Exporter, PrometheusServer

AREA: Final = "operator"
NODES: Final = 1000
PIPELINES: Final = 100
_ALONE: Final = 10
_REST_SECONDS: Final = 60.0
_SCRAPE_SECONDS: Final = 5
"""As in the chart's PodMonitor."""
_RESYNC_GOAL: Final = 30.0
_MEMORY_GOAL: Final = 300.0


def figures() -> Iterator[Figure]:
    """First without measurements, then, with another operator on the same cluster, with them."""
    yield Figure(AREA, "nodes", NODES, "count")
    yield Figure(AREA, "pipelines", PIPELINES, "count")
    yield Figure(AREA, "load of the machine before, per core", os.getloadavg()[0] / (os.cpu_count() or 1), "x")
    wanted = names(PIPELINES + _ALONE)
    with running(NODES) as cluster:
        with MeasuredOperator(cluster) as operator:
            operator.seconds_to_know(0)
            yield from _applying(cluster, operator, wanted)
            yield from _resyncing(cluster, operator, len(wanted))
            yield from _at_rest(cluster, operator, "")
            yield from _memory(operator, "")
        yield from _with_prometheus(cluster, len(wanted))


def _applying(cluster: Cluster, operator: MeasuredOperator, wanted: Sequence[tuple[str, str]]) -> Iterator[Figure]:
    cpu = operator.cpu_seconds()
    together = cluster.apply(wanted[:PIPELINES])
    yield from _times(f"apply to Deployments, {PIPELINES} pipelines at once", together.seconds)
    cluster.wait_until_ready(PIPELINES)
    ready = time.perf_counter() - min(together.asked.values())
    yield Figure(AREA, f"apply to Ready of all {PIPELINES} (pods of a stand-in)", ready, "s")
    operator.wait_until_idle()
    spent = (operator.cpu_seconds() - cpu) / PIPELINES
    yield Figure(AREA, "CPU of the operator from apply to Ready, per pipeline", spent * 1e3, "ms")
    alone: list[float] = []
    for number, name in enumerate(wanted[PIPELINES:], PIPELINES + 1):
        operator.wait_until_idle()
        alone += cluster.apply([name]).seconds
        cluster.wait_until_ready(number)
    yield from _times(f"apply to Deployments, one beside {PIPELINES}", sorted(alone))


def _resyncing(cluster: Cluster, operator: MeasuredOperator, pipelines: int) -> Iterator[Figure]:
    operator.wait_until_idle()
    seconds: list[float] = []
    cpu, before = operator.cpu_seconds(), operator.reconciles
    with operator.resync(pipelines, seconds):
        cluster.nodes.add("edge", 1)
    yield at_most(AREA, "a node joins: all pipelines reconciled", seconds[0], "s", _RESYNC_GOAL)
    spent = (operator.cpu_seconds() - cpu) / (operator.reconciles - before)
    yield Figure(AREA, "CPU of the operator per reconcile that finds nothing to do", spent * 1e3, "ms")


def _at_rest(cluster: Cluster, operator: MeasuredOperator, when: str) -> Iterator[Figure]:
    cluster.wait_until_available()
    operator.wait_until_idle()
    versions, writes, requests = cluster.versions(), operator.writes(), operator.requests()
    decisions, cpu, began = operator.decisions(), operator.cpu_seconds(), time.perf_counter()
    time.sleep(_REST_SECONDS)
    seconds = time.perf_counter() - began
    spent, decided = operator.cpu_seconds() - cpu, operator.decisions() - decisions
    asked = operator.requests() - requests
    written = sum(operator.writes().values()) - sum(writes.values())
    now = cluster.versions()
    others = sum(now.get(key) != version for key, version in versions.items()) + len(now.keys() - versions.keys())
    at_rest = f"at rest{when}, in {_REST_SECONDS:g} s"
    yield at_most(AREA, f"API writes {at_rest}, by the operator's count", written, "count", 0)
    yield at_most(AREA, f"objects changed {at_rest}, by resourceVersion", others, "count", 0)
    yield Figure(AREA, f"API reads {at_rest}", asked - written, "count")
    yield Figure(AREA, f"decisions {at_rest}", decided, "count")
    yield Figure(AREA, f"CPU of the operator at rest{when}, of one core", spent / seconds * 100, "%")


def _memory(operator: MeasuredOperator, when: str) -> Iterator[Figure]:
    yield Figure(AREA, f"resident memory of the operator at rest{when}", operator.megabytes(), "MB")
    peak = operator.megabytes(peak=True)
    yield at_most(AREA, f"resident memory of the operator at its peak{when}", peak, "MB", _MEMORY_GOAL)


def _with_prometheus(cluster: Cluster, pipelines: int) -> Iterator[Figure]:
    when = " with Prometheus"
    exporter = Exporter()
    exporter.content = Figures(names(pipelines)).text
    with ExitStack() as stack:
        stack.callback(exporter.close)
        folder = cluster.plane.folder / "prometheus"
        folder.mkdir()
        server = PrometheusServer(folder, [exporter.address], {}, scrape_seconds=_SCRAPE_SECONDS)
        stack.callback(server.stop)
        began = time.time()
        wait_for("three scrapes", lambda: server.has_samples("tierflow_link_up", 3, since=began))
        operator = stack.enter_context(MeasuredOperator(cluster, "--prometheus-url", server.url))
        seconds = operator.seconds_to_know(pipelines)
        yield at_most(AREA, f"start{when}: all pipelines reconciled", seconds, "s", _RESYNC_GOAL)
        yield from _at_rest(cluster, operator, when)
        yield from _memory(operator, when)


def _times(what: str, seconds: Sequence[float]) -> Iterator[Figure]:
    for part in (50, 99):
        value = statistics.quantiles(seconds, n=100, method="inclusive")[part - 1]
        yield Figure(AREA, f"{what}, p{part}", value * 1e3, "ms")
