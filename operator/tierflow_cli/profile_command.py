"""`tierflow profile`: how long each layer takes on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from tierflow_cli.options import InputOption, JsonOption, ModelArgument, Sha256Option, ThreadsOption, examples


def profile(
    model: ModelArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Writes the profile, for `tierflow plan --profile FILE`.",
            show_default=False,
        ),
    ] = None,
    threads: ThreadsOption = 1,
    top: Annotated[int, typer.Option("--top", metavar="N", min=0, help="Lists the N slowest layers.")] = 15,
    model_input: InputOption = None,
    sha256: Sha256Option = "",
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Measures the layers of a model on this machine."""
    from tierflow_cli.layer_times import measured, write_profile
    from tierflow_cli.profile_report import print_profile, report_of
    from tierflow_cli.target import open_target

    opened = open_target(model, model_input, sha256).model
    found = measured(opened, threads)
    if output is not None:
        write_profile(found, output)
    if as_json:
        from tierflow_cli.console import print_json

        print_json(report_of(opened, found))
    else:
        print_profile(opened, found, top=top)


PROFILE_EXAMPLES = examples(
    "tierflow profile zoo://alexnet --top 5",
    "tierflow profile model.onnx --threads 2 --output model.profile.json",
)
