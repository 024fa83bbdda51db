"""What `tierflow plan` says, to machines and to people.

The JSON is stable: within a version keys are added, never removed, renamed or given another meaning.
"""

from typing import Any, Final

from rich.console import Console

from tierflow.network import MEGABIT, Network
from tierflow.plan import SegmentPlan
from tierflow.tiers import TIERS, Tier
from tierflow_cli.alternatives import single_tier_latencies
from tierflow_cli.console import out, table_of
from tierflow_cli.planned import Planned
from tierflow_cli.runs import grid_text, run_places
from tierflow_cli.shares import name_of, shares_of
from tierflow_cli.tiles_report import print_tiles, tiling_of
from tierflow_cli.wording import (
    bandwidth_text,
    bytes_text,
    count_text,
    plain,
    plural,
    seconds_text,
    shape_text,
)

VERSION: Final = 1
_LINKS: Final = ((Tier.DEVICE, Tier.EDGE), (Tier.EDGE, Tier.CLOUD), (Tier.DEVICE, Tier.CLOUD))


def report_of(made: Planned, *, explain: bool = False, layers: bool = False) -> dict[str, Any]:
    """The plan as the document of `tierflow plan --json`."""
    plan = made.plan
    report = {
        "version": VERSION,
        "model": plan.model,
        "algorithm": plan.algorithm.value,
        "byHand": made.by_hand,
        "predictedLatencyMilliseconds": plan.predicted_seconds * 1000,
        "optimalityGapPercent": plan.optimality_gap * 100,
        "planningMilliseconds": made.seconds * 1000,
        "backboneBytes": plan.backbone_bytes,
        "route": plan.route.value,
        "segments": [_segment(segment) for segment in plan.segments],
        "tiling": tiling_of(made.target.model.graph, plan, made.nodes),
        "transfers": [
            {"from": lower.value, "to": upper.value, "milliseconds": seconds * 1000}
            for (lower, upper), seconds in made.latency.transfer.items()
        ],
        "singleTierMilliseconds": {tier.value: seconds * 1000 for tier, seconds in single_tier_latencies(made).items()},
        "network": _network(plan.network),
        "speeds": {tier.value: plan.speeds[tier] for tier in TIERS},
        "profile": {"source": made.profile.source, "machine": made.profile.machine},
    }
    if layers:
        report["layers"] = _layers(made)
    if explain:
        from tierflow_cli.explain_report import explained

        report["explain"] = explained(made)
    return report


def _segment(segment: SegmentPlan) -> dict[str, Any]:
    return {
        "tier": segment.tier.value,
        "layers": segment.layers,
        "lastLayer": segment.last_layer or None,
        "boundaryBytes": segment.boundary_bytes,
        "computeMilliseconds": segment.compute_seconds * 1000,
        "segment": segment.id,
    }


def _network(network: Network) -> dict[str, Any]:
    return {
        "name": network.name or None,
        "links": [
            {
                "from": lower.value,
                "to": upper.value,
                "megabitsPerSecond": network.link(lower, upper).bytes_per_second / MEGABIT,
                "roundTripMilliseconds": network.link(lower, upper).round_trip_seconds * 1000,
            }
            for lower, upper in _LINKS
        ],
    }


def _layers(made: Planned) -> list[dict[str, Any]]:
    graph = made.target.model.graph
    run = {place: number for number, places in enumerate(run_places(graph, made.plan)) for place in places}
    return [
        {
            "name": layer.name,
            "kind": layer.kind,
            "shape": list(graph.tensors[layer.outputs[0]].shape) if layer.outputs else None,
            "bytes": sum(graph.tensors[name].size for name in layer.outputs),
            "multiplyAccumulates": layer.multiply_accumulates,
            "tier": tier.value,
            "run": run.get(place),
            "milliseconds": made.problem.costs.layer[tier.rank, place] * 1000,
        }
        for place, (layer, tier) in enumerate(zip(graph.layers, made.plan.tiers(graph), strict=True))
    ]


def print_plan(made: Planned, *, explain: bool = False, layers: bool = False) -> None:
    """Prints the plan for people."""
    console = out()
    _print_layers(console, made) if layers else None
    _print_head(console, made)
    _print_segments(console, made)
    print_tiles(console, made)
    _print_latency(console, made)
    if explain:
        from tierflow_cli.explain_report import print_explained

        print_explained(console, made)


