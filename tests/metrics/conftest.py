"""One real Prometheus for all tests here; each test has pipelines of its own."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from testbed.process import wait_for
from testbed.prometheus_server import Exporter, PrometheusServer
from tierflow.tiers import Tier
from tierflow_operator.keys import PipelineKey
from tierflow_operator.prometheus import PrometheusReader, PrometheusSettings
from tierflow_operator.readings import Readings
from tierflow_worker.metrics import Metrics

NAMESPACE = "vision"
"""Of all pipelines and targets here."""

_NUMBERS = count(1)
_EXPORTERS = 40


@dataclass
class Bench:
    """A pipeline's workers under a real Prometheus."""

    server: PrometheusServer
    idle: list[Exporter]
    key: PipelineKey
    reader: PrometheusReader
    exporters: dict[str, Exporter] = field(default_factory=dict)

    def start(self, pod: str, tier: Tier) -> Metrics:
        """A worker, or a new one in the place of the pod's last."""
        metrics = Metrics(pipeline=self.key.name, namespace=self.key.namespace, tier=tier)
        self.serve(pod, metrics)
        return metrics

    def serve(self, pod: str, metrics: Metrics | Callable[[], str]) -> None:
        """Has a pod export a worker's metrics, or a text."""
        if pod not in self.exporters:
            self.exporters[pod] = self.idle.pop()
        self.exporters[pod].content = metrics.registry if isinstance(metrics, Metrics) else metrics

    def end(self, pod: str) -> None:
        """The pod is gone: Prometheus is answered no more there."""
        self.exporters.pop(pod).content = None

    def read(self, *, max_staleness: float = 60.0) -> Readings:
        return self.reader.read(self.key, max_staleness_seconds=max_staleness)

    def until(self, what: str, holds: Callable[[Readings], object]) -> Readings:
        """The first readings for which something holds."""
        last = [self.read()]

        def is_met() -> bool:
            last[0] = self.read()
            return bool(holds(last[0]))

        wait_for(what, is_met)
        return last[0]

    def scraped(self, metric: str, count: int = 3, **labels: str) -> None:
        """Waits for so many samples of a metric from now on."""
        for _ in self.while_scraping(metric, count, **labels):
            pass

    def while_scraping(self, metric: str, count: int, **labels: str) -> Iterator[Readings]:
        """Reads again and again, until a metric has so many more samples."""
        begin, chosen = time.time(), {"pipeline": self.key.name, **labels}
        selector = metric + "{" + ",".join(f'{name}="{value}"' for name, value in chosen.items()) + "}"
        deadline = time.monotonic() + 60
        while not self.server.has_samples(selector, count, since=begin):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited 60 s for {count} samples of {selector}")
            yield self.read()

    def close(self) -> None:
        for pod in list(self.exporters):
            self.end(pod)
        self.reader.close()


@pytest.fixture(scope="session")
def exporters() -> Iterator[list[Exporter]]:
    """More than all tests together take: a target's series end with its test, and none is used twice."""
    made = [Exporter() for _ in range(_EXPORTERS)]
    yield list(made)
    for exporter in made:
        exporter.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, exporters: list[Exporter]) -> Iterator[PrometheusServer]:
    targets = [exporter.address for exporter in exporters]
    running = PrometheusServer(Path(tmp_path_factory.mktemp("prometheus")), targets, {"namespace": NAMESPACE})
    yield running
    running.stop()


@pytest.fixture
def bench(server: PrometheusServer, exporters: list[Exporter]) -> Iterator[Bench]:
    settings = PrometheusSettings(url=server.url, shared_seconds=0.0)
    key = PipelineKey(NAMESPACE, f"pipeline-{next(_NUMBERS)}")
    made = Bench(server, exporters, key, PrometheusReader(settings))
    yield made
    made.close()
