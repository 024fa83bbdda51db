"""Series as Prometheus would answer them, sampled every ten seconds until `NOW`."""

from collections.abc import Sequence

from tierflow.tiers import Tier
from tierflow_operator.keys import PipelineKey
from tierflow_operator.queries import BANDWIDTH, LINK_UP, MEASURED_AT, ROUND_TRIP, SEGMENT_RUNS, SEGMENT_SECONDS
from tierflow_operator.readings import Readings, readings_of
from tierflow_operator.samples import Series

NOW = 1_700_000_000.0
INTERVAL = 10.0
KEY = PipelineKey("vision", "small")


def series(name: str, values: Sequence[float], *, pod: str = "a", ago: float = 0.0, **labels: str) -> Series:
    """A series of worker `pod` whose last sample is `ago` seconds old."""
    times = [NOW - ago - INTERVAL * place for place in reversed(range(len(values)))]
    whose = {"pipeline_namespace": KEY.namespace, "pipeline": KEY.name, "instance": pod}
    return Series(name, {"__name__": name, **whose, **labels}, tuple(zip(times, values, strict=True)))


def link(
    lower: Tier,
    upper: Tier,
    bandwidth: Sequence[float] = (1e6, 1e6, 1e6),
    round_trip: Sequence[float] = (0.01, 0.01, 0.01),
    *,
    pod: str = "a",
    ago: float = 0.0,
    up: Sequence[float] = (1, 1, 1),
    measured_at: Sequence[float] = (NOW - 25, NOW - 15, NOW - 5),
) -> list[Series]:
    """All that a worker tells of a link."""
    tiers = {"from_tier": lower.value, "to_tier": upper.value}
    metrics = {BANDWIDTH: bandwidth, ROUND_TRIP: round_trip, MEASURED_AT: measured_at, LINK_UP: up}
    return [series(name, values, pod=pod, ago=ago, **tiers) for name, values in metrics.items()]


def runs(
    tier: Tier, segment: str, seconds: Sequence[float], counts: Sequence[float], *, pod: str = "a", ago: float = 0.0
) -> list[Series]:
    """The counters of a segment's runs."""
    labels = {"tier": tier.value, "segment": segment}
    return [
        series(SEGMENT_SECONDS, seconds, pod=pod, ago=ago, **labels),
        series(SEGMENT_RUNS, counts, pod=pod, ago=ago, **labels),
    ]


def read(*found: Series, live: Sequence[str] | None = None, max_staleness: float = 60.0) -> Readings:
    """The readings of these series; `live` are the pods that are scraped still, all unless given."""
    living = {entry.worker for entry in found if live is None or entry.labels["instance"] in live}
    return readings_of(found, living, read_at=NOW, max_staleness=max_staleness)
