"""How fast each worker computes tiles, smoothed, and the speeds that tile sizes follow.

Pure: it is told what was measured and asked for speeds. Sizes stay as they are while speeds are steady, so that the
sessions that workers have for their tiles stay in use.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Final

_SMOOTHING: Final = 0.25
"""Weight of the newest tile in the smoothed logarithm of a worker's speed."""

_STEADY: Final = 0.08
"""Sizes follow when a worker's share has changed by more than this part of itself."""

_LARGEST_STEP: Final = 2.0
"""One tile moves a speed at most as if it had been this many times as fast or slow: outliers don't resize tiles."""


class TileSpeeds:
    """Places per second of the workers that compute one run's tiles, the time on the network included."""

    def __init__(self) -> None:
        self._speeds: dict[str, float] = {}
        self._used: dict[tuple[str, ...], tuple[float, ...]] = {}

    def observe(self, worker: str, places: int, seconds: float) -> None:
        """A worker's tile of so many output places took so long."""
        measured = places / max(seconds, 1e-9)
        known = self._speeds.get(worker)
        if known is None:
            self._speeds[worker] = measured
            return
        bounded = min(max(measured, known / _LARGEST_STEP), known * _LARGEST_STEP)
        self._speeds[worker] = math.exp((1 - _SMOOTHING) * math.log(known) + _SMOOTHING * math.log(bounded))

    def expected_seconds(self, worker: str, places: int) -> float | None:
        """How long a worker should take for so many places; None where it was never measured."""
        speed = self._speeds.get(worker)
        return None if speed is None else places / speed

    def forget(self, worker: str) -> None:
        """Forgets a worker that has left; one that comes back is measured anew."""
        self._speeds.pop(worker, None)
        self._used = {workers: shares for workers, shares in self._used.items() if worker not in workers}

    def shares(self, workers: Sequence[str]) -> tuple[float, ...]:
        """The share of the map that each worker should get: positive, 1 in all.

        A worker that was never measured is taken to be as fast as the median of the others.
        """
        key = tuple(workers)
        known = [self._speeds[worker] for worker in workers if worker in self._speeds]
        usual = statistics.median(known) if known else 1.0
        speeds = [self._speeds.get(worker, usual) for worker in workers]
        wanted = tuple(speed / sum(speeds) for speed in speeds)
        used = self._used.get(key)
        if used is None or any(abs(now / before - 1) > _STEADY for now, before in zip(wanted, used, strict=True)):
            self._used[key] = used = wanted
        return used
