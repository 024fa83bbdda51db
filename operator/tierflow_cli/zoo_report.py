"""What `tierflow zoo` says, and the files that it writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tierflow.model.extract import extract_segment
from tierflow.model.model import Model
from tierflow.zoo.architecture import Architecture
from tierflow.zoo.model import architecture, names, open_zoo_model
from tierflow_cli.console import out, print_json, progress, table_of
from tierflow_cli.target import parse_inputs
from tierflow_cli.wording import bytes_text, count_text, shape_text
from tierflow_cli.writing import writing

VERSION: Final = 1

Entry = tuple[Architecture, Model]


def entries(name: str | None, inputs: Sequence[str]) -> list[Entry]:
    """One network with its input fixed, or all.

    Raises:
        InvalidInputError: where there is no such network, or it doesn't take this input.
    """
    chosen = [architecture(known) for known in ([name] if name is not None else names())]
    return [(known, open_zoo_model(known.name, parse_inputs(inputs))) for known in chosen]


def print_entries(found: Sequence[Entry], *, as_json: bool) -> None:
    """Prints what is known of the networks."""
    if as_json:
        print_json({"version": VERSION, "models": [_document(known, model) for known, model in found]})
        return
    numbers = ("Layers", "Parameters", "GMACs", "published", "Weights")
    table = table_of("Name", "Input", "Layers", "Parameters", "published", "GMACs", "published", "Paper", right=numbers)
    for known, model in found:
        table.add_row(
            known.name,
            shape_text(model.graph.tensors[model.graph.inputs[0]].shape),
            str(len(model.graph.layers)),
            count_text(_parameters(model)),
            count_text(known.parameters.value),
            f"{model.graph.multiply_accumulates / 1e9:.2f}",
            f"{known.multiply_accumulates.value / 1e9:.2f}",
            known.paper,
        )
    console = out()
    console.print(table)
    console.print("\nUse one as zoo://NAME, or write its file with `tierflow zoo NAME --output FILE.onnx`.")


def write_network(name: str, path: Path, inputs: Sequence[str]) -> Path:
    """Writes a network as an ONNX file with all of its weights.

    Raises:
        InvalidInputError: where there is no such network, it doesn't take this input, or the file can't be written.
    """
    (_, model) = entries(name, inputs)[0]
    with writing(path, option="--output"), progress(f"writing {path}"):
        extract_segment(model, model.graph.inputs, model.graph.outputs, path)
    return path


def print_written(path: Path, *, as_json: bool) -> None:
    """Says what was written."""
    if as_json:
        print_json({"version": VERSION, "path": str(path), "bytes": path.stat().st_size})
    else:
        out().print(f"{path}: {bytes_text(path.stat().st_size)}")


def _document(known: Architecture, model: Model) -> dict[str, Any]:
    return {
        "name": known.name,
        "title": known.title,
        "uri": f"zoo://{known.name}",
        "paper": known.paper,
        "inputShape": list(model.graph.tensors[model.graph.inputs[0]].shape),
        "layers": len(model.graph.layers),
        "parameters": _parameters(model),
        "multiplyAccumulates": model.graph.multiply_accumulates,
        "published": {
            "parameters": known.parameters.value,
            "parametersSource": known.parameters.source,
            "multiplyAccumulates": known.multiply_accumulates.value,
            "multiplyAccumulatesSource": known.multiply_accumulates.source,
        },
    }


def _parameters(model: Model) -> int:
    return sum(weight.elements for weight in model.graph.weights.values())
