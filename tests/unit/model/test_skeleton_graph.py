"""From skeletons to graphs: layers, tensors, weights, order, names, and what is refused."""

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from factories.models import convolutions, model_of, node, saved, value, weight, whole_numbers
from tierflow.errors import InvalidInputError, InvalidModelError, UnsupportedError
from tierflow.graph import Graph, Tensor, decode_graph, encode_graph
from tierflow.model import open_model

NEWEST = onnx.defs.onnx_opset_version()


def graph_of(tmp_path: Path, whole: onnx.ModelProto, **input_shapes: tuple[int, ...]) -> Graph:
    return open_model(str(saved(whole, tmp_path)), input_shapes=input_shapes).graph


def test_a_graph_has_layers_tensors_and_weights(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, convolutions())
    assert graph.inputs == ("image",)
    assert graph.outputs == ("scores",)
    assert [layer.name for layer in graph.layers] == ["conv1", "relu1", "conv2", "add", "pool", "flatten", "dense"]
    assert list(graph.tensors) == ["image", "c1", "r1", "c2", "sum", "pooled", "flat", "scores"]
    assert graph.tensors["sum"] == Tensor(name="sum", dtype="float32", shape=(1, 16, 8, 8))
    assert graph.weights["w2"] == Tensor(name="w2", dtype="float32", shape=(16, 16, 3, 3))
    first, add = graph.layers[0], graph.layers[3]
    assert (first.inputs, first.outputs, first.weights) == (("image",), ("c1",), ("w1", "b1"))
    assert first.attributes == {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}
    assert add.inputs == ("c2", "r1")
    assert graph.multiply_accumulates == 8 * 8 * 16 * (3 + 16) * 9 + 16 * 10


def test_a_graph_survives_json(tmp_path: Path) -> None:
    whole = convolutions()
    whole.graph.node[1].CopyFrom(node("Elu", "c1", "r1", alpha=1.0))
    graph = graph_of(tmp_path, whole)
    again = decode_graph(encode_graph(graph))
    assert again == graph
    assert list(again.tensors) == list(graph.tensors)
    assert isinstance(again.layers[1].attributes["alpha"], float)


def test_json_that_is_no_graph_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"no graph: .*layers"):
        decode_graph(b'{"name": "x", "inputs": [], "outputs": [], "layers": 3, "tensors": {}}')


@pytest.mark.parametrize("opset", range(9, NEWEST + 1))
def test_every_operator_set_from_9_to_the_newest_is_read(tmp_path: Path, opset: int) -> None:
    reshaped = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Shape", "p", "s"),
        node("Gather", "s zero", "batch"),
        node("Unsqueeze", "batch", "rows", axes=[0]) if opset < 13 else node("Unsqueeze", "batch axes", "rows"),
        node("Concat", "rows rest", "wanted", axis=0),
        node("Reshape", "p wanted", "flat"),
        node("Softmax", "flat", "y"),
    ]
    weights = [weight("w", 4, 3, 3, 3), whole_numbers("rest", -1)]
    weights += [numpy_helper.from_array(np.array(0), "zero"), whole_numbers("axes", 0)]
    whole = model_of(
        reshaped, [value("x", ["batch", 3, 8, 8])], [value("y", ["batch", "classes"])], weights, opset=opset
    )
    graph = graph_of(tmp_path, whole, x=(2, 3, 8, 8))
    assert graph.tensors["y"].shape == (2, 64)


@pytest.mark.parametrize("opset", [6, NEWEST + 1])
def test_other_operator_sets_are_refused_by_number(tmp_path: Path, opset: int) -> None:
    with pytest.raises(UnsupportedError, match=rf"operator set {opset}; supported are 7 to {NEWEST}"):
        graph_of(tmp_path, model_of([node("Relu", "x", "y")], [value("x", [1])], [value("y", [1])], opset=opset))


def test_layers_in_a_wrong_order_are_sorted(tmp_path: Path) -> None:
    whole = convolutions()
    nodes = list(whole.graph.node)[::-1]
    shuffled = model_of(nodes, whole.graph.input, whole.graph.output, whole.graph.initializer)
    graph = graph_of(tmp_path, shuffled)
    assert [layer.name for layer in graph.layers] == ["conv1", "relu1", "conv2", "add", "pool", "flatten", "dense"]


def test_a_cycle_is_refused_with_the_layers_on_it(tmp_path: Path) -> None:
    whole = model_of(
        [
            node("Relu", "x", "a", name="start"),
            node("Add", "a c", "b", name="sum"),
            node("Relu", "b", "c", name="back"),
            node("Relu", "c", "y", name="end"),
        ],
        [value("x", [1])],
        [value("y", [1])],
    )
    with pytest.raises(InvalidModelError, match=r"cycle: (sum -> back -> sum|back -> sum -> back); a model must be"):
        graph_of(tmp_path, whole)


