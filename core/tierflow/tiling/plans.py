"""From a partition with tiles to the plan that says so, and what a plan's tiles save when the edge's nodes change."""

import msgspec

from tierflow.graph import Graph
from tierflow.plan import Plan, RunPlan
from tierflow.profile import Profile
from tierflow.segment import run_id
from tierflow.tiers import Tier
from tierflow.tiling.blocks import blocks_of
from tierflow.tiling.choice import EdgeNodes, Pricing, Run
from tierflow.tiling.joint import TiledPartition
from tierflow.tiling.layout import Grid, grids_for


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


def saved_seconds(graph: Graph, edge: Profile, plan: Plan, nodes: EdgeNodes) -> float:
    """What the tiles of `plan` save per request when `nodes` compute them, whichever it was decided for.

    Args:
        graph: The whole graph.
        edge: The profile of the edge tier.
        plan: A plan of the graph.
        nodes: The workers that share tiles now; one saves nothing, and a bad network can make the figure negative.
    """
    if len(nodes.speeds) < 2 or not plan.tiling:
        return 0.0
    segment = plan.segment(Tier.EDGE).segment
    outputs = (*segment.sends, *segment.results)
    blocks = blocks_of(graph, segment.layers, segment.accepts, outputs, edge.layers).blocks
    pricing = Pricing(graph, edge, blocks, nodes)
    starts = {block.input: place for place, block in enumerate(blocks)}
    stops = {block.output: place + 1 for place, block in enumerate(blocks)}
    runs = (_priced(pricing, starts[run.input], stops[run.output], Grid(run.rows, run.columns)) for run in plan.tiling)
    return sum(run.untiled_seconds - run.cost.seconds for run in runs if run is not None)


def _priced(pricing: Pricing, start: int, stop: int, planned: Grid) -> Run | None:
    """A run in the grid that the edge's worker takes: the planned one if it fits the nodes, else the squarest."""
    count = len(pricing.nodes.speeds)
    squarest = [grid for tiles in range(count, 1, -1) for grid in grids_for(tiles)]
    for grid in [planned] if planned.tiles == count else squarest:
        for run in pricing.runs_to(stop, grid):
            if run.start == start:
                return run
    return None
