"""What Prometheus says of one pipeline, as a value: links, speeds and latency, checked and made robust.

Pure: samples in, readings out. The rules, for every figure:

1. A sample that can't be true (no number, negative, absurd) is left out, and a note says so.
2. A worker's figure is the median of its last `SCRAPES` samples, so that no single one moves it, and a change shows at
   the second scrape. Times of runs and requests are counters: their samples are the means between two scrapes, and a
   counter that fell was a worker that started anew.
3. A tier's figure is the median of its workers'. Workers that are scraped no more count only where no other has one.
4. What is older than the allowed staleness does not count.

All times are seconds of the Unix epoch by the operator's clock.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final, NamedTuple, TypeVar

from tierflow.tiers import TIERS, Tier
from tierflow_operator.observation import LINKS, TierLink
from tierflow_operator.queries import (
    BANDWIDTH,
    CALIBRATION,
    LINK_UP,
    MEASURED_AT,
    QUEUE_LENGTH,
    REQUEST_SECONDS,
    REQUESTS,
    ROUND_TRIP,
    SEGMENT_RUNS,
    SEGMENT_SECONDS,
)
from tierflow_operator.samples import Point, Series, WorkerLabels, sound_points

SCRAPES: Final = 3
"""A figure is the median of so many samples: the fewest that one outlier can't move."""

DOWN_FOR_SECONDS: Final = 10.0
"""A link is down where all samples of so long a time say so, two at least; a worker that restarts is back sooner.

One sample says that it is up again.
"""

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class LinkReading:
    """A measured link, and when it was measured last."""

    bytes_per_second: float
    round_trip_seconds: float
    measured_at: float


@dataclass(frozen=True, slots=True)
class SegmentReading:
    """The mean time of a segment's latest runs, and how many runs these were."""

    seconds: float
    runs: int


class Interval(NamedTuple):
    """Between two scrapes of one worker: how many runs, or requests, there were, and the seconds they took in all."""

    begin: float
    end: float
    times: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Readings:
    """What is known of a pipeline.

    Attributes:
        read_at: When Prometheus was asked.
        max_staleness_seconds: What is older was left out.
        links: Those that were measured lately.
        link_up: Whether the upper tier answers the lower one; links that nobody tells of are left out.
        segments: By tier and segment id; those that ran lately.
        calibration_seconds: Of the fixed computation, by tier; tile workers are not asked.
        queue_length: Requests that wait at the fullest worker, by tier.
        requests: Those answered at the device.
        workers: How many workers are scraped now.
        notes: What was left out because it can't be true.
    """

    read_at: float
    max_staleness_seconds: float
    links: Mapping[TierLink, LinkReading]
    link_up: Mapping[TierLink, bool]
    segments: Mapping[tuple[Tier, str], SegmentReading]
    calibration_seconds: Mapping[Tier, float]
    queue_length: Mapping[Tier, float]
    requests: tuple[Interval, ...] = ()
    workers: int = 0
    notes: tuple[str, ...] = ()

    def requests_since(self, begin: float) -> Interval | None:
        """The requests between the scrapes that lie wholly after `begin`; None where there were none."""
        counted = [entry for entry in self.requests if entry.begin >= begin and entry.times > 0]
        if not counted:
            return None
        return Interval(
            min(entry.begin for entry in counted),
            max(entry.end for entry in counted),
            sum(entry.times for entry in counted),
            sum(entry.seconds for entry in counted),
        )


def readings_of(series: Iterable[Series], live: Set[WorkerLabels], *, read_at: float, max_staleness: float) -> Readings:
    """The readings of one pipeline.

    Args:
        series: Its series, with the samples of the window, oldest first.
        live: The workers that are scraped now.
        read_at: When Prometheus was asked, on the clock of the samples.
        max_staleness: In seconds.
    """
    notes: dict[str, None] = {}
    found = _Found(read_at - max_staleness, live)
    for entry in series:
        points, note = sound_points(entry)
        if note:
            notes[note] = None
        if points:
            found.add(entry, points)
    return Readings(
        read_at=read_at,
        max_staleness_seconds=max_staleness,
        links=found.links(read_at),
        link_up=found.link_up(),
        segments=found.segments(),
        calibration_seconds=found.calibrations(),
        queue_length=found.queues(),
        requests=found.requests(),
        workers=found.living,
        notes=tuple(sorted(notes)),
    )