def test_a_tensor_without_a_source_is_named_with_its_reader(tmp_path: Path) -> None:
    whole = model_of([node("Add", "x ghost", "y", name="sum")], [value("x", [1])], [value("y", [1])])
    with pytest.raises(InvalidModelError, match="layer sum reads the tensor ghost, which nothing makes"):
        graph_of(tmp_path, whole)
    nothing = model_of([node("Relu", "x", "y")], [value("x", [1])], [value("z", [1])])
    with pytest.raises(InvalidModelError, match="nothing makes the model's output z"):
        graph_of(tmp_path, nothing)


def test_a_tensor_with_two_sources_is_named_with_both(tmp_path: Path) -> None:
    twice = [node("Relu", "x", "y", name="one"), node("Neg", "x", "y", name="two")]
    with pytest.raises(InvalidModelError, match="tensor y has two sources: layer two and one"):
        graph_of(tmp_path, model_of(twice, [value("x", [1])], [value("y", [1])]))
    with pytest.raises(InvalidModelError, match="tensor x has two sources: layer one and an input or initialiser"):
        graph_of(tmp_path, model_of([node("Relu", "y", "x", name="one")], [value("x", [1])], [value("x", [1])]))


def test_layers_without_a_name_of_their_own_are_called_like_their_first_output(tmp_path: Path) -> None:
    whole = model_of(
        [
            node("Relu", "x", "a"),
            node("Neg", "a", "b", name="same"),
            node("Abs", "b", "c", name="same"),
            node("Exp", "c", "d", name="e"),
            node("Sqrt", "d", "e"),
        ],
        [value("x", [1])],
        [value("e", [1])],
    )
    assert [layer.name for layer in graph_of(tmp_path, whole).layers] == ["a", "same", "c", "e", "e#2"]


def test_a_free_dimension_is_refused_with_the_ways_to_fix_it(tmp_path: Path) -> None:
    whole = model_of([node("Relu", "x", "y")], [value("x", ["batch", 3, None])], [value("y", None)])
    with pytest.raises(InvalidModelError, match=r"input x has free dimensions \(batch,3,\?\)") as caught:
        graph_of(tmp_path, whole)
    assert "--input x=1,3,1" in str(caught.value)
    assert "spec.model.inputs" in str(caught.value)
    assert caught.value.subject == "x"


def test_a_dimension_of_minus_one_is_free(tmp_path: Path) -> None:
    whole = model_of([node("Relu", "x", "y")], [value("x", [-1, 3])], [value("y", None)])
    with pytest.raises(InvalidModelError, match="--input x=1,3"):
        graph_of(tmp_path, whole)
    assert graph_of(tmp_path, whole, x=(2, 3)).tensors["y"].shape == (2, 3)


def test_given_shapes_fix_free_dimensions_and_equally_named_ones(tmp_path: Path) -> None:
    whole = model_of(
        [node("Concat", "x y", "z", axis=1)],
        [value("x", ["batch", 3]), value("y", ["batch", 4])],
        [value("z", ["batch", "both"])],
    )
    model = open_model(str(saved(whole, tmp_path)), input_shapes={"x": (5, 3)})
    assert model.graph.tensors["z"].shape == (5, 7)
    assert model.identity.endswith(";x=5x3")
    assert [d.dim_value for d in model.skeleton.graph.input[1].type.tensor_type.shape.dim] == [5, 4]


def test_a_rank_that_is_not_declared_can_be_given(tmp_path: Path) -> None:
    whole = model_of([node("Relu", "x", "y")], [value("x", None)], [value("y", None)])
    assert graph_of(tmp_path, whole, x=(2, 3)).tensors["y"].shape == (2, 3)
    with pytest.raises(InvalidModelError, match="its rank is unknown"):
        graph_of(tmp_path, whole)


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"image": (1, 3)}, "'image', which is no input of the model; its inputs are x, y"),
        ({"x": (2, 5)}, "shape batchx3, which 2x5 contradicts"),
        ({"x": (2, 3, 1)}, "give 2 positive dimensions"),
        ({"x": (0, 3)}, "give 2 positive dimensions"),
        ({"x": (2, 3), "y": (4, 4)}, "equally named ones alike"),
    ],
)
def test_given_shapes_that_do_not_fit_are_refused(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], says: str
) -> None:
    whole = model_of(
        [node("Concat", "x y", "z", axis=1)], [value("x", ["batch", 3]), value("y", ["batch", 4])], [value("z", None)]
    )
    with pytest.raises(InvalidInputError, match=says):
        graph_of(tmp_path, whole, **shapes)


