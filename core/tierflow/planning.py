"""From a graph, its profile, the network and the tiers' speeds to a plan, in one call."""

from collections.abc import Mapping

from tierflow.graph import Graph
from tierflow.network import Network
from tierflow.partition.problem import Algorithm, Constraints, Problem
from tierflow.partition.select import partitioner
from tierflow.plan import Plan, plan_of
from tierflow.profile import Profile, costs_of
from tierflow.tiers import TIERS, Tier


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
) -> Plan:
    """Plans a model.

    Raises:
        InvalidInputError: where a pin names a layer that isn't there, or a speed is not positive.
        InfeasibleError: where no plan meets the constraints.
    """
    problem = problem_of(graph, profile, network, speeds, constraints)
    partition = partitioner(algorithm)(problem)
    return plan_of(graph, partition, model=profile.model, network=network, speeds=dict(speeds), epoch=epoch)
