"""The cut and the tiles decided together.

A tiled edge is a faster edge, so the best cut can move. Three kinds of candidates are compared, each with its best
runs: the partition found without thinking of tiles (the paper's order: partition, then tile); every cut of the layers'
order, exactly; and the partitions that are best when the edge is as fast as the tiles of the best so far make it, as
often as that finds something better. So the answer is never worse than the paper's order, and on chains it is the
optimum over cut, runs and grids.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierflow.graph import Graph
from tierflow.partition.allowed import allowed
from tierflow.partition.demand import meets_budgets
from tierflow.partition.latency import evaluate_ranks, ranks_of, tiers_of
from tierflow.partition.problem import Algorithm, Array, Costs, CrossingCost, Partition, Partitioner, Problem
from tierflow.profile import Profile
from tierflow.segment import Route, Segment, segments_of
from tierflow.tiers import Tier
from tierflow.tiling.blocks import Blocks, blocks_of
from tierflow.tiling.choice import Choice, EdgeNodes, Pricing, choose, choose_for_segment, priced_runs

_ROUNDS: Final = 4
"""How often a partition is looked for again with the edge as fast as its tiles."""

_CUTS_TRIED: Final = 64
"""How many of the best cuts are tried against the budgets."""


@dataclass(frozen=True, slots=True)
class TiledPartition:
    """A partition with the runs of its edge segment.

    Attributes:
        partition: Which tier computes each layer; its latency is without tiles.
        blocks: The edge segment taken apart.
        choice: The runs that are tiled.
        seconds: Latency of a request with tiles.
    """

    partition: Partition
    blocks: Blocks
    choice: Choice
    seconds: float


@dataclass(frozen=True, slots=True)
class Joint:
    """The best partition with tiles, and the one that the paper's order gives."""

    best: TiledPartition
    partition_then_tile: TiledPartition


_Known = dict[Segment, tuple[Blocks, Choice]]
"""Segments of the edge that were taken apart already, with their best runs."""


def tiled(
    problem: Problem, edge: Profile, partition: Partition, nodes: EdgeNodes, known: _Known | None = None
) -> TiledPartition:
    """A partition with the best runs for its edge segment.

    Args:
        problem: What the partition answers.
        edge: The profile of the edge tier.
        partition: Which tier computes each layer.
        nodes: The workers that can share tiles.
        known: What is known for this profile and these nodes, and where to remember what is found.
    """
    graph, seen = problem.graph, {} if known is None else known
    segment = segments_of(graph, partition.tiers, partition.route)[Tier.EDGE.rank]
    if segment not in seen:
        parts = blocks_of(graph, segment.layers, segment.accepts, (*segment.sends, *segment.results), edge.layers)
        seen[segment] = parts, choose_for_segment(graph, edge, parts, nodes)
    blocks, choice = seen[segment]
    saved = sum(run.untiled_seconds - run.cost.seconds for run in choice.runs)
    return TiledPartition(partition, blocks, choice, partition.latency.total - saved)


def joint(problem: Problem, edge: Profile, nodes: EdgeNodes, partitioner: Partitioner) -> Joint:
    """Decides cut, runs and grids together.

    Args:
        problem: Graph, costs (the edge's untiled) and constraints.
        edge: The profile of the edge tier, the one in the problem's costs.
        nodes: The workers that can share tiles; with one there are none.
        partitioner: Finds partitions for given costs.

    Raises:
        InvalidInputError: where a pin names a layer that isn't there.
        InfeasibleError: where no partition meets the constraints.
    """
    known: _Known = {}
    first = tiled(problem, edge, partitioner(problem), nodes, known)
    if len(nodes.speeds) < 2:
        return Joint(first, first)
    best = first
    cut = _best_cut(problem, edge, nodes)
    if cut is not None:
        # Which cuts are tried is the same for all algorithms: a plan is named after the one that was asked for.
        asked = replace(cut, algorithm=first.partition.algorithm)
        best = _better(best, tiled(problem, edge, asked, nodes, known))
    for _ in range(_ROUNDS):
        faster = replace(problem, costs=_with_tiles(problem, best))
        found = partitioner(faster)
        again = _priced(problem, found.tiers, found.route, found)
        candidate = tiled(problem, edge, again, nodes, known)
        if _better(best, candidate) is best:
            break
        best = candidate
    return Joint(best, first)


def _better(one: TiledPartition, other: TiledPartition) -> TiledPartition:
    """The faster; the first where they differ by rounding alone, so that the same input gives the same plan."""
    return other if other.seconds < one.seconds * (1 - 1e-9) else one


def _priced(problem: Problem, tiers: tuple[Tier, ...], route: Route, found: Partition) -> Partition:
    """A partition with the latency that it has without tiles."""
    latency = evaluate_ranks(problem.graph, problem.costs, ranks_of(tiers), route)
    return replace(found, tiers=tiers, route=route, latency=latency, optimality_gap=0.0)


