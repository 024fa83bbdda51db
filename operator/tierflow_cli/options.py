"""The options that several commands share: their names, their help, and how their text becomes a value."""

from collections.abc import Iterable
from typing import Annotated, Final, Literal

import typer

DEFAULT_NETWORK: Final = "wifi"

AlgorithmName = Literal["Exact", "Heuristic"]
"""`tierflow.partition.problem.Algorithm` by its values, so that `--help` doesn't have to load the planner."""

_PLANNING: Final = "Planning"
_OUTPUT: Final = "Output"


def _networks(incomplete: str) -> Iterable[str]:
    from tierflow.network import NETWORKS

    return [name for name in NETWORKS if name.startswith(incomplete)]


def _models(incomplete: str) -> Iterable[str]:
    from tierflow.zoo.model import names

    return [uri for uri in (f"zoo://{name}" for name in names()) if uri.startswith(incomplete)]


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="An ONNX file, or a uri: zoo://resnet18, https://..., s3://..., file:///...",
        autocompletion=_models,
        show_default=False,
    ),
]
TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|PIPELINE.yaml",
        help="An ONNX file, a uri like zoo://resnet18, or the manifest of an InferencePipeline (.yaml, .yml, .json).",
        autocompletion=_models,
        show_default=False,
    ),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=1,3,320,320",
        help="Fixes the free dimensions of an input; may be repeated.",
        show_default=False,
    ),
]
Sha256Option = Annotated[
    str,
    typer.Option("--sha256", metavar="HEX", help="The SHA-256 that the model's file must have.", show_default=False),
]
NetworkOption = Annotated[
    str | None,
    typer.Option(
        "--network",
        metavar="NAME|LINKS",
        help="cat1, 3g, 4g, wifi or ethernet: the uplink to the cloud behind a local network; or links, like "
        "device-edge=84Mbit/s:3ms,edge-cloud=20Mbit/s:20ms. Default: what the manifest says, else wifi.",
        autocompletion=_networks,
        rich_help_panel=_PLANNING,
        show_default=False,
    ),
]
SpeedsOption = Annotated[
    str | None,
    typer.Option(
        "--speeds",
        metavar="device=..,edge=..,cloud=..",
        help="How fast the tiers are, as multiples of the profile's machine, or by name: microboard, board, phone, "
        "laptop, desktop, server, accelerator. Default: what the manifest says, else device=0.1,edge=0.5,cloud=1.",
        rich_help_panel=_PLANNING,
        show_default=False,
    ),
]
AlgorithmOption = Annotated[
    AlgorithmName | None,
    typer.Option(
        "--algorithm",
        help="Exact finds the optimum; Heuristic is the D3 paper's HPA. Default: what the manifest says, else Exact.",
        case_sensitive=False,
        rich_help_panel=_PLANNING,
        show_default=False,
    ),
]
ProfileOption = Annotated[
    str,
    typer.Option(
        "--profile",
        metavar="estimate|measure|FILE",
        help="Where layer times come from: estimated from the graph (the same everywhere, needs no weights), measured "
        "here and now, or a file that `tierflow profile` wrote.",
        rich_help_panel=_PLANNING,
    ),
]
PinOption = Annotated[
    list[str] | None,
    typer.Option(
        "--pin",
        metavar="LAYER=TIER",
        help="This layer and all that it depends on are computed on that tier; may be repeated.",
        rich_help_panel=_PLANNING,
        show_default=False,
    ),
]
MemoryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--memory",
        metavar="TIER=512Mi",
        help="The tier's layers may need at most so much memory; may be repeated.",
        rich_help_panel=_PLANNING,
        show_default=False,
    ),
]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        "--backbone-bytes",
        metavar="500k",
        help="At most so many bytes per request may go into the cloud.",
        rich_help_panel=_PLANNING,
        show_default=False,
    ),
]
EdgeWorkersOption = Annotated[
    int | None,
    typer.Option(
        "--edge-workers",
        metavar="N",
        min=1,
        help="So many workers at the edge, which compute runs of its layers together, as tiles, where that is faster. "
        "Default: what the manifest says, else 1.",
        rich_help_panel=_PLANNING,
        show_default=False,
    ),
]
EdgeSpeedsOption = Annotated[
    str | None,
    typer.Option(
        "--edge-speeds",
        metavar="1,1,0.5,1",
        help="How fast each of these workers is, relative to the edge tier; the first is the one that cuts the tiles. "
        "Default: all alike.",
        rich_help_panel=_PLANNING,
        show_default=False,
    ),
]
EdgeNetworkOption = Annotated[
    str | None,
    typer.Option(
        "--edge-network",
        metavar="RATE[:TIME]",
        help="The network between them: bandwidth and round trip. Default: 1Gbit/s:0.5ms.",
        rich_help_panel=_PLANNING,
        show_default=False,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Prints JSON for machines instead of text.", rich_help_panel=_OUTPUT)
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=1, help="Threads within a layer, while layers are computed.")
]


def examples(*commands: str) -> str:
    """The end of a command's help: commands to copy, which a test runs as they are written."""
    return "\n".join(["[bold]Examples[/bold]", *(f"$ {command}" for command in commands)])
