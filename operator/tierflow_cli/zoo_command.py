"""`tierflow zoo`: the networks that come with Tierflow."""

from pathlib import Path
from typing import Annotated

import typer

from tierflow_cli.options import InputOption, JsonOption, examples


def zoo(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One network; all by default.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.onnx", help="Writes the network's file.", show_default=False),
    ] = None,
    model_input: InputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lists the networks that come with Tierflow, or writes one as an ONNX file.

    A network is used as `zoo://NAME` wherever a model is named.
    """
    from tierflow.errors import InvalidInputError
    from tierflow_cli.zoo_report import entries, print_entries, print_written, write_network

    if name is None and (output is not None or model_input):
        raise InvalidInputError("--output and --input need the NAME of a network, like resnet18", subject="NAME")
    if name is not None and output is not None:
        written = write_network(name, output, model_input or ())
        print_written(written, as_json=as_json)
    else:
        print_entries(entries(name, model_input or ()), as_json=as_json)


ZOO_EXAMPLES = examples(
    "tierflow zoo",
    "tierflow zoo darknet53 --input input=1,3,320,320 --json",
    "tierflow zoo alexnet --output alexnet.onnx",
)
