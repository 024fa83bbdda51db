"""What is known of a network beside its layers: where it was published, and its figures there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tierflow.zoo.builder import Builder, Value

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Published:
    """A figure from a publication.

    Attributes:
        value: The figure.
        source: Where it is from.
        tolerance: Relative difference that its rounding, or a stated difference of counting, explains.
    """

    value: float
    source: str
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network of the zoo.

    Attributes:
        name: As in `zoo://<name>`.
        title: As people write it.
        paper: Where it is defined.
        input_shape: [batch, channels, height, width] of its input `input`, float32.
        mean: Per channel, what is taken from pixels in [0, 1] before they are fed.
        deviation: Per channel, what the difference is divided by.
        parameters: Published number of learned parameters.
        multiply_accumulates: Published multiply-accumulates of one inference at `input_shape`.
        build: Adds the layers from the input on and returns the logits of 1,000 classes; a softmax is left to the
            reader of the answer, as in the usual exports.
        resizable: Whether it takes images of other sizes; a network whose first fully connected layer reads a feature
            map takes one size only.
    """

    name: str
    title: str
    paper: str
    input_shape: tuple[int, int, int, int]
    parameters: Published
    multiply_accumulates: Published
    build: Callable[[Builder, Value], Value]
    resizable: bool
    mean: tuple[float, float, float] = IMAGENET_MEAN
    deviation: tuple[float, float, float] = IMAGENET_DEVIATION
