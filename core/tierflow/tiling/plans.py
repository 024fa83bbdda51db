"""From a partition with tiles to the plan that says so."""

import msgspec

from tierflow.graph import Graph
from tierflow.plan import Plan, RunPlan
from tierflow.segment import run_id
from tierflow.tiers import Tier
from tierflow.tiling.choice import Run
from tierflow.tiling.joint import TiledPartition


def with_tiles(plan: Plan, graph: Graph, found: TiledPartition) -> Plan:
    """The plan of `found`'s partition, with its runs, and with the figures that they lead to."""
    edge = plan.segment(Tier.EDGE)
    saved = sum(run.untiled_seconds - run.cost.seconds for run in found.choice.runs)
    segments = list(plan.segments)
    segments[Tier.EDGE.rank] = msgspec.structs.replace(edge, compute_seconds=edge.compute_seconds - saved)
    return msgspec.structs.replace(
        plan,
        segments=tuple(segments),
        predicted_seconds=found.seconds,
        tiling=tuple(_run(graph, edge.id, found, run) for run in found.choice.runs),
    )


def _run(graph: Graph, segment: str, found: TiledPartition, run: Run) -> RunPlan:
    first, last = found.blocks.blocks[run.start], found.blocks.blocks[run.stop - 1]
    return RunPlan(
        id=run_id(segment, first.input, last.output),
        first_layer=graph.layers[first.layers[0]].name,
        last_layer=graph.layers[last.layers[-1]].name,
        input=first.input,
        output=last.output,
        rows=run.grid.rows,
        columns=run.grid.columns,
        halo_factor=run.halo_factor,
        scatter_bytes=sum(run.cost.scatter_bytes),
        gather_bytes=sum(run.cost.gather_bytes),
        predicted_seconds=run.cost.seconds,
        untiled_seconds=run.untiled_seconds,
    )
