"""Inputs to measure with: of the right type and shape, and of values that no operator stumbles over."""

import numpy as np

from tierflow.graph import Graph, Tensor
from tierflow_worker.runtime import Array, numpy_dtype


def feeds_of(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """An array for each input of a graph that a layer reads, the same for the same seed."""
    generator = np.random.default_rng(seed)
    return {name: feed(graph.tensors[name], generator) for name in graph.inputs if graph.consumers.get(name)}


def feed(tensor: Tensor, generator: np.random.Generator) -> Array:
    """Random floats around zero; zeros of whole numbers and booleans, which any index may be; empty strings."""
    if tensor.dtype == "string":
        return np.full(tensor.shape, "", dtype=object)
    if "float" in tensor.dtype:
        return generator.standard_normal(tensor.shape).astype(numpy_dtype(tensor.dtype))
    return np.zeros(tensor.shape, dtype=numpy_dtype(tensor.dtype))
