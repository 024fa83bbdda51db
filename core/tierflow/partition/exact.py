"""The optimum, as the cheaper of two minimum cuts: three tiers relayed, and device and cloud direct.

Tiers are ordered, data flows upwards only, and a tensor crosses each boundary at most once: so each boundary of a route
is a cut of its own (`tierflow.partition.crossings`), coupled only in that the upper one must not lie below the lower
one. The boundaries of both routes are cut in one call of the solver, block by block between the graph's bottlenecks
(`tierflow.partition.blocks`); then the best blocks, the upper boundary's not before the lower one's, are looked up.
Only where both fall into the same block and overlap the wrong way is the coupled network cut as well. Before that,
blocks and layers are left out whose side a known partition settles (`tierflow.partition.settle`), and layers merged
that no optimum separates (`tierflow.partition.contract`).

Ties go to the device: of equal blocks the last, and in a block the cut with the fewest layers above; of two equal
routes the relayed one. The true latency of what was found is evaluated in float64, and its distance to the certified
lower bound (`tierflow.partition.flow`) is the gap that is reported: 0 where it is below `RESOLUTION`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np

from tierflow.errors import InvalidInputError
from tierflow.graph import Mask
from tierflow.partition.allowed import Allowed, allowed
from tierflow.partition.blocks import Blocks, block_costs, blocks_of, boundary_of, by_block, least_costs
from tierflow.partition.contract import contracted, without_given
from tierflow.partition.crossings import Crossings, cheapest, flow_network, united
from tierflow.partition.flow import FlowNetwork
from tierflow.partition.latency import Ranks, check_costs, crossing_cost, evaluate_ranks, tiers_of
from tierflow.partition.problem import Algorithm, Array, Latency, Partition, Problem
from tierflow.partition.settle import Origins, order_costs, origins_of, settled
from tierflow.segment import Route
from tierflow.tiers import TIERS

RESOLUTION: Final = 1e-9
"""Relative distance to the lower bound up to which a partition counts as optimal."""

_PICOSECOND: Final = 1e-12
_ROUNDING: Final = 1e-13
"""Of a sum of thousands of costs, relative to them."""
_FEW_LAYERS: Final = 60
"""Layers up to which a network is cut in less time than it takes to make it smaller."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The best partition of one route, and what no partition of it can be below, in seconds."""

    route: Route
    ranks: Ranks
    latency: Latency
    lower_bound: float


def exact(problem: Problem) -> Partition:
    """The optimal partition; budgets are not looked at (`tierflow.partition.budgets` does).

    Raises:
        InvalidInputError: where a pin names a layer that isn't there, or a cost is negative or infinite.
        InfeasibleError: where pins and unavailable tiers conflict.
    """
    check_costs(problem.graph, problem.costs)
    limits = allowed(problem.graph, problem.constraints)
    if any(len(ranks) > 1 for _, ranks in limits.routes) and problem.graph.layers:
        return partition_of(_cut(problem, limits), Algorithm.EXACT)
    latency = evaluate_ranks(problem.graph, problem.costs, limits.lowest, Route.RELAYED)
    return partition_of([Answer(Route.RELAYED, limits.lowest, latency, latency.total)], Algorithm.EXACT)


def whole_network(problem: Problem) -> FlowNetwork:
    """The flow network of all routes with nothing left out, merged or settled, to compare other solvers on.

    The routes share source and sink alone, so that its minimum cut is the sum of theirs.

    Raises:
        InvalidInputError: as `exact`, and where there is no route to cut.
        InfeasibleError: as `exact`.
    """
    limits = allowed(problem.graph, problem.constraints)
    ways = [_way(problem, limits, route, ranks) for route, ranks in limits.routes]
    boundaries = [boundary for way in ways for boundary in way.boundaries]
    if not boundaries or not problem.graph.layers:
        raise InvalidInputError("neither edge nor cloud can compute anything: there is nothing to cut")
    layers = len(problem.graph.layers)
    # The relayed route is the first, and the only one with two boundaries.
    places = np.arange(layers if len(ways[0].boundaries) == 2 else 0)
    return flow_network(united(boundaries), np.stack([places + layers, places]))


def partition_of(answers: list[Answer], algorithm: Algorithm, *, resolution: float = RESOLUTION) -> Partition:
    """The best of the answers, the first of equals, with its gap to the smallest of all lower bounds."""
    best = min(answers, key=lambda answer: answer.latency.total)
    return Partition(
        tiers=tiers_of(best.ranks),
        route=best.route,
        latency=best.latency,
        optimality_gap=gap(best.latency.total, min(answer.lower_bound for answer in answers), resolution=resolution),
        algorithm=algorithm,
    )


