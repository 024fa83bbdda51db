"""The objective: what a partition's latency is, in seconds.

With r(l) the rank of layer l's tier (device 0, edge 1, cloud 2), and B the boundaries of the route, each with the rank
that lies above it and its crossing cost,

    T(r) =  sum over layers l:      layer[r(l), l]
          + sum over (u, c) in B:   c.fixed         if any layer has a rank >= u
              + sum over tensors t: c.tensor[t]     if its producer's rank is < u and a reader's is >= u
              + sum over outputs o: c.result[o]     if its producer's rank is >= u

The graph's inputs are born on the device (rank 0). `RELAYED` has B = {(1, device_edge), (2, edge_cloud)}: a tensor
that the cloud reads and the device makes pays both, once each, and so does a result of the cloud on its way back.
`DIRECT` has B = {(2, device_cloud)}.
"""

from collections.abc import Collection
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierflow.errors import InvalidInputError
from tierflow.graph import Graph, Mask
from tierflow.partition.problem import Array, Costs, CrossingCost, Latency, Problem
from tierflow.segment import Route, check_monotone
from tierflow.tiers import TIERS, Tier
from tierflow.units import Seconds

Ranks = NDArray[np.int8]
"""Shape [layers]: 0 for device, 1 for edge, 2 for cloud."""

LINKS: Final = {
    Route.RELAYED: ((Tier.DEVICE, Tier.EDGE), (Tier.EDGE, Tier.CLOUD)),
    Route.DIRECT: ((Tier.DEVICE, Tier.CLOUD),),
}
"""The links of a route, as (lower, upper) tier."""


def crossing_cost(costs: Costs, lower: Tier, upper: Tier) -> CrossingCost:
    """What crossing from `lower` to `upper` costs."""
    if lower is Tier.EDGE:
        return costs.edge_cloud
    return costs.device_edge if upper is Tier.EDGE else costs.device_cloud


def evaluate(problem: Problem, tiers: tuple[Tier, ...], route: Route) -> Latency:
    """The latency of a partition, by the equation above.

    Args:
        problem: Its constraints are not looked at.
        tiers: One per layer.
        route: How tensors get to the cloud.

    Raises:
        InvalidInputError: where the tiers are not monotone, or `DIRECT` is asked for with layers at the edge.
    """
    check_monotone(problem.graph, tiers)
    if route is Route.DIRECT and Tier.EDGE in tiers:
        layer = problem.graph.layers[tiers.index(Tier.EDGE)].name
        raise InvalidInputError(f"the direct route leaves the edge out, but layer {layer} is on it", subject=layer)
    return evaluate_ranks(problem.graph, problem.costs, ranks_of(tiers), route)


def evaluate_ranks(graph: Graph, costs: Costs, ranks: Ranks, route: Route) -> Latency:
    """As `evaluate`, for ranks that are known to be monotone."""
    spent = costs.layer[ranks, np.arange(len(ranks))]
    compute = {tier: Seconds(float(spent[ranks == tier.rank].sum())) for tier in TIERS}
    transfer: dict[tuple[Tier, Tier], Seconds] = {}
    for lower, upper in LINKS[route]:
        above = ranks >= upper.rank
        if above.any():
            cost = crossing_cost(costs, lower, upper)
            there = float(cost.tensor[graph.incidence.crossing(above)].sum())
            back = float(cost.result[returning(graph, above)].sum())
            transfer[(lower, upper)] = Seconds(cost.fixed + there + back)
    total = Seconds(sum(compute.values()) + sum(transfer.values()))
    return Latency(total=total, compute=compute, transfer=transfer)


def returning(graph: Graph, above: Mask) -> Mask:
    """Which graph outputs come back over a boundary: shape [outputs]."""
    producer = graph.incidence.output_producer
    return above[producer] & (producer >= 0)


def ranks_of(tiers: tuple[Tier, ...]) -> Ranks:
    """The ranks of tiers."""
    rank = {tier: tier.rank for tier in TIERS}
    return np.array([rank[tier] for tier in tiers], dtype=np.int8)


def tiers_of(ranks: Ranks) -> tuple[Tier, ...]:
    """The tiers of ranks."""
    return tuple([TIERS[rank] for rank in ranks.tolist()])


def check_costs(graph: Graph, costs: Costs) -> None:
    """Checks that the costs belong to the graph and can be added up: finite, none below zero.

    Raises:
        InvalidInputError: naming the layer, tensor or link whose cost is wrong.
    """
    _check_finite(costs.layer, "the time of layer", [layer.name for layer in graph.layers], (3, len(graph.layers)))
    for lower, upper in ((Tier.DEVICE, Tier.EDGE), (Tier.EDGE, Tier.CLOUD), (Tier.DEVICE, Tier.CLOUD)):
        cost, link = crossing_cost(costs, lower, upper), f"{lower}-{upper}"
        if not 0 <= cost.fixed < np.inf:
            raise InvalidInputError(f"the fixed cost of link {link} is {cost.fixed}: it must be >= 0", subject=link)
        _check_finite(cost.tensor, f"the cost on link {link} of tensor", graph.tensors, (len(graph.tensors),))
        _check_finite(cost.result, f"the cost on link {link} of result", graph.outputs, (len(graph.outputs),))


def _check_finite(values: Array, what: str, names: Collection[str], shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise InvalidInputError(
            f"the costs have shape {values.shape} where the graph needs {shape}: they belong to another graph"
        )
    right = (values >= 0) & (values < np.inf)
    if not right.all():
        place = np.argwhere(~right)[0]
        name = list(names)[int(place[-1])]
        raise InvalidInputError(f"{what} {name} is {values[tuple(place)]}: it must be >= 0 and finite", subject=name)
