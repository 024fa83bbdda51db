"""Which layers have a rule, and why others have none. That the rules are right: `test_layer_tiles`."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from factories.models import model_of, node, saved, value, weight, whole_numbers
from tierflow.graph import Graph
from tierflow.model.file import FileModel
from tierflow.tiling.exactness import reason_against, smallest_area, will_be_blocked
from tierflow.tiling.layers import step_of
from tierflow.tiling.rules import NotTileableError, Operation, Sliding, rule_for

SHAPE = (1, 16, 12, 10)

Refusal = Callable[..., str]


def numbers(name: str, *content: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(content, dtype=np.float32), name)


def written(folder: Path, model: onnx.ModelProto) -> Graph:
    return FileModel(saved(model, folder)).graph


@pytest.fixture
def refusal(tmp_path: Path) -> Refusal:
    """Says why the last of some layers from `x` to `y` can't be tiled."""

    def refused(
        layers: Sequence[onnx.NodeProto],
        weights: Sequence[onnx.TensorProto] = (),
        *,
        shape: Sequence[int] = SHAPE,
        kind: int = onnx.TensorProto.FLOAT,
        opset: int = 17,
    ) -> str:
        model = model_of(layers, [value("x", shape, kind)], [value("y", None, kind)], weights, opset=opset)
        graph = written(tmp_path, model)
        with pytest.raises(NotTileableError) as caught:
            step_of(graph, graph.layers[-1])
        return str(caught.value)

    return refused


@pytest.mark.parametrize(
    ("layer", "weights"),
    [
        (node("GlobalAveragePool", "x", "y"), []),
        (node("GlobalMaxPool", "x", "y"), []),
        (node("Softmax", "x", "y", axis=1), []),
        (node("InstanceNormalization", "x s b", "y"), [weight("s", 16), weight("b", 16)]),
        (node("ReduceMean", "x", "y", axes=[2, 3]), []),
        (node("Transpose", "x", "y", perm=[0, 1, 3, 2]), []),
        (node("MatMul", "x w", "y"), [weight("w", 10, 10)]),
        (node("Slice", "x a b", "y"), [whole_numbers("a", 0, 0, 1, 0), whole_numbers("b", 1, 16, 9, 9)]),
    ],
    ids=lambda item: item.op_type if isinstance(item, onnx.NodeProto) else "",
)
def test_a_layer_that_can_look_at_the_whole_map_has_no_rule(
    layer: onnx.NodeProto, weights: list[onnx.TensorProto], refusal: Refusal
) -> None:
    reason = f"the result of a {layer.op_type} at one place can depend on the whole map"
    assert refusal([layer], weights) == reason


REFUSED = [
    (node("Flatten", "x", "y"), [], "y is no map of rows and columns"),
    (node("MaxPool", "x", "y", kernel_shape=[2, 2], storage_order=1), [], "its storage order is by columns"),
    (node("Concat", "x x", "y", axis=2), [], "it joins along another axis than the channels"),
    (node("Concat", "x x", "y", axis=-1), [], "it joins along another axis than the channels"),
    (
        node("Pad", "x p", "y", mode="reflect"), [whole_numbers("p", 0, 0, 1, 1, 0, 0, 1, 1)],
        "it pads by reflect, which looks at the map's inside",
    ),
    (
        node("Resize", "x _ s", "y", mode="linear"), [numbers("s", 1, 1, 2, 2)],
        "it interpolates (linear) across the borders of tiles",
    ),
    *(
        (
            node("Resize", "x _ s", "y", mode="nearest"), [numbers("s", *scales)],
            f"it scales by {scales}; only whole factors on rows and columns repeat places",
        )
        for scales in ([1.0, 1.0, 1.5, 2.0], [1.0, 1.0, 0.5, 0.5], [1.0, 2.0, 2.0, 2.0])
    ),
    (
        node("Resize", "x _ s", "y", mode="nearest", coordinate_transformation_mode="align_corners"),
        [numbers("s", 1, 1, 2, 2)], "its nearest neighbour is chosen by align_corners and round_prefer_floor",
    ),
    (
        node("Conv", "x w", "y", group=16), [weight("w", 48, 1, 3, 3)],
        "the order of its sums depends on the size of the map",
    ),
    (
        node("Conv", "x w", "y", pads=[1, 1, 1, 1]), [weight("w", 16, 16, 1, 1)],
        "a padded 1x1 convolution sums in another order than one without padding",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "weights", "reason"), REFUSED)
def test_what_stands_in_the_way_of_tiles_is_said(
    layer: onnx.NodeProto, weights: list[onnx.TensorProto], reason: str, refusal: Refusal
) -> None:
    assert refusal([layer], weights) == reason


def test_layers_on_volumes_sequences_and_other_types_are_refused(refusal: Refusal) -> None:
    pool = node("MaxPool", "x", "y", kernel_shape=[2, 2, 2])
    assert refusal([pool], shape=(1, 4, 8, 8, 8)) == "x is no map of rows and columns"
    assert refusal([node("Relu", "x", "y")], shape=(1, 4, 8)) == "x is no map of rows and columns"
    double = refusal([node("Relu", "x", "y")], kind=onnx.TensorProto.DOUBLE)
    assert double == "x is float64; exactness is established for float32"


