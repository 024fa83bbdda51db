"""Models of parts of a segment, made of its kernels: a stretch as it is, or a run as one case of tiles needs it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tierflow.errors import UnsupportedError
from tierflow.graph import Attribute
from tierflow.tiling.exactness import needs_one_thread, reason_against, smallest_area
from tierflow.tiling.footprint import Footprint, Slice, Step
from tierflow.tiling.rules import BROADCASTING_KINDS, Extents, NotTileableError, Operation, Repeating, Sliding, rule_for
from tierflow_worker.runtime import Session, create_kernel_session
from tierflow_worker.tiling.kernels import BLOCKED_DOMAIN, Kernels, block_size

_TO_THE_END: Final = np.iinfo(np.int64).max
_SCALES, _SIZES = 2, 3  # inputs of Resize
_SLICE_TAKES_INPUTS: Final = 10
"""The opset from which Slice has its bounds as inputs instead of attributes."""


@dataclass(frozen=True, slots=True)
class RunKernels:
    """The kernels of a run with what the reverse tile calculation needs to know of them.

    Attributes:
        nodes: The kernels.
        steps: One per kernel.
        extents: The whole size of each feature map.
        channels: Channels of each feature map as the kernels see it, filled up to whole blocks.
        constants: Weights that are feature maps themselves, to be sliced.
        inputs: The run's inputs.
        outputs: The run's outputs.
        one_thread: Whether one of the kernels makes the same bits only when a single thread computes it.
    """

    nodes: tuple[onnx.NodeProto, ...]
    steps: tuple[Step, ...]
    extents: Mapping[str, Extents]
    channels: Mapping[str, int]
    constants: frozenset[str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    one_thread: bool


def run_kernels(
    kernels: Kernels, inputs: Mapping[str, Sequence[int]], outputs: Sequence[str], *, approximate: bool = False
) -> RunKernels:
    """The kernels between `inputs` (with their whole shapes) and `outputs`, with their rules.

    Raises:
        UnsupportedError: where a kernel can't be tiled, naming it and saying why; also where a tile's bits could differ
            from the whole's, unless `approximate` allows that.
        InvalidInputError: where an output depends on more than the inputs.
    """
    nodes = kernels.between(inputs.keys(), outputs)
    shapes: dict[str, tuple[int, ...]] = {name: tuple(shape) for name, shape in inputs.items()}
    maps: dict[str, tuple[int, ...]] = {}
    steps = []
    for node in nodes:
        step, shape = _step(node, shapes, kernels, approximate=approximate)
        steps.append(step)
        shapes |= dict.fromkeys(step.outputs, shape)
        maps |= {name: tuple(kernels.constants[name].dims) for name in step.inputs if name in kernels.constants}
    shapes |= maps
    used = {name for step in steps for name in (*step.inputs, *step.outputs)}
    return RunKernels(
        nodes=nodes,
        steps=tuple(steps),
        extents={name: Extents(*(1, 1, *shapes[name])[-2:]) for name in used},
        channels={name: shapes[name][-3] if len(shapes[name]) > 2 else 1 for name in used},
        constants=frozenset(maps),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        one_thread=any(step.one_thread for step in steps),
    )


def _step(
    node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], kernels: Kernels, *, approximate: bool
) -> tuple[Step, tuple[int, ...]]:
    """A kernel's step, and the shape of what it makes."""
    of_inputs = [
        shapes.get(name) or (tuple(kernels.constants[name].dims) if name in kernels.constants else ())
        for name in node.input
    ]
    attributes = {item.name: _attribute(item) for item in node.attribute}
    small = {
        place: numpy_helper.to_array(kernels.constants[name]).ravel().tolist()
        for place, name in enumerate(node.input)
        if name in kernels.constants and kernels.constants[name].data_location != onnx.TensorProto.EXTERNAL
    }
    name = node.name or node.output[0]
    made = tuple(item for item in node.output if item)
    depending = [place for place, item in enumerate(node.input) if item in shapes]
    if not depending:
        raise UnsupportedError(f"layer {name} ({node.op_type}) can't be tiled: it reads no feature map", subject=name)
    operation = Operation(node.op_type, attributes, of_inputs, small, len(made), depending)
    blocked = node.domain == BLOCKED_DOMAIN
    against = reason_against(operation, blocked=blocked)
    if against and not approximate:
        raise UnsupportedError(f"layer {name} ({node.op_type}) can't be tiled exactly: {against}", subject=name)
    try:
        rule = rule_for(operation)
    except NotTileableError as error:
        raise UnsupportedError(f"layer {name} ({node.op_type}) can't be tiled: {error}", subject=name) from error
    maps = {
        place: tuple(of_inputs[place])
        for place, item in enumerate(node.input)
        if item in shapes or (item in kernels.constants and _is_map(node.op_type, of_inputs[place]))
    }
    # A constant can have fewer axes: the last are rows and columns.
    rows, columns = (max((1, 1, *shape)[axis] for shape in maps.values()) for axis in (-2, -1))
    shape = (
        of_inputs[depending[0]][0],
        _channels(node, attributes, of_inputs, list(maps.values())),
        *rule.output(Extents(rows, columns)),
    )
    read = tuple(node.input[place] for place in maps)
    area, one_thread = smallest_area(operation, blocked=blocked), needs_one_thread(operation, blocked=blocked)
    return Step(name, rule, read, made, area, one_thread), shape


