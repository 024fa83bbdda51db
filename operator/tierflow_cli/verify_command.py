"""`tierflow verify`: whether the pipeline's answer equals the whole model's."""

from typing import Annotated

import typer

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


def verify(
    target: TargetArgument,
    cut: CutOption = None,
    device_layer: DeviceLayerOption = None,
    edge_layer: EdgeLayerOption = None,
    random_cuts: RandomCutsOption = 0,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    network: NetworkOption = None,
    speeds: SpeedsOption = None,
    algorithm: AlgorithmOption = None,
    model_input: InputOption = None,
    sha256: Sha256Option = "",
    as_json: JsonOption = False,
) -> None:
    """Checks that the segments of a cut together answer as the whole model does; exits with 1 where they don't."""
    from tierflow_cli.planned import Wishes
    from tierflow_cli.target import open_target
    from tierflow_cli.verify_report import print_checks, report_of
    from tierflow_cli.verifying import check, cuts_of

    opened = open_target(target, model_input, sha256)
    cuts = cuts_of(
        opened,
        Wishes(network=network, speeds=speeds, algorithm=algorithm),
        texts=cut or (),
        names=None if device_layer is None and edge_layer is None else (device_layer or "", edge_layer or ""),
        random=random_cuts,
        seed=seed,
    )
    checks = check(opened.model, cuts, seed=seed, threads=threads)
    if as_json:
        from tierflow_cli.console import print_json

        print_json(report_of(opened.model, checks))
    else:
        print_checks(opened.model, checks)
    if not all(found.holds for found in checks):
        raise typer.Exit(1)


VERIFY_EXAMPLES = examples(
    "tierflow verify zoo://alexnet",
    "tierflow verify zoo://resnet18 --cut layer1.1/relu,layer3.0/relu",
    "tierflow verify model.onnx --random-cuts 10 --seed 7 --json",
    "tierflow verify samples/resnet18.yaml",
)
