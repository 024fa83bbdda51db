"""The operator's own metrics, in a registry of their own; served by `probes`."""

import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tierflow_operator.keys import PipelineKey

READ_VERBS: Final = frozenset({"get", "list"})

_PREFIX: Final = "tierflow_operator_"
_PIPELINE: Final = ("pipeline_namespace", "pipeline")
_RECONCILE_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STEP_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)


class Telemetry:
    """Counts what the operator does. Safe to call from any thread.

    Args:
        clock: Seconds of any monotonic origin.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.registry = CollectorRegistry()
        self.release = _release()
        self._gauge("build_info", "Always 1; the label says which release runs.", ("version",)).labels(
            self.release
        ).set(1)
        self._leader = self._gauge("leader", "1 while this replica leads, else 0.")
        self._describe_pipelines()
        self._describe_reconcile()
        self._describe_requests()

    def _describe_pipelines(self) -> None:
        self._epoch = self._gauge("plan_epoch", "Number of the plan in force, per pipeline.", _PIPELINE)
        self._age = self._gauge(
            "observation_age_seconds", "Age of the newest measurement that the last decision could use.", _PIPELINE
        )
        self._decisions = self._counter(
            "decisions", "Decisions by kind (move, hold, rollback) and reason.", (*_PIPELINE, "kind", "reason")
        )
        self._moves = self._counter("moves", "Moves that ended, by outcome.", (*_PIPELINE, "outcome"))
        self._steps = self._histogram("move_step_seconds", "Time that a step of a move took.", _STEP_BUCKETS, ("step",))

    def _describe_reconcile(self) -> None:
        self._reconcile = self._histogram("reconcile_seconds", "Time of one reconcile.", _RECONCILE_BUCKETS)
        self._errors = self._counter("reconcile_errors", "Reconciles that failed, by kind of error.", ("kind",))
        self._queue_length = self._gauge("queue_length", "Pipelines that are due and wait for a reconcile.")
        self._queue_age = self._gauge("queue_oldest_age_seconds", "How long the oldest of them has waited or run.")

    def _describe_requests(self) -> None:
        self._requests = self._counter(
            "api_requests", "Requests to the API server but watches.", ("access", "verb", "kind", "outcome")
        )
        self._writes = self._counter("api_writes", "Writes that the API server accepted.", ("verb", "kind"))

    def lead(self, leads: bool) -> None:
        """Whether this replica leads."""
        self._leader.set(leads)

    def plan(self, key: PipelineKey, epoch: int) -> None:
        """The plan in force of a pipeline."""
        self._epoch.labels(*key).set(epoch)

    def decision(self, key: PipelineKey, kind: str, reason: str) -> None:
        """A decision: `move`, `hold` or `rollback`, and why."""
        self._decisions.labels(*key, kind, reason).inc()

    def move(self, key: PipelineKey, outcome: str) -> None:
        """A move that ended: `done`, `failed`, `superseded` and the like."""
        self._moves.labels(*key, outcome).inc()

    def move_step(self, step: str, seconds: float) -> None:
        """A step of a move that ended."""
        self._steps.labels(step).observe(seconds)

    def observed(self, key: PipelineKey, age_seconds: float) -> None:
        """How old a pipeline's measurements are; that grows until they are newer."""
        at = self._clock() - age_seconds
        self._age.labels(*key).set_function(lambda: max(0.0, self._clock() - at))

    def reconciled(self, seconds: float) -> None:
        """A reconcile that ended, well or not."""
        self._reconcile.observe(seconds)

    def failed(self, error: BaseException) -> None:
        """A reconcile that failed."""
        self._errors.labels(type(error).__name__).inc()

    def watch_queue(self, length: Callable[[], float], oldest_age: Callable[[], float]) -> None:
        """Where the queue's figures come from, asked at each scrape."""
        self._queue_length.set_function(length)
        self._queue_age.set_function(oldest_age)

    def api_request(self, verb: str, kind: str, outcome: str) -> None:
        """A request that ended; `outcome` is `ok` or an error's kind."""
        reads = verb in READ_VERBS
        self._requests.labels("read" if reads else "write", verb, kind, outcome).inc()
        if outcome == "ok" and not reads:
            self._writes.labels(verb, kind).inc()

    def forget(self, key: PipelineKey) -> None:
        """Drops the series of a pipeline that is gone."""
        labels = dict(zip(_PIPELINE, key, strict=True))
        for metric in (self._epoch, self._age, self._decisions, self._moves):
            metric.remove_by_labels(labels)

    def value(self, name: str, **labels: str) -> float:
        """A sample's value by its full name; 0 where there is none."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(_PREFIX + name, text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(_PREFIX + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(_PREFIX + name, text, labels, registry=self.registry, buckets=buckets)


def _release() -> str:
    try:
        return version("tierflow")
    except PackageNotFoundError:  # run from a source tree that isn't installed
        return "unknown"