def test_a_given_shape_that_is_the_models_own_changes_nothing(tmp_path: Path) -> None:
    path = saved(convolutions(), tmp_path)
    plain, given = open_model(str(path)), open_model(str(path), input_shapes={"image": (1, 3, 8, 8)})
    assert plain.identity == given.identity
    assert plain.graph == given.graph


def test_stale_declared_shapes_do_not_count(tmp_path: Path) -> None:
    whole = model_of(
        [node("Relu", "x", "r"), node("Neg", "r", "y")],
        [value("x", ["batch", 3])],
        [value("y", [1, 3])],
        value_info=[value("r", [1, 3])],
    )
    assert graph_of(tmp_path, whole, x=(4, 3)).tensors["y"].shape == (4, 3)


def test_nodes_of_initialisers_alone_are_weights_and_no_layers(tmp_path: Path) -> None:
    whole = model_of(
        [
            node("ConstantOfShape", "size", "zeros"),
            node("Add", "zeros one", "ones"),
            node("Mul", "x ones", "y", name="scale"),
        ],
        [value("x", [50, 60])],
        [value("y", [50, 60])],
        [whole_numbers("size", 50, 60), numpy_helper.from_array(np.array(1, dtype=np.float32), "one")],
    )
    graph = graph_of(tmp_path, whole)
    assert [layer.name for layer in graph.layers] == ["scale"]
    assert graph.weights == {"ones": Tensor(name="ones", dtype="float32", shape=(50, 60))}
    assert graph.weight_bytes == 12_000


def test_a_random_source_is_a_layer_since_two_draws_would_differ(tmp_path: Path) -> None:
    whole = model_of(
        [node("RandomNormal", "", "noise", shape=[3]), node("Add", "x noise", "y")],
        [value("x", [3])],
        [value("y", [3])],
    )
    assert [layer.name for layer in graph_of(tmp_path, whole).layers] == ["noise", "y"]


def test_initialisers_shared_by_layers_count_once(tmp_path: Path) -> None:
    whole = model_of(
        [node("MatMul", "x w", "a"), node("MatMul", "a w", "y")],
        [value("x", [1, 30])],
        [value("y", [1, 30])],
        [weight("w", 30, 30)],
    )
    graph = graph_of(tmp_path, whole)
    assert [layer.weights for layer in graph.layers] == [("w",), ("w",)]
    assert graph.weight_bytes == 3600


def test_optional_inputs_and_unused_outputs_are_left_out(tmp_path: Path) -> None:
    whole = model_of(
        [
            node("Clip", "x _ top", "clipped"),
            node("MaxPool", "clipped", "pooled places", kernel_shape=[2]),
            node("Relu", "pooled", "y"),
        ],
        [value("x", [1, 1, 8])],
        [value("y", None)],
        [numpy_helper.from_array(np.array(6, dtype=np.float32), "top")],
    )
    graph = graph_of(tmp_path, whole)
    assert graph.layers[0].inputs == ("x",)
    assert graph.layers[0].weights == ("top",)
    assert graph.layers[1].outputs == ("pooled",)
    assert "places" not in graph.tensors


def test_layers_that_no_output_needs_are_left_out(tmp_path: Path) -> None:
    whole = model_of([node("Relu", "x", "y"), node("NonZero", "x", "unneeded")], [value("x", [4])], [value("y", [4])])
    assert [layer.name for layer in graph_of(tmp_path, whole).layers] == ["y"]


def test_several_inputs_and_outputs_keep_their_order(tmp_path: Path) -> None:
    whole = model_of(
        [node("Split", "x", "b a", axis=0, num_outputs=2), node("Add", "a y", "c")],
        [value("y", [2]), value("x", [4]), value("idle", [1])],
        [value("c", [2]), value("b", [2]), value("x", [4]), value("w", [1])],
        [weight("w", 1)],
    )
    graph = graph_of(tmp_path, whole)
    assert graph.inputs == ("y", "x", "idle")
    assert graph.outputs == ("c", "b", "x", "w")
    assert set(graph.tensors) == {"y", "x", "idle", "a", "b", "c"}
    assert set(graph.weights) == {"w"}