def gap(latency: float, optimum: float, *, resolution: float = RESOLUTION) -> float:
    """(latency - optimum) / optimum; 0 within the resolution, and for less than a picosecond."""
    distance = latency - optimum
    return distance / max(optimum, _PICOSECOND) if distance > max(resolution * latency, _PICOSECOND) else 0.0


@dataclass(frozen=True, slots=True)
class _Way:
    """A route, the ranks of its tiers, the boundaries between them, and by boundary the blocks where it can't lie."""

    route: Route
    ranks: tuple[int, ...]
    boundaries: tuple[Crossings, ...]
    hopeless: tuple[Mask, ...] = ()


def _cut(problem: Problem, limits: Allowed) -> list[Answer]:
    """The best answer of each route that can have the best of all."""
    blocks = blocks_of(problem.graph)
    ways, known = _promising(problem, blocks, [_way(problem, limits, route, ranks) for route, ranks in limits.routes])
    boundaries = [
        by_block(boundary, blocks, hopeless=hopeless)
        for way in ways
        for boundary, hopeless in zip(way.boundaries, way.hopeless, strict=True)
    ]
    # Half of the resolution, relative to what no partition can be below.
    tolerance = RESOLUTION / 2 * float(problem.costs.layer.min(axis=0).sum())
    choices: Iterator[Mask] = iter(())
    distance = 0.0
    if boundaries:
        chosen, distance = _cheapest(united(boundaries), tolerance)
        choices = iter(chosen.reshape(len(boundaries), -1))
    answers = []
    for way in ways:
        ranks, further = limits.lowest, 0.0
        if way.boundaries:
            ranks, further = _best_blocks(way, blocks, [next(choices) for _ in way.boundaries], tolerance)
        latency = evaluate_ranks(problem.graph, problem.costs, ranks, way.route)
        bound = min(latency.total - max(distance, further), known)
        answers.append(Answer(way.route, ranks, latency, max(bound, 0.0)))
    return answers


def _way(problem: Problem, limits: Allowed, route: Route, ranks: tuple[int, ...]) -> _Way:
    layer = problem.costs.layer
    boundaries = [
        boundary_of(
            problem.graph,
            crossing_cost(problem.costs, TIERS[below], TIERS[above]),
            layer[above] - layer[below],
            limits.pinned(above),
        )
        for below, above in pairwise(ranks)
    ]
    return _Way(route, ranks, tuple(boundaries))


def _promising(problem: Problem, blocks: Blocks, ways: list[_Way]) -> tuple[list[_Way], float]:
    """The routes that can be the best, with all left out that a known latency rules out; that latency."""
    known = min(_best_of_order(problem, way) for way in ways)
    lowest = float(problem.costs.layer[0].sum())
    sums = known + sum(float(np.abs(boundary.difference).sum()) for way in ways for boundary in way.boundaries)
    limit = known - lowest + RESOLUTION * lowest + _ROUNDING * sums
    origins = origins_of(problem.graph, blocks)
    left = []
    for way in ways:
        least = _least_of_route(way, blocks)
        if any(costs.min() > limit for costs in least):
            continue
        boundaries = way.boundaries
        if origins:
            # How much a partition that is worth looking at may be above what none of this route is below.
            gains = sum(float(np.minimum(boundary.difference, 0.0).sum()) for boundary in boundaries)
            boundaries = _settled(boundaries, blocks, origins, max(known - lowest - gains, 0.0))
        if not any((boundary.is_below & boundary.is_above).any() for boundary in boundaries):
            hopeless = tuple([costs[:-1] > limit for costs in least])
            left.append(replace(way, boundaries=boundaries, hopeless=hopeless))
    return left, known


def _least_of_route(way: _Way, blocks: Blocks) -> list[Array]:
    """For each boundary of a route and each block what no partition that crosses it there can be below.

    Shape [blocks + 1] each: more than with all below; the last: that crosses it nowhere.
    """
    least = [least_costs(boundary, blocks) for boundary in way.boundaries]
    if len(least) < 2:
        return least
    lower, upper = least
    return [lower + np.minimum.accumulate(upper[::-1])[::-1], upper + np.minimum.accumulate(lower)]


def _settled(
    boundaries: tuple[Crossings, ...], blocks: Blocks, origins: Origins, at_most: float
) -> tuple[Crossings, ...]:
    pinned = tuple([settled(boundary, blocks, origins, at_most) for boundary in boundaries])
    if len(pinned) < 2:
        return pinned
    lower, upper = pinned
    return (
        replace(lower, is_above=lower.is_above | upper.is_above),
        replace(upper, is_below=upper.is_below | lower.is_below),
    )


