"""Types and shapes of all tensors of a skeleton, every dimension fixed.

onnx's shape inference does most of it. Where it leaves a dimension open because that depends on a value (a Reshape to a
shape that was computed from another's), the values that depend on shapes alone are computed and it is asked again.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tierflow.errors import InvalidModelError, UnsupportedError
from tierflow.graph import Tensor
from tierflow.model.content import dtype_name
from tierflow.model.topology import STANDARD_DOMAINS, Topology, label

_ROUNDS: Final = 32
_FOLDED_ELEMENTS: Final = 4096
"""Values larger than this are no shapes, axes or counts, and aren't computed."""
_WITH_SUBGRAPHS: Final = ("If", "Loop", "Scan")

Types = dict[str, onnx.TypeProto]
Values = dict[str, NDArray[np.generic]]


def infer_tensors(skeleton: onnx.ModelProto, topology: Topology, needed: frozenset[str]) -> dict[str, Tensor]:
    """Type and shape of the inputs, and of everything in `needed`.

    Args:
        skeleton: A normalised model.
        topology: Of its graph.
        needed: Names of tensors that nodes make.

    Raises:
        InvalidModelError: where shapes contradict each other or one stays open; names the tensor and its layer.
        UnsupportedError: where a tensor is a sequence, an optional, a map or sparse.
    """
    for value in skeleton.graph.input:
        _check_input(value)
    declared = {value.name: value.type for value in (*skeleton.graph.value_info, *skeleton.graph.output)}
    model = _without_declarations(skeleton, topology)
    types: Types = {}
    for _ in range(_ROUNDS):
        types.update(_infer(model))
        opened = [name for name in needed if not is_static(types.get(name))]
        if not opened:
            break
        if not _fold(model, types):
            # What the file says is asked last, once for each tensor: it may be stale.
            known = [name for name in opened if is_static(declared.get(name))]
            if not known:
                break
            _declare(model, {name: declared.pop(name) for name in known})
    in_order = [name for place in topology.order for name in skeleton.graph.node[place].output if name in needed]
    return {name: _tensor(skeleton, topology, name, types) for name in (*_input_names(skeleton), *in_order)}


def is_static(kind: onnx.TypeProto | None) -> bool:
    """Whether it is a tensor type whose every dimension is known."""
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return False
    # Some exporters write a free dimension as -1.
    return all(dimension.HasField("dim_value") and dimension.dim_value >= 0 for dimension in kind.tensor_type.shape.dim)


def _input_names(skeleton: onnx.ModelProto) -> Iterator[str]:
    return (value.name for value in skeleton.graph.input)


def _check_input(value: onnx.ValueInfoProto) -> None:
    _check_is_tensor(value.name, value.type)
    if is_static(value.type):
        return
    dimensions = value.type.tensor_type.shape.dim
    declared = ",".join(written(dimension) for dimension in dimensions)
    example = ",".join(str(dimension.dim_value) if dimension.dim_value > 0 else "1" for dimension in dimensions)
    raise InvalidModelError(
        f"input {value.name} has free dimensions ({declared or 'its rank is unknown'}); fix them with "
        f"`--input {value.name}={example or '1,3,224,224'}` or in `spec.model.inputs`, with the sizes that you need",
        subject=value.name,
    )


def written(dimension: onnx.TensorShapeProto.Dimension) -> str:
    """A dimension for people: its size, its symbol, or a question mark."""
    if dimension.HasField("dim_value"):
        return str(dimension.dim_value)
    invented = dimension.dim_param.startswith("unk__")  # by onnx's inference
    return "?" if invented else dimension.dim_param or "?"


def _check_is_tensor(name: str, kind: onnx.TypeProto) -> None:
    which = kind.WhichOneof("value")
    if which not in (None, "tensor_type"):
        raise UnsupportedError(
            f"the tensor {name} is of {which.replace('_', ' ')}, and only plain tensors can be passed between layers; "
            "rewrite the model without it",
            subject=name,
        )


def _without_declarations(skeleton: onnx.ModelProto, topology: Topology) -> onnx.ModelProto:
    """A copy without declared shapes, which may be stale, where they can be inferred, and without large initialisers.

    Those become inputs: inference must not look for content that isn't there.
    """
    model = onnx.ModelProto()
    model.CopyFrom(skeleton)
    graph = model.graph
    kept = onnx.GraphProto(
        value_info=[
            value
            for value in graph.value_info
            if value.name in topology.producer
            and graph.node[topology.producer[value.name]].domain not in STANDARD_DOMAINS
        ]
    )
    graph.ClearField("value_info")
    large = [tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    small = onnx.GraphProto(
        initializer=[tensor for tensor in graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
    )
    graph.ClearField("initializer")
    graph.initializer.extend(small.initializer)
    graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in large
    )
    graph.value_info.extend(kept.value_info)
    for value in graph.output:
        producer = topology.producer.get(value.name)
        if producer is not None and graph.node[producer].domain in STANDARD_DOMAINS:
            value.type.tensor_type.ClearField("shape")
    return model


def _infer(model: onnx.ModelProto) -> Types:
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError) as error:
        raise InvalidModelError(
            f"the model's shapes contradict each other: {_first_lines(error)}; correct the layer that it names, or the "
            "input's shape"
        ) from error
    graph = inferred.graph
    return {value.name: value.type for value in (*graph.input, *graph.value_info, *graph.output)}


