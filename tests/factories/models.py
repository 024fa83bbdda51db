"""Small ONNX models, made for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dimensions = Sequence[int | str | None]


def value(name: str, shape: Dimensions | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """Declares a tensor."""
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name: str, *shape: int, seed: int = 0) -> onnx.TensorProto:
    """A float initialiser with random content."""
    content = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return numpy_helper.from_array(content.reshape(shape), name)


def whole_numbers(name: str, *numbers: int) -> onnx.TensorProto:
    """An int64 initialiser of one dimension."""
    return numpy_helper.from_array(np.array(numbers, dtype=np.int64), name)


def node(kind: str, reads: str, makes: str, **attributes: object) -> onnx.NodeProto:
    """A node; names are separated by blanks, and `_` stands for one that is left out."""
    split = [["" if name == "_" else name for name in names.split()] for names in (reads, makes)]
    return helper.make_node(kind, *split, **attributes)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 21,
    ir_version: int = 10,
    value_info: Sequence[onnx.ValueInfoProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model."""
    graph = helper.make_graph(nodes, "small", inputs, outputs, weights, value_info=value_info)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def convolutions() -> onnx.ModelProto:
    """Two convolutions, a residual sum, a pool and a dense layer over [1, 3, 8, 8]; weights of 64 bytes to 4 kB."""
    return model_of(
        [
            node("Conv", "image w1 b1", "c1", name="conv1", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
            node("Relu", "c1", "r1", name="relu1"),
            node("Conv", "r1 w2", "c2", name="conv2", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
            node("Add", "c2 r1", "sum", name="add"),
            node("GlobalAveragePool", "sum", "pooled", name="pool"),
            node("Flatten", "pooled", "flat", name="flatten"),
            node("Gemm", "flat w3 b3", "scores", name="dense", transB=1),
        ],
        [value("image", [1, 3, 8, 8])],
        [value("scores", [1, 10])],
        [
            weight("w1", 16, 3, 3, 3),
            weight("b1", 16),
            weight("w2", 16, 16, 3, 3),
            weight("w3", 10, 16),
            weight("b3", 10),
        ],
    )


def saved(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    """Writes the model into `folder`."""
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path
