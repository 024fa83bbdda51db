"""`tierflow verify`: whether the pipeline's answer equals the whole model's, cut into segments or into tiles."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tierflow.errors import InvalidInputError
from tierflow_cli.console import print_json
from tierflow_cli.options import (
    AlgorithmOption,
    InputOption,
    JsonOption,
    NetworkOption,
    Sha256Option,
    SpeedsOption,
    TargetArgument,
    ThreadsOption,
    examples,
)

if TYPE_CHECKING:
    from tierflow.model.model import Model
    from tierflow_cli.planned import Wishes
    from tierflow_cli.target import Target
    from tierflow_cli.tiles_verifying import TileWishes

_TILES = "Tiles"

CutOption = Annotated[
    list[str] | None,
    typer.Option(
        "--cut",
        metavar="LAST_DEVICE_LAYER,LAST_EDGE_LAYER",
        help="A cut to check; either may be empty, for a tier that computes nothing. May be repeated. "
        "Default: the cut that `tierflow plan` makes.",
        show_default=False,
    ),
]
DeviceLayerOption = Annotated[
    str | None, typer.Option("--device-layer", metavar="LAYER", help="As in --cut, for a name with a comma in it.")
]
EdgeLayerOption = Annotated[
    str | None, typer.Option("--edge-layer", metavar="LAYER", help="As in --cut, for a name with a comma in it.")
]
RandomCutsOption = Annotated[
    int, typer.Option("--random-cuts", metavar="N", min=0, help="Checks so many different cuts.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Chooses the random cuts and the inputs.")]
GridOption = Annotated[
    str | None,
    typer.Option(
        "--grid",
        metavar="ROWSxCOLUMNS",
        help="Checks tiles instead of cuts: every run of layers that can be tiled is computed in such a grid.",
        rich_help_panel=_TILES,
        show_default=False,
    ),
]
RunOption = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="FIRST_LAYER,LAST_LAYER",
        help="With --grid: the one run to compute in tiles.",
        rich_help_panel=_TILES,
        show_default=False,
    ),
]
TileSpeedsOption = Annotated[
    str | None,
    typer.Option(
        "--edge-speeds",
        metavar="1,1,0.5,1",
        help="With --grid: sizes the tiles as workers of these speeds get them. Default: all alike.",
        rich_help_panel=_TILES,
        show_default=False,
    ),
]
ApproximateOption = Annotated[
    bool,
    typer.Option(
        "--approximate",
        help="With --grid: tiles layers too whose last bits depend on the tile, within 1e-6 of the largest output.",
        rich_help_panel=_TILES,
    ),
]


def verify(
    target: TargetArgument,
    cut: CutOption = None,
    device_layer: DeviceLayerOption = None,
    edge_layer: EdgeLayerOption = None,
    random_cuts: RandomCutsOption = 0,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    grid: GridOption = None,
    run: RunOption = None,
    edge_speeds: TileSpeedsOption = None,
    approximate: ApproximateOption = False,
    network: NetworkOption = None,
    speeds: SpeedsOption = None,
    algorithm: AlgorithmOption = None,
    model_input: InputOption = None,
    sha256: Sha256Option = "",
    as_json: JsonOption = False,
) -> None:
    """Checks that a model in segments, or in tiles, answers as the whole model does; exits with 1 where it doesn't."""
    from tierflow_cli.planned import Wishes
    from tierflow_cli.target import open_target

    about_cuts = {
        "--cut": bool(cut),
        "--random-cuts": random_cuts > 0,
        "--device-layer": device_layer is not None,
        "--edge-layer": edge_layer is not None,
    }
    about_tiles = {"--run": run is not None, "--edge-speeds": edge_speeds is not None, "--approximate": approximate}
    if grid is None:
        _refuse(about_tiles, "is about tiles; add a grid of them, like --grid 2x2")
        opened = open_target(target, model_input, sha256)
        names = None if device_layer is None and edge_layer is None else (device_layer or "", edge_layer or "")
        wishes = Wishes(network=network, speeds=speeds, algorithm=algorithm)
        holds = _cuts_hold(opened, wishes, cut or (), names, random_cuts, seed, threads, as_json=as_json)
    else:
        _refuse(about_cuts, "is about cuts, and --grid about tiles; check one after the other")
        from tierflow_cli.tiles_verifying import TileWishes

        tiles = TileWishes(grid, run, edge_speeds, approximate)
        holds = _tiles_hold(open_target(target, model_input, sha256).model, tiles, seed, threads, as_json=as_json)
    if not holds:
        raise typer.Exit(1)


def _refuse(given: Mapping[str, bool], reason: str) -> None:
    """Refuses the first flag that was given, with the reason."""
    for flag, was_given in given.items():
        if was_given:
            raise InvalidInputError(f"{flag} {reason}", subject=flag)


def _cuts_hold(
    opened: "Target",
    wishes: "Wishes",
    texts: Sequence[str],
    names: tuple[str, str] | None,
    random: int,
    seed: int,
    threads: int,
    *,
    as_json: bool,
) -> bool:
    from tierflow_cli.verify_report import print_checks, report_of
    from tierflow_cli.verifying import check, cuts_of

    cuts = cuts_of(opened, wishes, texts=texts, names=names, random=random, seed=seed)
    checks = check(opened.model, cuts, seed=seed, threads=threads)
    if as_json:
        print_json(report_of(opened.model, checks))
    else:
        print_checks(opened.model, checks)
    return all(found.holds for found in checks)


def _tiles_hold(model: "Model", wishes: "TileWishes", seed: int, threads: int, *, as_json: bool) -> bool:
    from tierflow_cli.tiles_verify_report import print_tile_check, report_of
    from tierflow_cli.tiles_verifying import check_tiles, refused_layers

    check = check_tiles(model, wishes, seed=seed, threads=threads)
    refused = refused_layers(model.graph, approximate=wishes.approximate)
    if as_json:
        print_json(report_of(model, check, refused, approximate=wishes.approximate))
    else:
        print_tile_check(model, check, refused)
    return check.holds


VERIFY_EXAMPLES = examples(
    "tierflow verify zoo://alexnet",
    "tierflow verify zoo://resnet18 --cut layer1.1/relu,layer3.0/relu",
    "tierflow verify model.onnx --random-cuts 10 --seed 7 --json",
    "tierflow verify samples/resnet18.yaml",
    "tierflow verify zoo://resnet18 --grid 2x2",
    "tierflow verify zoo://alexnet --grid 1x3 --run conv1,pool2 --edge-speeds 1,0.5,1 --json",
)
