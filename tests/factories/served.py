"""Chains of real worker processes that a whole module of tests shares."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from benchmarks.workers import WorkerProcess, start_chain, start_worker
from factories.models import model_of, node, saved, value
from tierflow.descriptor import WorkerDescriptor
from tierflow.graph import Graph
from tierflow.model import open_model
from tierflow.model.model import Model
from tierflow.tiers import Tier

TRITON_DTYPES = {
    "BOOL": TensorProto.BOOL, "BYTES": TensorProto.STRING, "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32, "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
}  # fmt: skip
"""The protocol's data types that ONNX Runtime can pass on together, and ONNX's numbers of them."""

BF16 = {"BF16": TensorProto.BFLOAT16}
"""The one that it can pass on only where there are no strings."""


@dataclass
class Served:
    """A running chain."""

    model: Model
    workers: dict[Tier, WorkerProcess]

    @property
    def entry(self) -> WorkerProcess:
        """The device's worker."""
        return self.workers[Tier.DEVICE]

    @property
    def grpc(self) -> str:
        """Where clients speak gRPC."""
        return self.entry.address

    @property
    def rest(self) -> str:
        """Where clients speak REST."""
        return f"127.0.0.1:{self.entry.rest_port}"


@contextlib.contextmanager
def served(
    proto: onnx.ModelProto, folder: Path, tiers: Callable[[Graph], Sequence[Tier]], **flags: Any
) -> Iterator[Served]:
    """A model on a chain of worker processes; they end with the context, and have to end well."""
    path = saved(proto, folder)
    model = open_model(str(path))
    workers: list[WorkerProcess] = []

    def start(descriptor: WorkerDescriptor, **options: Any) -> WorkerProcess:
        workers.append(start_worker(descriptor, folder, **options))
        return workers[-1]

    try:
        yield Served(model, start_chain(start, model, str(path), tuple(tiers(model.graph)), **flags))
        assert [worker.stop() for worker in workers] == [0] * len(workers), "a worker ended badly"
    finally:
        for worker in workers:
            worker.kill()
            print(" ".join(worker.command), worker.text(), sep="\n")


def handing_on(datatypes: Mapping[str, int]) -> onnx.ModelProto:
    """For each data type an input `in_X` of shape [2, 3], handed on by a layer per tier to an output `out_X`."""
    steps = [("in", "at_edge", "device"), ("at_edge", "at_cloud", "edge"), ("at_cloud", "out", "cloud")]
    nodes = [
        node("Identity", f"{reads}_{name}", f"{makes}_{name}", name=f"{tier}/{name}")
        for reads, makes, tier in steps
        for name in datatypes
    ]
    return model_of(
        nodes,
        [value(f"in_{name}", [2, 3], kind) for name, kind in datatypes.items()],
        [value(f"out_{name}", [2, 3], kind) for name, kind in datatypes.items()],
    )


def by_layer_name(graph: Graph) -> list[Tier]:
    """The tier that each layer's name begins with."""
    return [Tier(layer.name.split("/")[0]) for layer in graph.layers]


def example(datatype: str) -> Any:
    """An array of shape [2, 3] with a data type's extremes and what is special about it."""
    import ml_dtypes

    if datatype == "BYTES":
        return np.array([["", "plain", "grün"], ["日本", "a\nb", "x" * 300]], dtype=object)
    if datatype == "BOOL":
        return np.array([[True, False, True], [False, False, True]])
    if datatype == "BF16":
        return np.array([[0, -1.5, np.inf], [np.nan, 3e38, 1e-38]], dtype=ml_dtypes.bfloat16)
    if datatype.startswith("FP"):
        kind = np.dtype(f"float{datatype[2:]}")
        limits = np.finfo(kind)
        return np.array([[0.1, -0.0, np.inf], [np.nan, limits.max, limits.smallest_subnormal]], dtype=kind)
    limits = np.iinfo(datatype.lower())
    return np.array([[0, 1, limits.max], [limits.min, 7, limits.max - 1]], dtype=datatype.lower())
