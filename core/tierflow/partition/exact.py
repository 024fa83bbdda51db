"""The optimum, as the cheaper of two minimum cuts: three tiers relayed, and device and cloud direct.

Ishikawa's construction: the tiers are ordered, data flows upwards only, and a tensor crosses each boundary at most
once, so each boundary of the route has one vertex per layer, on the sink's side where the layer is above it.

- A layer's times become one edge per boundary, from the source or to the sink by the sign of their difference.
- A tensor that one layer reads is an edge from its producer to the reader; one that several read has a vertex of its
  own that the producer feeds and every reader holds, so that it is paid once.
- Infinite edges keep a reader above its producer, and the upper boundary above the lower one.
- A boundary's fixed cost is an edge to a vertex that every last layer holds: it is paid once where anything is above.
- Pins are infinite edges; tiers that are unavailable have no boundary.

Ties go to the device: of all optimal partitions of a route the one that moves the fewest layers upwards, and of two
equal routes the relayed one. The cut's true latency is evaluated in float64, and its distance to the certified lower
bound (`tierflow.partition.flow`) is the gap that is reported: 0 where it is below `RESOLUTION`.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierflow.graph import Graph
from tierflow.partition.allowed import Allowed, allowed
from tierflow.partition.flow import FlowNetwork, Vertices, minimum_cut
from tierflow.partition.latency import Ranks, check_costs, crossing_cost, evaluate_ranks, tiers_of
from tierflow.partition.problem import Algorithm, Array, CrossingCost, Latency, Partition, Problem
from tierflow.segment import Route
from tierflow.tiers import TIERS

RESOLUTION: Final = 1e-9
"""Relative distance to the lower bound up to which a partition counts as optimal."""

_SOURCE, _SINK, _FIRST = 0, 1, 2


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
    answers = [best_of_route(problem, limits, route, ranks) for route, ranks in limits.routes]
    return partition_of(answers, Algorithm.EXACT)


def partition_of(answers: list[Answer], algorithm: Algorithm) -> Partition:
    """The best of the answers, the first of equals, with its gap to the smallest of all lower bounds."""
    best = min(answers, key=lambda answer: answer.latency.total)
    return Partition(
        tiers=tiers_of(best.ranks),
        route=best.route,
        latency=best.latency,
        optimality_gap=gap(best.latency.total, min(answer.lower_bound for answer in answers)),
        algorithm=algorithm,
    )


def gap(latency: float, optimum: float) -> float:
    """(latency - optimum) / optimum, 0 within `RESOLUTION`; relative to a picosecond where the optimum is less."""
    distance = latency - optimum
    return distance / max(optimum, 1e-12) if distance > RESOLUTION * latency else 0.0


def best_of_route(problem: Problem, limits: Allowed, route: Route, ranks: tuple[int, ...]) -> Answer:
    """The optimal partition of one route that uses the given ranks of tiers only."""
    graph, costs = problem.graph, problem.costs
    known = [np.clip(np.full_like(limits.lowest, rank), limits.lowest, limits.highest) for rank in ranks]
    bounds = [evaluate_ranks(graph, costs, each, route) for each in known]
    first = min(range(len(known)), key=lambda number: bounds[number].total)
    if len(ranks) == 1 or not graph.layers:
        return Answer(route, known[first], bounds[first], bounds[first].total)
    network, base = _network(problem, limits, ranks)
    at_most = (bounds[first].total - base) * (1 + 1e-9)
    cut = minimum_cut(network, offset=base, at_most=at_most, tolerance=RESOLUTION / 2)
    above = cut.sink_side[_FIRST : _FIRST + (len(ranks) - 1) * len(graph.layers)].reshape(len(ranks) - 1, -1)
    found = np.array(ranks, dtype=np.int8)[above.sum(axis=0)]
    latency = evaluate_ranks(graph, costs, found, route)
    return Answer(route, found, latency, min(max(base + cut.lower_bound, 0.0), latency.total))


class _Edges:
    """Edges of a flow network, collected as arrays."""

    def __init__(self) -> None:
        self._tail: list[Vertices] = []
        self._head: list[Vertices] = []
        self._capacity: list[Array] = []

    def add(self, tail: Vertices | int, head: Vertices | int, capacity: Array | float) -> None:
        """Adds edges; scalars count for all of them."""
        tails, heads, capacities = np.broadcast_arrays(np.atleast_1d(tail), head, capacity)
        self._tail.append(tails)
        self._head.append(heads)
        self._capacity.append(capacities)

    def network(self, vertices: int) -> FlowNetwork:
        """The network of all edges that were added."""
        return FlowNetwork(
            vertices, np.concatenate(self._tail), np.concatenate(self._head), np.concatenate(self._capacity)
        )


def _network(problem: Problem, limits: Allowed, ranks: tuple[int, ...]) -> tuple[FlowNetwork, float]:
    """The network whose cuts are the partitions, and what every cut's capacity lacks of its latency."""
    graph, layer = problem.graph, problem.costs.layer
    layers, shared = len(graph.layers), int((np.diff(graph.incidence.offset) > 1).sum())
    edges, base = _Edges(), float(layer[ranks[0]].sum())
    auxiliary = _FIRST + (len(ranks) - 1) * layers
    for number, (below, rank) in enumerate(pairwise(ranks)):
        cost = crossing_cost(problem.costs, TIERS[below], TIERS[rank])
        first = _FIRST + number * layers
        difference = layer[rank] - layer[below] + _results(graph, cost)
        base += float(np.minimum(difference, 0.0).sum())
        _add_layers(edges, first, difference)
        _add_pins(edges, first, limits.highest < rank, limits.lowest >= rank)
        _add_tensors(edges, graph, cost, first, auxiliary)
        _add_fixed(edges, graph, cost, first, auxiliary + shared)
        auxiliary += shared + 1
        if number:
            places = np.arange(first, first + layers)
            edges.add(places - layers, places, np.inf)
    return edges.network(auxiliary), base


