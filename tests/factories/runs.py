"""Random runs of spatial layers as ONNX models: any kernel, stride, padding, dilation, pool flags and branches."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "Elu", "Softplus", "Clip", "Dropout")

_KINDS = (
    "convolution", "convolution", "convolution", "pool", "pointwise", "pointwise", "padding", "branches", "dense",
    "enlarge",
)  # fmt: skip

_CEILING_POOLS = 10
_INPUTS_FOR_SETTINGS = 11
_OPTIONAL_REGIONS = 13
_OPSETS = (9, 11, 17, 17, 22)  # 9 has paddings and scales as attributes or otherwise placed inputs


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
        self.opset = self.pick(*_OPSETS)
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

    def constant(self, values: list[float], dtype: type = np.int64) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values, dtype=dtype), name))
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
        given = window
        window = window or self.window((extents[0], extents[1]), pool=False)
        if window is None:
            return name
        group, outside = self.group(inside, channels)
        inputs = [name, self.weight(outside, inside // group, *window["kernel_shape"])]
        if self.random.random() < 0.7:
            inputs.append(self.weight(outside))
        attributes: dict[str, object] = {**window}
        slid = self.slid((extents[0], extents[1]), window)
        if given is None:
            attributes, slid = self.automatic((extents[0], extents[1]), window)
        return self.node("Conv", inputs, (outside, *slid), group=group, **attributes)

    def group(self, inside: int, channels: int | None) -> tuple[int, int]:
        """Groups, and the number of channels that come out: `channels` where they are given."""
        outside = channels or self.pick(1, 3, 8, 16, 16, 24, 32)
        if not self.groups or self.random.random() >= 0.3:
            return 1, outside
        group = inside if self.random.random() < 0.5 else self.pick(1, 2, 4)
        if inside % group or (channels and channels % group):
            return 1, outside
        if channels is None:
            outside = inside if group == inside else group * self.pick(1, 2, 8, 16, 16)
        return group, outside

    def automatic(
        self, extents: tuple[int, int], window: dict[str, list[int]]
    ) -> tuple[dict[str, object], tuple[int, int]]:
        """The window's attributes, sometimes with automatic padding, and the size of what comes out."""
        automatic = str(self.random.choice(["NOTSET"] * 6 + ["SAME_UPPER", "SAME_LOWER", "VALID"]))
        # The runtime doesn't pad automatically where windows are dilated, or, when it pools, leave places out.
        gaps = any(stride > kernel for stride, kernel in zip(window["strides"], window["kernel_shape"], strict=True))
        if automatic == "NOTSET" or (automatic != "VALID" and (gaps or window["dilations"] != [1, 1])):
            return dict(window), self.slid(extents, window)
        attributes: dict[str, object] = {name: values for name, values in window.items() if name != "pads"}
        attributes["auto_pad"] = automatic
        if automatic != "VALID":
            rows, columns = (-(-extent // stride) for extent, stride in zip(extents, window["strides"], strict=True))
            return attributes, (rows, columns)
        rows, columns = self.slid(extents, window | {"pads": [0, 0, 0, 0]})
        return (attributes, (rows, columns)) if min(rows, columns) > 0 else (dict(window), self.slid(extents, window))

    def pool(self, name: str) -> str:
        channels, *extents = self.shapes[name]
        window = self.window((extents[0], extents[1]), pool=True)
        if window is None:
            return name
        kind = str(self.random.choice(["MaxPool", "AveragePool"]))
        # Where the last window would begin in the padding, shape inference and runtime disagree: no such pools.
        ceil = bool(self.random.random() < 0.3) and not self.hangs_off((extents[0], extents[1]), window)
        if ceil and self.opset >= _CEILING_POOLS:
            attributes: dict[str, object] = {**window, "ceil_mode": 1}
            slid = self.slid((extents[0], extents[1]), window, ceil=True)
        else:
            attributes, slid = self.automatic((extents[0], extents[1]), window)
        if kind == "AveragePool":
            attributes["count_include_pad"] = int(self.random.random() < 0.5)
        del attributes["dilations"]
        return self.node(kind, [name], (channels, *slid), **attributes)

    def pointwise(self, name: str) -> str:
        shape = self.shapes[name]
        kind = str(self.random.choice(["activation", "activation", "norm", "scale", "lrn", "map", "prelu"]))
        if kind == "norm":
            parameters = [self.weight(shape[0]) for _ in range(3)]
            variance = self.constant((self.random.random(shape[0]) + 0.5).tolist(), np.float32)
            return self.node("BatchNormalization", [name, *parameters, variance], shape)
        if kind == "lrn":
            return self.node("LRN", [name], shape, size=3)
        if kind == "prelu":
            return self.node("PRelu", [name, self.weight(shape[0], 1, 1)], shape)
        if kind == "scale":
            return self.node(str(self.random.choice(["Mul", "Add"])), [name, self.weight(shape[0], 1, 1)], shape)
        if kind == "map":
            dims = [(1, *shape[1:]), shape[1:], (1, shape[1], 1), shape[2:], (1, shape[0], 1, shape[2])]
            return self.node("Add", [name, self.weight(*dims[self.pick(*range(len(dims)))])], shape)
        activation = str(self.random.choice(_ACTIVATIONS))
        inputs = [name]
        if activation == "Clip" and self.opset >= _INPUTS_FOR_SETTINGS:
            bounds = (numpy_helper.from_array(np.float32(value), f"w{len(self.weights)}{value}") for value in (-1, 2))
            self.weights.extend(added := list(bounds))
            inputs += [item.name for item in added]
        return self.node(activation, inputs, shape)

    def padding(self, name: str) -> str:
        """A Pad, which may cut away as well."""
        channels, rows, columns = self.shapes[name]
        amounts = [self.pick(0, 0, 1, 2, 3) for _ in range(4)]
        pads = [0, 0, *amounts[:2], 0, 0, *amounts[2:]]
        shape = (channels, rows + amounts[0] + amounts[2], columns + amounts[1] + amounts[3])
        if self.opset < _INPUTS_FOR_SETTINGS:
            return self.node("Pad", [name], shape, pads=pads, value=0.5)
        value = numpy_helper.from_array(np.float32(0.5), f"w{len(self.weights)}")
        self.weights.append(value)
        return self.node("Pad", [name, self.constant(pads), value.name], shape)

    def dense(self, name: str) -> str:
        """A dense block: each layer reads all that came before."""
        three = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1], "dilations": [1, 1]}
        for _ in range(self.pick(1, 2, 3)):
            channels, *extents = self.shapes[name]
            grown = self.convolution(self.node("Relu", [name], self.shapes[name]), 8, three)
            if self.shapes[grown][1:] != (extents[0], extents[1]):
                break
            name = self.node("Concat", [name, grown], (channels + 8, extents[0], extents[1]), axis=1)
        return name

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
        """Upsampling, depth-to-space, or space-to-depth."""
        channels, rows, columns = self.shapes[name]
        if max(rows, columns) > 24 or self.random.random() < 0.2:
            if rows % 2 or columns % 2:
                return name
            return self.node("SpaceToDepth", [name], (channels * 4, rows // 2, columns // 2), blocksize=2)
        if channels % 4 == 0 and self.random.random() < 0.4:
            mode = {"mode": "CRD"} if self.opset >= _INPUTS_FOR_SETTINGS and self.random.random() < 0.5 else {}
            return self.node("DepthToSpace", [name], (channels // 4, rows * 2, columns * 2), blocksize=2, **mode)
        down, across = self.pick(1, 2, 2, 3), self.pick(1, 2, 2, 3)
        scales = self.constant([1, 1, down, across], np.float32)
        shape = (channels, rows * down, columns * across)
        if self.opset < _INPUTS_FOR_SETTINGS:
            return self.node("Upsample", [name, scales], shape, mode="nearest")
        modes = (("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil"))
        region = self.constant([], np.float32) if self.opset < _OPTIONAL_REGIONS else ""
        coordinates, nearest = modes[self.pick(*range(len(modes)))]
        return self.node(
            "Resize", [name, region, scales], shape, mode="nearest",
            coordinate_transformation_mode=coordinates, nearest_mode=nearest,
        )  # fmt: skip


def random_run(seed: int, *, layers: int = 6, groups: bool = True) -> RandomRun:
    """A run of about `layers` random layers on a map of random, odd or even, size."""
    builder = RunBuilder(seed, groups=groups)
    shape = (builder.pick(1, 3, 8, 16, 17, 32), builder.pick(5, 9, 14, 23, 32, 41), builder.pick(6, 11, 17, 28, 37))
    builder.shapes["x"] = shape
    name = "x"
    for _ in range(int(builder.random.integers(1, layers + 1))):
        add: Callable[[str], str] = getattr(builder, str(builder.random.choice(_KINDS)))
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
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", builder.opset)], ir_version=8)
    return RandomRun(onnx.shape_inference.infer_shapes(model, strict_mode=True), (1, *shape))