def remark_of(made: Planned) -> str:
    """Where the layer times are from and what the plan had to respect, in a line."""
    constraints = made.problem.constraints
    parts = [f"layer times {made.profile.source}"]
    parts += [f"up to {pin.layers_up_to} on the {pin.tier}" for pin in constraints.pins]
    if constraints.memory:
        budgets = (f"{tier} {bytes_text(size)}" for tier, size in constraints.memory.items())
        parts.append(f"memory: {', '.join(budgets)}")
    if constraints.backbone_bytes is not None:
        parts.append(f"into the cloud: at most {bytes_text(constraints.backbone_bytes)}")
    return " · ".join(parts)


def _print_head(console: Console, made: Planned) -> None:
    graph, plan = made.target.model.graph, made.plan
    console.print(
        f"{plain(graph.name)}: {plural(len(graph.layers), 'layer')}, "
        f"{count_text(graph.multiply_accumulates)} multiply-accumulates, {bytes_text(graph.weight_bytes)} of weights",
        style="bold",
    )
    links = ", ".join(
        f"{lower}-{upper} {bandwidth_text(link.bytes_per_second)} {seconds_text(link.round_trip_seconds)}"
        for lower, upper in _LINKS
        for link in [plan.network.link(lower, upper)]
    )
    name = f"{plan.network.name}: " if plan.network.name else ""
    source = {
        "estimated": "estimated from the graph, not measured (--profile measure measures them here)",
        "measured": f"measured on {made.profile.machine}",
    }.get(made.profile.source, made.profile.source)
    console.print(f"Network      {name}{links}")
    console.print(f"Layer times  {plain(source)}")
    console.print()


def _print_segments(console: Console, made: Planned) -> None:
    graph, plan = made.target.model.graph, made.plan
    numbers = ("Layers", "Weights", "Speed", "Compute", "Sends on")
    table = table_of("Tier", *numbers, "Last layer", right=numbers)
    for segment in plan.segments:
        names = {name for place in segment.segment.layers for name in graph.layers[place].weights}
        weights = sum(graph.weights[name].size for name in names if name in graph.weights)
        table.add_row(
            segment.tier.value,
            f"{segment.layers:,}",
            bytes_text(weights) if segment.layers else "-",
            f"{plan.speeds[segment.tier]:g}",
            seconds_text(segment.compute_seconds) if segment.layers else "-",
            bytes_text(segment.boundary_bytes) if segment.boundary_bytes else "-",
            plain(segment.last_layer) or "-",
        )
    console.print(table)
    console.print()


def _print_latency(console: Console, made: Planned) -> None:
    plan = made.plan
    parts = [f"{name_of(where)} {seconds_text(seconds)}" for where, seconds in shares_of(made.latency)]
    how = "cut by hand" if made.by_hand else plan.algorithm.value
    console.print(
        f"Predicted    {seconds_text(plan.predicted_seconds)} per request: {' + '.join(parts)}", soft_wrap=True
    )
    console.print(f"Found by     {how}, {_gap(made)}, in {seconds_text(made.seconds)}")
    console.print(f"Backbone     {bytes_text(plan.backbone_bytes)} per request into the cloud")
    alone = ", ".join(f"{tier} {seconds_text(seconds)}" for tier, seconds in single_tier_latencies(made).items())
    console.print(f"On one tier  {alone}")


def _gap(made: Planned) -> str:
    """How far the plan is from the optimum; that of cut and tiles together is known of chains alone."""
    gap = made.plan.optimality_gap
    if made.has_edge_workers:
        above = f", the cut {gap:.2%} above the optimum without tiles" if gap > 0 else ""
        return ("tiles chosen for it" if made.by_hand else "cut and tiles decided together") + above
    return f"{gap:.2%} above the optimum" if gap > 0 else "optimal"


def _print_layers(console: Console, made: Planned) -> None:
    numbers = ("Bytes", "MACs", "Time")
    tiles = ("Tiles",) if made.plan.tiling else ()
    table = table_of("Layer", "Kind", "Output shape", *numbers, "Tier", *tiles, right=numbers)
    for layer in _layers(made):
        grid = "-" if layer["run"] is None else grid_text(made.plan.tiling[layer["run"]])
        table.add_row(
            plain(layer["name"]),
            plain(layer["kind"]),
            shape_text(layer["shape"]) if layer["shape"] is not None else "-",
            bytes_text(layer["bytes"]),
            count_text(layer["multiplyAccumulates"]) if layer["multiplyAccumulates"] else "-",
            seconds_text(layer["milliseconds"] / 1000),
            layer["tier"],
            *((grid,) if tiles else ()),
        )
    console.print(table)
    console.print()
