"""The optimum, as the cheaper of two minimum cuts: three tiers relayed, and device and cloud direct.

Tiers are ordered, data flows upwards only, and a tensor crosses each boundary at most once: so each boundary of a route
is a cut of its own (`tierflow.partition.crossings`), coupled only in that the upper one must not lie below the lower
one. The boundaries of both routes are cut in one call of the solver, block by block between the graph's bottlenecks
(`tierflow.partition.blocks`) and after merging what no optimum separates (`tierflow.partition.contract`); then the
best blocks, the upper boundary's not before the lower one's, are looked up. Only where both fall into the same block
and overlap the wrong way is the coupled network cut as well.

Ties go to the device: of equal blocks the last, and in a block the cut with the fewest layers above; of two equal
routes the relayed one. The true latency of what was found is evaluated in float64, and its distance to the certified
lower bound (`tierflow.partition.flow`) is the gap that is reported: 0 where it is below `RESOLUTION`.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from tierflow.partition.allowed import Allowed, Pinned, allowed
from tierflow.partition.blocks import Blocks, block_costs, blocks_of, boundary_of
from tierflow.partition.contract import contracted
from tierflow.partition.crossings import Crossings, Mask, cheapest, united
from tierflow.partition.latency import Ranks, check_costs, crossing_cost, evaluate_ranks, tiers_of
from tierflow.partition.problem import Algorithm, Array, Latency, Partition, Problem
from tierflow.segment import Route
from tierflow.tiers import TIERS

RESOLUTION: Final = 1e-9
"""Relative distance to the lower bound up to which a partition counts as optimal."""

_PICOSECOND: Final = 1e-12


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
class _Boundary:
    """A boundary of a route: the rank above it, its crossings, what is pinned, and what each block would choose."""

    rank: int
    crossings: Crossings
    pinned: Pinned


def _cut(problem: Problem, limits: Allowed) -> list[Answer]:
    """The best answer of each route."""
    blocks = blocks_of(problem.graph)
    routes = [
        (route, [_boundary(problem, limits, blocks, below, rank) for below, rank in pairwise(ranks)])
        for route, ranks in limits.routes
    ]
    boundaries = [boundary for _, own in routes for boundary in own]
    # Half of the resolution, relative to what no partition can be below.
    tolerance = RESOLUTION / 2 * float(problem.costs.layer.min(axis=0).sum())
    small, label = contracted(united([boundary.crossings for boundary in boundaries]))
    chosen, distance = cheapest(small, tolerance=tolerance)
    choices = iter(chosen[label].reshape(len(boundaries), -1))
    answers = []
    for route, own in routes:
        ranks, further = limits.lowest, 0.0
        if own:
            ranks, further = _best_blocks(own, blocks, [next(choices) for _ in own], tolerance)
        latency = evaluate_ranks(problem.graph, problem.costs, ranks, route)
        answers.append(Answer(route, ranks, latency, max(latency.total - max(distance, further), 0.0)))
    return answers


def _boundary(problem: Problem, limits: Allowed, blocks: Blocks, below: int, rank: int) -> _Boundary:
    cost = crossing_cost(problem.costs, TIERS[below], TIERS[rank])
    pinned = limits.pinned(rank)
    difference = problem.costs.layer[rank] - problem.costs.layer[below]
    return _Boundary(rank, boundary_of(problem.graph, blocks, cost, difference, pinned), pinned)


def _best_blocks(
    boundaries: list[_Boundary], blocks: Blocks, choices: list[Mask], tolerance: float
) -> tuple[Ranks, float]:
    """The ranks of the best way through a route's boundaries, and its distance to the optimum beside the choices'."""
    costs = [_costs(boundary, blocks, own) for boundary, own in zip(boundaries, choices, strict=True)]
    if len(boundaries) < 2:
        places = [_last_least(cost) for cost in costs]
        return _ranks(boundaries, blocks, choices, places), 0.0
    lower, upper = _ordered(*costs)
    distance = 0.0
    if lower == upper and _overlaps(blocks, choices, lower):
        coupled, distance = _coupled(boundaries, tolerance)
        together = _costs(boundaries[0], blocks, coupled[0]) + _costs(boundaries[1], blocks, coupled[1])
        apart_lower, apart_upper = _ordered(*costs, apart=True)
        block = _last_least(together)
        if together[block] < costs[0][apart_lower] + costs[1][apart_upper]:
            choices, lower, upper = coupled, block, block
        else:
            lower, upper = apart_lower, apart_upper
    return _ranks(boundaries, blocks, choices, [lower, upper]), distance


def _costs(boundary: _Boundary, blocks: Blocks, choice: Mask) -> Array:
    return block_costs(boundary.crossings, blocks, choice, boundary.pinned)


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


def _coupled(boundaries: list[_Boundary], tolerance: float) -> tuple[list[Mask], float]:
    """The choices of all blocks in which both boundaries are crossed."""
    layers = len(boundaries[0].crossings.difference)
    places = np.arange(layers)
    chosen, distance = cheapest(
        united([boundary.crossings for boundary in boundaries]),
        tolerance=tolerance,
        coupled=np.stack([places + layers, places]),
    )
    return list(chosen.reshape(2, layers)), distance


def _ranks(boundaries: list[_Boundary], blocks: Blocks, choices: list[Mask], places: list[int]) -> Ranks:
    """The ranks of the layers where each boundary is crossed in its block and all after that is above."""
    layers = len(choices[0])
    ranks = np.zeros(layers, dtype=np.int8)
    starts = np.append(blocks.first, [layers, layers])
    for boundary, choice, block in zip(boundaries, choices, places, strict=True):
        begin, end = int(starts[block]), int(starts[block + 1])
        ranks[begin:end][choice[begin:end]] = boundary.rank
        ranks[end:] = boundary.rank
    return ranks
