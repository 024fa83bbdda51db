"""Why a plan is as it is, to machines and to people: `tierflow plan --explain`."""

from typing import Any

from rich.console import Console

from tierflow.network import MEGABIT
from tierflow.partition.explain import Alternative, Binding, Explanation, Flip, explain
from tierflow.tiers import TIERS
from tierflow_cli.alternatives import best_of, price_of
from tierflow_cli.console import progress, table_of
from tierflow_cli.planned import Planned
from tierflow_cli.tiles_report import orders_of, print_orders
from tierflow_cli.wording import bandwidth_text, bytes_text, plain, seconds_text


def explained(made: Planned) -> dict[str, Any]:
    """The explanation as it stands in the plan's document."""
    found = _explanation(made)
    return {
        "parts": [
            {
                "name": part.name,
                "kind": part.kind,
                "milliseconds": part.seconds * 1000,
                "sharePercent": part.share * 100,
            }
            for part in found.parts
        ],
        "singleTiers": [_alternative(each) for each in found.single_tiers],
        "neighbours": [_alternative(each) for each in found.neighbours],
        "flips": [
            {
                "link": flip.link,
                "direction": flip.direction,
                "megabitsPerSecond": None if flip.bytes_per_second is None else flip.bytes_per_second / MEGABIT,
                "layers": _counts(flip.layers) if flip.layers else None,
            }
            for flip in found.flips
        ],
        "constraints": [
            {
                "name": binding.name,
                "limitBytes": binding.limit,
                "usedBytes": binding.used,
                "costsMilliseconds": binding.costs_seconds * 1000,
            }
            for binding in found.constraints
        ],
        "orders": orders_of(made),
    }


def print_explained(console: Console, made: Planned) -> None:
    """Prints the explanation for people."""
    found = _explanation(made)
    console.print("\nWhat decided it", style="bold")
    for part in found.parts:
        console.print(f"  {part.share:>4.0%}  {seconds_text(part.seconds):>8}  {part.kind} {part.name}")
    for binding in found.constraints:
        console.print(f"  {_binding_text(binding)}")
    print_orders(console, made)
    console.print("\nBeside it", style="bold")
    _print_alternatives(console, [*found.single_tiers, *found.neighbours])
    without = " if nothing were tiled" if made.has_edge_workers else ""
    console.print(f"\nWhat bandwidth would change it{without}", style="bold")
    for flip in found.flips:
        console.print(f"  {_flip_text(made, flip)}")


def _explanation(made: Planned) -> Explanation:
    with progress("looking at other plans"):
        return explain(made.problem, made.plan, price=price_of(made), best=best_of(made))


def _alternative(each: Alternative) -> dict[str, Any]:
    device, edge = each.last_layers
    return {
        "name": each.name,
        "layers": _counts(each.layers),
        "lastLayers": {"device": device or None, "edge": edge or None},
        "route": each.route.value,
        "predictedLatencyMilliseconds": each.predicted_seconds * 1000,
        "changePercent": each.change * 100,
        "broken": list(each.broken),
    }


def _counts(layers: tuple[int, int, int]) -> dict[str, int]:
    return {tier.value: count for tier, count in zip(TIERS, layers, strict=True)}


def _print_alternatives(console: Console, alternatives: list[Alternative]) -> None:
    numbers = ("device", "edge", "cloud", "Predicted", "Change")
    table = table_of("  Plan", *numbers, "Breaks", right=numbers)
    for each in alternatives:
        table.add_row(
            f"  {each.name}",
            *(f"{count:,}" for count in each.layers),
            seconds_text(each.predicted_seconds),
            f"{each.change:+.1%}",
            plain(", ".join(each.broken)) or "-",
        )
    console.print(table)


def _binding_text(binding: Binding) -> str:
    used = f": {bytes_text(binding.used or 0)} of {bytes_text(binding.limit)}" if binding.limit is not None else ""
    if binding.costs_seconds > 0:
        return f"{plain(binding.name)}{used}; without it {seconds_text(binding.costs_seconds)} less"
    return f"{plain(binding.name)}{used}; costs nothing"


def _flip_text(made: Planned, flip: Flip) -> str:
    lower, upper = (tier for name in flip.link.split("-") for tier in TIERS if tier.value == name)
    now = bandwidth_text(made.plan.network.link(lower, upper).bytes_per_second)
    if flip.bytes_per_second is None or flip.layers is None:
        return f"{flip.link} {flip.direction} than {now}: the plan stays, within a factor of a thousand"
    bound = "above" if flip.direction == "faster" else "below"
    layers = ", ".join(f"{count} on the {tier}" for tier, count in zip(TIERS, flip.layers, strict=True) if count)
    return f"{flip.link} {bound} {bandwidth_text(flip.bytes_per_second)} (now {now}): {layers}"
