"""Cutting a segment's model out of the whole."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from factories.models import convolutions, model_of, node, saved, value, weight, whole_numbers
from tierflow.errors import InvalidInputError
from tierflow.graph import Tensor
from tierflow.model import extract, open_model
from tierflow.model.extract import extract_bytes, extract_segment, whole_model
from tierflow.model.model import Model

Arrays = dict[str, NDArray[np.float32]]


def opened(whole: onnx.ModelProto, folder: Path) -> Model:
    return open_model(str(saved(whole, folder)))


def session(path: Path | bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(path: Path | bytes, given: Arrays) -> Arrays:
    one = session(path)
    return dict(zip((value.name for value in one.get_outputs()), one.run(None, given), strict=True))


def equal(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Within 1e-6 of the largest: the runtime fuses layers, which changes the order of sums."""
    return bool(np.abs(one - other).max() <= 1e-6 * np.abs(other).max())


def image() -> Arrays:
    return {"image": np.random.default_rng(1).standard_normal((1, 3, 8, 8), dtype=np.float32)}


@pytest.mark.parametrize("boundary", [["c1"], ["r1"], ["c2", "r1"], ["r1", "c2"], ["sum"], ["flat"]])
def test_two_segments_make_up_the_whole(tmp_path: Path, boundary: list[str]) -> None:
    model = opened(convolutions(), tmp_path)
    extract_segment(model, ["image"], boundary, tmp_path / "head.onnx")
    extract_segment(model, boundary, ["scores"], tmp_path / "tail.onnx")
    for name in ("head", "tail"):
        onnx.checker.check_model(tmp_path / f"{name}.onnx", full_check=True)
    between = run(tmp_path / "head.onnx", image())
    assert list(between) == boundary
    assert [value.name for value in session(tmp_path / "tail.onnx").get_inputs()] == boundary
    scores = run(tmp_path / "tail.onnx", between)["scores"]
    assert equal(scores, run(tmp_path / "model.onnx", image())["scores"])


def test_a_segment_has_only_the_weights_that_it_needs(tmp_path: Path) -> None:
    model = opened(convolutions(), tmp_path)
    extract_segment(model, ["r1"], ["c2"], tmp_path / "part.onnx")
    part = onnx.load(tmp_path / "part.onnx")
    assert [tensor.name for tensor in part.graph.initializer] == ["w2"]
    assert [made.name for made in part.graph.node] == ["conv2"]


def test_a_segments_inputs_and_outputs_have_fixed_shapes(tmp_path: Path) -> None:
    whole = model_of([node("Relu", "x", "r"), node("Neg", "r", "y")], [value("x", ["n", 2])], [value("y", ["n", 2])])
    model = open_model(str(saved(whole, tmp_path)), input_shapes={"x": (3, 2)})
    extract_segment(model, ["r"], ["y"], tmp_path / "part.onnx")
    part = onnx.load(tmp_path / "part.onnx")
    for declared in (part.graph.input[0], part.graph.output[0]):
        assert [dimension.dim_value for dimension in declared.type.tensor_type.shape.dim] == [3, 2]


def test_with_the_types_at_its_boundary_no_shape_is_inferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(convolutions(), tmp_path)
    known = open_model(str(tmp_path / "model.onnx")).graph.tensors

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("shapes were inferred")

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", fail)
    extract_segment(model, ["r1"], ["sum"], tmp_path / "part.onnx", tensors=known)
    assert run(tmp_path / "part.onnx", {"r1": np.ones((1, 16, 8, 8), dtype=np.float32)})["sum"].shape == (1, 16, 8, 8)


def test_bytes_are_those_of_the_file(tmp_path: Path) -> None:
    model = opened(convolutions(), tmp_path)
    extract_segment(model, ["image"], ["sum"], tmp_path / "part.onnx")
    assert extract_bytes(model, ["image"], ["sum"]) == (tmp_path / "part.onnx").read_bytes()