def conditional() -> onnx.ModelProto:
    """An If that captures an activation and a weight."""
    yes = helper.make_graph([node("MatMul", "h w", "then")], "yes", [], [value("then", [2, 3])])
    no = helper.make_graph(
        [node("Mul", "x x", "squared"), node("Neg", "squared", "else")], "no", [], [value("else", [2, 3])]
    )
    return model_of(
        [
            node("Relu", "x", "h"),
            node("ReduceMax", "x", "top", keepdims=0),
            node("Greater", "top zero", "chosen"),
            node("If", "chosen", "y", name="choice", then_branch=yes, else_branch=no),
        ],
        [value("x", [2, 3])],
        [value("y", [2, 3])],
        [weight("w", 3, 3), numpy_helper.from_array(np.array(0, dtype=np.float32), "zero")],
    )


def test_a_conditional_is_one_layer_that_reads_what_its_branches_capture(tmp_path: Path) -> None:
    layer = graph_of(tmp_path, conditional()).layers[-1]
    assert layer.kind == "If"
    assert set(layer.inputs) == {"chosen", "h", "x"}
    assert layer.weights == ("w",)
    assert layer.outputs == ("y",)


def test_a_loop_is_one_layer(tmp_path: Path) -> None:
    body = helper.make_graph(
        [node("Add", "carried step", "next"), node("Identity", "going", "on")],
        "body",
        [value("count", [], TensorProto.INT64), value("going", [], TensorProto.BOOL), value("carried", [3])],
        [value("on", [], TensorProto.BOOL), value("next", [3])],
    )
    whole = model_of(
        [node("Relu", "x", "step"), node("Loop", "trips _ x", "y", body=body)],
        [value("x", [3])],
        [value("y", [3])],
        [numpy_helper.from_array(np.array(5), "trips")],
    )
    graph = graph_of(tmp_path, whole)
    assert graph.layers[-1].inputs == ("x", "step")
    assert graph.layers[-1].weights == ("trips",)


def test_a_sequence_between_layers_is_refused_by_name(tmp_path: Path) -> None:
    whole = model_of(
        [node("SplitToSequence", "x", "parts"), node("ConcatFromSequence", "parts", "y", axis=0)],
        [value("x", [4])],
        [value("y", [4])],
    )
    with pytest.raises(UnsupportedError, match="the tensor parts is of sequence type"):
        graph_of(tmp_path, whole)
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [2])
    reading = model_of([node("ConcatFromSequence", "x", "y", axis=0)], [sequence], [value("y", [4])])
    with pytest.raises(UnsupportedError, match="the tensor x is of sequence type"):
        graph_of(tmp_path, reading)


def test_an_operator_that_onnx_does_not_know_is_refused_by_layer_and_name(tmp_path: Path) -> None:
    whole = model_of([node("Relux", "x", "y", name="odd")], [value("x", [1])], [value("y", [1])])
    with pytest.raises(UnsupportedError, match="layer odd: there is no operator Relux in version 21"):
        graph_of(tmp_path, whole)
    early = model_of([node("Gelu", "x", "y", name="odd")], [value("x", [1])], [value("y", [1])], opset=13)
    with pytest.raises(UnsupportedError, match="layer odd: there is no operator Gelu in version 13"):
        graph_of(tmp_path, early)


def test_an_operator_inside_a_subgraph_is_checked_too(tmp_path: Path) -> None:
    whole = conditional()
    branches = {attribute.name: attribute.g for attribute in whole.graph.node[-1].attribute}
    branches["then_branch"].node[0].op_type = "Matmull"
    with pytest.raises(UnsupportedError, match="layer then: there is no operator Matmull"):
        graph_of(tmp_path, whole)


def test_operators_of_other_domains_are_accepted_where_their_shapes_are_declared(tmp_path: Path) -> None:
    def whole(*declared: onnx.ValueInfoProto) -> onnx.ModelProto:
        special = helper.make_node("Special", ["x"], ["s"], domain="com.example", name="special")
        return model_of(
            [special, node("Relu", "s", "y")],
            [value("x", ["batch", 2])],
            [value("y", None)],
            value_info=declared,
            domains=["com.example"],
        )

    graph = graph_of(tmp_path, whole(value("s", ["batch", 5])), x=(3, 2))
    assert graph.layers[0].domain == "com.example"
    assert graph.tensors["y"].shape == (3, 5)
    with pytest.raises(InvalidModelError, match=r"the tensor \w, made by layer \w+ \(\w+\), stays open"):
        graph_of(tmp_path, whole(), x=(3, 2))


def test_a_domain_without_a_version_is_refused(tmp_path: Path) -> None:
    special = helper.make_node("Special", ["x"], ["y"], domain="com.example", name="special")
    with pytest.raises(InvalidModelError, match=r"layer special \(Special\) is of the domain 'com.example', for which"):
        graph_of(tmp_path, model_of([special], [value("x", [1])], [value("y", [1])]))


