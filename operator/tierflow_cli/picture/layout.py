"""Places boxes in rows and lines between them: a layered drawing (Sugiyama, Tagawa and Toda 1981) in four steps.

Rows are given. A box's output that reaches further than the next row runs down in a *trunk* that all its readers share,
as a tensor that is sent once is. Boxes and trunks are ordered within their rows by barycentre sweeps that keep the best
order seen, then moved as near to their neighbours' mean as the order and their widths allow.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

_SWEEPS: Final = 12
_MOVES: Final = 24
_BOX_GAP: Final = 22.0
_TRUNK_GAP: Final = 12.0
_TRUNK_WIDTH: Final = 4.0
_STRAIGHT: Final = 8.0
"""How much harder neighbours pull that have only each other there: trunks and chains are to be straight first."""
_AXIS: Final = 0.0
"""Where a box stands that has a row to itself, so that a row of such boxes does not drift."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line from box `source` to box `target`, through the x at each row between them."""

    source: int
    target: int
    bends: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Where everything is: the centre of each box, the lines, and the width of the whole, which starts at 0."""

    centres: tuple[float, ...]
    lines: tuple[Line, ...]
    width: float


@dataclass(slots=True)
class _Rows:
    """Boxes (numbers below `boxes`) and trunk points (the numbers after) by row, with their neighbours."""

    widths: list[float]
    boxes: int
    rows: list[list[int]]
    above: list[list[int]] = field(default_factory=list)
    below: list[list[int]] = field(default_factory=list)

    def is_trunk(self, number: int) -> bool:
        return number >= self.boxes


def arrange(widths: Sequence[float], rows: Sequence[int], edges: Sequence[tuple[int, int]]) -> Arrangement:
    """Places boxes.

    Args:
        widths: Of each box.
        rows: Of each box, from 0; an edge's target is in a later row than its source.
        edges: (source, target), each once.
    """
    if not widths:
        return Arrangement((), (), 0.0)
    graph, trunks = _with_trunks(widths, rows, edges)
    _order(graph)
    shown = list(graph.widths)
    _widen_chains(graph)
    x = _coordinates(graph)
    left = min(place - width / 2 for place, width in zip(x, shown, strict=True))
    right = max(place + width / 2 for place, width in zip(x, shown, strict=True))
    x = [place - left for place in x]
    lines = tuple(
        Line(
            source,
            target,
            tuple((row, x[trunks[source, row]]) for row in range(rows[source] + 1, rows[target])),
        )
        for source, target in edges
    )
    return Arrangement(tuple(x[: len(widths)]), lines, right - left)


def _with_trunks(
    widths: Sequence[float], rows: Sequence[int], edges: Sequence[tuple[int, int]]
) -> tuple[_Rows, dict[tuple[int, int], int]]:
    """Adds a trunk point in each row that an output passes; returns them by (source, row) as well."""
    graph = _Rows(list(widths), len(widths), [[] for _ in range(max(rows) + 1)])
    graph.above = [[] for _ in widths]
    graph.below = [[] for _ in widths]
    for number, row in enumerate(rows):
        graph.rows[row].append(number)
    trunks: dict[tuple[int, int], int] = {}
    for source, target in edges:
        before = source
        for row in range(rows[source] + 1, rows[target]):
            if (source, row) not in trunks:
                trunks[source, row] = len(graph.widths)
                graph.widths.append(_TRUNK_WIDTH)
                graph.rows[row].append(trunks[source, row])
                graph.above.append([before])
                graph.below.append([])
                graph.below[before].append(trunks[source, row])
            before = trunks[source, row]
        graph.below[before].append(target)
        graph.above[target].append(before)
    return graph, trunks


def _widen_chains(graph: _Rows) -> None:
    """Gives boxes that follow each other alone the same room beside them, so that they can stand in a line."""
    chain: dict[int, list[int]] = {}
    for row in graph.rows:
        for number in row:
            above = graph.above[number]
            follows = len(above) == 1 and not graph.is_trunk(above[0]) and _only_each_other(graph, number, above[0])
            if not graph.is_trunk(number):
                chain[number] = chain[above[0]] if follows else []
                chain[number].append(number)
    for members in chain.values():
        widest = max(graph.widths[number] for number in members)
        for number in members:
            graph.widths[number] = widest


def _order(graph: _Rows) -> None:
    """Reorders the rows so that few lines cross."""
    best = [list(row) for row in graph.rows]
    fewest = _crossings(graph)
    for sweep in range(_SWEEPS):
        if fewest == 0:
            break
        down = sweep % 2 == 0
        numbers = range(1, len(graph.rows)) if down else range(len(graph.rows) - 2, -1, -1)
        for row in numbers:
            near = graph.rows[row - 1] if down else graph.rows[row + 1]
            _sort_by_barycentre(graph.rows[row], near, graph.above if down else graph.below)
        crossings = _crossings(graph)
        if crossings < fewest:
            fewest = crossings
            best = [list(row) for row in graph.rows]
    graph.rows = [_in_natural_order(graph, row) for row in best]


def _in_natural_order(graph: _Rows, row: Sequence[int]) -> list[int]:
    """Puts boxes with the same neighbours, which may change places freely, in the order of their numbers."""
    alike: dict[object, list[int]] = {}
    for number in row:
        alike.setdefault((tuple(graph.above[number]), tuple(graph.below[number])), []).append(number)
    turn = {key: iter(sorted(numbers)) for key, numbers in alike.items()}
    return [next(turn[tuple(graph.above[number]), tuple(graph.below[number])]) for number in row]


def _sort_by_barycentre(row: list[int], near: Sequence[int], neighbours: Sequence[Sequence[int]]) -> None:
    position = {number: place for place, number in enumerate(near)}
    scale = len(near) / max(len(row), 1)

    def barycentre(entry: tuple[int, int]) -> float:
        place, number = entry
        found = [position[other] for other in neighbours[number]]
        # What has no neighbour there stays about where it is.
        return sum(found) / len(found) if found else place * scale

    row[:] = [number for _, number in sorted(enumerate(row), key=barycentre)]


def _crossings(graph: _Rows) -> int:
    """Counts pairs of lines between neighbouring rows that cross, with a Fenwick tree per pair of rows."""
    total = 0
    for upper, lower in pairwise(graph.rows):
        position = {number: place for place, number in enumerate(lower)}
        tree = [0] * (len(lower) + 1)
        seen = 0
        for number in upper:
            ends = sorted(position[other] for other in graph.below[number])
            for end in ends:
                total += seen - _sum_up_to(tree, end + 1)
            for end in ends:
                _add(tree, end + 1)
            seen += len(ends)
    return total


def _sum_up_to(tree: Sequence[int], index: int) -> int:
    total = 0
    while index > 0:
        total += tree[index]
        index -= index & -index
    return total


def _add(tree: list[int], index: int) -> None:
    while index < len(tree):
        tree[index] += 1
        index += index & -index


def _coordinates(graph: _Rows) -> list[float]:
    """The x of each box and trunk point: sweeps down and up, each row moved towards its neighbours."""
    x = [0.0] * len(graph.widths)
    for row in graph.rows:
        _settle(graph, row, [0.0] * len(row), [1.0] * len(row), x)
    for move in range(_MOVES):
        down = move % 2 == 0
        last = move >= _MOVES - 2
        for row in graph.rows if down else reversed(graph.rows):
            if len(row) == 1:
                x[row[0]] = _AXIS
                continue
            wanted, weights = [], []
            for number in row:
                near = (graph.above[number] if down else graph.below[number]) if not last else []
                near = near or graph.above[number] + graph.below[number]
                place, weight = _mean(graph, number, near, x)
                wanted.append(place)
                weights.append(weight)
            _settle(graph, row, wanted, weights, x)
    return x


def _mean(graph: _Rows, number: int, near: Sequence[int], x: Sequence[float]) -> tuple[float, float]:
    if not near:
        return x[number], 0.1
    pulls = [_STRAIGHT if _only_each_other(graph, number, other) else 1.0 for other in near]
    total = sum(pulls)
    return sum(pull * x[other] for pull, other in zip(pulls, near, strict=True)) / total, total


def _only_each_other(graph: _Rows, one: int, other: int) -> bool:
    upper, lower = (one, other) if other in graph.below[one] else (other, one)
    return len(graph.below[upper]) == 1 == len(graph.above[lower])


def _settle(
    graph: _Rows, row: Sequence[int], wanted: Sequence[float], weights: Sequence[float], x: list[float]
) -> None:
    """Moves a row as near to `wanted` as its order and its widths allow."""
    gaps = [_TRUNK_GAP if graph.is_trunk(left) or graph.is_trunk(right) else _BOX_GAP for left, right in pairwise(row)]
    places = spread(wanted, [graph.widths[number] for number in row], weights, gaps)
    for number, place in zip(row, places, strict=True):
        x[number] = place


def spread(
    wanted: Sequence[float], widths: Sequence[float], weights: Sequence[float], gaps: Sequence[float]
) -> list[float]:
    """The centres nearest to `wanted`, in weighted least squares, that keep the order and do not overlap.

    With the distances subtracted this is isotonic regression, solved exactly by pooling adjacent violators.

    Args:
        wanted: Where each would be alone.
        widths: Of each.
        weights: How much each insists.
        gaps: Least distance between each and the next.
    """
    offsets = [0.0] if widths else []
    for left, right, gap in zip(widths, widths[1:], gaps, strict=False):
        offsets.append(offsets[-1] + (left + right) / 2 + gap)
    pools: list[tuple[float, float, int]] = []
    for place, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, total, members = place - offset, weight, 1
        while pools and pools[-1][0] > mean:
            before, heavy, many = pools.pop()
            mean = (before * heavy + mean * total) / (heavy + total)
            total += heavy
            members += many
        pools.append((mean, total, members))
    settled = [mean for mean, _, members in pools for _ in range(members)]
    return [mean + offset for mean, offset in zip(settled, offsets, strict=True)]
