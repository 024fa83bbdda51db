"""Plans for a partition that somebody else decided: the manifest's `manual`, or a comparison's single tier."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tierflow.errors import InfeasibleError
from tierflow.graph import Graph
from tierflow.network import Network
from tierflow.partition.allowed import allowed, constraint_name
from tierflow.partition.demand import demands
from tierflow.partition.latency import evaluate, ranks_of
from tierflow.partition.problem import Algorithm, Constraints, Partition
from tierflow.partition.select import partitioner
from tierflow.plan import Plan, plan_of
from tierflow.planning import problem_of
from tierflow.profile import Profile
from tierflow.segment import Route
from tierflow.tiers import TIERS, Tier
from tierflow.tiling.choice import EdgeNodes
from tierflow.tiling.joint import tiled
from tierflow.tiling.plans import with_tiles


def plan_for(
    graph: Graph,
    profile: Profile,
    network: Network,
    speeds: Mapping[Tier, float],
    tiers: tuple[Tier, ...],
    *,
    constraints: Constraints | None = None,
    epoch: int = 1,
    nodes: EdgeNodes | None = None,
) -> Plan:
    """The plan of a given partition, by the cheaper of the routes that are open to it.

    Args:
        graph: The model's graph.
        profile: Layer times of the reference machine.
        network: The links.
        speeds: Of the tiers, as multiples of the reference machine.
        tiers: One per layer, monotone along the data's flow.
        constraints: Pins, budgets and unavailable tiers that the partition has to respect.
        epoch: The plan's number.
        nodes: The workers that can compute tiles of the edge's segment together; with None, or one, nothing is tiled.

    Returns:
        A plan whose gap is the distance to the optimum under the same constraints, both without tiles.

    Raises:
        InvalidInputError: where data would have to flow back towards the device, or a pin names no layer.
        InfeasibleError: naming the constraint that the partition breaks.
    """
    rules = constraints or Constraints()
    problem = problem_of(graph, profile, network, speeds, rules)
    latency, route = min(
        ((evaluate(problem, tiers, route), route) for route in _routes(tiers, rules)),
        key=lambda found: found[0].total,
    )
    for constraint, problem_with_it in broken_constraints(graph, tiers, rules):
        raise InfeasibleError(
            f"the manual cut {problem_with_it}; cut elsewhere, or drop {constraint}",
            constraints=("planning.manual", constraint),
        )
    optimum = partitioner(Algorithm.EXACT)(problem).latency.total
    gap = max(0.0, (latency.total - optimum) / optimum) if optimum > 0 else 0.0
    partition = Partition(tiers=tiers, route=route, latency=latency, optimality_gap=gap, algorithm=Algorithm.EXACT)
    plan = plan_of(graph, partition, model=profile.model, network=network, speeds=dict(speeds), epoch=epoch)
    if nodes is None or len(nodes.speeds) < 2:
        return plan
    return with_tiles(plan, graph, tiled(problem, profile.scaled(speeds[Tier.EDGE]), partition, nodes))


def _routes(tiers: Sequence[Tier], rules: Constraints) -> tuple[Route, ...]:
    if Tier.EDGE in tiers:
        return (Route.RELAYED,)
    return (Route.DIRECT,) if Tier.EDGE in rules.unavailable else (Route.RELAYED, Route.DIRECT)


def broken_constraints(graph: Graph, tiers: tuple[Tier, ...], rules: Constraints) -> Iterator[tuple[str, str]]:
    """The constraints that a partition breaks: each one's name, and what the partition does against it.

    Raises:
        InvalidInputError: where a pin names no layer.
    """
    ranks = ranks_of(tiers)
    for tier in TIERS:
        if tier in tiers and tier in rules.unavailable:
            yield f"tiers[{tier}]", f"needs {tier}, which has no ready node"
    for pin in rules.pins:
        limits = allowed(graph, Constraints(pins=(pin,)))
        wrong = np.flatnonzero((ranks < limits.lowest) | (ranks > limits.highest))
        if len(wrong):
            place = int(wrong[0])
            yield constraint_name(pin), f"puts layer {graph.layers[place].name} on {tiers[place]}"
    for name, budget, asked in demands(graph, rules, ranks):
        if asked > budget:
            yield name, f"asks for {asked} bytes where {name} allows {budget}"