def _best_of_order(problem: Problem, way: _Way) -> float:
    """The latency of the best cut of the layers' order; infinite where none respects the pins."""
    costs = [order_costs(problem.graph, boundary) for boundary in way.boundaries]
    if not costs:
        return math.inf
    places = [_last_least(costs[0])] if len(costs) == 1 else list(_ordered(*costs))
    if not np.isfinite(sum(cost[place] for cost, place in zip(costs, places, strict=True))):
        return math.inf
    ranks = np.full(len(problem.graph.layers), way.ranks[0], dtype=np.int8)
    for place, rank in zip(places, way.ranks[1:], strict=True):
        ranks[place:] = rank
    return evaluate_ranks(problem.graph, problem.costs, ranks, way.route).total


def _cheapest(crossings: Crossings, tolerance: float) -> tuple[Mask, float]:
    """As `tierflow.partition.crossings.cheapest`, of the problem made smaller."""
    free, place = without_given(crossings)
    if len(free.difference) == 1:
        return place == 0, 0.0
    small, label = contracted(free) if len(free.difference) > _FEW_LAYERS else (free, None)
    chosen, distance = cheapest(small, tolerance=tolerance)
    if label is not None:
        chosen = chosen[label]
    return np.append(chosen, False)[place], distance


def _best_blocks(way: _Way, blocks: Blocks, choices: list[Mask], tolerance: float) -> tuple[Ranks, float]:
    """The ranks of the best way through a route's boundaries, and its distance to the optimum beside the choices'."""
    costs = [block_costs(boundary, blocks, own) for boundary, own in zip(way.boundaries, choices, strict=True)]
    if len(costs) < 2:
        return _ranks(way, blocks, choices, [_last_least(costs[0])]), 0.0
    lower, upper = _ordered(*costs)
    distance = 0.0
    if lower == upper and _overlaps(blocks, choices, lower):
        coupled, distance = _coupled(way, blocks, tolerance)
        together = block_costs(way.boundaries[0], blocks, coupled[0]) + block_costs(
            way.boundaries[1], blocks, coupled[1]
        )
        apart_lower, apart_upper = _ordered(*costs, apart=True)
        block = _last_least(together)
        if together[block] < costs[0][apart_lower] + costs[1][apart_upper]:
            choices, lower, upper = coupled, block, block
        else:
            lower, upper = apart_lower, apart_upper
    return _ranks(way, blocks, choices, [lower, upper]), distance


def _last_least(costs: Array) -> int:
    return len(costs) - 1 - int(np.argmin(costs[::-1]))


def _ordered(lower: Array, upper: Array, *, apart: bool = False) -> tuple[int, int]:
    """The blocks in which to cross two boundaries, the upper not before the lower, or, `apart`, after it.

    The last place stands for crossing nowhere, which both may do.
    """
    rest = np.minimum.accumulate(upper[::-1])[::-1]
    if apart:
        rest = np.append(rest[1:], rest[-1])
    first = _last_least(lower + rest)
    after = min(first + int(apart), len(upper) - 1)
    return first, after + _last_least(upper[after:])


def _overlaps(blocks: Blocks, choices: list[Mask], block: int) -> bool:
    """Whether a layer of the block is above the upper boundary and below the lower one."""
    if block == len(blocks.first):
        return False
    end = blocks.first[block + 1] if block + 1 < len(blocks.first) else None
    inside = slice(blocks.first[block], end)
    return bool((choices[1][inside] & ~choices[0][inside]).any())


def _coupled(way: _Way, blocks: Blocks, tolerance: float) -> tuple[list[Mask], float]:
    """The choices of all blocks in which both boundaries are crossed."""
    places = np.arange(len(blocks.bottleneck))
    chosen, distance = cheapest(
        united([by_block(boundary, blocks) for boundary in way.boundaries]),
        tolerance=tolerance,
        coupled=np.stack([places + len(places), places]),
    )
    return list(chosen.reshape(2, -1)), distance


def _ranks(way: _Way, blocks: Blocks, choices: list[Mask], places: list[int]) -> Ranks:
    """The ranks of the layers where each boundary is crossed in its block and all after that is above."""
    layers = len(blocks.bottleneck)
    ranks = np.full(layers, way.ranks[0], dtype=np.int8)
    starts = np.append(blocks.first, [layers, layers])
    for rank, choice, block in zip(way.ranks[1:], choices, places, strict=True):
        begin, end = int(starts[block]), int(starts[block + 1])
        ranks[begin:end][choice[begin:end]] = rank
        ranks[end:] = rank
    return ranks
