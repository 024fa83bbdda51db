"""A pipeline that is reconciled against a cluster in memory, with link figures that a test sets."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from factories.graphs import chain
from factories.pipelines import network, profile
from factories.simulated_cluster import EndedError, SimulatedCluster
from tierflow.manifest import InferencePipeline
from tierflow.network import Network
from tierflow.tiers import TIERS, Tier
from tierflow_operator.graphs import KnownModel
from tierflow_operator.keys import PipelineKey
from tierflow_operator.observation import LINKS, MetricsReason, MetricsState, Observation, TierLink, measured
from tierflow_operator.pods import Manifest, Release
from tierflow_operator.present import MeasuredLatency, Present
from tierflow_operator.reconcile import PipelineReconciler
from tierflow_operator.telemetry import Telemetry

KEY = PipelineKey("default", "small")
WIDE = network(300, 300)
MEASURED = MetricsState(available=True, reason=MetricsReason.MEASURED, message="links are measured")


def manifest(planning: Mapping[str, object] | None = None, **spec: object) -> Manifest:
    """A pipeline named `small`, as an API server has it; no hysteresis unless given."""
    quick = {"minIntervalSeconds": 0, "stabilizationSeconds": 0, "minImprovementPercent": 1}
    return {
        "apiVersion": "tierflow.dev/v1alpha1",
        "kind": "InferencePipeline",
        "metadata": {"name": "small", "namespace": "default", "uid": "7d3f", "generation": 1},
        "spec": {
            "model": {"uri": "zoo://resnet18"},
            "tiers": [{"name": str(tier)} for tier in TIERS],
            "planning": quick | dict(planning or {}),
            **spec,
        },
    }


class OneModel:
    """In the place of `Graphs`: a small model that takes no time to read."""

    def __init__(self) -> None:
        # Tensors get smaller towards the end, so that it is worth computing a while before sending.
        graph = chain(6, sizes=[150_000, 200_000, 50_000, 40_000, 10_000, 8_000, 10])
        self._model = KnownModel("zoo:test:1", graph, profile(graph))

    def known(self, pipeline: InferencePipeline, owned: object) -> KnownModel:
        return self._model


@dataclass
class Situated:
    """In the place of Prometheus: figures that a test sets."""

    links: Network = WIDE
    speeds: Mapping[Tier, float] = field(default_factory=lambda: {Tier.DEVICE: 0.1, Tier.EDGE: 0.5, Tier.CLOUD: 1.0})
    unreachable: frozenset[Tier] = frozenset()
    down: frozenset[TierLink] = frozenset()
    metrics: MetricsState = MEASURED
    looks_every: float | None = None
    latency_seconds: float | None = None
    """What many requests took since the last decision, whichever plan answered them."""

    def observe(
        self,
        key: PipelineKey,
        pipeline: InferencePipeline,
        assumed: Observation,
        present: Present | None,
        now: float,
    ) -> tuple[Observation, MeasuredLatency | None]:
        seen = measured(assumed, {link: self.links.link(*link) for link in LINKS}, self.speeds)
        requests = None
        if present is not None and self.latency_seconds is not None:
            requests = MeasuredLatency(seconds=self.latency_seconds, requests=100, since=present.decided_at)
        return replace(seen, metrics=self.metrics, unreachable=self.unreachable, down=self.down), requests

    def period(self, pipeline: InferencePipeline) -> float | None:
        return self.looks_every


class Told:
    """In the place of Events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def emit(self, pipeline: Manifest, *, kind: str, reason: str, message: str, action: str) -> None:
        self.events.append((kind, reason, message))


class Bench:
    """A pipeline, its cluster, and an operator that can be ended at any write."""

    def __init__(self, pipeline: Manifest | None = None, *, seed: int = 0, release: Release | None = None) -> None:
        self.cluster = SimulatedCluster(pipeline or manifest(), seed=seed)
        self.figures = Situated()
        self.told = Told()
        self.now = 1_000_000.0
        self.release = release or Release(approves=True)

    def cut(self, device: int, edge: int) -> None:
        """Edits the spec: so many layers on the device and on the edge, and the rest on the cloud."""
        last = [f"L{device - 1}" if device else "", f"L{device + edge - 1}" if edge else ""]
        manual = {"deviceLastLayer": last[0], "edgeLastLayer": last[1]}
        self.cluster.manifest["spec"]["planning"] |= {"mode": "Manual", "manual": manual}
        self.cluster.manifest["metadata"]["generation"] += 1

    def reconcile(self) -> float | None:
        """One reconcile of an operator that knows nothing from before."""
        return self.operator().reconcile(KEY)

    def operator(self, models: OneModel | None = None) -> PipelineReconciler:
        """An operator that has just started; `models` stands in for where it reads models."""
        return PipelineReconciler(
            self.cluster,  # type: ignore[arg-type] - the part of Kube that is used
            self.told,
            Telemetry(),
            models or OneModel(),  # type: ignore[arg-type]
            self.figures,
            self.release,
            lambda: self.now,
        )

    def run(self, *, ended_before_write: int | None = None, most: int = 400) -> None:
        """Reconciles and lets the cluster work until nothing happens any more; every state between is looked at.

        Args:
            ended_before_write: Which write, counted from now, the operator doesn't live to see; it then starts anew.
            most: Turns until the test has failed.
        """
        self.cluster.writes_left = ended_before_write
        for _ in range(most):
            writes = len(self.cluster.writes)
            try:
                self.reconcile()
            except EndedError:
                self.cluster.writes_left = None
                continue
            self.cluster.check_chains()
            happened = self.cluster.tick()
            self.cluster.check_chains()
            self.now += 0.01
            if not happened and len(self.cluster.writes) == writes:
                self.cluster.writes_left = None
                return
        raise AssertionError("nothing comes to rest")

    @property
    def status(self) -> dict[str, Any]:
        """The pipeline's status."""
        return dict(self.cluster.manifest.get("status", {}))

    @property
    def layers(self) -> dict[str, int]:
        """How many layers each tier computes, by the status."""
        return {part["tier"]: part["layers"] for part in self.status["plan"]["segments"]}

    @property
    def epoch(self) -> int:
        """Of the plan that the status shows."""
        return int(self.status["plan"]["epoch"])
