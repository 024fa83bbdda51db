"""What is said of the edge's tiles, to machines and to people: which runs there are, and what they bring."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from tierflow.graph import Graph
from tierflow.network import MEGABIT
from tierflow.plan import Plan
from tierflow.tiers import TIERS, Tier
from tierflow.tiling.choice import EdgeNodes
from tierflow_cli.console import table_of
from tierflow_cli.planned import Planned
from tierflow_cli.runs import grid_text, run_places, untiled_seconds
from tierflow_cli.wording import bandwidth_text, bytes_text, plain, plural, seconds_text


def nodes_text(nodes: EdgeNodes) -> str:
    """The edge's workers in a line."""
    link = f"{bandwidth_text(nodes.link.bytes_per_second)} {seconds_text(nodes.link.round_trip_seconds)}"
    alike = len(set(nodes.speeds)) == 1 and nodes.speeds[0] == 1
    speeds = "" if alike else f" at {', '.join(f'{speed:g}' for speed in nodes.speeds)} of the edge's speed"
    return f"{plural(len(nodes.speeds), 'edge worker')}{speeds}, {link} between them"


def tiling_of(graph: Graph, plan: Plan, nodes: EdgeNodes) -> dict[str, Any]:
    """The plan's tiles as they stand in its document."""
    return {
        "workers": len(nodes.speeds),
        "speeds": list(nodes.speeds),
        "network": {
            "megabitsPerSecond": nodes.link.bytes_per_second / MEGABIT,
            "roundTripMilliseconds": nodes.link.round_trip_seconds * 1000,
        },
        "runs": runs_of(graph, plan),
        "untiledLatencyMilliseconds": untiled_seconds(plan) * 1000,
    }


def runs_of(graph: Graph, plan: Plan) -> list[dict[str, Any]]:
    """The plan's runs as they stand in documents."""
    return [
        {
            "firstLayer": run.first_layer,
            "lastLayer": run.last_layer,
            "layers": len(places),
            "grid": grid_text(run),
            "haloFactor": run.halo_factor,
            "scatterBytes": run.scatter_bytes,
            "gatherBytes": run.gather_bytes,
            "predictedMilliseconds": run.predicted_seconds * 1000,
            "untiledMilliseconds": run.untiled_seconds * 1000,
        }
        for run, places in zip(plan.tiling, run_places(graph, plan), strict=True)
    ]


def print_tiles(console: Console, made: Planned) -> None:
    """Prints the plan's runs for people; nothing where the edge has one worker."""
    if not made.has_edge_workers:
        return
    graph, plan = made.target.model.graph, made.plan
    if not plan.tiling:
        reason = "no run of the edge's layers is faster" if plan.segment(Tier.EDGE).layers else "the edge has no layers"
        console.print(f"Tiles        none on {nodes_text(made.nodes)}: {reason}\n")
        return
    console.print(f"Tiles on {nodes_text(made.nodes)}", style="bold")
    numbers = ("Layers", "Grid", "Halo", "Scatters", "Gathers", "Untiled", "In tiles", "Speed-up")
    table = table_of("First layer", "Last layer", *numbers, right=numbers)
    for run, places in zip(plan.tiling, run_places(graph, plan), strict=True):
        table.add_row(
            plain(run.first_layer),
            plain(run.last_layer),
            f"{len(places):,}",
            grid_text(run),
            f"{run.halo_factor:.2f}",
            bytes_text(run.scatter_bytes),
            bytes_text(run.gather_bytes),
            seconds_text(run.untiled_seconds),
            seconds_text(run.predicted_seconds),
            f"{run.untiled_seconds / run.predicted_seconds:.2f}x",
        )
    console.print(table)
    edge = plan.segment(Tier.EDGE).compute_seconds
    whole = edge + untiled_seconds(plan) - plan.predicted_seconds
    console.print(f"The edge's layers take {seconds_text(edge)} instead of {seconds_text(whole)}.\n")


def orders_of(made: Planned) -> dict[str, Any] | None:
    """Both orders of deciding as they stand in documents; None where nothing was decided, or there are no tiles."""
    if made.cut_before_tiles is None:
        return None
    graph = made.target.model.graph
    return {
        "partitionThenTile": _order(graph, made.cut_before_tiles),
        "together": _order(graph, made.plan),
    }


def _order(graph: Graph, plan: Plan) -> dict[str, Any]:
    return {
        "layers": {tier.value: plan.segment(tier).layers for tier in TIERS},
        "lastLayers": {tier.value: plan.segment(tier).last_layer or None for tier in (Tier.DEVICE, Tier.EDGE)},
        "route": plan.route.value,
        "predictedLatencyMilliseconds": plan.predicted_seconds * 1000,
        "untiledLatencyMilliseconds": untiled_seconds(plan) * 1000,
        "runs": runs_of(graph, plan),
    }


def print_orders(console: Console, made: Planned) -> None:
    """Prints both orders of deciding for people, where there are two."""
    if made.cut_before_tiles is None:
        return
    console.print("\nCut and tiles", style="bold")
    numbers = (*TIERS, "Runs", "Untiled", "Predicted", "Change")
    table = table_of("  Order", *numbers, "Last device layer", "Last edge layer", right=numbers)
    orders: Sequence[tuple[str, Plan]] = (
        ("cut first, then tile (the paper's)", made.cut_before_tiles),
        ("decided together", made.plan),
    )
    for name, plan in orders:
        table.add_row(
            f"  {name}",
            *(f"{plan.segment(tier).layers:,}" for tier in TIERS),
            str(len(plan.tiling)),
            seconds_text(untiled_seconds(plan)),
            seconds_text(plan.predicted_seconds),
            f"{plan.predicted_seconds / made.plan.predicted_seconds - 1:+.1%}",
            *(plain(plan.segment(tier).last_layer) or "-" for tier in (Tier.DEVICE, Tier.EDGE)),
        )
    console.print(table)
