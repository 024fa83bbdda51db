"""Samples as Prometheus answers them: whose they are, and which of them can be true."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from tierflow_operator.keys import PipelineKey
from tierflow_operator.queries import (
    BANDWIDTH,
    CALIBRATION,
    LINK_UP,
    MEASURED_AT,
    QUEUE_LENGTH,
    READ,
    REQUEST_SECONDS,
    REQUESTS,
    ROUND_TRIP,
    SEGMENT_RUNS,
    SEGMENT_SECONDS,
)

Point = tuple[float, float]
"""When, in seconds of the Unix epoch, and what."""

WorkerLabels = frozenset[tuple[str, str]]
"""The labels that all series of one worker share: its pipeline, its tier, and those of its scrape target."""

_OF_METRICS: Final = frozenset({"__name__", "tier", "from_tier", "to_tier", "segment"})
"""Labels by which the series of one worker differ."""

_COUNTER: Final = (0.0, 1e15)
_BELIEVED: Final[Mapping[str, tuple[float, float]]] = {
    BANDWIDTH: (1.0, 1e13),
    ROUND_TRIP: (0.0, 60.0),
    MEASURED_AT: (0.0, 1e11),
    LINK_UP: (0.0, 1.0),
    CALIBRATION: (1e-6, 1e3),
    QUEUE_LENGTH: (0.0, 1e9),
    SEGMENT_SECONDS: _COUNTER,
    SEGMENT_RUNS: _COUNTER,
    REQUEST_SECONDS: _COUNTER,
    REQUESTS: _COUNTER,
}
"""The least and the most that a sample may say; beyond, somebody is wrong."""


@dataclass(frozen=True)
class Series:
    """One series: its metric, its labels, and its samples, oldest first."""

    name: str
    labels: Mapping[str, str]
    points: tuple[Point, ...]

    @property
    def tier(self) -> str:
        """The tier of the worker, the lower one where it is about a link; "" where it says none."""
        return self.labels.get("tier") or self.labels.get("from_tier", "")

    @cached_property
    def worker(self) -> WorkerLabels:
        """Which worker it is of."""
        others = ((name, value) for name, value in self.labels.items() if name not in _OF_METRICS)
        return frozenset([*others, ("tier", self.tier)])

    @property
    def pipeline(self) -> PipelineKey | None:
        """Whose it is; None where it names no pipeline, or a pod speaks for another namespace's."""
        namespace, name = self.labels.get("pipeline_namespace"), self.labels.get("pipeline")
        if not namespace or not name or self.labels.get("namespace", namespace) != namespace:
            return None
        return PipelineKey(namespace, name)


def series_of(result: Iterable[Mapping[str, Any]], *, shift: float = 0.0) -> list[Series]:
    """The series of a query's answer, instant or over a range.

    Args:
        result: What the answer has as `data.result`.
        shift: What is added to the samples' times, in seconds.

    Raises:
        KeyError: where the answer is not of Prometheus' form; TypeError, ValueError and AttributeError alike.
    """
    found = []
    for entry in result:
        labels = {str(name): str(value) for name, value in entry["metric"].items()}
        values = entry["values"] if "values" in entry else [entry["value"]]
        points = tuple((float(time) + shift, float(value)) for time, value in values)
        found.append(Series(labels.get("__name__", ""), labels, points))
    return found


def by_pipeline(series: Iterable[Series]) -> dict[PipelineKey, list[Series]]:
    """The series of each pipeline; those of none are left out."""
    found: dict[PipelineKey, list[Series]] = {}
    for entry in series:
        key = entry.pipeline
        if key is not None:
            found.setdefault(key, []).append(entry)
    return found


def sound_points(series: Series) -> tuple[list[Point], str]:
    """The samples that can be true, and a note where some can't; series of other metrics have none."""
    if series.name not in READ:
        return [], ""
    least, most = _BELIEVED[series.name]
    sound = [point for point in series.points if least <= point[1] <= most]
    if len(sound) == len(series.points):
        return sound, ""
    wrong = [value for _, value in series.points if not least <= value <= most]
    what = "is not a number" if any(map(math.isnan, wrong)) else "is negative" if min(wrong) < 0 else "is absurd"
    upper = series.labels.get("to_tier", "")
    return sound, f"{series.name} of {series.tier}{upper and '-'}{upper} {what}"
