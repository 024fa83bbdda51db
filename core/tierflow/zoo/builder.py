"""Builds a network's nodes, shapes and weight declarations; knows ONNX's operators and no network."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import onnx
from onnx import TensorProto, helper

from tierflow.errors import InvalidInputError
from tierflow.zoo.weights import Weight, half_width_of

OPSET: Final = 17
IR_VERSION: Final = 8

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the network under construction: batch first, then channels, then height and width if any."""

    name: str
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Number of channels, or of features."""
        return self.shape[1]


class Builder:
    """Collects the layers of a network in the order in which they are asked for.

    Each method adds one layer, named `name`, whose output has the same name, and returns that output. Sizes are given
    as one number for height and width alike, or as (height, width). Weights of layers that a rectifier follows keep the
    mean square of the activations (He et al. 2015, equation 10), so that they neither vanish nor explode.

    Attributes:
        nodes: The layers so far.
        weights: Declarations of what they read beside activations, by name.
        values: Their outputs.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Weight] = {}
        self.values: list[Value] = []

    def conv(
        self,
        value: Value,
        name: str,
        channels: int,
        kernel: int | Pair,
        *,
        stride: int = 1,
        padding: int | Pair = 0,
        groups: int = 1,
        bias: bool = False,
        gain: float = 2.0,
    ) -> Value:
        """A convolution to `channels`; `gain` is the ratio of the mean squares of its output and its input."""
        height, width = _pair(kernel)
        shape = (channels, value.channels // groups, height, width)
        inputs = [value.name, self._kernel(f"{name}.weight", shape, gain)]
        if bias:
            inputs.append(self._declare(f"{name}.bias", (channels,), 0.0, 0.05))
        return self._node(
            "Conv",
            name,
            inputs,
            (value.shape[0], channels, *_pooled(value, name, (height, width), stride, _pair(padding))),
            kernel_shape=[height, width],
            strides=[stride, stride],
            pads=[*_pair(padding), *_pair(padding)],
            dilations=[1, 1],
            group=groups,
        )

    def batch_norm(self, value: Value, name: str, *, epsilon: float = 1e-5, scale: float = 1.0) -> Value:
        """A batch normalisation with its four tensors; `scale` is the mean of its learned factors."""
        shape = (value.channels,)
        inputs = [
            value.name,
            self._declare(f"{name}.weight", shape, scale, 0.2 * scale),
            self._declare(f"{name}.bias", shape, 0.0, 0.1 * scale),
            self._declare(f"{name}.mean", shape, 0.0, 0.1, learned=False),
            self._declare(f"{name}.variance", shape, 1.0, 0.2, learned=False),
        ]
        return self._node("BatchNormalization", name, inputs, value.shape, epsilon=epsilon)

    def dense(self, value: Value, name: str, features: int, *, gain: float = 2.0) -> Value:
        """A fully connected layer; `gain` as in `conv`."""
        inputs = [
            value.name,
            self._kernel(f"{name}.weight", (features, value.channels), gain),
            self._declare(f"{name}.bias", (features,), 0.0, 0.05),
        ]
        return self._node("Gemm", name, inputs, (value.shape[0], features), transB=1)

    def relu(self, value: Value, name: str) -> Value:
        """A rectifier."""
        return self._node("Relu", name, [value.name], value.shape)

    def leaky_relu(self, value: Value, name: str, *, slope: float) -> Value:
        """A rectifier that lets `slope` of the negative values through."""
        return self._node("LeakyRelu", name, [value.name], value.shape, alpha=slope)

    def local_response_norm(
        self, value: Value, name: str, *, size: int, alpha: float, beta: float, bias: float
    ) -> Value:
        """Divides each value by (bias + alpha / size * the sum of squares over `size` channels) ** beta."""
        return self._node("LRN", name, [value.name], value.shape, size=size, alpha=alpha, beta=beta, bias=bias)

    def max_pool(self, value: Value, name: str, kernel: int, *, stride: int, padding: int = 0) -> Value:
        """The largest value of each window."""
        return self._pool("MaxPool", value, name, kernel, stride, padding)

    def average_pool(self, value: Value, name: str, kernel: int, *, stride: int = 1, padding: int = 0) -> Value:
        """The mean of each window, padding not counted."""
        return self._pool("AveragePool", value, name, kernel, stride, padding)

    def global_average_pool(self, value: Value, name: str) -> Value:
        """The mean of each channel."""
        return self._node("GlobalAveragePool", name, [value.name], (*value.shape[:2], 1, 1))

    def concat(self, values: Sequence[Value], name: str) -> Value:
        """The channels of all values, one after the other."""
        first = values[0].shape
        shape = (first[0], sum(value.channels for value in values), *first[2:])
        return self._node("Concat", name, [value.name for value in values], shape, axis=1)

    def add(self, left: Value, right: Value, name: str) -> Value:
        """The sum of two values of the same shape."""
        return self._node("Add", name, [left.name, right.name], left.shape)

    def flatten(self, value: Value, name: str) -> Value:
        """All features of one image in one row."""
        return self._node("Flatten", name, [value.name], (value.shape[0], math.prod(value.shape[1:])), axis=1)

    def model(
        self, name: str, value: Value, output: Value, initializers: Sequence[onnx.TensorProto]
    ) -> onnx.ModelProto:
        """The network from `value` to `output` as a model, with the shapes of all activations."""
        graph = helper.make_graph(
            self.nodes,
            name,
            [_value_info(value)],
            [_value_info(output)],
            initializers,
            value_info=[_value_info(made) for made in self.values if made != output],
        )
        return helper.make_model(
            graph,
            producer_name="tierflow",
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )

    def _pool(self, kind: str, value: Value, name: str, kernel: int, stride: int, padding: int) -> Value:
        return self._node(
            kind,
            name,
            [value.name],
            (*value.shape[:2], *_pooled(value, name, _pair(kernel), stride, _pair(padding))),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[padding] * 4,
        )

    def _node(self, kind: str, name: str, inputs: Sequence[str], shape: tuple[int, ...], **attributes: Any) -> Value:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        made = Value(name, shape)
        self.values.append(made)
        return made

    def _kernel(self, name: str, shape: tuple[int, ...], gain: float) -> str:
        read = math.prod(shape[1:])
        return self._declare(name, shape, 0.0, half_width_of(math.sqrt(gain / read)))

    def _declare(
        self, name: str, shape: tuple[int, ...], centre: float, half_width: float, *, learned: bool = True
    ) -> str:
        self.weights[name] = Weight(name, shape, centre, half_width, learned)
        return name


def learned_parameters(weights: Mapping[str, Weight]) -> int:
    """Number of learned parameters."""
    return sum(weight.elements for weight in weights.values() if weight.learned)


def _pair(size: int | Pair) -> Pair:
    return (size, size) if isinstance(size, int) else size


def _pooled(value: Value, name: str, kernel: Pair, stride: int, padding: Pair) -> Pair:
    """Height and width that a window leaves of `value`."""
    height, width = (
        (extent + 2 * border - window) // stride + 1
        for extent, window, border in zip(value.shape[2:], kernel, padding, strict=True)
    )
    if height < 1 or width < 1:
        raise InvalidInputError(
            f"the input is too small: {value.shape[2]}x{value.shape[3]} are left before layer {name}, "
            f"which reads {kernel[0]}x{kernel[1]}; give a larger one",
            subject=name,
        )
    return height, width


def _value_info(value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, TensorProto.FLOAT, value.shape)
