"""From a graph, its profile, the network and the tiers' speeds to a plan, in one call."""

from collections.abc import Mapping

from tierflow.graph import Graph
from tierflow.network import Network
from tierflow.partition.problem import Algorithm, Constraints, Problem
from tierflow.partition.select import partitioner
from tierflow.plan import Plan, plan_of
from tierflow.profile import Profile, costs_of
from tierflow.tiers import TIERS, Tier
from tierflow.tiling.choice import EdgeNodes
from tierflow.tiling.joint import joint
from tierflow.tiling.plans import with_tiles


def problem_of(
    graph: Graph,
    profile: Profile,
    network: Network,
    speeds: Mapping[Tier, float],
    constraints: Constraints | None = None,
) -> Problem:
    """The planning problem of a model on three tiers, each `speeds[tier]` times as fast as the profile's machine."""
    profiles = {tier: profile.scaled(speeds[tier]) for tier in TIERS}
    return Problem(graph, costs_of(graph, profiles, network), constraints or Constraints())


def make_plan(
    graph: Graph,
    profile: Profile,
    network: Network,
    speeds: Mapping[Tier, float],
    *,
    constraints: Constraints | None = None,
    algorithm: Algorithm = Algorithm.EXACT,
    epoch: int = 1,
    nodes: EdgeNodes | None = None,
) -> Plan:
    """Plans a model.

    Args:
        graph: The whole graph.
        profile: The times of its layers on the reference machine.
        network: The links between tiers.
        speeds: Of the tiers, as multiples of the reference machine.
        constraints: What the plan has to respect.
        algorithm: What finds partitions.
        epoch: The plan's number.
        nodes: The workers that can compute tiles of the edge's segment together; with None, or one, nothing is tiled.

    Raises:
        InvalidInputError: where a pin names a layer that isn't there, or a speed is not positive.
        InfeasibleError: where no plan meets the constraints.
    """
    problem = problem_of(graph, profile, network, speeds, constraints)
    find = partitioner(algorithm)
    if nodes is None or len(nodes.speeds) < 2:
        return plan_of(graph, find(problem), model=profile.model, network=network, speeds=dict(speeds), epoch=epoch)
    found = joint(problem, profile.scaled(speeds[Tier.EDGE]), nodes, find).best
    plan = plan_of(graph, found.partition, model=profile.model, network=network, speeds=dict(speeds), epoch=epoch)
    return with_tiles(plan, graph, found)