def _first_lines(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).strip().splitlines()[:3])


def _declare(model: onnx.ModelProto, known: Mapping[str, onnx.TypeProto]) -> None:
    outputs = {value.name: value for value in model.graph.output}
    for name, kind in known.items():
        target = outputs.get(name) or model.graph.value_info.add(name=name)
        target.type.CopyFrom(kind)


def _fold(model: onnx.ModelProto, types: Types) -> bool:
    """Replaces nodes whose results depend on shapes alone by initialisers; returns whether there was any.

    `types` gets the results' types, since an initialiser's isn't inferred.
    """
    graph = model.graph
    values: Values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    kept = []
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        results = None if outputs.intersection(node.output) else _evaluate(node, values, types, opsets)
        if results is None:
            kept.append(node)
            continue
        for name, value in results.items():
            values[name] = value
            tensor = numpy_helper.from_array(np.asarray(value), name)
            graph.initializer.append(tensor)
            types[name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    if len(kept) == len(graph.node):
        return False
    rest = onnx.GraphProto(node=kept)
    del graph.node[:]
    graph.node.extend(rest.node)
    return True


def _evaluate(node: onnx.NodeProto, values: Values, types: Types, opsets: Mapping[str, int]) -> Values | None:
    """The node's results, where they are small and depend on what is known; None else."""
    if node.domain not in STANDARD_DOMAINS or node.op_type in _WITH_SUBGRAPHS:
        return None
    names = [name for name in node.output if name]
    if any(_elements(types.get(name)) > _FOLDED_ELEMENTS for name in names):
        return None
    if node.op_type in ("Shape", "Size"):
        return _shape_of(node, types)
    if not all(name in values for name in node.input if name) or not any(node.input):
        return None
    from onnx.reference import ReferenceEvaluator

    graph = onnx.helper.make_graph(
        [node],
        "one",
        [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(node.input) if name],
        [onnx.ValueInfoProto(name=name) for name in names],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opsets.get("", 1))])
    try:
        made = ReferenceEvaluator(model).run(None, {name: values[name] for name in node.input if name})
    except Exception:  # whatever the reference can't compute stays as open as it was
        return None
    results = dict(zip(names, made, strict=True))
    small = all(isinstance(value, np.ndarray | np.generic) and value.size <= _FOLDED_ELEMENTS for value in made)
    return results if small else None


def _elements(kind: onnx.TypeProto | None) -> int:
    """Number of elements; 0 where it isn't known."""
    if kind is None or not is_static(kind):
        return 0
    count = 1
    for dimension in kind.tensor_type.shape.dim:
        count *= dimension.dim_value
    return count


def _shape_of(node: onnx.NodeProto, types: Types) -> Values | None:
    kind = types.get(node.input[0])
    if kind is None or not is_static(kind):
        return None
    shape = np.array([dimension.dim_value for dimension in kind.tensor_type.shape.dim], dtype=np.int64)
    if node.op_type == "Size":
        return {node.output[0]: np.array(shape.prod(), dtype=np.int64)}
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return {node.output[0]: shape[bounds.get("start", 0) : bounds.get("end", len(shape))]}


def _tensor(skeleton: onnx.ModelProto, topology: Topology, name: str, types: Types) -> Tensor:
    kind = types.get(name)
    if kind is not None:
        _check_is_tensor(name, kind)
    if kind is not None and is_static(kind) and kind.tensor_type.elem_type:
        return Tensor(
            name=name,
            dtype=dtype_name(kind.tensor_type.elem_type),
            shape=tuple(dimension.dim_value for dimension in kind.tensor_type.shape.dim),
        )
    node = skeleton.graph.node[topology.producer[name]]
    known = "nothing is known of it"
    if kind is not None and kind.tensor_type.HasField("shape"):
        known = "known is " + "x".join(written(dimension) for dimension in kind.tensor_type.shape.dim)
    raise InvalidModelError(
        f"the shape of the tensor {name}, made by layer {label(node)} ({node.op_type}), stays open ({known}): it "
        "depends on data or on an operator that onnx doesn't know; export the model with static shapes, or add the "
        "tensor to its value_info",
        subject=name,
    )