def test_a_shape_that_depends_on_data_is_refused_with_tensor_and_layer(tmp_path: Path) -> None:
    whole = model_of(
        [node("NonZero", "x", "places", name="find"), node("Cast", "places", "y", to=TensorProto.FLOAT)],
        [value("x", [4])],
        [value("y", None)],
    )
    with pytest.raises(
        InvalidModelError, match=r"the tensor (places|y), made by layer \w+ \(\w+\), stays open \(known"
    ):
        graph_of(tmp_path, whole)


def test_shapes_that_contradict_each_other_are_refused_with_the_operator(tmp_path: Path) -> None:
    whole = model_of(
        [node("MatMul", "x w", "y", name="product")], [value("x", [1, 4])], [value("y", None)], [weight("w", 5, 2)]
    )
    with pytest.raises(InvalidModelError, match=r"shapes contradict each other: .*product"):
        graph_of(tmp_path, whole)


def test_a_shape_computed_from_anothers_is_resolved(tmp_path: Path) -> None:
    """As exporters write x.view(x.shape[0], -1, 2).expand(...), past what onnx's own inference follows."""
    half = [
        node("Shape", "x", "s"),
        node("Gather", "s first", "width"),
        node("Cast", "width", "widthf", to=TensorProto.FLOAT),
        node("Mul", "widthf factor", "scaled"),
        node("Floor", "scaled", "floored"),
        node("Cast", "floored", "count", to=TensorProto.INT64),
        node("Unsqueeze", "count axes", "count1"),
        node("ConstantOfShape", "count1", "filled"),
        node("Shape", "filled", "fs"),
        node("Concat", "fs minus", "wanted", axis=0),
        node("Reshape", "x wanted", "r"),
        node("Shape", "r", "rs"),
        node("Equal", "rs minus", "unset"),
        node("Where", "unset ones2 rs", "target"),
        node("Expand", "r target", "e"),
        node("Range", "zero count one", "places"),
        node("Gather", "e places", "y", axis=0),
    ]
    scalars = {"first": 0, "zero": 0, "one": 1}
    weights = [numpy_helper.from_array(np.array(number), name) for name, number in scalars.items()]
    weights += [whole_numbers("axes", 0), whole_numbers("minus", -1), whole_numbers("ones2", 1, 1)]
    weights.append(numpy_helper.from_array(np.array(0.5, dtype=np.float32), "factor"))
    whole = model_of(half, [value("x", ["n", 6])], [value("y", None)], weights)
    graph = graph_of(tmp_path, whole, x=(4, 6))
    assert graph.tensors["y"].shape == (2, 12)
    assert [layer.name for layer in graph.layers] == [made.output[0] for made in half]


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Gather", "large place", "y", axis=0)],
        [node("Add", "large place", "y")],
        [node("Concat", "large place", "y", axis=0)],
        [node("Cast", "large", "c", to=TensorProto.INT64), node("Add", "c place", "y")],
    ],
)
def test_large_integer_weights_are_not_looked_into(tmp_path: Path, nodes: list[onnx.NodeProto]) -> None:
    whole = model_of(
        nodes,
        [value("place", [1], TensorProto.INT64)],
        [value("y", None, TensorProto.INT64)],
        [whole_numbers("large", *range(400))],
    )
    assert graph_of(tmp_path, whole).tensors["y"].shape in ((1,), (400,), (401,))


def test_dimensions_of_zero_and_scalars_are_shapes_too(tmp_path: Path) -> None:
    whole = model_of(
        [node("Concat", "x empty", "y", axis=0), node("ReduceSum", "y", "z", keepdims=0)],
        [value("x", [2]), value("empty", [0])],
        [value("z", [])],
    )
    graph = graph_of(tmp_path, whole)
    assert graph.tensors["empty"].size == 0
    assert graph.tensors["z"].shape == ()
    assert graph.tensors["z"].size == 4


def test_tables_and_values_that_json_lacks_are_no_attributes(tmp_path: Path) -> None:
    whole = model_of(
        [
            node("Selu", "x", "a", alpha=math.inf, gamma=2.0),
            helper.make_node(
                "LabelEncoder", ["a"], ["y"], domain="ai.onnx.ml", keys_floats=[float(n) for n in range(100)],
                values_floats=[1.0] * 100,
            ),
        ],
        [value("x", [1])],
        [value("y", [1])],
        domains=["ai.onnx.ml"],
    )  # fmt: skip
    whole.opset_import[1].version = 4
    graph = graph_of(tmp_path, whole)
    assert graph.layers[0].attributes == {"gamma": 2.0}
    assert graph.layers[1].attributes == {}
