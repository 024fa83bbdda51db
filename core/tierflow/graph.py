"""The graph of a DNN: layers and tensors with their shapes and sizes, never the weights.

Reading a graph from ONNX is `tierflow.model`'s job; what is computed where is `tierflow.partition`'s.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tierflow.errors import InvalidInputError
from tierflow.units import Bytes

Places = NDArray[np.intp]
Mask = NDArray[np.bool_]

_ITEM_BITS: Final = {
    "float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "int64": 64, "int32": 32, "int16": 16, "int8": 8,
    "uint64": 64, "uint32": 32, "uint16": 16, "uint8": 8, "bool": 8, "complex64": 64, "complex128": 128,
    "float8e4m3fn": 8, "float8e4m3fnuz": 8, "float8e5m2": 8, "float8e5m2fnuz": 8, "float8e8m0": 8,
    "float6e2m3": 6, "float6e3m2": 6, "int4": 4, "uint4": 4, "float4e2m1": 4, "int2": 2, "uint2": 2,
    "string": 8 * 16,  # an estimate: its true size is known only at run time
}  # fmt: skip

# One kind of tuple, since JSON's arrays can't tell several apart; its items are all of one type.
Attribute = int | float | str | tuple[int | float | str, ...]


class Tensor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value that layers exchange: an activation, an input or an output of the graph, or a weight.

    `shape` has fixed, positive or zero, dimensions; `dtype` is ONNX's name in lower case (`float32`, `string`).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        count = 1
        for dimension in self.shape:
            count *= dimension
        return count

    @property
    def size(self) -> Bytes:
        """Size in bytes of the elements, rounded up for packed types."""
        return Bytes((self.elements * _ITEM_BITS[self.dtype] + 7) // 8)


class Layer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One operator of the graph whose result depends on the graph's inputs.

    `inputs` are the activations that it reads (graph inputs included, each once, in order of first use), `weights` the
    names of everything else that it reads: initialisers, and tensors computed from initialisers alone. What a subgraph
    (If, Loop, Scan) captures from outside counts as read by its layer. `outputs` are those that something reads. `name`
    is unique: the ONNX node's name, or where that is empty or taken, its first output's name.
    `attributes` has those that are numbers, texts or short lists of them. `operands` are all inputs of the operator by
    position, "" where an optional one is left out; `settings` are the values of those that are constants and say how
    the operator works rather than what with: paddings, scales, axes.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: str = ""
    weights: tuple[str, ...] = ()
    multiply_accumulates: int = 0
    attributes: dict[str, Attribute] = {}
    operands: tuple[str, ...] = ()
    settings: dict[int, tuple[float, ...]] = {}


@dataclass(frozen=True, slots=True)
class Incidence:
    """Who makes and who reads each tensor, as arrays; tensors in the order of `Graph.tensors`.

    Attributes:
        producer: Shape [tensors]: the place of the layer that makes it, -1 where none does.
        reader: Shape [reads]: the places of the layers that read, grouped by tensor, ascending within one.
        tensor_of_read: Shape [reads]: what they read, ascending.
        offset: Shape [tensors + 1]: tensor t is read by `reader[offset[t]:offset[t + 1]]`.
        output_producer: Shape [outputs]: for each graph output the layer that makes it, -1 where none does.
        is_read: Shape [tensors]: the tensors that a layer reads.
        last_reader: Shape [tensors that are read]: the last layer that reads each.
        unread: The places of the layers that make nothing that is read, ascending.
    """

    producer: Places
    reader: Places
    tensor_of_read: Places
    offset: Places
    output_producer: Places
    is_read: Mask
    last_reader: Places
    unread: Places

    def crossing(self, above: Mask) -> Mask:
        """Which tensors cross a boundary: shape [tensors], from which layers are above it: shape [layers], some."""
        wanted = np.zeros(len(self.producer), dtype=np.bool_)
        wanted[self.tensor_of_read[above[self.reader]]] = True
        return wanted & ~(above[self.producer] & (self.producer >= 0))


class Graph(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, dict=True):
    """A DNN as a directed acyclic graph.

    `layers` are in topological order, the file's own. `tensors` holds the graph's inputs and every layer's outputs;
    `weights` everything that layers read beside those. A weight's `size` counts what a worker has to hold for it.
    Equal graphs have equal `layers`, names and order; a layer is referred to by its place in `layers`.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[Layer, ...]
    tensors: dict[str, Tensor]
    weights: dict[str, Tensor] = {}

    @cached_property
    def producer(self) -> Mapping[str, int]:
        """For each tensor that a layer makes, that layer's place."""
        return {output: place for place, layer in enumerate(self.layers) for output in layer.outputs}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[int, ...]]:
        """For each tensor, the places of the layers that read it, in order; tensors that none reads are left out."""
        found: dict[str, list[int]] = {}
        for place, layer in enumerate(self.layers):
            for name in layer.inputs:
                found.setdefault(name, []).append(place)
        return {name: tuple(places) for name, places in found.items()}

    @cached_property
    def place(self) -> Mapping[str, int]:
        """For each layer's name, its place."""
        return {layer.name: place for place, layer in enumerate(self.layers)}

    @cached_property
    def incidence(self) -> Incidence:
        """Producers and consumers as arrays, for planning thousands of layers in milliseconds."""
        index = dict(zip(self.tensors, range(len(self.tensors)), strict=True))
        places = np.arange(len(self.layers), dtype=np.intp)
        producer = np.full(len(index), -1, dtype=np.intp)
        made = np.array([index[name] for layer in self.layers for name in layer.outputs], dtype=np.intp)
        producer[made] = places.repeat(np.array([len(layer.outputs) for layer in self.layers], dtype=np.intp))
        read = np.array([index[name] for layer in self.layers for name in layer.inputs], dtype=np.intp)
        reader = places.repeat(np.array([len(layer.inputs) for layer in self.layers], dtype=np.intp))
        order = np.argsort(read, kind="stable")
        reader = reader[order]
        reads = np.bincount(read, minlength=len(index))
        offset = np.zeros(len(index) + 1, dtype=np.intp)
        reads.cumsum(out=offset[1:])
        is_read = reads > 0
        is_unread = np.ones(len(self.layers) + 1, dtype=np.bool_)  # the last for what no layer makes
        is_unread[producer[is_read]] = False
        results = [index.get(name, -1) for name in self.outputs]
        return Incidence(
            producer=producer,
            reader=reader,
            tensor_of_read=read[order],
            offset=offset,
            output_producer=np.array([-1 if place < 0 else producer[place] for place in results], dtype=np.intp),
            is_read=is_read,
            last_reader=reader[offset[1:][is_read] - 1],
            unread=np.flatnonzero(is_unread[:-1]),
        )

    @cached_property
    def derived(self) -> dict[Hashable, Any]:
        """What follows from this graph alone and takes long to work out, for those who need it again."""
        return {}

    @property
    def weight_bytes(self) -> Bytes:
        """Size of all weights, each once."""
        return Bytes(sum(weight.size for weight in self.weights.values()))

    @property
    def multiply_accumulates(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(layer.multiply_accumulates for layer in self.layers)


def encode_graph(graph: Graph) -> bytes:
    """The graph as JSON; layers and tensors keep their order."""
    return msgspec.json.encode(graph)


def decode_graph(data: bytes) -> Graph:
    """Reads a graph that `encode_graph` wrote.

    Raises:
        InvalidInputError: naming the field that is wrong.
    """
    try:
        return msgspec.json.decode(data, type=Graph)
    except msgspec.DecodeError as error:
        raise InvalidInputError(f"no graph: {error}; read it from the model again", subject="graph") from error