def test_constant_nodes_are_copied_into_each_segment_that_needs_them(tmp_path: Path) -> None:
    whole = model_of(
        [
            node("ConstantOfShape", "size", "zeros"),
            node("Add", "zeros one", "ones"),
            node("Add", "x ones", "a"),
            node("Add", "a ones", "y"),
        ],
        [value("x", [50, 60])],
        [value("y", [50, 60])],
        [whole_numbers("size", 50, 60), numpy_helper.from_array(np.array(1, dtype=np.float32), "one")],
    )
    model = opened(whole, tmp_path)
    extract_segment(model, ["x"], ["a"], tmp_path / "head.onnx")
    extract_segment(model, ["a"], ["y"], tmp_path / "tail.onnx")
    x = np.zeros((50, 60), dtype=np.float32)
    between = run(tmp_path / "head.onnx", {"x": x})
    assert np.array_equal(run(tmp_path / "tail.onnx", between)["y"], x + 2)
    assert [made.op_type for made in onnx.load(tmp_path / "tail.onnx").graph.node] == ["ConstantOfShape", "Add", "Add"]


def test_what_a_conditional_captures_becomes_an_input(tmp_path: Path) -> None:
    yes = helper.make_graph([node("MatMul", "h w", "then")], "yes", [], [value("then", [2, 3])])
    no = helper.make_graph([node("Neg", "h", "else")], "no", [], [value("else", [2, 3])])
    whole = model_of(
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
    model = opened(whole, tmp_path)
    extract_segment(model, ["chosen", "h"], ["y"], tmp_path / "tail.onnx")
    onnx.checker.check_model(tmp_path / "tail.onnx", full_check=True)
    h = np.ones((2, 3), dtype=np.float32)
    taken = run(tmp_path / "tail.onnx", {"chosen": np.array(True), "h": h})["y"]  # type: ignore[dict-item]  # a bool
    assert np.allclose(taken, h @ numpy_helper.to_array(whole.graph.initializer[0]))
    with pytest.raises(InvalidInputError, match="y can't be computed from chosen alone: the model's input x is needed"):
        extract_segment(model, ["chosen"], ["y"], tmp_path / "bad.onnx")


def test_a_layer_is_computed_again_for_its_other_output(tmp_path: Path) -> None:
    whole = model_of(
        [node("Split", "x", "a b", axis=0, num_outputs=2), node("Add", "a b", "y")],
        [value("x", [4])],
        [value("y", [2])],
    )
    model = opened(whole, tmp_path)
    extract_segment(model, ["a", "x"], ["y"], tmp_path / "part.onnx")
    onnx.checker.check_model(tmp_path / "part.onnx", full_check=True)
    given = {"a": np.array([10, 20], dtype=np.float32), "x": np.arange(4, dtype=np.float32)}
    assert run(tmp_path / "part.onnx", given)["y"].tolist() == [12, 23]


def test_accepted_tensors_that_are_not_needed_stay_inputs(tmp_path: Path) -> None:
    model = opened(convolutions(), tmp_path)
    extract_segment(model, ["image", "r1"], ["c2"], tmp_path / "part.onnx")
    assert [value.name for value in session(tmp_path / "part.onnx").get_inputs()] == ["image", "r1"]


def test_outputs_that_are_constants_or_inputs_are_returned(tmp_path: Path) -> None:
    whole = model_of(
        [node("Relu", "x", "y"), node("Neg", "large", "minus")],
        [value("x", [2])],
        [value("minus", [1000]), value("x", [2]), value("y", [2]), value("large", [1000]), value("small", [2])],
        [weight("large", 1000), weight("small", 2)],
    )
    model = opened(whole, tmp_path)
    whole_model(model, tmp_path / "copy.onnx")
    onnx.checker.check_model(tmp_path / "copy.onnx", full_check=True)
    given = {"x": np.array([-1, 1], dtype=np.float32)}
    first, second = run(tmp_path / "model.onnx", given), run(tmp_path / "copy.onnx", given)
    assert list(first) == list(second) == ["minus", "x", "y", "large", "small"]
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_layers_of_other_domains_keep_their_declared_types(tmp_path: Path) -> None:
    whole = model_of(
        [
            helper.make_node("Gelu", ["x"], ["g"], domain="com.microsoft"),
            node("Relu", "g", "r"),
            node("Neg", "r", "y"),
        ],
        [value("x", [2])],
        [value("y", [2])],
        value_info=[value("g", [2])],
        domains=["com.microsoft"],
    )
    model = opened(whole, tmp_path)
    extract_segment(model, ["x"], ["r"], tmp_path / "part.onnx")
    assert onnx.load(tmp_path / "part.onnx").graph.value_info[0].name == "g"
    assert run(tmp_path / "part.onnx", {"x": np.ones(2, dtype=np.float32)})["r"][0] == pytest.approx(0.8413447)


@pytest.mark.parametrize(
    ("accepts", "outputs", "says"),
    [
        (["c2"], ["scores"], r"scores can't be computed from c2 alone: the model's input image is needed too"),
        ([], ["c1"], r"c1 can't be computed from nothing alone: the model's input image"),
        (["r1"], ["sum", "c1"], r"^c1 can't be computed from r1 alone"),
        (["image"], ["sum2"], r"sum2 is no tensor, did you mean sum\?"),
        (["c11"], ["sum"], r"c11 is no tensor, did you mean c1"),
        (["w1"], ["c1"], r"w1 is a weight, which is never sent"),
        (["image", "c1"], ["c1", "sum"], r"c1 is accepted and wanted at once; pass it on"),
        (["image"], [], r"a segment without outputs computes nothing"),
    ],
)
def test_an_ill_bounded_segment_is_refused_with_the_culprits(
    tmp_path: Path, accepts: Sequence[str], outputs: Sequence[str], says: str
) -> None:
    model = opened(convolutions(), tmp_path)
    with pytest.raises(InvalidInputError, match=says):
        extract_segment(model, accepts, outputs, tmp_path / "part.onnx")
    assert not (tmp_path / "part.onnx").exists()


def test_a_tensor_of_unknown_type_is_refused(tmp_path: Path) -> None:
    whole = model_of([node("Relu", "x", "y"), node("Neg", "x", "dead")], [value("x", [2])], [value("y", [2])])
    model = opened(whole, tmp_path)
    with pytest.raises(InvalidInputError, match="dead is read by no layer"):
        extract_segment(model, ["x"], ["dead"], tmp_path / "part.onnx")
    known = {"dead": Tensor(name="dead", dtype="float32", shape=(2,))}
    extract_segment(model, ["x"], ["dead"], tmp_path / "part.onnx", tensors=known)
    assert run(tmp_path / "part.onnx", {"x": np.ones(2, dtype=np.float32)})["dead"].tolist() == [-1, -1]


def test_weights_too_large_for_one_message_go_into_a_file_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "LARGEST_FILE", 2000)
    model = opened(convolutions(), tmp_path)
    extract_segment(model, ["image"], ["scores"], tmp_path / "large.onnx")
    assert (tmp_path / "large.onnx.weights").stat().st_size > 2000
    onnx.checker.check_model(tmp_path / "large.onnx", full_check=True)
    assert np.array_equal(
        run(tmp_path / "large.onnx", image())["scores"], run(tmp_path / "model.onnx", image())["scores"]
    )
    again = open_model(str(tmp_path / "large.onnx"))
    assert bytes(again.read_weight("w2")) == bytes(model.read_weight("w2"))
    with pytest.raises(InvalidInputError, match="too many for one message; write it to a file"):
        extract_bytes(model, ["image"], ["scores"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.onnx", "large.onnx.weights", "model.onnx"]


def test_old_models_whose_weights_are_inputs_are_cut_alike(tmp_path: Path) -> None:
    whole = convolutions()
    whole.ir_version = 3
    whole.opset_import[0].version = 9
    whole.graph.input.extend(value(tensor.name, list(tensor.dims)) for tensor in whole.graph.initializer)
    model = opened(whole, tmp_path)
    extract_segment(model, ["image"], ["scores"], tmp_path / "copy.onnx")
    onnx.checker.check_model(tmp_path / "copy.onnx", full_check=True)
    scores = run(tmp_path / "copy.onnx", image())["scores"]
    assert equal(scores, run(tmp_path / "model.onnx", image())["scores"])


def test_string_tensors_are_cut_too(tmp_path: Path) -> None:
    whole = model_of(
        [node("Equal", "x words", "same"), node("Not", "same", "y")],
        [value("x", [2], TensorProto.STRING)],
        [value("y", [2], TensorProto.BOOL)],
        [helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"b"])],
    )
    model = opened(whole, tmp_path)
    extract_segment(model, ["x"], ["same"], tmp_path / "part.onnx")
    given = {"x": np.array(["a", "c"], dtype=object)}
    assert session(tmp_path / "part.onnx").run(None, given)[0].tolist() == [True, False]
