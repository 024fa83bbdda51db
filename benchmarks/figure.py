"""One figure of the benchmark, and the ways to measure that all areas share."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value with its goal.

    Attributes:
        area: What it belongs to: graph, cost, partition, segments, worker, chain, local.
        name: What was measured.
        value: The figure.
        unit: `ms`, `MB`, `x` (a ratio), `%`, `count`.
        goal: The wanted value in words, like `<= 5`; "" where the figure only informs.
        holds: Whether the goal is met; None where there is none.
    """

    area: str
    name: str
    value: float
    unit: str
    goal: str = ""
    holds: bool | None = None


def at_most(area: str, name: str, value: float, unit: str, limit: float) -> Figure:
    """A figure whose goal is `<= limit`."""
    return Figure(area, name, value, unit, f"<= {limit:g}", value <= limit)


def at_least(area: str, name: str, value: float, unit: str, limit: float) -> Figure:
    """A figure whose goal is `>= limit`."""
    return Figure(area, name, value, unit, f">= {limit:g}", value >= limit)


def interleaved(
    calls: Sequence[Callable[[], Any]],
    *,
    rounds: int,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Times each call once per round, in turn, so that a machine that drifts does so for all of them.

    Args:
        calls: What to time.
        rounds: That count.
        warm_up: Rounds before, that don't.
        clock: Seconds; `time.process_time` leaves out what others take of the processor, for calls that only compute.

    Returns:
        Per call the seconds of each counted round.
    """
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(warm_up + rounds):
        for seconds, call in zip(times, calls, strict=True):
            began = clock()
            call()
            if turn >= warm_up:
                seconds.append(clock() - began)
    return times


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median of the ratios round by round."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))
