"""What `tierflow profile` says, to machines and to people."""

from typing import Any, Final

from tierflow.model.model import Model
from tierflow.profile import Profile
from tierflow_cli.console import out, table_of
from tierflow_cli.wording import count_text, plain, plural, seconds_text

VERSION: Final = 1


def report_of(model: Model, profile: Profile) -> dict[str, Any]:
    """The profile as the document of `tierflow profile --json`."""
    return {
        "version": VERSION,
        "model": profile.model,
        "machine": profile.machine,
        "totalMilliseconds": _total(profile) * 1000,
        "layers": [
            {"name": layer.name, "kind": layer.kind, "milliseconds": profile.layers[layer.name] * 1000}
            for layer in model.graph.layers
        ],
    }


def print_profile(model: Model, profile: Profile, *, top: int) -> None:
    """Prints the slowest layers for people."""
    console = out()
    total = _total(profile)
    slowest = sorted(model.graph.layers, key=lambda layer: -profile.layers[layer.name])[:top]
    if slowest:
        table = table_of("Layer", "Kind", "Time", "Share", "MACs/s", right=("Time", "Share", "MACs/s"))
        for layer in slowest:
            seconds = profile.layers[layer.name]
            rate = layer.multiply_accumulates / seconds if seconds else 0
            table.add_row(
                plain(layer.name),
                plain(layer.kind),
                seconds_text(seconds),
                f"{seconds / total:.1%}" if total else "-",
                count_text(rate) if rate else "-",
            )
        console.print(table)
        console.print()
    console.print(
        f"{plain(model.graph.name)}: {seconds_text(total)} in {plural(len(model.graph.layers), 'layer')} on "
        f"{plain(profile.machine)}"
    )
    fused = sum(1 for layer in model.graph.layers if profile.layers[layer.name] == 0)
    if fused:
        console.print(f"{plural(fused, 'layer')} without a time of its own: the runtime computes it within another")


def _total(profile: Profile) -> float:
    return sum(profile.layers.values())
