"""Opens a network of the zoo by its name, as a model like any other."""

from collections.abc import Mapping
from functools import cached_property
from typing import Final

import onnx
from onnx import TensorProto

from tierflow.errors import InvalidInputError, InvalidModelError
from tierflow.graph import Graph
from tierflow.model.model import INLINE_BYTES, Model
from tierflow.model.skeleton_graph import graph_of
from tierflow.segment import closest
from tierflow.zoo.alexnet import ALEXNET
from tierflow.zoo.architecture import Architecture
from tierflow.zoo.builder import Builder, Value
from tierflow.zoo.darknet53 import DARKNET53
from tierflow.zoo.inception_v4 import INCEPTION_V4
from tierflow.zoo.resnet18 import RESNET18
from tierflow.zoo.vgg16 import VGG16
from tierflow.zoo.weights import Weight, content

VERSION: Final = 1
"""Of the zoo's layers and weights; a part of the identity, counted up when either changes."""

INPUT: Final = "input"
"""The name of every network's only input."""

_ARCHITECTURES: Final = {known.name: known for known in (ALEXNET, VGG16, RESNET18, DARKNET53, INCEPTION_V4)}


def names() -> tuple[str, ...]:
    """The names of all networks, in the order of the D3 paper's evaluation."""
    return tuple(_ARCHITECTURES)


def architecture(name: str) -> Architecture:
    """What is known of the network `name`; case, hyphens and underscores don't matter.

    Raises:
        InvalidInputError: where there is none of this name; lists those that there are.
    """
    plain = name.lower().replace("-", "").replace("_", "")
    if plain not in _ARCHITECTURES:
        raise InvalidInputError(
            f"the zoo has no network {name!r}{closest(plain, _ARCHITECTURES)}; it has {', '.join(_ARCHITECTURES)}",
            subject=name,
        )
    return _ARCHITECTURES[plain]


def open_zoo_model(name: str, input_shapes: Mapping[str, tuple[int, ...]] | None = None) -> Model:
    """The network `name` for images of the given shape, its paper's own where none is given.

    Args:
        name: One of `names()`.
        input_shapes: May hold one entry, for `input`: [batch, 3, height, width].

    Raises:
        InvalidInputError: where there is no such network or input, or it doesn't take images of this shape.
    """
    known = architecture(name)
    return ZooModel(known, _input_shape(known, input_shapes or {}))


class ZooModel(Model):
    """A network of the zoo, whose weights are made when they are read.

    Args:
        known: The network.
        input_shape: Of its input: [batch, channels, height, width].
    """

    def __init__(self, known: Architecture, input_shape: tuple[int, ...]) -> None:
        self.architecture: Final = known
        self._image: Final = Value(INPUT, input_shape)
        self._seed: Final = f"{known.name}:{VERSION}"
        self._builder: Final = Builder()
        self._logits: Final = known.build(self._builder, self._image)

    @property
    def identity(self) -> str:
        """See `Model.identity`; the paper's own input shape is not part of it."""
        identity = f"zoo:{self._seed}"
        if self._image.shape != self.architecture.input_shape:
            identity += f";{INPUT}={'x'.join(map(str, self._image.shape))}"
        return identity

    @cached_property
    def skeleton(self) -> onnx.ModelProto:
        """See `Model.skeleton`."""
        initializers = [self._initializer(weight) for weight in self._builder.weights.values()]
        return self._builder.model(self.architecture.name, self._image, self._logits, initializers)

    @cached_property
    def graph(self) -> Graph:
        """See `Model.graph`."""
        return graph_of(self.skeleton)

    @property
    def weights(self) -> Mapping[str, Weight]:
        """The declarations of all weights, by name."""
        return self._builder.weights

    def read_weight(self, name: str) -> memoryview:
        """See `Model.read_weight`; no other weight is made."""
        if name not in self._builder.weights:
            raise InvalidModelError(
                f"{self.architecture.name} has no weight {name!r}{closest(name, self._builder.weights)}", subject=name
            )
        return content(self._builder.weights[name], seed=self._seed).data.cast("B")

    def _initializer(self, weight: Weight) -> onnx.TensorProto:
        declared = TensorProto(name=weight.name, data_type=TensorProto.FLOAT, dims=weight.shape)
        if weight.size > INLINE_BYTES:
            declared.data_location = TensorProto.EXTERNAL
        else:
            declared.raw_data = content(weight, seed=self._seed).tobytes()
        return declared


def _input_shape(known: Architecture, given: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    unknown = sorted(given.keys() - {INPUT})
    if unknown:
        raise InvalidInputError(
            f"{known.name} has no input {unknown[0]!r}; its only one is {INPUT!r}", subject=unknown[0]
        )
    shape = tuple(given.get(INPUT, known.input_shape))
    wanted = known.input_shape
    written = "x".join(map(str, shape))
    if len(shape) != len(wanted) or shape[1] != wanted[1] or min(shape) < 1:
        raise InvalidInputError(
            f"the input of {known.name} is [batch, {wanted[1]}, height, width], not {written}", subject=INPUT
        )
    if not known.resizable and shape[2:] != wanted[2:]:
        raise InvalidInputError(
            f"{known.name} takes images of {wanted[2]}x{wanted[3]} only, because of its fully connected layers; not "
            f"{written}",
            subject=INPUT,
        )
    return shape
