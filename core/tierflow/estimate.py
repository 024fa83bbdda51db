"""Estimates a profile from a graph alone: what its layers would take on the reference machine.

A roofline: each layer takes its multiply-accumulates at the rate of its kind, and its weights and activations at the
bandwidth of its kind. It knows what a runtime fuses into a convolution and which layers work on the runtime's own
memory layout, by the rules that `tierflow_worker.profiling` observes in ONNX Runtime; so the figures have the same
meaning as measured ones. No weights, no clock: the same graph has the same estimate everywhere.

The reference machine is one core of a current x86-64 server (AVX-512, 2.6 GHz or more). `RATES` were fitted to measured
profiles of AlexNet, VGG-16, ResNet-18, Darknet-53, Inception-v4 and ShuffleNet on one such core with ONNX Runtime 1.32.
How well they fit is a figure of the benchmark; how to fit them again: `decisions/0003-estimates-are-rooflines.md`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from tierflow.graph import Graph, Layer
from tierflow.profile import Profile
from tierflow.segment_time import crossings_of

MACHINE: Final = "reference: one core of a current x86-64 server"


@dataclass(frozen=True, slots=True)
class Rates:
    """What a kind of layer manages on the reference machine.

    Attributes:
        macs: Multiply-accumulates per second.
        activations: Bytes of inputs and outputs per second.
    """

    macs: float
    activations: float


_DENSE: Final = Rates(60e9, 40e9)
_DEPTHWISE: Final = Rates(12e9, 20e9)  # too little to do for each value that is loaded
_UNEVEN_GROUPS: Final = Rates(30e9, 30e9)  # channels that fill no vector register
_MOVING: Final = Rates(10e9, 20e9)
_CHEAP: Final = Rates(10e9, 30e9)
_TRANSCENDENTAL: Final = Rates(10e9, 4e9)
_OTHER: Final = Rates(10e9, 5e9)

_CONVOLUTIONS: Final = frozenset({"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv"})
_PRODUCTS: Final = frozenset({"Gemm", "MatMul", "Einsum", "Attention", "LSTM", "GRU", "RNN"})
_ACTIVATIONS: Final = frozenset({"Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid"})
_SUMS: Final = frozenset({"Add", "Sum"})
_POOLS: Final = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
_FOLLOWERS: Final = _ACTIVATIONS | _SUMS | _POOLS | {"BatchNormalization", "Concat", "Mul"}
"""Kinds that work on the runtime's own layout where all their inputs have it."""

RATES: Final[Mapping[str, Rates]] = (
    dict.fromkeys(sorted(_CONVOLUTIONS | _PRODUCTS), _DENSE)
    | dict.fromkeys(sorted(_POOLS | {"Concat", "Split", "Slice", "Pad", "Gather", "Expand", "Tile"}), _MOVING)
    | dict.fromkeys(
        ["BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Clip", "Add", "Sub", "Mul", "Div", "Sum", "Max", "Min"],
        _CHEAP,
    )
    | dict.fromkeys(
        ["Sigmoid", "Tanh", "Exp", "Log", "Erf", "Gelu", "Softplus", "Elu", "Selu", "Pow", "Mish", "HardSwish"],
        _TRANSCENDENTAL,
    )
    | {
        "LRN": Rates(10e9, 0.26e9),
        "Softmax": Rates(10e9, 2e9),
        "LayerNormalization": Rates(10e9, 8e9),
        "Transpose": Rates(10e9, 20e9),
    }
)
"""By the kind of layer; others have `_OTHER`."""

_WEIGHTS: Final = 18e9  # bytes per second: they come from memory, since a request finds no cache filled with them
_NO_WORK: Final = frozenset({"Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Shape"})
_LAYER: Final = 2e-6  # seconds to start a kernel
_TORN_LAYER: Final = 10e-6  # and its output's memory has to be found
_SEGMENT: Final = 120e-6
_LEAVING: Final = 10e9  # bytes per second out of the runtime's own layout
_ENTERING: Final = 9e9
_FEWEST_CHANNELS: Final = 8  # with fewer a convolution reads ONNX's layout


