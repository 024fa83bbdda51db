"""What a reconcile knows of the world's figures: Prometheus' readings put in the place of what is assumed."""

from typing import Final

from tierflow.manifest import InferencePipeline
from tierflow_operator.keys import PipelineKey
from tierflow_operator.measurements import latency, observe
from tierflow_operator.observation import Observation
from tierflow_operator.present import MeasuredLatency, Present
from tierflow_operator.prometheus import PrometheusReaders, PrometheusSettings

LOOK_SECONDS: Final = 2.0
"""Between two looks at the figures of a pipeline: what a decision may be late, beside the scrape interval."""


class PrometheusMetering:
    """Reads Prometheus for the planner; safe to call from any thread.

    Args:
        settings: The operator's own; a pipeline may name another server.
    """

    def __init__(self, settings: PrometheusSettings) -> None:
        self._settings = settings
        self._readers = PrometheusReaders(settings)

    def observe(
        self, key: PipelineKey, pipeline: InferencePipeline, assumed: Observation, present: Present | None, now: float
    ) -> tuple[Observation, MeasuredLatency | None]:
        """The observation with what is measured, and what requests took under the plan in force; never raises."""
        metrics = pipeline.spec.metrics
        readings = self._readers.read(key, metrics.prometheus.url, max_staleness_seconds=metrics.max_staleness_seconds)
        plan = None if present is None else present.plan
        seen = observe(assumed, readings, plan=plan, spec=pipeline.spec, now=now)
        return seen, None if present is None else latency(readings, since=present.decided_at)

    def period(self, pipeline: InferencePipeline) -> float | None:
        """Seconds between two looks; None where no Prometheus is configured."""
        return LOOK_SECONDS if pipeline.spec.metrics.prometheus.url or self._settings.url else None
