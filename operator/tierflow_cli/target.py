"""What a command is about: a model, or a pipeline's manifest with the model in it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tierflow.errors import InvalidInputError
from tierflow.manifest import InferencePipeline
from tierflow.manifest_values import input_shapes_of
from tierflow.model import open_model
from tierflow.model.model import Model
from tierflow_cli.console import Tell, progress
from tierflow_cli.wording import bytes_text


@dataclass(frozen=True, slots=True)
class Target:
    """An opened model and, where one was given, the manifest that names it."""

    uri: str
    model: Model
    pipeline: InferencePipeline | None = None


def is_manifest(text: str) -> bool:
    """Whether an argument names a manifest rather than a model."""
    return "://" not in text and Path(text).suffix.lower() in {".yaml", ".yml", ".json"}


def open_target(text: str, inputs: Sequence[str] | None = None, sha256: str = "") -> Target:
    """Opens what the user named, with progress on a terminal.

    Args:
        text: A path, a uri, or the path of a manifest.
        inputs: Shapes as `NAME=1,3,320,320`; they take the place of the manifest's.
        sha256: Of the model's file; takes the place of the manifest's.

    Raises:
        InvalidInputError: where a shape is no such text, or doesn't fit the model.
        InvalidManifestError: where the manifest is wrong.
        TierflowError: see `tierflow.model.open_model`.
    """
    shapes = parse_inputs(inputs or ())
    pipeline = None
    uri = text
    if is_manifest(text):
        from tierflow_operator.manifest_file import read

        pipeline = read(Path(text))
        uri = pipeline.spec.model.uri
        shapes = {**input_shapes_of(pipeline.spec.model), **shapes}
        sha256 = sha256 or pipeline.spec.model.sha256
    with progress(f"opening {uri}") as tell:
        model = open_model(uri, sha256=sha256, input_shapes=shapes, progress=_downloading(uri, tell))
        _ = model.graph  # what is wrong with the model is said here, before anything is made of it
    return Target(uri, model, pipeline)


def parse_inputs(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Reads shapes like `input=1,3,320,320`, by input name.

    Raises:
        InvalidInputError: where a text is none, or an input is given twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, equals, numbers = text.rpartition("=")
        try:
            shape = tuple(int(number) for number in numbers.replace("x", ",").split(","))
        except ValueError:
            shape = (0,)
        if not equals or not name or min(shape) < 1:
            raise InvalidInputError(
                f"--input: {text!r} is no input with its shape; write it like input=1,3,320,320, with whole numbers "
                "from 1 on",
                subject="--input",
            )
        if name in shapes:
            raise InvalidInputError(f"--input: {name} is given twice; leave one out", subject="--input")
        shapes[name] = shape
    return shapes


def _downloading(uri: str, tell: Tell) -> Callable[[int, int | None], None]:
    def downloaded(done: int, total: int | None) -> None:
        tell(f"downloading {uri}: {bytes_text(done)}", done / total if total else None)

    return downloaded