def _results(graph: Graph, cost: CrossingCost) -> Array:
    """Shape [layers]: what the results that a layer makes cost on their way back."""
    producer = graph.incidence.output_producer
    made = producer >= 0
    seconds: Array = np.zeros(len(graph.layers))
    np.add.at(seconds, producer[made], cost.result[made])
    return seconds


def _add_layers(edges: _Edges, first: int, difference: Array) -> None:
    dearer, cheaper = np.flatnonzero(difference > 0), np.flatnonzero(difference < 0)
    edges.add(_SOURCE, first + dearer, difference[dearer])
    edges.add(first + cheaper, _SINK, -difference[cheaper])


def _add_pins(edges: _Edges, first: int, below: NDArray[np.bool_], above: NDArray[np.bool_]) -> None:
    edges.add(_SOURCE, first + np.flatnonzero(below), np.inf)
    edges.add(first + np.flatnonzero(above), _SINK, np.inf)


def _add_tensors(edges: _Edges, graph: Graph, cost: CrossingCost, first: int, auxiliary: int) -> None:
    arrays = graph.incidence
    reads = np.diff(arrays.offset)
    source = np.where(arrays.producer < 0, _SOURCE, first + arrays.producer)
    made = np.repeat(arrays.producer >= 0, reads)
    edges.add(first + arrays.reader[made], np.repeat(source, reads)[made], np.inf)
    single, shared = reads == 1, reads > 1
    edges.add(source[single], first + arrays.reader[arrays.offset[:-1][single]], cost.tensor[single])
    own = auxiliary + np.arange(int(shared.sum()))
    edges.add(source[shared], own, cost.tensor[shared])
    edges.add(np.repeat(own, reads[shared]), first + arrays.reader[np.repeat(shared, reads)], np.inf)


def _add_fixed(edges: _Edges, graph: Graph, cost: CrossingCost, first: int, auxiliary: int) -> None:
    arrays = graph.incidence
    is_last = np.ones(len(graph.layers), dtype=np.bool_)
    read = arrays.producer[np.diff(arrays.offset) > 0]
    is_last[read[read >= 0]] = False
    edges.add(_SOURCE, auxiliary, cost.fixed)
    edges.add(auxiliary, first + np.flatnonzero(is_last), np.inf)