class _Worker:
    """The series of one worker, by what they are about and by metric."""

    def __init__(self, *, is_live: bool, tier: Tier) -> None:
        self.is_live = is_live
        self.tier = tier
        self.links: dict[TierLink, dict[str, Sequence[Point]]] = defaultdict(dict)
        self.segments: dict[str, dict[str, Sequence[Point]]] = defaultdict(dict)
        self.others: dict[str, Sequence[Point]] = {}

    def add(self, series: Series, points: Sequence[Point]) -> None:
        labels = series.labels
        if "to_tier" in labels:
            upper = _tier(labels["to_tier"])
            if upper is not None and (self.tier, upper) in LINKS:
                self.links[(self.tier, upper)][series.name] = points
        elif "segment" in labels:
            self.segments[labels["segment"]][series.name] = points
        else:
            self.others[series.name] = points


class _Found:
    """Sorts series by worker, and gets the tiers' figures from those that are alive and fresh."""

    def __init__(self, oldest: float, live: Set[WorkerLabels]) -> None:
        self._oldest = oldest
        self._live = live
        self._workers: dict[WorkerLabels, _Worker] = {}

    @property
    def living(self) -> int:
        """How many workers are scraped now."""
        return sum(worker.is_live for worker in self._workers.values())

    def add(self, series: Series, points: Sequence[Point]) -> None:
        tier = _tier(series.tier)
        if tier is None:
            return
        if series.worker not in self._workers:
            self._workers[series.worker] = _Worker(is_live=series.worker in self._live, tier=tier)
        self._workers[series.worker].add(series, points)

    def links(self, read_at: float) -> dict[TierLink, LinkReading]:
        figures: dict[TierLink, list[tuple[bool, LinkReading]]] = defaultdict(list)
        for worker in self._workers.values():
            for between, metrics in worker.links.items():
                if not {BANDWIDTH, ROUND_TRIP, MEASURED_AT} <= metrics.keys():
                    continue
                measured_at = _last_change(metrics[MEASURED_AT], read_at)
                if measured_at < self._oldest or not self._is_fresh(metrics[BANDWIDTH]):
                    continue
                reading = LinkReading(_recent(metrics[BANDWIDTH]), _recent(metrics[ROUND_TRIP]), measured_at)
                figures[between].append((worker.is_live, reading))
        return {
            between: LinkReading(
                bytes_per_second=median(reading.bytes_per_second for reading in chosen),
                round_trip_seconds=median(reading.round_trip_seconds for reading in chosen),
                measured_at=max(reading.measured_at for reading in chosen),
            )
            for between, each in figures.items()
            if (chosen := _preferred(each))
        }

    def link_up(self) -> dict[TierLink, bool]:
        """Up where any worker of the lower tier is answered; down where all say for long that they aren't."""
        said: dict[TierLink, list[tuple[bool, bool]]] = defaultdict(list)
        for worker in self._workers.values():
            for between, metrics in worker.links.items():
                points = metrics.get(LINK_UP)
                if points and self._is_fresh(points):
                    said[between].append((worker.is_live, not _is_down(points)))
        return {between: any(_preferred(each)) for between, each in said.items()}

    def segments(self) -> dict[tuple[Tier, str], SegmentReading]:
        figures: dict[tuple[Tier, str], list[tuple[bool, SegmentReading]]] = defaultdict(list)
        for worker in self._workers.values():
            for segment, metrics in worker.segments.items():
                between = _intervals(metrics.get(SEGMENT_RUNS, ()), metrics.get(SEGMENT_SECONDS, ()))
                last = [entry for entry in between if entry.times > 0][-SCRAPES:]
                if not last or last[-1].end < self._oldest:
                    continue
                seconds = median(entry.seconds / entry.times for entry in last)
                reading = SegmentReading(seconds, round(sum(entry.times for entry in last)))
                figures[(worker.tier, segment)].append((worker.is_live, reading))
        return {
            key: SegmentReading(median(reading.seconds for reading in chosen), sum(reading.runs for reading in chosen))
            for key, each in figures.items()
            if (chosen := _preferred(each))
        }

    def calibrations(self) -> dict[Tier, float]:
        """By tier; at the edge only workers that know a link count, for tile workers are other machines."""
        told = self._by_tier(CALIBRATION, lambda worker: worker.tier is not Tier.EDGE or bool(worker.links))
        return {tier: median(map(_recent, each)) for tier, each in told.items()}

    def queues(self) -> dict[Tier, float]:
        told = self._by_tier(QUEUE_LENGTH, lambda _: True)
        return {tier: max(points[-1][1] for points in each) for tier, each in told.items()}

    def requests(self) -> tuple[Interval, ...]:
        """Of all workers at the device, those that have ended among them: their requests were answered as well."""
        found = [
            interval
            for worker in self._workers.values()
            if worker.tier is Tier.DEVICE
            for interval in _intervals(worker.others.get(REQUESTS, ()), worker.others.get(REQUEST_SECONDS, ()))
            if interval.times > 0
        ]
        return tuple(sorted(found))

    def _by_tier(self, metric: str, is_asked: Callable[[_Worker], bool]) -> dict[Tier, list[Sequence[Point]]]:
        told: dict[Tier, list[tuple[bool, Sequence[Point]]]] = defaultdict(list)
        for worker in self._workers.values():
            points = worker.others.get(metric)
            if points and self._is_fresh(points) and is_asked(worker):
                told[worker.tier].append((worker.is_live, points))
        return {tier: _preferred(each) for tier, each in told.items()}

    def _is_fresh(self, points: Sequence[Point]) -> bool:
        return points[-1][0] >= self._oldest


