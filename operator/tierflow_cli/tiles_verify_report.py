"""What `tierflow verify --grid` says, to machines and to people.

The JSON is stable: within a version keys are added, never removed, renamed or given another meaning.
"""

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console

from tierflow.graph import Graph
from tierflow.model.model import Model
from tierflow_cli.console import out, table_of
from tierflow_cli.tiles_verifying import Refused
from tierflow_cli.wording import plain, plural
from tierflow_worker.tiling.verification import RunCheck, TilingCheck
from tierflow_worker.verification import TOLERANCE

VERSION: Final = 1


def report_of(model: Model, check: TilingCheck, refused: Sequence[Refused], *, approximate: bool) -> dict[str, Any]:
    """The check as the document of `tierflow verify --grid --json`."""
    return {
        "version": VERSION,
        "model": model.identity,
        "holds": check.holds,
        "grid": str(check.grid),
        "approximate": approximate,
        "tolerance": TOLERANCE,
        "bitIdentical": check.bit_identical,
        "largestRelativeDifference": check.largest_relative_difference,
        "layers": check.layers,
        "tiledLayers": check.tiled_layers,
        "runs": [
            {
                "firstLayer": run.first_layer,
                "lastLayer": run.last_layer,
                "layers": run.layers,
                "tiles": run.tiles,
                "bitIdentical": run.bit_identical,
                "largestRelativeDifference": run.largest_relative_difference,
                "refusal": run.refusal or None,
                "endedBy": run.ended_by or None,
            }
            for run in check.runs
        ],
        "refused": [{"layer": each.layer, "kind": each.kind, "reason": each.reason} for each in refused],
    }


def print_tile_check(model: Model, check: TilingCheck, refused: Sequence[Refused]) -> None:
    """Prints the check for people."""
    console = out()
    numbers = ("Layers", "Tiles")
    table = table_of("First layer", "Last layer", *numbers, "Against the same kernels untiled", right=numbers)
    for run in check.runs:
        table.add_row(plain(run.first_layer), plain(run.last_layer), f"{run.layers:,}", str(run.tiles), _verdict(run))
    console.print(table)
    _print_refused(console, model.graph, refused)
    console.print()
    console.print(
        f"{plain(model.graph.name)}: {check.tiled_layers:,} of {plural(check.layers, 'layer')} computed in tiles of "
        f"{check.grid}, in {plural(sum(run.tiles > 0 for run in check.runs), 'run')}"
    )
    answer = "bit-identical to" if check.bit_identical else f"{check.largest_relative_difference:.2g} off"
    console.print(f"The answer is {answer} the whole model's in one session.")
    console.print("Lossless." if check.holds else "NOT lossless.", style="bold")


def _verdict(run: RunCheck) -> str:
    if run.refusal:
        return f"not tiled: {plain(run.refusal)}"
    if run.bit_identical:
        return "bit-identical"
    return f"differs by {run.largest_relative_difference:.2g} of the largest output"


def _print_refused(console: Console, graph: Graph, refused: Sequence[Refused]) -> None:
    """What can't be tiled: a row per kind and reason, where tensors that differ by name are one reason."""
    if not refused:
        return
    alike: dict[tuple[str, str], list[Refused]] = {}
    for each in refused:
        layer = graph.layers[graph.place[each.layer]]
        subject, _, rest = each.reason.partition(" ")
        reason = rest if subject in (*layer.inputs, *layer.outputs) else each.reason
        alike.setdefault((each.kind, reason), []).append(each)
    console.print()
    table = table_of("Not in any run", "Kind", "Why")
    for (kind, _), group in alike.items():
        more = f" and {len(group) - 1:,} more" if len(group) > 1 else ""
        table.add_row(f"{plain(group[0].layer)}{more}", plain(kind), plain(group[0].reason))
    console.print(table)
