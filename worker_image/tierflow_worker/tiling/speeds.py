"""How fast each worker computes tiles, smoothed, and the shares that tile sizes follow.

Pure: it is told what was measured and asked for shares. Sizes stay as they are while speeds are steady, so that the
sessions that workers have for their tiles stay in use.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_SMOOTHING: Final = 0.25
"""Weight of the newest tile in the smoothed logarithm of a worker's speed."""

_STEADY: Final = 0.08
"""Sizes follow when a worker's share has changed by more than this part of itself."""

_LARGEST_STEP: Final = 2.0
"""One tile moves a speed at most as if it had been this many times as fast or slow: outliers don't resize tiles."""

_ALIKE: Final = 0.3
"""Logarithms of speeds that differ less are taken for the same when workers are chosen."""

_FIRST_TILES: Final = 2
"""Of so many tiles, the fastest is a worker's first speed."""

_SHORTEST_PATIENCE: Final = 2.0
_LONGEST_PATIENCE: Final = 8.0
"""A tile is late after so many times what it should take: at least and at most, by how steady the worker is."""

_SPREADS: Final = 4.0
"""How many times a worker's usual deviation, in logarithms, a tile may take longer."""

_MOST_WORKERS: Final = 256
"""Workers that are remembered; those of replaced pods have other addresses."""


@dataclass(slots=True)
class _Measured:
    """What is known of a worker.

    Attributes:
        speed: Places per second as requests see it, waiting included.
        alone: Places per second if no other request had been under way.
        spread: Usual deviation from `speed`, in logarithms.
        tiles: How many of its tiles were measured.
    """

    speed: float
    alone: float
    spread: float = 0.0
    tiles: int = 1


class TileSpeeds:
    """Places per second of the workers that compute one run's tiles, the time on the network included."""

    def __init__(self) -> None:
        self._workers: dict[str, _Measured] = {}
        self._used: tuple[tuple[str, ...], tuple[float, ...]] = ((), ())

    def observe(self, worker: str, places: int, seconds: float, *, crowd: int = 1) -> None:
        """A worker's tile of so many output places took so long, with so many requests under way."""
        measured = places / max(seconds, 1e-9)
        known = self._workers.get(worker)
        if known is None:
            self._remember(worker, _Measured(measured, measured * crowd))
            return
        known.tiles += 1
        if known.tiles <= _FIRST_TILES:
            # The first ones include what a worker does once: nothing is smoothed before there is something to trust.
            known.speed, known.alone = max(known.speed, measured), max(known.alone, measured * crowd)
            return
        deviation = abs(math.log(_bounded(measured, known.speed) / known.speed))
        known.spread += _SMOOTHING * (deviation - known.spread)
        known.speed = _smoothed(known.speed, measured)
        known.alone = _smoothed(known.alone, measured * crowd)

    def observe_late(self, worker: str, places: int, seconds: float, *, crowd: int = 1) -> None:
        """A worker's tile was given up after so long: it is at most as fast as that."""
        measured = places / max(seconds, 1e-9)
        known = self._workers.get(worker)
        if known is None:
            self._remember(worker, _Measured(measured, measured * crowd))
            return
        known.speed = _smoothed(known.speed, min(measured, known.speed))
        known.alone = _smoothed(known.alone, min(measured * crowd, known.alone))

    def knows(self, worker: str) -> bool:
        """Whether the worker was ever measured."""
        return worker in self._workers

    def patience(self, worker: str, places: int, *, crowd: int = 1) -> float | None:
        """After how many seconds a worker's tile of so many places is late; None where it was never measured.

        Args:
            worker: Its name.
            places: Of the tile.
            crowd: Requests that are under way now, and may be ahead in the worker's queue.
        """
        known = self._workers.get(worker)
        if known is None:
            return None
        expected = max(places / known.speed, crowd * places / known.alone)
        return expected * min(max(math.exp(_SPREADS * known.spread), _SHORTEST_PATIENCE), _LONGEST_PATIENCE)

    def shares(self, workers: Sequence[str]) -> tuple[float, ...]:
        """The share of the map that each worker should get: positive, 1 in all.

        A worker that was never measured is taken to be as fast as the median of the others.
        """
        key = tuple(workers)
        known = [self._workers[worker].speed for worker in workers if worker in self._workers]
        usual = statistics.median(known) if known else 1.0
        speeds = [self._workers[worker].speed if worker in self._workers else usual for worker in workers]
        wanted = tuple(speed / sum(speeds) for speed in speeds)
        of_whom, used = self._used
        if of_whom != key or any(abs(now / before - 1) > _STEADY for now, before in zip(wanted, used, strict=True)):
            self._used = key, wanted
        return self._used[1]

    def fastest(self, workers: Sequence[str], count: int) -> list[str]:
        """Some of the workers, in their order: those never measured, then the fastest.

        Speeds that differ little are the same, so that the choice stays while they are steady.
        """

        def rank(worker: str) -> float:
            known = self._workers.get(worker)
            return -math.inf if known is None else -round(math.log(known.speed) / _ALIKE)

        chosen = set(sorted(workers, key=rank)[:count])
        return [worker for worker in workers if worker in chosen]

    def _remember(self, worker: str, measured: _Measured) -> None:
        self._workers[worker] = measured
        if len(self._workers) > _MOST_WORKERS:
            del self._workers[next(iter(self._workers))]


def _smoothed(known: float, measured: float) -> float:
    logarithm = (1 - _SMOOTHING) * math.log(known) + _SMOOTHING * math.log(_bounded(measured, known))
    return math.exp(logarithm)


def _bounded(measured: float, known: float) -> float:
    return min(max(measured, known / _LARGEST_STEP), known * _LARGEST_STEP)
