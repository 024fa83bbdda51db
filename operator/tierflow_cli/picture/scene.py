"""Everything on the page in its place: boxes, lines and labels, with coordinates, before any of it is written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tierflow.graph import Graph
from tierflow.segment import Route
from tierflow.tiers import Tier
from tierflow_cli.picture.bands import BOX_HEIGHT, Band, bands_of, rows_of
from tierflow_cli.picture.boxes import Box, Edge, Sketch, sketch_of
from tierflow_cli.picture.collapse import zones_of
from tierflow_cli.picture.crossings import Label, crossing_tensors, labels_of
from tierflow_cli.picture.layout import Arrangement, Line, arrange
from tierflow_cli.picture.svg import text_width

TITLE_SIZE: Final = 12.0
CAPTION_SIZE: Final = 10.5
_BOX_PADDING: Final = 12.0
_LEAST_BOX: Final = 84.0
_STRIP_PADDING: Final = 8.0
"""Less than half the space between rows, so that runs which follow each other stay apart."""
_BELOW: Final = (Tier.DEVICE, Tier.EDGE)
"""The tiers that have one above them: a boundary is named by the tier below it."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A box, its centre, its width and its upper edge."""

    box: Box
    centre: float
    width: float
    top: float


@dataclass(frozen=True, slots=True)
class Routed:
    """An edge and the points that its line passes, downwards."""

    edge: Edge
    points: tuple[tuple[float, float], ...]
    crosses: bool


@dataclass(frozen=True, slots=True)
class Written:
    """A label of a boundary and the height of its middle."""

    label: Label
    y: float
    below: Tier


@dataclass(frozen=True, slots=True)
class Strip:
    """A run's part of the edge's band: its number, and its upper and lower edge."""

    run: int
    top: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Scene:
    """The page: x from 0 to `width`, y from what was asked for to `bottom`."""

    boxes: tuple[Placed, ...]
    lines: tuple[Routed, ...]
    labels: tuple[Written, ...]
    bands: tuple[Band, Band, Band]
    strips: tuple[Strip, ...]
    width: float

    @property
    def bottom(self) -> float:
        """The lower edge of the last band."""
        return self.bands[-1].bottom


def scene_of(
    graph: Graph, tiers: Sequence[Tier], route: Route, top: float, runs: Sequence[Sequence[int]] = ()
) -> Scene:
    """Places everything.

    Args:
        graph: The whole graph.
        tiers: The tier of each layer.
        route: How tensors get to the cloud.
        top: Where the first band begins.
        runs: For each run of the edge the places of its layers.
    """
    sketch = sketch_of(graph, zones_of(tiers, runs))
    rows = rows_of(sketch)
    # What goes straight to the cloud is written once, where it arrives.
    crossing = {
        below: {} if route is Route.DIRECT and below is Tier.DEVICE else crossing_tensors(sketch, below)
        for below in _BELOW
    }
    bands = bands_of(sketch, rows, [bool(crossing[below]) for below in _BELOW], top)
    widths = [_width(box) for box in sketch.boxes]
    arrangement = arrange(widths, rows, [(edge.source, edge.target) for edge in sketch.edges])
    labels = {
        below: labels_of(graph, crossing[below], _near(arrangement, rows, bands[below.rank].rows.stop - 1))
        for below in _BELOW
    }
    left = min([0.0, *(label.centre - label.width / 2 for found in labels.values() for label in found)])
    right = max([arrangement.width, *(label.centre + label.width / 2 for found in labels.values() for label in found)])
    plan = _Page(sketch, rows, bands, arrangement, labels, -left)
    return Scene(
        boxes=tuple(plan.placed(number) for number in range(len(sketch.boxes))),
        lines=tuple(plan.routed(edge, line) for edge, line in zip(sketch.edges, arrangement.lines, strict=True)),
        labels=tuple(
            Written(plan.shifted(label), plan.gap(below), below) for below in _BELOW for label in labels[below]
        ),
        bands=bands,
        strips=tuple(plan.strips()),
        width=right - left,
    )


def _width(box: Box) -> float:
    widest = max(text_width(box.title, TITLE_SIZE, bold=True), text_width(box.caption, CAPTION_SIZE))
    return max(_LEAST_BOX, widest + 2 * _BOX_PADDING)


def _near(arrangement: Arrangement, rows: Sequence[int], last_row: int) -> dict[int, float]:
    """For each box above a boundary, where its line leaves the last row above it."""
    near = {number: arrangement.centres[number] for number, row in enumerate(rows) if row <= last_row}
    for line in arrangement.lines:
        for row, x in line.bends:
            if row == last_row:
                near[line.source] = x
    return near


@dataclass(frozen=True, slots=True)
class _Page:
    sketch: Sketch
    rows: tuple[int, ...]
    bands: tuple[Band, Band, Band]
    arrangement: Arrangement
    labels: dict[Tier, tuple[Label, ...]]
    shift: float

    def placed(self, number: int) -> Placed:
        box = self.sketch.boxes[number]
        return Placed(box, self.arrangement.centres[number] + self.shift, _width(box), self.row_top(self.rows[number]))

    def row_top(self, row: int) -> float:
        return next(band for band in self.bands if row in band.rows).row_top(row)

    def strips(self) -> Iterator[Strip]:
        """The runs, which have rows of their own."""
        rows: dict[int, list[int]] = {}
        for row, box in zip(self.rows, self.sketch.boxes, strict=True):
            if box.zone.run is not None:
                rows.setdefault(box.zone.run, []).append(row)
        for run, own in sorted(rows.items()):
            top, bottom = self.row_top(min(own)), self.row_top(max(own)) + BOX_HEIGHT
            yield Strip(run, top - _STRIP_PADDING, bottom + _STRIP_PADDING)

    def gap(self, below: Tier) -> float:
        """The middle of the gap above the tier after `below`."""
        return (self.bands[below.rank].bottom + self.bands[below.rank + 1].top) / 2

    def shifted(self, label: Label) -> Label:
        return Label(label.sources, label.tensors, label.text, label.centre + self.shift, label.width)

    def routed(self, edge: Edge, line: Line) -> Routed:
        first, last = self.rows[edge.source], self.rows[edge.target]
        points = [(self.arrangement.centres[edge.source], self.row_top(first) + BOX_HEIGHT)]
        for row, x in line.bends:
            points += self._through_gaps(edge, row)
            points += [(x, self.row_top(row)), (x, self.row_top(row) + BOX_HEIGHT)]
        points += self._through_gaps(edge, last)
        points.append((self.arrangement.centres[edge.target], self.row_top(last)))
        crosses = self.sketch.boxes[edge.source].tier is not self.sketch.boxes[edge.target].tier
        return Routed(edge, tuple((x + self.shift, y) for x, y in points), crosses)

    def _through_gaps(self, edge: Edge, row: int) -> list[tuple[float, float]]:
        """Points at the labels that the line passes between the row before `row` and it."""
        points = []
        for below in _BELOW:
            if self.bands[below.rank].rows.stop == row:
                own = (label for label in self.labels[below] if label.sources == (edge.source,))
                points += [(label.centre, self.gap(below) + side * 12) for label in own for side in (-1, 1)]
        return points