def test_a_function_that_rounds_by_place_needs_channels_that_fill_registers(refusal: Refusal) -> None:
    reason = refusal([node("LRN", "x", "y", size=3)], shape=(1, 17, 8, 8))
    assert reason == "its 17 channels don't fill vector registers, so that a map's last values round otherwise"


def test_weights_that_the_model_computes_are_no_feature_map(refusal: Refusal) -> None:
    layers = [node("Conv", "x w", "kernel", strides=[4, 4]), node("Conv", "x kernel", "y")]
    reason = refusal(layers, [weight("w", 16, 16, 4, 4)], shape=(16, 16, 12, 12))
    assert reason == "its weights or settings are not constants of the model"


def test_a_pool_whose_indices_are_read_is_refused(tmp_path: Path) -> None:
    layers = [
        node("MaxPool", "x", "p i", kernel_shape=[2, 2], strides=[2, 2]),
        node("MaxUnpool", "p i", "y", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    graph = written(tmp_path, model_of(layers, [value("x", SHAPE)], [value("y", None)], opset=11))
    with pytest.raises(NotTileableError, match="int64"):
        step_of(graph, graph.layers[0])
    with pytest.raises(NotTileableError, match="indices that it returns count places of the whole map"):
        step_of(graph, graph.layers[0], approximate=True)


def test_a_norm_in_training_mode_is_refused(tmp_path: Path) -> None:
    names = ("s", "b", "m", "v")
    layer = node("BatchNormalization", "x s b m v", "y mean variance", training_mode=1)
    outputs = [value("y", None), value("mean", None), value("variance", None)]
    model = model_of([layer], [value("x", SHAPE)], outputs, [weight(name, 16) for name in names], opset=15)
    graph = written(tmp_path, model)
    with pytest.raises(NotTileableError, match="mean is no map of rows and columns"):
        step_of(graph, graph.layers[0])


def test_a_layer_of_another_domain_is_refused() -> None:
    from tierflow.graph import Layer, Tensor

    tensors = {name: Tensor(name=name, dtype="float32", shape=SHAPE) for name in ("x", "y")}
    layer = Layer(name="own", kind="Relu", domain="com.example", inputs=("x",), outputs=("y",), operands=("x",))
    graph = Graph(name="own", inputs=("x",), outputs=("y",), layers=(layer,), tensors=tensors)
    with pytest.raises(NotTileableError, match=r"operators of the domain com\.example have no rule"):
        step_of(graph, layer)


@pytest.mark.parametrize(
    ("mode", "extent", "kernel", "stride", "pads"),
    [
        ("SAME_UPPER", 10, 4, 1, (1, 2)),
        ("SAME_LOWER", 10, 4, 1, (2, 1)),
        ("SAME_UPPER", 10, 3, 2, (0, 1)),
        ("SAME_LOWER", 10, 3, 2, (1, 0)),
        ("SAME_UPPER", 9, 1, 2, (0, 0)),
        ("VALID", 10, 3, 2, (0, 0)),
    ],
)
def test_automatic_padding_comes_to_the_explicit_one(
    mode: str, extent: int, kernel: int, stride: int, pads: tuple[int, int]
) -> None:
    attributes = {"auto_pad": mode, "strides": (stride, stride)}
    inputs = ((1, 16, extent, extent), (16, 16, kernel, kernel))
    rule = rule_for(Operation("Conv", attributes, inputs, {}))
    assert isinstance(rule, Sliding)
    assert (rule.rows.pad_begin, rule.rows.pad_end) == pads == (rule.columns.pad_begin, rule.columns.pad_end)


@pytest.mark.parametrize(
    ("weights", "group", "blocked"),
    [
        ((16, 3, 3, 3), 1, True),
        ((16, 16, 3, 3), 1, True),
        ((16, 17, 3, 3), 1, False),
        ((32, 1, 3, 3), 32, True),
        ((17, 1, 3, 3), 17, False),
        ((32, 16, 3, 3), 2, True),
        ((16, 8, 3, 3), 2, False),  # blocked where blocks are of 8 channels, not where they are of 16
    ],
)
def test_a_convolution_is_exact_where_every_machine_blocks_it(
    weights: tuple[int, ...], group: int, *, blocked: bool
) -> None:
    inputs = ((1, weights[1] * group, 9, 9), weights)
    operation = Operation("Conv", {"group": group}, inputs, {})
    assert will_be_blocked(operation) is blocked
    assert bool(reason_against(operation, blocked=will_be_blocked(operation))) is not blocked


def test_an_average_pool_makes_several_places_unless_it_is_blocked() -> None:
    operation = Operation("AveragePool", {"kernel_shape": (2, 2)}, (SHAPE,), {})
    assert smallest_area(operation, blocked=False) > 1
    assert smallest_area(operation, blocked=True) == 1
