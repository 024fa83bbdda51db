"""What a plan is compared with: the whole model on one tier."""

from tierflow.partition.latency import evaluate
from tierflow.partition.problem import Problem
from tierflow.segment import Route
from tierflow.tiers import TIERS, Tier
from tierflow.units import Seconds


def single_tier_latencies(problem: Problem) -> dict[Tier, Seconds]:
    """Predicted latency with all layers on one tier, by the cheaper route, whatever the constraints say."""
    return {
        tier: min(
            (
                evaluate(problem, (tier,) * len(problem.graph.layers), route).total
                for route in ([Route.RELAYED] if tier is Tier.EDGE else list(Route))
            ),
        )
        for tier in TIERS
    }
