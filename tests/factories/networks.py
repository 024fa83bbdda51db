"""Real architectures: the light models of the onnx package, as shipped or with weights that differ."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
"""The folder of `light_*.onnx`."""


def light_model(name: str) -> Path:
    """The file of a light model: its name without `light_`."""
    return LIGHT / f"light_{name}.onnx"


def filled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with random weights instead of constant ones."""
    generator = np.random.default_rng(0)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        shape = tuple(int(dimension) for dimension in shapes[node.input[0]])
        if len(shape) > 1:
            content = generator.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        else:
            content = generator.uniform(0.5, 1.5, shape).astype(np.float32)  # variances must be positive
        model.graph.initializer.append(numpy_helper.from_array(content, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model
