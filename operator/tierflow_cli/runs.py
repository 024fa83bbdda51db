"""The runs of a plan: which layers they have, and what their grids are called."""

from tierflow.graph import Graph
from tierflow.plan import Plan, RunPlan
from tierflow.tiers import Tier


def run_places(graph: Graph, plan: Plan) -> tuple[tuple[int, ...], ...]:
    """For each of the plan's runs the places of its layers in the graph, ascending."""
    places = plan.segment(Tier.EDGE).segment.layers
    return tuple(
        tuple(place for place in places if graph.place[run.first_layer] <= place <= graph.place[run.last_layer])
        for run in plan.tiling
    )


def grid_text(run: RunPlan) -> str:
    """The grid as people write it, like `2x2`."""
    return f"{run.rows}x{run.columns}"


def untiled_seconds(plan: Plan) -> float:
    """The predicted latency of the plan's cut without its tiles."""
    return plan.predicted_seconds + sum(run.untiled_seconds - run.predicted_seconds for run in plan.tiling)
