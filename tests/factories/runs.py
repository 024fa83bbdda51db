"""Random runs of spatial layers as ONNX models: any kernel, stride, padding, dilation, pool flags and branches."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "Elu", "Softplus", "Clip")


@dataclass
class RandomRun:
    """A model that is one run: input `x`, output `y`, with shapes inferred."""

    model: onnx.ModelProto
    shape: tuple[int, int, int, int]

    def write(self, path: Path) -> Path:
        """Writes the model."""
        onnx.save(self.model, path)
        return path


class RunBuilder:
    """Adds random layers to a model."""

    def __init__(self, seed: int, *, groups: bool) -> None:
        self.random = np.random.default_rng(seed)
        self.groups = groups
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.shapes: dict[str, tuple[int, int, int]] = {}  # channels, rows, columns

    def pick(self, *choices: int) -> int:
        return int(self.random.choice(choices))

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        scale = 1 / np.sqrt(max(1, np.prod(shape[1:])))
        array = (self.random.standard_normal(shape) * scale).astype(np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, inputs: list[str], shape: tuple[int, int, int], **attributes: object) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"{name}/layer", **attributes))
        self.shapes[name] = shape
        return name

    def window(self, extents: tuple[int, int], *, pool: bool) -> dict[str, list[int]] | None:
        """Kernel, strides, dilations and pads that the map is large enough for."""
        kernel = [self.pick(1, 2, 3, 3, 5, 7) for _ in extents]
        strides = [self.pick(1, 1, 2, 3) for _ in extents]
        dilations = [1 if pool else self.pick(1, 1, 1, 2) for _ in extents]
        most = [min(k - 1, 3) if pool else 3 for k in kernel]
        pads = [int(self.random.integers(0, limit + 1)) for limit in (*most, *most)]
        for axis, extent in enumerate(extents):
            if extent + pads[axis] + pads[axis + 2] < dilations[axis] * (kernel[axis] - 1) + 1:
                return None
        return {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}

    def slid(self, extents: tuple[int, int], window: dict[str, list[int]], *, ceil: bool = False) -> tuple[int, int]:
        result = []
        for axis, extent in enumerate(extents):
            reach = window["dilations"][axis] * (window["kernel_shape"][axis] - 1) + 1
            stride = window["strides"][axis]
            room = extent + window["pads"][axis] + window["pads"][axis + 2] - reach
            result.append((-(-room // stride) if ceil else room // stride) + 1)
        return result[0], result[1]

    def hangs_off(self, extents: tuple[int, int], window: dict[str, list[int]]) -> bool:
        counts = self.slid(extents, window, ceil=True)
        return any(
            (counts[axis] - 1) * window["strides"][axis] >= extents[axis] + window["pads"][axis] for axis in (0, 1)
        )

    def convolution(self, name: str, channels: int | None = None, window: dict[str, list[int]] | None = None) -> str:
        inside, *extents = self.shapes[name]
        window = window or self.window((extents[0], extents[1]), pool=False)
        if window is None:
            return name
        outside = channels or self.pick(1, 3, 8, 16, 16, 24, 32)
        group = 1
        if self.groups and self.random.random() < 0.3:
            group = inside if self.random.random() < 0.5 else self.pick(1, 2, 4)
            if inside % group:
                group = 1
            if channels is None:
                outside = group * self.pick(1, 2, 8) if group < inside else inside
            elif outside % group:
                group = 1
        inputs = [name, self.weight(outside, inside // group, *window["kernel_shape"])]
        if self.random.random() < 0.7:
            inputs.append(self.weight(outside))
        shape = (outside, *self.slid((extents[0], extents[1]), window))
        return self.node("Conv", inputs, shape, group=group, **window)

    def pool(self, name: str) -> str:
        channels, *extents = self.shapes[name]
        window = self.window((extents[0], extents[1]), pool=True)
        if window is None:
            return name
        # Where the last window would begin in the padding, shape inference and runtime disagree: no such pools.
        ceil = bool(self.random.random() < 0.3) and not self.hangs_off((extents[0], extents[1]), window)
        kind = "MaxPool" if self.random.random() < 0.5 else "AveragePool"
        extra = {"count_include_pad": int(self.random.random() < 0.5)} if kind == "AveragePool" else {}
        shape = (channels, *self.slid((extents[0], extents[1]), window, ceil=ceil))
        del window["dilations"]
        return self.node(kind, [name], shape, ceil_mode=int(ceil), **extra, **window)

    def pointwise(self, name: str) -> str:
        shape = self.shapes[name]
        kind = str(self.random.choice(["activation", "activation", "norm", "scale", "lrn", "map"]))
        if kind == "norm":
            parameters = [self.weight(shape[0]) for _ in range(3)]
            variance = numpy_helper.from_array(
                self.random.random(shape[0]).astype(np.float32) + 0.5, f"w{len(self.weights)}"
            )
            self.weights.append(variance)
            return self.node("BatchNormalization", [name, *parameters, variance.name], shape)
        if kind == "lrn":
            return self.node("LRN", [name], shape, size=3)
        if kind == "scale":
            return self.node(str(self.random.choice(["Mul", "Add"])), [name, self.weight(shape[0], 1, 1)], shape)
        if kind == "map":
            return self.node("Add", [name, self.weight(1, shape[1], shape[2])], shape)
        return self.node(str(self.random.choice(_ACTIVATIONS)), [name], shape)

    def branches(self, name: str) -> str:
        """A residual block, or an inception block."""
        channels = self.shapes[name][0]
        same = {"strides": [1, 1], "dilations": [1, 1]}
        three = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], **same}
        five = {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2], **same}
        one = {"kernel_shape": [1, 1], "pads": [0, 0, 0, 0], **same}
        if self.random.random() < 0.5:
            inner = self.node("Relu", [left := self.convolution(name, channels, three)], self.shapes[left])
            right = self.convolution(inner, channels, five if self.random.random() < 0.3 else three)
            order = [right, name] if self.random.random() < 0.7 else [name, right]
            total = self.node("Add", order, self.shapes[name])
            return self.node("Relu", [total], self.shapes[name])
        parts = [self.convolution(name, self.pick(8, 16), window) for window in (one, three, five)]
        joined = sum(self.shapes[part][0] for part in parts)
        return self.node("Concat", parts, (joined, *self.shapes[name][1:]), axis=1)

    def enlarge(self, name: str) -> str:
        channels, rows, columns = self.shapes[name]
        if max(rows, columns) > 24:
            return name
        if channels % 4 == 0 and self.random.random() < 0.4:
            return self.node("DepthToSpace", [name], (channels // 4, rows * 2, columns * 2), blocksize=2)
        scales = numpy_helper.from_array(np.array([1, 1, 2, 2], dtype=np.float32), f"w{len(self.weights)}")
        self.weights.append(scales)
        return self.node(
            "Resize", [name, "", scales.name], (channels, rows * 2, columns * 2), mode="nearest",
            coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        )  # fmt: skip


def random_run(seed: int, *, layers: int = 6, groups: bool = True) -> RandomRun:
    """A run of about `layers` random layers on a map of random, odd or even, size."""
    builder = RunBuilder(seed, groups=groups)
    shape = (builder.pick(1, 3, 8, 16, 17, 32), builder.pick(5, 9, 14, 23, 32, 41), builder.pick(6, 11, 17, 28, 37))
    builder.shapes["x"] = shape
    name = "x"
    for _ in range(int(builder.random.integers(1, layers + 1))):
        kind = str(builder.random.choice(["conv", "conv", "conv", "pool", "point", "point", "branch", "enlarge"]))
        add = {
            "conv": builder.convolution, "pool": builder.pool, "point": builder.pointwise,
            "branch": builder.branches, "enlarge": builder.enlarge,
        }[kind]  # fmt: skip
        name = add(name)
    builder.node("Identity", [name], builder.shapes[name])
    builder.nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        builder.nodes,
        "run",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, *builder.shapes[name]])],
        builder.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return RandomRun(onnx.shape_inference.infer_shapes(model, strict_mode=True), (1, *shape))
