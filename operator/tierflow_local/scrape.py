"""What the workers measure, read from their metrics as Prometheus would."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from tierflow.network import Link
from tierflow.tiers import Tier
from tierflow_local.cluster import RunningWorker
from tierflow_local.worker_process import http_get
from tierflow_operator.observation import LINKS, TierLink

_LINK_METRICS: Final = {
    "tierflow_link_bandwidth_bytes_per_second": "bandwidth",
    "tierflow_link_round_trip_seconds": "round_trip",
    "tierflow_link_measured_timestamp_seconds": "measured",
}


@dataclass(frozen=True, slots=True)
class Measurements:
    """What the workers say.

    Attributes:
        links: Those whose bandwidth and round trip are known.
        segments: By tier and segment id: runs so far and the seconds that they took.
        tile_workers: How many tile workers the edge's worker has found.
    """

    links: Mapping[TierLink, Link]
    segments: Mapping[tuple[Tier, str], tuple[int, float]]
    tile_workers: int = 0

    def segment_seconds(self, tier: Tier, segment: str, before: "Measurements | None" = None) -> float | None:
        """Mean time of a segment's runs, since `before` where that is given; None where there was none."""
        runs, seconds = self.segments.get((tier, segment), (0, 0.0))
        if before is not None:
            earlier_runs, earlier_seconds = before.segments.get((tier, segment), (0, 0.0))
            runs, seconds = runs - earlier_runs, seconds - earlier_seconds
        return seconds / runs if runs else None


def scrape(workers: Iterable[RunningWorker], *, now: float, max_staleness_seconds: float) -> Measurements:
    """Reads the metrics of workers; one that doesn't answer adds nothing.

    Args:
        workers: Whom to ask.
        now: Seconds of the Unix epoch.
        max_staleness_seconds: Links that were measured longer ago are left out.
    """
    links: dict[TierLink, dict[str, float]] = {}
    segments: dict[tuple[Tier, str], tuple[int, float]] = {}
    tile_workers = 0
    for worker in workers:
        for name, labels, value in samples_of(worker):
            if name in _LINK_METRICS:
                link = Tier(labels["from_tier"]), Tier(labels["to_tier"])
                links.setdefault(link, {})[_LINK_METRICS[name]] = value
            elif name in ("tierflow_segment_seconds_count", "tierflow_segment_seconds_sum"):
                key = Tier(labels["tier"]), labels["segment"]
                runs, seconds = segments.get(key, (0, 0.0))
                segments[key] = (int(value), seconds) if name.endswith("count") else (runs, value)
            elif name == "tierflow_tile_workers":
                tile_workers = int(value)
    known = {
        link: Link(bytes_per_second=figures["bandwidth"], round_trip_seconds=figures["round_trip"])
        for link, figures in links.items()
        if link in LINKS and figures.keys() == set(_LINK_METRICS.values())
        if figures["bandwidth"] > 0 and now - figures["measured"] <= max_staleness_seconds
    }
    return Measurements(known, segments, tile_workers)


def samples_of(worker: RunningWorker) -> Iterable[tuple[str, Mapping[str, str], float]]:
    """All samples of a worker's metrics, by name and labels; none where it doesn't answer."""
    try:
        _, text = http_get(worker.rest_port, "/metrics")
    except OSError:
        return
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value
