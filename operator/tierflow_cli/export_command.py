"""`tierflow export`: from PyTorch to an ONNX file that answers the same."""

from pathlib import Path
from typing import Annotated

import typer

from tierflow_cli.options import InputOption, JsonOption, examples

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A .pt2 file that torch.export.save wrote, package.module:factory, or a torchvision model's name.",
        show_default=False,
    ),
]
OutputOption = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE.onnx", help="The file to write.", show_default=False)
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="NAME",
        help="Published weights of a torchvision model, like DEFAULT; random ones otherwise.",
        show_default=False,
    ),
]


def export(
    source: SourceArgument,
    output: OutputOption,
    weights: WeightsOption = None,
    model_input: InputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Exports a PyTorch model to ONNX and checks the file against PyTorch's answer; needs the extra `torch`."""
    from tierflow_cli.console import out, print_json, progress
    from tierflow_cli.export_torch import TOLERANCE, export_source, load_source
    from tierflow_cli.target import parse_inputs
    from tierflow_cli.wording import plain, plural
    from tierflow_cli.writing import writing

    shapes = parse_inputs(model_input or ())
    with progress(f"exporting {source}"), writing(output, option="--output"):
        exported = export_source(load_source(source, input_shapes=shapes, weights=weights), output)
    if as_json:
        print_json(
            {
                "version": 1,
                "path": str(exported.path),
                "layers": exported.layers,
                "inputs": {name: list(shape) for name, shape in exported.inputs.items()},
                "outputs": list(exported.outputs),
                "largestRelativeDifference": exported.largest_relative_difference,
                "tolerance": TOLERANCE,
            }
        )
    else:
        out().print(
            f"{exported.path}: {plural(exported.layers, 'layer')}; ONNX Runtime and PyTorch differ by at most "
            f"{exported.largest_relative_difference:.2g} of the largest output\n"
            f"Try: {plain(f'tierflow plan {exported.path}')}"
        )


EXPORT_EXAMPLES = examples(
    "tierflow export resnet50 --weights DEFAULT --output resnet50.onnx",
    "tierflow export mypackage.models:make_net --input x=1,3,224,224 --output net.onnx",
    "tierflow export program.pt2 --output program.onnx",
)
