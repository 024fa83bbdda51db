"""Reverse tile calculation along one axis: from places of an output back to the places of the input that they need.

All intervals are half-open. The equations are those of DeepThings and D3's VSM, with dilation and with the padding that
a tile keeps at the map's own border.
"""

from typing import NamedTuple


class Interval(NamedTuple):
    """The places `start` to `stop`, `stop` not included."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of places."""
        return self.stop - self.start

    def union(self, other: "Interval") -> "Interval":
        """The smallest interval that holds both."""
        return Interval(min(self.start, other.start), max(self.stop, other.stop))

    def contains(self, other: "Interval") -> bool:
        """Whether all of `other` is inside."""
        return self.start <= other.start and other.stop <= self.stop


class Region(NamedTuple):
    """A rectangle of a feature map."""

    rows: Interval
    columns: Interval

    @property
    def area(self) -> int:
        """Number of places."""
        return self.rows.length * self.columns.length

    def union(self, other: "Region") -> "Region":
        """The smallest rectangle that holds both."""
        return Region(self.rows.union(other.rows), self.columns.union(other.columns))

    def contains(self, other: "Region") -> bool:
        """Whether all of `other` is inside."""
        return self.rows.contains(other.rows) and self.columns.contains(other.columns)


class Window(NamedTuple):
    """How a sliding window walks along one axis of the whole map: sizes in places of its input.

    `ceil` is ONNX's `ceil_mode`: a last window may hang over the end of the padded input.
    """

    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    pad_begin: int = 0
    pad_end: int = 0
    ceil: bool = False

    @property
    def reach(self) -> int:
        """Places from the window's first to its last element, both included."""
        return self.dilation * (self.kernel - 1) + 1


class Need(NamedTuple):
    """What an output interval needs: places of the input, and the padding that remains on either side of them."""

    places: Interval
    pad_begin: int
    pad_end: int


def window_need(window: Window, output: Interval, output_extent: int, input_extent: int) -> Need:
    """The input that the output places `output` of a sliding window need.

    The first window of `output` starts at `start * stride - pad_begin`, the last ends `reach` further than its own
    start; what lies outside of the map is padding on that side only. Where a window may hang over (`ceil`), the last
    output keeps the map's own end and padding, so that the runtime cuts it off as it does for the whole map.

    Args:
        window: The walk over the whole map.
        output: Places of the output, not empty, within `output_extent`.
        output_extent: Length of the whole output.
        input_extent: Length of the whole input.
    """
    first = output.start * window.stride - window.pad_begin
    last = (output.stop - 1) * window.stride - window.pad_begin + window.reach
    pad_begin = max(0, -first)
    if window.ceil and output.stop == output_extent:
        return Need(Interval(max(0, first), input_extent), pad_begin, window.pad_end)
    return Need(Interval(max(0, first), min(last, input_extent)), pad_begin, max(0, last - input_extent))


def window_made(window: Window, output: Interval, input_extent: int) -> Interval:
    """The output to make where `output` is asked for: the same, unless all its windows lie in the padding.

    A tile has to be given at least one place of the map, so it is widened to the nearest window that touches the map.
    """
    first_that_touches = (window.pad_begin - window.reach) // window.stride + 1
    last_that_touches = (input_extent - 1 + window.pad_begin) // window.stride
    return Interval(min(output.start, last_that_touches), max(output.stop, first_that_touches + 1))


def scale_need(factor: int, output: Interval) -> tuple[Interval, Interval]:
    """For a layer that repeats each input place `factor` times: the input that is needed, and the output it makes.

    The output made starts and stops at multiples of `factor`, so it can be larger than what was asked for.
    """
    needed = Interval(output.start // factor, -(-output.stop // factor))
    return needed, Interval(needed.start * factor, needed.stop * factor)


def even_split(extent: int, parts: int) -> tuple[int, ...]:
    """Boundaries of `parts` tiles of nearly equal length: `parts + 1` places from 0 to `extent`."""
    return tuple(extent * part // parts for part in range(parts + 1))


def weighted_split(extent: int, weights: tuple[float, ...]) -> tuple[int, ...]:
    """Boundaries of tiles in proportion to positive `weights`, each at least one place long while `extent` allows."""
    total = sum(weights)
    bounds = [0]
    passed = 0.0
    for index, weight in enumerate(weights):
        passed += weight
        left = len(weights) - 1 - index
        bounds.append(max(bounds[-1] + 1, min(round(extent * passed / total), extent - left)))
    bounds[-1] = extent
    return tuple(bounds)
