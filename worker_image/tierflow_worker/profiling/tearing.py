"""Measures what layers cost beside a cut: alone, on ordinary tensors, and with changes of the memory layout.

All that has to be known of one model is put into one small model of many parts, none of which reads what another makes,
so that the runtime can fuse none of them. Layers that do the same on the same shapes are measured once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper

from tierflow.graph import Graph, Layer, Tensor
from tierflow.model.extract import extract_segment
from tierflow.model.model import Model
from tierflow_worker.profiling.feeds import feed
from tierflow_worker.profiling.recording import WARMED_UP, Kernel, Recorder
from tierflow_worker.runtime import Array

_PROBE: Final = "layout{}/"
_BATCH: Final = "batch{}/"

Shape = tuple[int, ...]
Signature = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Torn:
    """What was measured, in seconds.

    Attributes:
        layers: By the place of each layer that was asked for.
        enters: By shape of four dimensions: into the runtime's own layout.
        leaves: By shape of four dimensions: out of it.
    """

    layers: Mapping[int, float]
    enters: Mapping[Shape, float]
    leaves: Mapping[Shape, float]


def measure_torn(
    model: Model,
    places: Sequence[int],
    shapes: Sequence[Shape],
    *,
    rounds: int,
    threads: int,
    folder: Path,
    tick: Callable[[], None],
) -> Torn:
    """Measures the layers at `places` alone, and changes of layout for tensors of `shapes`.

    Raises:
        UnsupportedError: where ONNX Runtime lacks a layer's operator for ordinary tensors.
    """
    graph = model.graph
    alike: dict[Signature, int] = {}
    for place in places:
        alike.setdefault(signature(graph, graph.layers[place]), place)
    shapes = [shape for shape in dict.fromkeys(shapes) if len(shape) == 4 and all(shape)]
    if not alike and not shapes:
        return Torn({}, {}, {})
    batches = apart(graph, list(alike.values()))
    path = folder / "torn.onnx"
    onnx.save(_parts(model, batches, shapes, folder), path)
    recorder = Recorder(path, _feeds(path), threads=threads, folder=folder)
    for _ in range(rounds + 1):
        recorder.run()
        tick()
    [kernels] = recorder.kernels(WARMED_UP)
    computing, entering, leaving = _by_output(kernels)
    alone = {
        place: sum(computing.get(_BATCH.format(number) + name, 0.0) for name in graph.layers[place].outputs)
        for number, batch in enumerate(batches)
        for place in batch
    }
    return Torn(
        layers={place: alone[alike[signature(graph, graph.layers[place])]] for place in places},
        enters={shape: entering.get(_PROBE.format(number) + "y", 0.0) for number, shape in enumerate(shapes)},
        leaves={shape: leaving.get(_PROBE.format(number) + "y", 0.0) for number, shape in enumerate(shapes)},
    )


def signature(graph: Graph, layer: Layer) -> Signature:
    """What decides how long a layer takes alone: equal for layers that do the same on the same shapes."""

    def shape_of(name: str) -> Signature:
        tensor = graph.tensors.get(name) or graph.weights.get(name)
        return (tensor.dtype, tensor.shape) if tensor else ()

    read = tuple(shape_of(name) for name in (*layer.inputs, *layer.weights))
    made = tuple(shape_of(name) for name in layer.outputs)
    return (layer.domain, layer.kind, tuple(sorted(layer.attributes.items())), read, made)


def apart(graph: Graph, places: Sequence[int]) -> list[list[int]]:
    """Splits layers into few batches within which none reads what another makes."""
    batches: list[list[int]] = []
    for place in places:
        layer = graph.layers[place]
        for batch in batches:
            read = {name for other in batch for name in graph.layers[other].inputs}
            made = {name for other in batch for name in graph.layers[other].outputs}
            if made.isdisjoint(layer.inputs) and read.isdisjoint(layer.outputs):
                batch.append(place)
                break
        else:
            batches.append([place])
    return batches


def _parts(model: Model, batches: Sequence[Sequence[int]], shapes: Sequence[Shape], folder: Path) -> onnx.ModelProto:
    """One model of the layers of all batches, and of a part for each shape whose changes of layout are measured."""
    parts = []
    path = folder / "batch.onnx"
    for number, batch in enumerate(batches):
        layers = [model.graph.layers[place] for place in batch]
        read = list(dict.fromkeys(name for layer in layers for name in layer.inputs))
        made = [name for layer in layers for name in layer.outputs if name in model.graph.tensors]
        extract_segment(model, read, made, path)
        parts.append(compose.add_prefix(onnx.load(path), _BATCH.format(number)))
    opsets = parts[0].opset_import if parts else [helper.make_opsetid("", 15)]
    probe_opset = [helper.make_opsetid("", next(entry.version for entry in opsets if entry.domain in ("", "ai.onnx")))]
    for number, shape in enumerate(shapes):
        parts.append(compose.add_prefix(_layout_probe(shape, probe_opset), _PROBE.format(number)))
    graph = helper.make_graph(
        [node for part in parts for node in part.graph.node],
        "torn",
        [value for part in parts for value in part.graph.input],
        [value for part in parts for value in part.graph.output],
        [initializer for part in parts for initializer in part.graph.initializer],
    )
    version = max(part.ir_version for part in parts)
    functions = {(one.domain, one.name): one for part in parts for one in part.functions}
    return helper.make_model(graph, opset_imports=opsets, ir_version=version, functions=list(functions.values()))


def _layout_probe(shape: Shape, opsets: Sequence[onnx.OperatorSetIdProto]) -> onnx.ModelProto:
    """The cheapest convolution, of 1x1 and one channel at a time: the runtime changes the layout before and after."""
    channels = shape[1]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [channels, 1, 1, 1], np.ones(channels, np.float32))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=channels)
    return helper.make_model(
        helper.make_graph([node], "probe", values[:1], values[1:], [weight]), opset_imports=opsets, ir_version=8
    )


def _feeds(path: Path) -> dict[str, Array]:
    generator = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    same: dict[tuple[str, Shape], NDArray[np.generic]] = {}
    for value in onnx.load(path, load_external_data=False).graph.input:
        kind = value.type.tensor_type
        shape = tuple(dimension.dim_value for dimension in kind.shape.dim)
        dtype = TensorProto.DataType.Name(kind.elem_type).lower()
        dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)
        if (dtype, shape) not in same:
            same[dtype, shape] = feed(Tensor(name=value.name, dtype=dtype, shape=shape), generator)
        feeds[value.name] = same[dtype, shape]
    return feeds


def _by_output(kernels: Sequence[Kernel]) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Seconds by the output that they lead to: of computing, of changes into the runtime's layout, and out of it."""
    leads_to: dict[str, str] = {}
    computing: dict[str, float] = {}
    entering: dict[str, float] = {}
    leaving: dict[str, float] = {}
    for kernel in reversed(kernels):
        output = next((leads_to[name] for name in kernel.outputs if name in leads_to), kernel.outputs[0])
        leads_to.update(dict.fromkeys(kernel.inputs, output))
        booked = {"ReorderInput": entering, "ReorderOutput": leaving}.get(kernel.kind, computing)
        booked[output] = booked.get(output, 0.0) + kernel.seconds
    return computing, entering, leaving