def _preferred(figures: Sequence[tuple[bool, K]]) -> list[K]:
    """The figures of live workers; where these have none, those of workers that have just ended."""
    living = [figure for is_live, figure in figures if is_live]
    return living or [figure for _, figure in figures]


def _recent(points: Sequence[Point]) -> float:
    return median(value for _, value in points[-SCRAPES:])


def _is_down(points: Sequence[Point]) -> bool:
    since = points[-1][0]
    for time, up in reversed(points):
        if up > 0:
            break
        since = time
    return points[-1][1] <= 0 and points[-1][0] - since >= DOWN_FOR_SECONDS


def _last_change(points: Sequence[Point], read_at: float) -> float:
    """When a worker's timestamp last changed, by the clock of the samples: the worker's own may be wrong.

    Where it didn't change within the window, it is as old as it says, and at least as old as the window.
    """
    newest = points[-1][1]
    first = points[0][0]
    for time, value in reversed(points):
        if value != newest:
            return first
        first = time
    return min(newest, first, read_at)


def _intervals(counts: Sequence[Point], seconds: Sequence[Point]) -> list[Interval]:
    """What two counters of one worker gained between scrapes that have both."""
    took = dict(seconds)
    paired = [(time, count, took[time]) for time, count in counts if time in took]
    found = []
    for (begin, count, total), (end, later_count, later_total) in pairwise(paired):
        # A counter that fell began anew from zero.
        began_anew = later_count < count or later_total < total
        gained, spent = (later_count, later_total) if began_anew else (later_count - count, later_total - total)
        found.append(Interval(begin, end, gained, spent))
    return found


def _tier(text: str | None) -> Tier | None:
    return Tier(text) if text in list(TIERS) else None
