"""Scales, ticks and stepped lines for pictures of something over time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tierflow_cli.picture.svg import number

Point = tuple[float, float | None]
"""A time in seconds and the value from then on; None where there is none."""

_NICE_SECONDS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels: `low` is drawn at `start`, `high` at `stop`, as a logarithm where that is asked for."""

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Where a value is drawn; what lies outside is drawn at the end."""
        inside = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(inside / self.low) / math.log(self.high / self.low)
        else:
            share = (inside - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)


def time_ticks(seconds: float, most: int) -> list[float]:
    """Round times from 0 on, at most so many."""
    step = next((nice for nice in _NICE_SECONDS if seconds / nice <= most), 86_400 * math.ceil(seconds / 86_400 / most))
    return [float(step * place) for place in range(int(seconds / step) + 1)]


def value_scale(values: Sequence[float], start: float, stop: float, *, from_zero: bool = False) -> Scale:
    """A scale that shows all values with some room, as a logarithm where they span a factor of five or more."""
    low, high = min(values), max(values)
    if not from_zero and low > 0 and high / low >= 5:
        return Scale(low / 1.3, high * 1.3, start, stop, logarithmic=True)
    margin = (high - low) * 0.1 or abs(high) * 0.1 or 1.0
    return Scale(0.0 if from_zero or low < margin else low - margin, high + margin, start, stop)


def value_ticks(scale: Scale, *, whole: bool = False) -> list[float]:
    """A few round values of a scale, whole numbers alone where that is asked for."""
    if scale.logarithmic:
        powers = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
        for digits in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
            found = [digit * 10.0**power for power in powers for digit in digits]
            shown = [value for value in found if scale.low <= value <= scale.high]
            if len(shown) >= 3:
                return shown[:: math.ceil(len(shown) / 5)]
        return shown
    rough = (scale.high - scale.low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough)
    step = max(1.0, step) if whole else step
    return [step * place for place in range(math.ceil(scale.low / step), math.floor(scale.high / step) + 1)]


def stepped(points: Sequence[Point], end: float, x: Scale, y: Scale) -> str:
    """Path data of a line that keeps each value until the next one; where there is no value is a gap."""
    return "".join(_pieces(points, end, x, y))


def _pieces(points: Sequence[Point], end: float, x: Scale, y: Scale) -> Iterator[str]:
    at: float | None = None
    for seconds, value in points:
        across, up = x.at(seconds), None if value is None else y.at(value)
        if up is None:
            yield f"H{number(across)}" if at is not None else ""
        elif at is None:
            yield f"M{number(across)} {number(up)}"
        elif abs(at - up) >= 0.05:
            yield f"H{number(across)}V{number(up)}"
        at = up
    if at is not None:
        yield f"H{number(x.at(end))}"
