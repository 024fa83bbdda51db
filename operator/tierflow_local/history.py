"""What the workers measure, kept for a while as Prometheus would, and read as the operator reads that.

The fixed computation that idle workers time is left out: it compares machines with that of the estimated profiles, and
here all tiers are one machine, whose own times the profile has.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from tierflow_local.cluster import RunningWorker
from tierflow_local.scrape import samples_of
from tierflow_operator.queries import CALIBRATION, READ
from tierflow_operator.readings import Readings, readings_of
from tierflow_operator.samples import Point, Series, WorkerLabels

_WINDOW_SECONDS: Final = 120.0
_KEPT: Final = READ.keys() - {CALIBRATION}

_Key = tuple[str, frozenset[tuple[str, str]]]


class History:
    """The samples of a pipeline's workers."""

    def __init__(self) -> None:
        self._points: dict[_Key, deque[Point]] = {}
        self._live: frozenset[WorkerLabels] = frozenset()

    def scrape(self, workers: Iterable[RunningWorker], now: float) -> None:
        """Takes one sample of each series of each worker; one that doesn't answer adds nothing.

        Args:
            workers: Those in force.
            now: Seconds of the Unix epoch.
        """
        live = set()
        for worker in workers:
            for name, labels, value in samples_of(worker):
                if name in _KEPT:
                    # A worker that takes another's place is another target.
                    key = name, frozenset([*labels.items(), ("instance", str(worker.pid))])
                    self._points.setdefault(key, deque()).append((now, value))
                    live.add(_series(key, ()).worker)
        self._live = frozenset(live)
        self._forget(now - _WINDOW_SECONDS)

    def readings(self, now: float, max_staleness_seconds: float) -> Readings:
        """What is known now, by the operator's rules."""
        series = [_series(key, points) for key, points in self._points.items()]
        return readings_of(series, self._live, read_at=now, max_staleness=max_staleness_seconds)

    def _forget(self, oldest: float) -> None:
        for key, points in list(self._points.items()):
            while points and points[0][0] < oldest:
                points.popleft()
            if not points:
                del self._points[key]


def _series(key: _Key, points: Iterable[Point]) -> Series:
    name, labels = key
    described: Mapping[str, str] = dict(labels)
    return Series(name, described, tuple(points))
