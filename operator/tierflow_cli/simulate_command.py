"""`tierflow simulate`: what the operator would do over time, before it does it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tierflow_cli.options import JsonOption, ProfileOption, examples

if TYPE_CHECKING:
    from tierflow.manifest import PipelineSpec

_THRESHOLDS = "Thresholds"


def simulate(
    pipeline: Annotated[
        str, typer.Argument(metavar="PIPELINE.yaml", help="The manifest of an InferencePipeline.", show_default=False)
    ],
    trace: Annotated[
        Path,
        typer.Option(
            "--trace",
            metavar="FILE.csv",
            help="Links, speeds and nodes over time: a column `seconds`, and any of edge-cloud.mbps, edge-cloud.rtt_ms "
            "(likewise device-edge, device-cloud), speed.edge, nodes.edge, metrics.",
            show_default=False,
        ),
    ],
    min_improvement: Annotated[
        int | None,
        typer.Option(
            "--min-improvement",
            metavar="PERCENT",
            min=0,
            max=100,
            help="In place of the manifest's minImprovementPercent.",
            rich_help_panel=_THRESHOLDS,
            show_default=False,
        ),
    ] = None,
    min_interval: Annotated[
        int | None,
        typer.Option(
            "--min-interval",
            metavar="SECONDS",
            min=0,
            help="In place of its minIntervalSeconds.",
            rich_help_panel=_THRESHOLDS,
            show_default=False,
        ),
    ] = None,
    stabilization: Annotated[
        int | None,
        typer.Option(
            "--stabilization",
            metavar="SECONDS",
            min=0,
            help="In place of its stabilizationSeconds.",
            rich_help_panel=_THRESHOLDS,
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        float,
        typer.Option(
            "--every", metavar="SECONDS", min=0.1, help="How often is looked where the trace has no new line."
        ),
    ] = 5.0,
    profile: ProfileOption = "estimate",
    picture: Annotated[
        Path | None,
        typer.Option("--picture", metavar="FILE.svg", help="Draws the plan over time.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Replays a trace through the operator's own decisions: when the plan would move, why, and what that gains."""
    from tierflow.errors import InvalidInputError
    from tierflow_cli.console import progress
    from tierflow_cli.layer_times import layer_times
    from tierflow_cli.simulate_report import Course, print_course, report_of
    from tierflow_cli.simulation_trace import read_trace
    from tierflow_cli.target import is_manifest, open_target
    from tierflow_operator.simulation import Simulation

    if not is_manifest(pipeline):
        raise InvalidInputError(
            f"PIPELINE.yaml: {pipeline} is no manifest; thresholds are a pipeline's, so write one for the model",
            subject="PIPELINE.yaml",
        )
    target = open_target(pipeline)
    if target.pipeline is None:  # open_target reads every manifest
        raise InvalidInputError(f"{pipeline} is no manifest", subject="PIPELINE.yaml")
    spec = _with_thresholds(target.pipeline.spec, min_improvement, min_interval, stabilization)
    moments = read_trace(trace, target.pipeline)
    simulation = Simulation(spec, target.model.graph, layer_times(target.model, profile))
    end = moments[-1].seconds
    steps = []
    with progress("simulating") as tell:
        for step in simulation.run(moments, until=end + _LAST_LOOK, period=every):
            steps.append(step)
            tell("simulating", step.seconds / end if end else None)
    course = Course(target.pipeline.name, target.model.graph, spec, trace.name, len(moments), tuple(steps))
    if picture is not None:
        from tierflow_cli.simulation_picture import draw
        from tierflow_cli.writing import write_text

        write_text(picture, draw(course), option="--picture")
    if as_json:
        from tierflow_cli.console import print_json

        print_json(report_of(course))
    else:
        print_course(course)


_LAST_LOOK = 1e-6
"""After the last line of the trace, which is looked at as well."""


def _with_thresholds(
    spec: "PipelineSpec", improvement: int | None, interval: int | None, window: int | None
) -> "PipelineSpec":
    from msgspec.structs import replace

    given = {
        "min_improvement_percent": improvement,
        "min_interval_seconds": interval,
        "stabilization_seconds": window,
    }
    return replace(
        spec, planning=replace(spec.planning, **{name: value for name, value in given.items() if value is not None})
    )


SIMULATE_EXAMPLES = examples(
    "tierflow simulate samples/resnet18.yaml --trace samples/traces/uplink.csv",
    "tierflow simulate samples/resnet18.yaml --trace samples/traces/uplink.csv --stabilization 0 --min-interval 60",
    "tierflow simulate samples/resnet18.yaml --trace samples/traces/uplink.csv --picture course.svg --json",
)
