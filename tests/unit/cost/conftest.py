"""Small models, opened as a user's would be."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tierflow.model import open_model
from tierflow.model.model import Model

Opener = Callable[..., Model]


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    """Opens a model made of nodes; its input is `x`, its output `y`."""

    def make(
        nodes: Sequence[onnx.NodeProto],
        shape: Sequence[int] = (1, 16, 24, 24),
        *,
        weights: dict[str, np.ndarray] | None = None,
        outputs: Sequence[str] = ("y",),
    ) -> Model:
        graph = helper.make_graph(
            list(nodes),
            "small",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
        )
        path = tmp_path / f"small-{len(list(tmp_path.iterdir()))}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return open_model(str(path), cache_dir=tmp_path / "cache")

    return make


class Net:
    """Collects nodes and weights; each method adds one layer and returns its output."""

    def __init__(self, *, named: bool = True) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self._named = named
        self._random = np.random.default_rng(5)

    def layer(self, kind: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        name = f"{output}_layer" if self._named else ""
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        return output

    def conv(self, read: str, output: str, *, channels: int = 16, made: int = 16, kernel: int = 3) -> str:
        self.weights[f"{output}.w"] = self._weight(made, channels, kernel, kernel)
        return self.layer("Conv", [read, f"{output}.w"], output, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4)

    def norm(self, read: str, output: str, *, channels: int = 16) -> str:
        names = [f"{output}.{part}" for part in ("scale", "bias", "mean", "variance")]
        for name in names:
            self.weights[name] = np.abs(self._weight(channels)) + 0.5
        return self.layer("BatchNormalization", [read, *names], output)

    def _weight(self, *shape: int) -> np.ndarray:
        return (self._random.standard_normal(shape) * 0.1).astype(np.float32)


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def unnamed_net() -> Net:
    return Net(named=False)


@pytest.fixture
def residual(net: Net, opened: Opener) -> Model:
    """conv-bn-relu, then a block of conv-bn with a residual sum and a relu, a pool and another conv."""
    stem = net.layer("Relu", [net.norm(net.conv("x", "c1"), "b1")], "r1")
    net.layer("Add", [net.norm(net.conv(stem, "c2"), "b2"), stem], "sum")
    net.layer("Relu", ["sum"], "r2")
    net.layer("MaxPool", ["r2"], "p", kernel_shape=[2, 2], strides=[2, 2])
    net.conv("p", "y")
    return opened(net.nodes, weights=net.weights)
