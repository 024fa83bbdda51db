"""The edge's time with fewer and fewer workers to share its tiles: what each of them is worth, measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from tierflow.graph import Graph
from tierflow.plan import Plan
from tierflow.profile import Profile
from tierflow.tiers import Tier
from tierflow.tiling.choice import EdgeNodes
from tierflow.tiling.plans import saved_seconds
from tierflow_local.load import Answers


@dataclass(frozen=True, slots=True)
class SharedEdge:
    """One plan with so many workers at the edge.

    Attributes:
        workers: How many, the edge's own among them; with one nothing is shared.
        found: How many the edge's worker had found when the requests began, itself among them.
        predicted_seconds: Of the edge's segment.
        seconds: Mean time of the edge's segment, as its worker measured it.
        answers: What became of the requests.
    """

    workers: int
    found: int
    predicted_seconds: float
    seconds: float
    answers: Answers


def predicted_edge_seconds(graph: Graph, profile: Profile, plan: Plan, nodes: EdgeNodes, workers: int) -> float:
    """What the edge's segment should take with the first `workers` of the nodes."""
    edge = profile.scaled(plan.speeds[Tier.EDGE])
    fewer = EdgeNodes(speeds=nodes.speeds[:workers], link=nodes.link)
    saved = saved_seconds(graph, edge, plan, nodes) - saved_seconds(graph, edge, plan, fewer)
    return plan.segment(Tier.EDGE).compute_seconds + saved


def is_identical(measured: Sequence[SharedEdge]) -> bool:
    """Whether all answers are the same bit for bit, however many workers computed them."""
    return len(frozenset().union(*(found.answers.contents for found in measured))) <= 1
