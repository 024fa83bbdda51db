"""Writes a part of a model as an ONNX model of its own.

Shapes need not be inferred for it where the caller knows those at the boundary (a descriptor has them), and weights are
copied one by one into the file.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import onnx

from tierflow.errors import InvalidInputError
from tierflow.graph import Tensor
from tierflow.model.content import data_type, described
from tierflow.model.model import Model
from tierflow.model.topology import Topology, label, topology_of
from tierflow.model.wire import header
from tierflow.segment import closest

LARGEST_FILE: Final = 1 << 30
"""Weights of more bytes go into a file beside the model's: a protobuf message ends at 2 GiB."""
_PAGE: Final = 4096  # weights in a file of their own begin at a page, so that a runtime can map them

# Field numbers of onnx.proto.
_MODEL_GRAPH: Final = 7
_GRAPH_INITIALIZER: Final = 5
_TENSOR_RAW_DATA: Final = 9


def extract_segment(
    model: Model,
    accepts: Sequence[str],
    outputs: Sequence[str],
    path: Path,
    *,
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes the model that computes `outputs` from `accepts`.

    Its inputs are exactly `accepts` and its outputs exactly `outputs`, in this order. Nodes that depend on weights
    alone are copied along. Weights of more than `LARGEST_FILE` bytes together go to `<path>.weights`. The file appears
    when it is complete.

    Args:
        model: The whole model.
        accepts: Tensors that will be given: inputs of the model or made by its layers.
        outputs: Tensors wanted. None of `accepts` may be among them: what is relayed needs no computation.
        path: The ONNX file to write.
        tensors: Types of at least `accepts` and `outputs`; taken from `model.graph` where they aren't given.

    Raises:
        InvalidInputError: where a name is no tensor of the model, or `outputs` can't be computed from `accepts` alone.
        InvalidModelError: where the model is broken.
    """
    part = _part(model, accepts, outputs, tensors)
    draft = path.with_name(path.name + ".part")
    if part.weight_bytes > LARGEST_FILE:
        _write_beside(part, path.with_name(path.name + ".weights"))
    with draft.open("wb") as file:
        _write(part, file)
    draft.replace(path)


def extract_bytes(
    model: Model, accepts: Sequence[str], outputs: Sequence[str], *, tensors: Mapping[str, Tensor] | None = None
) -> bytes:
    """As `extract_segment`, in memory.

    Raises:
        InvalidInputError: as `extract_segment`, and where the weights are larger than `LARGEST_FILE`.
    """
    part = _part(model, accepts, outputs, tensors)
    if part.weight_bytes > LARGEST_FILE:
        raise InvalidInputError(
            f"the weights of the segment have {part.weight_bytes} bytes, too many for one message; write it to a file",
            subject=outputs[0],
        )
    stream = io.BytesIO()
    _write(part, stream)
    return stream.getvalue()


def whole_model(model: Model, path: Path) -> None:
    """Writes the whole model, normalised as its skeleton is, as one file (and a file of weights where it is large).

    Raises:
        InvalidModelError: where the model is broken.
    """
    extract_segment(model, model.graph.inputs, model.graph.outputs, path)


@dataclass(slots=True)
class _Part:
    """A segment's model without its large weights.

    Attributes:
        model: The whole model, which has the weights.
        message: The segment's model; large weights are missing from it.
        large: The large weights: name, type and dims.
    """

    model: Model
    message: onnx.ModelProto
    large: list[onnx.TensorProto]

    @property
    def weight_bytes(self) -> int:
        return sum(described(tensor).size for tensor in self.large)


def _part(model: Model, accepts: Sequence[str], outputs: Sequence[str], tensors: Mapping[str, Tensor] | None) -> _Part:
    skeleton = model.skeleton
    graph = skeleton.graph
    topology = topology_of(graph)
    _check_names(graph, topology, accepts, outputs)
    places, names = _closure(graph, topology, accepts, outputs)
    nodes = [graph.node[place] for place in topology.order if place in places]
    message = onnx.ModelProto(ir_version=skeleton.ir_version, producer_name="tierflow")
    message.opset_import.extend(skeleton.opset_import)
    message.graph.name = graph.name or "segment"
    message.graph.node.extend(nodes)
    _hide_given(message.graph, frozenset(accepts))
    types = _Types(model, tensors or {})
    message.graph.input.extend(types.declare(name) for name in accepts)
    message.graph.output.extend(types.declare(name) for name in outputs)
    inside = {name for node in nodes for name in node.output}.difference(accepts, outputs)
    message.graph.value_info.extend(value for value in graph.value_info if value.name in inside)
    large = []
    for tensor in graph.initializer:
        if tensor.name in names:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                large.append(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims))
            else:
                message.graph.initializer.append(tensor)
    return _Part(model, message, large)


class _Types:
    """Types of tensors, inferred only where the caller doesn't know them."""

    def __init__(self, model: Model, known: Mapping[str, Tensor]) -> None:
        self._model = model
        self._known = known

    def declare(self, name: str) -> onnx.ValueInfoProto:
        tensor = self._known.get(name) or self._model.graph.tensors.get(name) or self._model.graph.weights.get(name)
        if tensor is None:
            raise InvalidInputError(
                f"{name} is read by no layer that an output of the model depends on, so its type is unknown; leave it "
                "out or give its type",
                subject=name,
            )
        return onnx.helper.make_tensor_value_info(name, data_type(tensor.dtype), tensor.shape)


def _check_names(graph: onnx.GraphProto, topology: Topology, accepts: Sequence[str], outputs: Sequence[str]) -> None:
    known = {value.name for value in graph.input}.union(topology.producer)
    weights = {tensor.name for tensor in graph.initializer}
    for name in (*accepts, *outputs):
        if name not in known and (name not in weights or name in accepts):
            what = "a weight, which is never sent" if name in weights else f"no tensor{closest(name, known)}"
            raise InvalidInputError(f"{name} is {what}; the graph of the model names its tensors", subject=name)
    inputs = {value.name for value in graph.input}
    relayed = [name for name in outputs if name in accepts and name not in inputs]
    if relayed or not outputs:
        raise InvalidInputError(
            f"{', '.join(relayed)} is accepted and wanted at once; pass it on without computing it"
            if relayed
            else "a segment without outputs computes nothing; leave it out",
            subject=relayed[0] if relayed else "outputs",
        )


def _closure(
    graph: onnx.GraphProto, topology: Topology, accepts: Iterable[str], outputs: Iterable[str]
) -> tuple[set[int], set[str]]:
    """The nodes that `outputs` need beyond `accepts`, and the names of all tensors that are met.

    Raises:
        InvalidInputError: where an input of the model is needed that isn't accepted.
    """
    inputs = {value.name for value in graph.input}
    given = set(accepts)
    places: set[int] = set()
    met: set[str] = set()
    missing: list[str] = []
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        if name in met or name in given:
            continue
        met.add(name)
        place = topology.producer.get(name)
        if place is None:
            missing += [name] if name in inputs else []
        elif place not in places:
            places.add(place)
            waiting += topology.reads[place]
    if missing:
        needing = [name for name in outputs if _needs(topology, given, name, set(missing))]
        raise InvalidInputError(
            f"{', '.join(needing)} can't be computed from {', '.join(sorted(given)) or 'nothing'} alone: the model's "
            f"input {', '.join(sorted(missing))} is needed too; accept it, or a tensor on each way from it",
            subject=needing[0],
        )
    return places, met


def _needs(topology: Topology, given: set[str], output: str, wanted: set[str]) -> bool:
    """Whether the way back from `output` meets one of `wanted` before it ends at `given`."""
    met: set[str] = set()
    waiting = [output]
    while waiting:
        name = waiting.pop()
        if name in met or name in given:
            continue
        met.add(name)
        if name in topology.producer:
            waiting += topology.reads[topology.producer[name]]
    return bool(met & wanted)


def _hide_given(graph: onnx.GraphProto, given: frozenset[str]) -> None:
    """Renames what a copied node makes although it is given: the node is there for another of its outputs."""
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | given
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name in given:
                hidden = f"{name}/unused by {label(node)}"
                while hidden in taken:
                    hidden += "'"
                taken.add(hidden)
                node.output[place] = hidden


def _write(part: _Part, stream: BinaryIO) -> None:
    """Writes the message with the large weights in it, straight in the wire format; each is in memory alone."""
    graph = part.message.graph.SerializeToString()
    envelope = onnx.ModelProto()
    envelope.CopyFrom(part.message)
    envelope.ClearField("graph")
    weights = list(_weights(part))
    length = len(graph) + sum(len(head) + size for head, size, _ in weights)
    stream.write(envelope.SerializeToString())
    stream.write(header(_MODEL_GRAPH, length))
    stream.write(graph)
    for head, size, name in weights:
        stream.write(head)
        content = part.model.read_weight(name)
        _check_length(name, content, size)
        stream.write(content)


def _weights(part: _Part) -> Iterator[tuple[bytes, int, str]]:
    """Per large weight all that stands before its content, the content's size in bytes, and its name."""
    for tensor in part.large:
        size = described(tensor).size
        about = tensor.SerializeToString() + header(_TENSOR_RAW_DATA, size)
        yield header(_GRAPH_INITIALIZER, len(about) + size) + about, size, tensor.name


def _write_beside(part: _Part, path: Path) -> None:
    """Writes the large weights into a file of their own, and makes the message refer to it."""
    draft = path.with_name(path.name + ".part")
    with draft.open("wb") as file:
        for tensor in part.large:
            file.seek(-file.tell() % _PAGE, io.SEEK_CUR)
            size = described(tensor).size
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", path.name), ("offset", str(file.tell())), ("length", str(size))):
                tensor.external_data.add(key=key, value=value)
            content = part.model.read_weight(tensor.name)
            _check_length(tensor.name, content, size)
            file.write(content)
    draft.replace(path)
    part.message.graph.initializer.extend(part.large)
    part.large.clear()


def _check_length(name: str, content: memoryview, size: int) -> None:
    if content.nbytes != size:
        raise InvalidInputError(
            f"the content of weight {name} has {content.nbytes} bytes where its type and shape need {size}; read the "
            "model again",
            subject=name,
        )