def _is_map(kind: str, shape: Sequence[int]) -> bool:
    """Whether a constant is one of the feature maps that a kernel reads, and differs from place to place."""
    return kind == "Concat" or (kind in BROADCASTING_KINDS and any(extent > 1 for extent in shape[-2:]))


def _channels(
    node: onnx.NodeProto,
    attributes: Mapping[str, Attribute],
    inputs: Sequence[tuple[int, ...]],
    maps: Sequence[tuple[int, ...]],
) -> int:
    if node.op_type in ("Conv", "FusedConv"):
        return inputs[1][0]
    if node.op_type == "Concat":
        return sum(shape[1] for shape in maps)
    if node.op_type == "ReorderOutput":
        return int(attributes["channels"])  # type: ignore[arg-type]  # an int by the operator's definition
    if node.op_type == "ReorderInput":
        return -(-maps[0][1] // block_size()) * block_size()
    if node.op_type in ("DepthToSpace", "SpaceToDepth"):
        block = int(attributes["blocksize"]) ** 2  # type: ignore[arg-type]  # an int by the operator's definition
        return maps[0][1] // block if node.op_type == "DepthToSpace" else maps[0][1] * block
    return max((1, 1, *shape)[-3] for shape in maps)


def _attribute(item: onnx.AttributeProto) -> Attribute:
    value = helper.get_attribute_value(item)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return tuple(value) if isinstance(value, list) else value


def stretch_session(kernels: Kernels, inputs: Sequence[str], outputs: Sequence[str], *, threads: int) -> Session:
    """A session of the segment's kernels between `inputs` and `outputs`, for whole feature maps.

    Its inputs are those of `inputs` that are needed.
    """
    nodes = kernels.between(inputs, outputs)
    used = {name for node in nodes for name in node.input}
    types = (
        [kernels.value_types[name] for name in inputs if name in used],
        [kernels.value_types[name] for name in outputs],
    )
    constants = _constants_of(kernels, nodes)
    own = [tensor.name for tensor in constants if tensor.data_location == onnx.TensorProto.EXTERNAL]
    return create_kernel_session(_model(kernels, nodes, constants, *types), kernels.weights, own=own, threads=threads)


def tile_session(kernels: Kernels, run: RunKernels, footprint: Footprint, *, threads: int) -> Session:
    """A session for all tiles whose footprint has this one's case, whatever their size."""
    builder = _TileBuilder(kernels, run, footprint.crops)
    for node, step, pads, slices in zip(run.nodes, run.steps, footprint.pads, footprint.slices, strict=True):
        builder.add(node, step, pads, slices)
    builder.crop()
    types = [_of_any_size(kernels, name) for name in run.inputs], [_of_any_size(kernels, name) for name in run.outputs]
    constants = _constants_of(kernels, builder.nodes)
    # Each case has a session, and weights have to be there once for all of them: they are inputs.
    shared = [tensor for tensor in constants if tensor.data_location == onnx.TensorProto.EXTERNAL]
    small = [tensor for tensor in constants if tensor.data_location != onnx.TensorProto.EXTERNAL]
    types[0].extend(helper.make_tensor_value_info(item.name, item.data_type, list(item.dims)) for item in shared)
    model = _model(kernels, builder.nodes, [*small, *builder.constants], *types)
    return create_kernel_session(model, kernels.weights, shared=[tensor.name for tensor in shared], threads=threads)


class _TileBuilder:
    """Writes the nodes of a tile's model: the run's kernels with a tile's padding, and slices between them."""

    def __init__(self, kernels: Kernels, run: RunKernels, crops: Mapping[str, Slice]) -> None:
        self._kernels = kernels
        self._run = run
        self._crops = {name: part for name, part in crops.items() if not part.is_all}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, node: onnx.NodeProto, step: Step, pads: tuple[int, int, int, int], slices: tuple[Slice, ...]) -> None:
        """Adds a kernel that reads `slices` of its feature maps."""
        # One by one: a kernel can read different parts of one map, as a convolution to whose result its input is added.
        read = [self._part(name, self._made(name), part) for name, part in zip(step.inputs, slices, strict=True)]
        parts = iter(read)
        tile = onnx.NodeProto()
        tile.CopyFrom(node)
        del tile.input[:], tile.output[:]
        tile.input.extend(next(parts) if name in step.inputs else name for name in node.input)
        tile.output.extend(self._made(name) for name in node.output)
        if node.op_type == "Pad":
            self._set_padding(tile, node, pads)
        elif node.op_type == "Resize" and isinstance(step.rule, Repeating):
            self._set_scales(tile, step.rule)
        elif isinstance(step.rule, Sliding) and node.op_type != "SpaceToDepth":
            _set_attribute(tile, "pads", list(pads))
        self.nodes.append(tile)

    def crop(self) -> None:
        """Adds what cuts the tile out of what was made, where more was made than is wanted."""
        for name, part in self._crops.items():
            self._part(name, self._made(name), part, result=name)

    def _made(self, name: str) -> str:
        """What a tensor is called in the tile's model before it is cropped."""
        return f"{name}/made" if name in self._crops else name

    def _set_padding(self, tile: onnx.NodeProto, node: onnx.NodeProto, pads: tuple[int, int, int, int]) -> None:
        """Pads rows and columns by `pads`, and the other axes as before."""
        attribute = next((list(item.ints) for item in node.attribute if item.name == "pads"), None)
        if attribute is not None:
            amounts = attribute
        else:
            amounts = [0] * 8
            given = numpy_helper.to_array(self._kernels.constants[node.input[1]]).tolist()
            axes = list(range(4))
            if len(node.input) > 3 and node.input[3]:
                axes = [axis % 4 for axis in numpy_helper.to_array(self._kernels.constants[node.input[3]]).tolist()]
            for place, axis in enumerate(axes):
                amounts[axis], amounts[axis + 4] = given[place], given[place + len(axes)]
        amounts[2:4], amounts[6:8] = pads[:2], pads[2:]
        if attribute is not None:
            _set_attribute(tile, "pads", amounts)
        else:
            del tile.input[3:]
            tile.input[1] = self._constant("pads", amounts)

    def _set_scales(self, tile: onnx.NodeProto, rule: Repeating) -> None:
        """Has the tile's size follow from its input's, where the whole map's is given."""
        if len(tile.input) < _SIZES + 1:
            return
        kept = [item for item in tile.attribute if item.name not in ("axes", "keep_aspect_ratio_policy")]
        del tile.attribute[:], tile.input[_SCALES:]
        tile.attribute.extend(kept)
        tile.input.append(self._constant("scales", [1, 1, rule.rows, rule.columns], np.float32))

    def _part(self, name: str, source: str, part: Slice, *, result: str = "") -> str:
        """The name of a part of a feature map. In blocks, a column is as wide as a block."""
        if part.is_all:
            return source
        blocked = name in self._kernels.blocked
        width = block_size() if blocked else 1
        channels = self._run.channels[name]
        if blocked:
            source = self._node("Reshape", [source, self._constant("opened", [0, channels // width, 0, -1])])
        begin = [part.rows_begin, part.columns_begin * width]
        end = [_end(part.rows_end, 1), _end(part.columns_end, width)]
        if name in self._run.constants and len(self._kernels.constants[name].dims) == 1:
            begin, end = begin[1:], end[1:]
        cut = self._slice(source, begin, end, "" if blocked else result)
        if not blocked:
            return cut
        return self._node("Reshape", [cut, self._constant("closed", [0, channels, 0, -1])], result)

    def _slice(self, source: str, begin: list[int], end: list[int], result: str) -> str:
        """A part along the last axes, which are rows and columns, whatever the rank."""
        axes = list(range(-len(begin), 0))
        if self._kernels.opset < _SLICE_TAKES_INPUTS:
            return self._node("Slice", [source], result, starts=begin, ends=end, axes=axes)
        bounds = [self._constant("begin", begin), self._constant("end", end), self._constant("axes", axes)]
        return self._node("Slice", [source, *bounds], result)

    def _node(self, kind: str, inputs: list[str], result: str = "", **attributes: Any) -> str:
        name = result or f"tile/{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"tile/{kind}{len(self.nodes)}", **attributes))
        return name

    def _constant(self, name: str, values: list[int], dtype: type[np.generic] = np.int64) -> str:
        unique = f"tile/{name}{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, dtype=dtype), unique))
        return unique


def _set_attribute(node: onnx.NodeProto, name: str, values: list[int]) -> None:
    """Sets an attribute; explicit padding replaces automatic padding."""
    kept = [item for item in node.attribute if item.name not in (name, "auto_pad")]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, values)])


def _end(left_out: int, width: int) -> int:
    return -left_out * width if left_out else _TO_THE_END


def _of_any_size(kernels: Kernels, name: str) -> onnx.ValueInfoProto:
    """The type of a feature map with free dimensions."""
    tensor = kernels.value_types[name].type.tensor_type
    return helper.make_tensor_value_info(name, tensor.elem_type, [None] * len(tensor.shape.dim))


def _constants_of(kernels: Kernels, nodes: Sequence[onnx.NodeProto]) -> list[onnx.TensorProto]:
    """The segment's constants that some of its kernels read."""
    used = {name for node in nodes for name in node.input}
    return [tensor for name, tensor in kernels.constants.items() if name in used]


def _model(
    kernels: Kernels,
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
) -> bytes:
    """The model of a part of the segment."""
    graph = helper.make_graph(nodes, "part", inputs, outputs, constants)
    opsets = {item.domain: item for item in kernels.opset_imports}
    opsets.setdefault(BLOCKED_DOMAIN, helper.make_opsetid(BLOCKED_DOMAIN, 1))
    model = helper.make_model(graph, opset_imports=list(opsets.values()), ir_version=kernels.ir_version)
    return model.SerializeToString()
