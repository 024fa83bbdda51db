"""Each kind of layer, computed tile by tile: the bits of the whole, and a size that rule and graph agree about."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from factories.models import model_of, node, saved, value, weight, whole_numbers
from tierflow.model import open_model
from tierflow.tiling.layers import extents_of, step_of
from tierflow.tiling.layout import Grid, layout
from tierflow.tiling.region import Interval, Region
from tierflow.tiling.rules import Extents
from tierflow_worker.runtime import create_session
from tierflow_worker.tiling.engine import RunShape, TiledRun, cut_out
from tierflow_worker.tiling.kernels import kernels_of

CHANNELS, ROWS, COLUMNS = 16, 13, 10


def numbers(name: str, *content: float) -> onnx.TensorProto:
    """A float initialiser of one dimension."""
    return numpy_helper.from_array(np.array(content, dtype=np.float32), name)


def number(name: str, content: float) -> onnx.TensorProto:
    """A float initialiser without dimensions."""
    return numpy_helper.from_array(np.float32(content), name)


def positive(name: str) -> onnx.TensorProto:
    content = np.random.default_rng(1).random(CHANNELS).astype(np.float32) + 0.5
    return numpy_helper.from_array(content, name)


@dataclass(frozen=True)
class Case:
    """Layers from `x` (and further inputs) to `y`."""

    name: str
    nodes: Sequence[onnx.NodeProto]
    weights: Sequence[onnx.TensorProto] = ()
    opset: int = 17
    shape: tuple[int, ...] = (1, CHANNELS, ROWS, COLUMNS)
    further: dict[str, tuple[int, ...]] = field(default_factory=dict)


def convolution(
    name: str, *dims: int, shape: tuple[int, ...] = (1, CHANNELS, ROWS, COLUMNS), **attributes: object
) -> Case:
    return Case(
        name, [node("Conv", "x w b", "y", **attributes)], [weight("w", *dims), weight("b", dims[0])], shape=shape
    )


def single(
    kind: str, *, opset: int = 17, label: str = "", weights: Sequence[onnx.TensorProto] = (), **attributes: object
) -> Case:
    inputs = " ".join(["x", *(tensor.name for tensor in weights)])
    return Case(label or f"{kind}, opset {opset}", [node(kind, inputs, "y", **attributes)], weights, opset)


CONVOLUTIONS = [
    convolution("Conv 3x3", 32, 16, 3, 3),
    convolution("Conv with uneven padding", 16, 16, 3, 3, pads=[2, 0, 1, 1]),
    convolution("Conv with strides", 16, 16, 3, 3, strides=[2, 3], pads=[1, 1, 1, 1]),
    convolution("Conv, dilated", 16, 16, 3, 3, dilations=[2, 3], pads=[2, 3, 2, 3]),
    convolution("Conv 5x1", 16, 16, 5, 1, pads=[2, 0, 2, 0]),
    convolution("Conv 1x1 with strides", 16, 16, 1, 1, strides=[2, 2]),
    convolution("Conv of groups of whole blocks", 32, 16, 3, 3, shape=(1, 32, 9, 8), group=2, pads=[1, 1, 1, 1]),
    convolution("Conv by channel", 16, 1, 3, 3, group=16, pads=[1, 1, 1, 1]),
    convolution("Conv of three channels", 16, 3, 7, 7, shape=(1, 3, 21, 20), strides=[2, 2], pads=[3, 3, 3, 3]),
    *(
        convolution(f"Conv, {mode}, strides {strides}", 16, 16, 4, 3, auto_pad=mode, strides=strides)
        for mode in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for strides in ([1, 1], [2, 3])
    ),
]

POOLS = [
    single("MaxPool", label="MaxPool, uneven padding", kernel_shape=[3, 2], pads=[2, 0, 1, 1]),
    single("MaxPool", label="MaxPool, dilated", kernel_shape=[3, 3], dilations=[2, 1], strides=[1, 2]),
    single("MaxPool", label="MaxPool, rounding up", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    single("MaxPool", label="MaxPool, SAME_LOWER", kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER"),
    single("MaxPool", opset=9, kernel_shape=[2, 2], strides=[2, 2]),
    *(
        single(
            "AveragePool",
            label=f"AveragePool, padding counts: {counts}, rounding up: {ceil}",
            kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=counts, ceil_mode=ceil,
        )
        for counts in (0, 1)
        for ceil in (0, 1)
    ),
    single("AveragePool", label="AveragePool, SAME_UPPER", kernel_shape=[3, 2], auto_pad="SAME_UPPER"),
    single("AveragePool", label="AveragePool, dilated", opset=19, kernel_shape=[3, 2], dilations=[2, 2]),
    single("LpPool", kernel_shape=[2, 2], strides=[2, 2], p=2),
]  # fmt: skip

NORMS = [
    *(
        single(
            "BatchNormalization", opset=opset, weights=[positive("s"), weight("b", 16), weight("m", 16), positive("v")]
        )
        for opset in (9, 14, 22)
    ),
    single("LRN", opset=9, size=5, alpha=0.1, bias=2.0),
    single("LRN", opset=22, size=3),
]

MAPS = [
    Case("Add of a convolution and its input", [node("Conv", "x w", "c", pads=[1, 1, 1, 1]), node("Add", "c x", "y")],
         [weight("w", 16, 16, 3, 3)]),
    Case("Add of a strided convolution and a strided one", [
        node("Conv", "x w", "a", pads=[1, 1, 1, 1], strides=[2, 2]), node("Relu", "a", "r"),
        node("Conv", "r w", "b", pads=[1, 1, 1, 1]), node("Conv", "x v", "c", strides=[2, 2]),
        node("Add", "b c", "s"), node("Relu", "s", "y"),
    ], [weight("w", 16, 16, 3, 3), weight("v", 16, 16, 1, 1)], opset=9),
    Case("Mul by a value per channel that is given", [node("Mul", "x scale", "y")],
         further={"scale": (1, CHANNELS, 1, 1)}),
    Case("Add of a row that is given", [node("Relu", "x", "r"), node("Add", "r row", "y")],
         further={"row": (1, 1, 1, COLUMNS)}),
    *(
        Case(f"Add of a constant of {dims}", [node("Add", order, "y")], [weight("c", *dims)])
        for dims in [
            (1, 16, ROWS, COLUMNS), (16, ROWS, COLUMNS), (1, ROWS, 1), (ROWS, COLUMNS), (COLUMNS,), (16, 1, 1), (1,),
        ]
        for order in ("x c", "c x")
    ),
    Case("Add of a map to a blocked one", [node("Conv", "x w", "a", pads=[1, 1, 1, 1]), node("Add", "a c", "y")],
         [weight("w", 16, 16, 3, 3), weight("c", 1, 16, ROWS, COLUMNS)]),
    Case("Add of a map to a single place", [node("Add", "x c", "y")], [weight("c", 1, 16, 9, 8)], shape=(1, 16, 1, 1)),
    Case("Max of three", [node("Relu", "x", "r"), node("Neg", "x", "n"), node("Max", "x r n", "y")]),
    Case("Sub of a map from itself elsewhere", [node("AveragePool", "x", "a", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
                                                node("Sub", "x a", "y")]),
    Case("PRelu", [node("PRelu", "x s", "y")], [weight("s", 16, 1, 1)]),
    Case("PRelu by place", [node("PRelu", "x s", "y")], [weight("s", 16, ROWS, COLUMNS)]),
    Case("Concat of branches", [
        node("Conv", "x w", "a", pads=[2, 2, 2, 2]), node("MaxPool", "x", "p", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Concat", "a p x", "y", axis=1),
    ], [weight("w", 16, 16, 5, 5)]),
    Case("Concat on the axis -3 with itself", [node("Relu", "x", "r"), node("Concat", "r x r", "y", axis=-3)]),
    Case("Concat with a constant map", [
        node("Concat", "x c", "j", axis=1), node("Conv", "j w", "y", pads=[1, 1, 1, 1]),
    ], [weight("c", 1, 8, ROWS, COLUMNS), weight("w", 16, 24, 3, 3)]),
]  # fmt: skip

PADDINGS = [
    single("Pad", opset=9, pads=[0, 0, 1, 2, 0, 0, 3, 0], value=0.5),
    single("Pad", opset=11, weights=[whole_numbers("p", 0, 0, 1, 2, 0, 0, 3, 0), number("v", 0.5)]),
    single("Pad", label="Pad of channels", opset=13, weights=[whole_numbers("p", 0, 1, 1, 1, 0, 2, 1, 1)]),
    single("Pad", label="Pad that cuts away", opset=13, weights=[whole_numbers("p", 0, 0, -1, 2, 0, 0, 0, -3)]),
    Case("Pad of axes", [node("Pad", "x p v a", "y")],
         [whole_numbers("p", 2, 1, 0, 3), number("v", -1.0), whole_numbers("a", -1, 2)], opset=18),
    Case("Pad before a convolution", [node("Pad", "x p", "q"), node("Conv", "q w", "y", strides=[2, 2])],
         [whole_numbers("p", 0, 0, 0, 0, 0, 0, 1, 1), weight("w", 16, 16, 3, 3)], opset=22),
]  # fmt: skip

ACTIVATIONS = [
    *(
        single(kind)
        for kind in (
            "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus",
            "Softsign", "ThresholdedRelu", "Erf", "Exp", "Abs", "Neg", "Floor", "Ceil", "Round", "Sign", "Identity",
        )
    ),
    single("Mish", opset=18),
    single("Gelu", opset=20),
    single("Gelu", label="Gelu by tanh", opset=20, approximate="tanh"),
    single("Clip", opset=9, min=-0.5, max=0.5),
    single("Clip", opset=13, weights=[number("low", -0.5), number("high", 0.5)]),
    single("Dropout", opset=9, ratio=0.5),
    single("Dropout", opset=13, weights=[number("ratio", 0.5)]),
    Case("Swish, as Mul by Sigmoid", [node("Sigmoid", "x", "s"), node("Mul", "x s", "y")]),
    Case("Mish, as its parts", [node("Softplus", "x", "s"), node("Tanh", "s", "t"), node("Mul", "x t", "y")]),
]  # fmt: skip

HALF_PIXEL = {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_floor"}
ASYMMETRIC = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
SCALES = numbers("scales", 1, 1, 2, 3)

RESIZINGS = [
    single("Upsample", opset=7, scales=[1.0, 1.0, 2.0, 3.0], mode="nearest"),
    single("Upsample", opset=9, weights=[SCALES], mode="nearest"),
    single("Resize", opset=10, weights=[SCALES], mode="nearest"),
    single("Resize", opset=11, weights=[numbers("region"), SCALES], mode="nearest", **HALF_PIXEL),
    Case("Resize by half a pixel", [node("Resize", "x _ scales", "y", mode="nearest", **HALF_PIXEL)], [SCALES]),
    Case("Resize, asymmetric", [node("Resize", "x _ scales", "y", mode="nearest", **ASYMMETRIC)], [SCALES], opset=22),
    Case("Resize to sizes", [node("Resize", "x _ _ sizes", "y", mode="nearest", **ASYMMETRIC)],
         [whole_numbers("sizes", 1, CHANNELS, 2 * ROWS, 3 * COLUMNS)]),
    Case("Resize of axes", [node("Resize", "x _ scales", "y", axes=[3, 2], mode="nearest", **ASYMMETRIC)],
         [numbers("scales", 3, 2)], opset=18),
    Case("Resize of axes to sizes", [node("Resize", "x _ _ sizes", "y", axes=[2, 3], mode="nearest", **ASYMMETRIC)],
         [whole_numbers("sizes", 2 * ROWS, COLUMNS)], opset=19),
    Case("Resize between convolutions", [
        node("Conv", "x w", "a", pads=[1, 1, 1, 1]), node("Resize", "a _ scales", "b", mode="nearest", **ASYMMETRIC),
        node("Conv", "b w", "y", pads=[1, 1, 1, 1]),
    ], [weight("w", 16, 16, 3, 3), SCALES]),
    single("DepthToSpace", opset=9, blocksize=2),
    single("DepthToSpace", label="DepthToSpace, CRD", opset=13, blocksize=4, mode="CRD"),
    Case("SpaceToDepth", [node("SpaceToDepth", "x", "y", blocksize=2)], shape=(1, 3, 12, 8)),
]  # fmt: skip

GROUPS = {
    "convolutions": CONVOLUTIONS, "pools": POOLS, "norms": NORMS, "maps": MAPS, "paddings": PADDINGS,
    "activations": ACTIVATIONS, "resizings": RESIZINGS,
}  # fmt: skip
CASES = [case for group in GROUPS.values() for case in group]


def tiles_of(extents: Extents) -> list[Region]:
    """A grid, the corners and a place inside."""
    grid = Grid(min(3, extents.rows), min(2, extents.columns))
    middle = (extents.rows // 2, extents.columns // 2)
    places = [(0, 0), (extents.rows - 1, 0), (0, extents.columns - 1), (extents.rows - 1, extents.columns - 1), middle]
    single_places = [Region(Interval(row, row + 1), Interval(column, column + 1)) for row, column in places]
    return [*layout(extents, grid), *single_places]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_tiles_of_a_layer_have_the_bits_of_the_whole(case: Case, tmp_path: Path) -> None:
    shapes = {"x": case.shape, **case.further}
    inputs = [value(name, shape) for name, shape in shapes.items()]
    path = saved(
        model_of(case.nodes, inputs, [value("y", None)], case.weights, opset=case.opset, ir_version=8), tmp_path
    )
    graph = open_model(str(path), cache_dir=tmp_path).graph
    for layer in graph.layers:
        step = step_of(graph, layer, approximate=True)
        of_inputs = [extents_of(graph, name) for name in layer.inputs]
        largest = Extents(max(rows for rows, _ in of_inputs), max(columns for _, columns in of_inputs))
        if "single place" not in case.name:  # there a constant is larger than the map
            assert step.rule.output(largest) == extents_of(graph, layer.outputs[0])
    run = TiledRun(kernels_of(path, [], tmp_path / "optimised.onnx"), RunShape(shapes, ("y",)))
    random = np.random.default_rng(3)
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    whole = create_session(path).run(arrays)["y"]
    assert run.extents == whole.shape[-2:]
    for tile in tiles_of(run.extents):
        parts = {name: cut_out(arrays[name], region) for name, region in run.needs(tile).items()}
        assert run.compute(tile, parts)["y"].tobytes() == cut_out(whole, tile).tobytes(), tile
