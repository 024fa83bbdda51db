"""Plans for a partition that somebody else decided: the manifest's `manual`, or a comparison's single tier."""

from collections.abc import Mapping, Sequence

import numpy as np

from tierflow.errors import InfeasibleError
from tierflow.graph import Graph
from tierflow.network import Network
from tierflow.partition.allowed import allowed, constraint_name
from tierflow.partition.latency import evaluate, ranks_of
from tierflow.partition.problem import Algorithm, Constraints, Partition
from tierflow.partition.select import partitioner
from tierflow.plan import Plan, plan_of
from tierflow.planning import problem_of
from tierflow.profile import Profile
from tierflow.segment import Route
from tierflow.tiers import Tier


def plan_for(
    graph: Graph,
    profile: Profile,
    network: Network,
    speeds: Mapping[Tier, float],
    tiers: tuple[Tier, ...],
    *,
    constraints: Constraints | None = None,
    epoch: int = 1,
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

    Returns:
        A plan whose gap is the distance to the optimum under the same constraints.

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
    _check(graph, tiers, route, rules)
    optimum = partitioner(Algorithm.EXACT)(problem).latency.total
    gap = max(0.0, (latency.total - optimum) / optimum) if optimum > 0 else 0.0
    partition = Partition(tiers=tiers, route=route, latency=latency, optimality_gap=gap, algorithm=Algorithm.EXACT)
    plan = plan_of(graph, partition, model=profile.model, network=network, speeds=dict(speeds), epoch=epoch)
    if rules.backbone_bytes is not None and plan.backbone_bytes > rules.backbone_bytes:
        raise InfeasibleError(
            f"the manual cut sends {plan.backbone_bytes} bytes per request into the cloud, "
            f"planning.backboneBytesPerRequest allows {rules.backbone_bytes}; cut elsewhere or raise the budget",
            constraints=("planning.manual", "planning.backboneBytesPerRequest"),
        )
    return plan


def _routes(tiers: Sequence[Tier], rules: Constraints) -> tuple[Route, ...]:
    if Tier.EDGE in tiers:
        return (Route.RELAYED,)
    return (Route.DIRECT,) if Tier.EDGE in rules.unavailable else (Route.RELAYED, Route.DIRECT)


def _check(graph: Graph, tiers: tuple[Tier, ...], route: Route, rules: Constraints) -> None:
    used = set(tiers) | ({Tier.EDGE} if route is Route.RELAYED and Tier.CLOUD in tiers else set())
    gone = sorted(used & rules.unavailable, key=lambda tier: tier.rank)
    if gone:
        raise InfeasibleError(
            f"the manual cut needs {gone[0]}, which has no ready node; add one, or set `mode: Auto`",
            constraints=("planning.manual", f"tiers[{gone[0]}]"),
        )
    ranks = ranks_of(tiers)
    for pin in rules.pins:
        limits = allowed(graph, Constraints(pins=(pin,)))
        wrong = np.flatnonzero((ranks < limits.lowest) | (ranks > limits.highest))
        if len(wrong):
            layer = graph.layers[int(wrong[0])].name
            raise InfeasibleError(
                f"the manual cut puts layer {layer} on {tiers[int(wrong[0])]}, against {constraint_name(pin)}; cut "
                "elsewhere or drop the pin",
                constraints=("planning.manual", constraint_name(pin)),
            )