def _with_tiles(problem: Problem, found: TiledPartition) -> Costs:
    """Costs whose edge is as fast as the runs found make it."""
    layer = problem.costs.layer.copy()
    for run in found.choice.runs:
        places = [place for block in found.blocks.blocks[run.start : run.stop] for place in block.layers]
        layer[Tier.EDGE.rank, places] *= run.cost.seconds / run.untiled_seconds
    return replace(problem.costs, layer=layer)


def _best_cut(problem: Problem, edge: Profile, nodes: EdgeNodes) -> Partition | None:
    """The best cut of the layers' order with layers at the edge and tiles there; None where none is allowed."""
    graph = problem.graph
    count = len(graph.layers)
    limits = allowed(graph, problem.constraints)
    if Tier.EDGE in problem.constraints.unavailable or not count:
        return None
    seconds = _untiled_cuts(graph, problem.costs) - _savings(graph, edge, nodes)
    first, last = np.arange(count + 1)[:, None], np.arange(count + 1)[None, :]
    forbidden = first >= last
    if Tier.CLOUD in problem.constraints.unavailable:
        forbidden |= last < count
    for place in range(count):
        low, high = int(limits.lowest[place]), int(limits.highest[place])
        # Below `first` is the device, from `first` to below `last` the edge, from `last` on the cloud.
        if low > 0:
            forbidden |= first > place
        if low > 1:
            forbidden |= last > place
        if high < 1:
            forbidden |= first <= place
        if high < Tier.CLOUD.rank:
            forbidden |= last <= place
    seconds[forbidden] = np.inf
    for flat in np.argsort(seconds, axis=None, kind="stable")[:_CUTS_TRIED]:
        start, stop = divmod(int(flat), count + 1)
        if not np.isfinite(seconds[start, stop]):
            return None
        ranks = np.zeros(count, dtype=np.int8)
        ranks[start:], ranks[stop:] = 1, 2
        if meets_budgets(graph, problem.constraints, ranks):
            latency = evaluate_ranks(graph, problem.costs, ranks, Route.RELAYED)
            return Partition(tiers_of(ranks), Route.RELAYED, latency, 0.0, Algorithm.EXACT)
    return None


def _untiled_cuts(graph: Graph, costs: Costs) -> Array:
    """Shape [layers + 1, layers + 1]: the latency of the cut (first edge layer, first cloud layer), without tiles."""
    device, edge, cloud = (np.concatenate([[0.0], np.cumsum(times)]) for times in costs.layer)
    to_edge = _crossing_at(graph, costs.device_edge)
    to_cloud = _crossing_at(graph, costs.edge_cloud)
    lower = device - edge + to_edge
    upper = edge + (cloud[-1] - cloud) + to_cloud
    table: Array = lower[:, None] + upper[None, :]
    return table


def _crossing_at(graph: Graph, cost: CrossingCost) -> Array:
    """Shape [layers + 1]: what it costs to cross before each layer, results on their way back included."""
    count = len(graph.layers)
    steps = np.zeros(count + 2)
    for tensor, name in zip(cost.tensor, graph.tensors, strict=True):
        users = graph.consumers.get(name, ())
        if users:
            # It crosses where it is made before and read after.
            steps[graph.producer.get(name, -1) + 1] += tensor
            steps[users[-1] + 1] -= tensor
    for result, name in zip(cost.result, graph.outputs, strict=True):
        if name in graph.producer:
            steps[0] += result
            steps[graph.producer[name] + 1] -= result
    crossing: NDArray[np.float64] = np.cumsum(steps)[: count + 1] + cost.fixed
    crossing[count] = 0.0  # nothing crosses behind the last layer
    return crossing


def _savings(graph: Graph, edge: Profile, nodes: EdgeNodes) -> Array:
    """Shape [layers + 1, layers + 1]: what tiles save at the edge for each cut."""
    count = len(graph.layers)
    blocks = blocks_of(graph, range(count), graph.inputs, graph.outputs, edge.layers).blocks
    saved = np.zeros((count + 1, count + 1))
    if not blocks:
        return saved
    pricing = Pricing(graph, edge, blocks, nodes)
    runs = priced_runs(pricing)
    places = [block.layers[0] for block in blocks] + [blocks[-1].layers[-1] + 1]
    between = np.zeros((len(places), len(places)))
    for start in range(len(blocks)):
        whole = 0.0
        for length, choice in enumerate(choose(pricing, runs, start)):
            whole += pricing.untiled[start + length - 1] if length else 0.0
            between[start, start + length] = max(0.0, whole - choice.seconds)
    # A cut inside of a block leaves that block untiled.
    starts = np.searchsorted(places, np.arange(count + 1), side="left")
    stops = np.searchsorted(places, np.arange(count + 1), side="right") - 1
    inside = (starts[:, None] < len(places)) & (stops[None, :] >= 0)
    saved[inside] = between[np.minimum(starts, len(places) - 1)[:, None], np.maximum(stops, 0)[None, :]][inside]
    return saved
