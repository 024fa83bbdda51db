"""A photograph as the input of an image model: resized, cropped, normalised, as its paper did."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tierflow.errors import InvalidInputError
from tierflow.graph import Graph, Tensor
from tierflow.model.model import Model
from tierflow.zoo.architecture import IMAGENET_DEVIATION, IMAGENET_MEAN
from tierflow.zoo.model import ZooModel
from tierflow_worker.verification import sample_inputs

_COLOURS = 3
_CHANNEL_COUNTS = (1, _COLOURS)

Array = NDArray[Any]


def default_photograph() -> Path:
    """The photograph of a flower that scikit-learn brings along.

    Raises:
        InvalidInputError: where scikit-learn isn't installed.
    """
    found = importlib.util.find_spec("sklearn")  # which doesn't import it: that takes a second
    if found is None or found.origin is None:
        raise InvalidInputError("no photograph is given and scikit-learn, which has one, isn't installed; use --image")
    return Path(found.origin).parent / "datasets" / "images" / "flower.jpg"


def image_input(graph: Graph) -> Tensor | None:
    """The input that takes an image, [batch, channels, height, width] of floats; None where the model has none."""
    for name in graph.inputs:
        tensor = graph.tensors[name]
        match tensor.shape:
            case (_, channels, height, width) if (
                tensor.dtype == "float32" and channels in _CHANNEL_COUNTS and height > 1 and width > 1
            ):
                return tensor
    return None


def inputs_with(model: Model, photograph: Path | None) -> tuple[dict[str, Array], str]:
    """The model's inputs with a photograph in them, and what they are in words.

    A model that takes no image gets random inputs, as do inputs beside the image.

    Args:
        model: The model.
        photograph: None for the default one.

    Raises:
        InvalidInputError: where the file is no image.
    """
    inputs = sample_inputs(model)
    wanted = image_input(model.graph)
    if wanted is None:
        return inputs, "random numbers, since the model takes no image"
    path = photograph or default_photograph()
    mean, deviation = IMAGENET_MEAN, IMAGENET_DEVIATION
    if isinstance(model, ZooModel):
        mean, deviation = model.architecture.mean, model.architecture.deviation
    return {**inputs, wanted.name: _pixels(path, wanted.shape, mean, deviation)}, str(path)


def _pixels(path: Path, shape: tuple[int, ...], mean: tuple[float, ...], deviation: tuple[float, ...]) -> Array:
    """The image resized to cover height and width, its centre cut out, its colours normalised; repeated per batch."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    batch, channels, height, width = shape
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB" if channels == _COLOURS else "L")
    except (OSError, UnidentifiedImageError) as error:
        reason = getattr(error, "strerror", None) or "it is no image that can be read"
        raise InvalidInputError(f"--image: {path}: {reason}; give a photograph", subject="--image") from error
    fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)
    values: Array = np.asarray(fitted, dtype=np.float32).reshape(height, width, channels) / 255
    normal = (values - np.array(mean[:channels])) / np.array(deviation[:channels])
    return np.repeat(normal.transpose(2, 0, 1)[np.newaxis].astype(np.float32), batch, axis=0)