def estimate_profile(graph: Graph, model: str) -> Profile:
    """What the layers of `graph` would take on the reference machine.

    Args:
        graph: Of any model, of any kinds of layers.
        model: The model's identity.
    """
    blocked = _blocked(graph)
    fused = _fused(graph, blocked)
    layers = {
        layer.name: 0.0 if place in fused else layer_seconds(graph, layer) for place, layer in enumerate(graph.layers)
    }
    torn = {
        layer.name: layer_seconds(graph, layer) + _TORN_LAYER
        for layer in graph.layers
        if layer.kind != "Conv" and blocked.issuperset(layer.inputs) and layer.kind in _FOLLOWERS
    }
    read_by_convolutions = {name for layer in graph.layers if layer.kind == "Conv" for name in layer.inputs}
    profile = Profile(
        model=model,
        source="estimated",
        machine=MACHINE,
        layers=layers,
        segment=_SEGMENT,
        torn=torn,
        enters={name: graph.tensors[name].size / _ENTERING for name in sorted(blocked & read_by_convolutions)},
        leaves={name: graph.tensors[name].size / _LEAVING for name in sorted(blocked)},
    )
    return msgspec.structs.replace(profile, crossings=crossings_of(graph, profile))


def layer_seconds(graph: Graph, layer: Layer) -> float:
    """Time of a layer with a kernel of its own."""
    if layer.kind in _NO_WORK:
        return 2 * _LAYER
    rates = _rates(graph, layer)
    moved = sum(graph.tensors[name].size for name in (*layer.inputs, *layer.outputs) if name in graph.tensors)
    weights = sum(graph.weights[name].size for name in layer.weights if name in graph.weights)
    return _LAYER + layer.multiply_accumulates / rates.macs + moved / rates.activations + weights / _WEIGHTS


def _rates(graph: Graph, layer: Layer) -> Rates:
    if layer.kind != "Conv":
        return RATES.get(layer.kind, _OTHER)
    groups = layer.attributes.get("group", 1)
    read, made = graph.tensors.get(layer.inputs[0]), graph.tensors.get(layer.outputs[0])
    if not isinstance(groups, int) or groups <= 1 or read is None or made is None or len(read.shape) < 2:
        return _DENSE
    if groups == read.shape[1]:
        return _DEPTHWISE
    even = read.shape[1] // groups % _FEWEST_CHANNELS == 0 and made.shape[1] // groups % _FEWEST_CHANNELS == 0
    return _DENSE if even else _UNEVEN_GROUPS


def _blocked(graph: Graph) -> set[str]:
    """Tensors that the runtime keeps in its own layout: made by convolutions, and what is made of those alone."""
    blocked: set[str] = set()
    for layer in graph.layers:
        makes = layer.kind == "Conv" and _is_planar(graph, layer) and _rates(graph, layer) is not _UNEVEN_GROUPS
        follows = layer.kind in _FOLLOWERS and bool(layer.inputs) and blocked.issuperset(layer.inputs)
        if makes or follows:
            blocked.update(name for name in layer.outputs if graph.consumers.get(name))
    return blocked


def _is_planar(graph: Graph, layer: Layer) -> bool:
    made = graph.tensors.get(layer.outputs[0])
    return made is not None and len(made.shape) == 4 and made.shape[1] >= _FEWEST_CHANNELS


def _fused(graph: Graph, blocked: set[str]) -> set[int]:
    """Places of the layers that cost nothing, since the runtime computes them with the convolution or product before.

    After a convolution: normalisation, then a sum with something computed before, then an activation. After a product:
    a bias that is a weight, then an activation.
    """
    fused: set[int] = set()
    open_ends: dict[str, str] = {}  # tensor -> what its making ended with: "product", "convolution" or "sum"
    for place, layer in enumerate(graph.layers):
        ends = [open_ends[name] for name in layer.inputs if _is_read_once(graph, name) and name in open_ends]
        end = _end_after(layer, ends, same_layout=blocked.issuperset(layer.inputs))
        if end is None:
            if layer.kind in ("Conv", "Gemm", "MatMul"):
                open_ends[layer.outputs[0]] = "convolution" if layer.kind == "Conv" else "product"
            continue
        fused.add(place)
        if end:
            open_ends[layer.outputs[0]] = end
    return fused


def _end_after(layer: Layer, ends: list[str], *, same_layout: bool) -> str | None:
    """What a fused layer's output ends with, "" where nothing more can be fused to it; None where it isn't fused."""
    if not ends:
        return None
    if layer.kind in _ACTIVATIONS:
        return ""
    if len(layer.inputs) == 1 and layer.kind in {"BatchNormalization", "Add", "Mul"}:
        return ends[0] if "sum" not in ends else None
    if layer.kind in _SUMS and len(layer.inputs) == 2 and "convolution" in ends and same_layout:
        return "sum"
    return None


def _is_read_once(graph: Graph, name: str) -> bool:
    return len(graph.consumers.get(name, ())) == 1 and name not in graph.outputs
