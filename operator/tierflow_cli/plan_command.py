"""`tierflow plan`: what each tier would compute, what that costs, and why."""

from pathlib import Path
from typing import Annotated

import typer

from tierflow_cli.options import (
    AlgorithmOption,
    BackboneOption,
    EdgeNetworkOption,
    EdgeSpeedsOption,
    EdgeWorkersOption,
    InputOption,
    JsonOption,
    MemoryOption,
    NetworkOption,
    PinOption,
    ProfileOption,
    Sha256Option,
    SpeedsOption,
    TargetArgument,
    examples,
)


def plan(
    target: TargetArgument,
    network: NetworkOption = None,
    speeds: SpeedsOption = None,
    algorithm: AlgorithmOption = None,
    profile: ProfileOption = "estimate",
    pin: PinOption = None,
    memory: MemoryOption = None,
    backbone_bytes: BackboneOption = None,
    edge_workers: EdgeWorkersOption = None,
    edge_speeds: EdgeSpeedsOption = None,
    edge_network: EdgeNetworkOption = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Says what decided the plan, what the cuts beside it cost, and what would change it."
        ),
    ] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Lists the layers with their tiers.")] = False,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", metavar="FILE.svg", help="Draws the graph and its cuts.", show_default=False),
    ] = None,
    model_input: InputOption = None,
    sha256: Sha256Option = "",
    as_json: JsonOption = False,
) -> None:
    """Plans a model over device, edge and cloud: which layers each computes, and what a request will take."""
    from tierflow_cli.plan_report import print_plan, remark_of, report_of
    from tierflow_cli.planned import Wishes, planned
    from tierflow_cli.target import open_target

    wishes = Wishes(
        network=network,
        speeds=speeds,
        algorithm=algorithm,
        profile=profile,
        pins=pin or (),
        memory=memory or (),
        backbone_bytes=backbone_bytes,
        edge_workers=edge_workers,
        edge_speeds=edge_speeds,
        edge_network=edge_network,
    )
    made = planned(open_target(target, model_input, sha256), wishes)
    if picture is not None:
        from tierflow_cli.picture.draw import draw
        from tierflow_cli.tiles_report import nodes_text
        from tierflow_cli.writing import write_text

        workers = nodes_text(made.nodes) if made.has_edge_workers else ""
        drawn = draw(made.target.model.graph, made.plan, made.latency, remark_of(made), workers)
        write_text(picture, drawn, option="--picture")
    if as_json:
        from tierflow_cli.console import print_json

        print_json(report_of(made, explain=explain, layers=layers))
    else:
        print_plan(made, explain=explain, layers=layers)


PLAN_EXAMPLES = examples(
    "tierflow plan zoo://resnet18",
    "tierflow plan model.onnx --network 4g --speeds device=phone,edge=laptop,cloud=server",
    "tierflow plan zoo://inceptionv4 --network device-edge=84Mbit/s:3ms,edge-cloud=20Mbit/s:20ms --explain",
    "tierflow plan zoo://resnet18 --pin layer1.0/relu=device --memory device=64Mi --json",
    "tierflow plan zoo://vgg16 --edge-workers 4 --edge-network 1Gbit/s:0.5ms --explain",
    "tierflow plan samples/resnet18.yaml --picture plan.svg",
)
