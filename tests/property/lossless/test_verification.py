import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from factories.models import model_of, node, value, weight, whole_numbers
from tierflow.errors import InvalidInputError, InvalidRequestError, UnsupportedError
from tierflow.model import open_model
from tierflow.model.model import Model
from tierflow.segment import Route, boundary_tensors, cut
from tierflow.tiers import TIERS, Tier
from tierflow.zoo.model import open_zoo_model
from tierflow_worker.verification import (
    covering_cuts,
    random_cuts,
    relative_difference,
    sample_inputs,
    verify_partition,
    whole_outputs,
)


def opened(tmp_path: Path, proto: onnx.ModelProto) -> Model:
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    return open_model(str(path))


def chain(tmp_path: Path, *kinds: str, **attributes: object) -> Model:
    """Layers l0, l1, ... one after the other, from x on."""
    names = ["x", *(f"l{number}" for number in range(len(kinds)))]
    nodes = [
        node(kind, reads, makes, name=makes, **attributes)
        for kind, reads, makes in zip(kinds, names[:-1], names[1:], strict=True)
    ]
    return opened(tmp_path, model_of(nodes, [value("x", [2, 3])], [value(names[-1], [2, 3])]))


def test_a_check_names_the_last_layers_of_device_and_edge(tmp_path: Path) -> None:
    model = chain(tmp_path, "Relu", "Exp", "Neg", "Abs")
    inputs = sample_inputs(model)
    check = verify_partition(model, cut(model.graph, "l0", "l2"), inputs, whole_outputs(model, inputs))
    assert (check.device, check.edge, check.bit_identical, check.holds) == ("l0", "l2", True, True)
    assert check.largest_relative_difference == 0


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("route", Route)
def test_one_tier_may_compute_everything(tmp_path: Path, tier: Tier, route: Route) -> None:
    if (tier, route) == (Tier.EDGE, Route.DIRECT):
        pytest.skip("the direct route leaves the edge out")
    model = chain(tmp_path, "Relu", "Exp")
    inputs = sample_inputs(model)
    check = verify_partition(model, [tier] * 2, inputs, whole_outputs(model, inputs), route=route)
    assert check.bit_identical
    assert (check.device, check.edge) == ("l1" if tier is Tier.DEVICE else "", "l1" if tier is Tier.EDGE else "")


def test_the_direct_route_with_layers_on_the_edge_is_refused(tmp_path: Path) -> None:
    model = chain(tmp_path, "Relu", "Exp")
    with pytest.raises(InvalidInputError, match="the direct route leaves the edge out"):
        verify_partition(model, [Tier.EDGE] * 2, sample_inputs(model), {}, route=Route.DIRECT)


def test_segments_that_answer_otherwise_are_found_out(tmp_path: Path) -> None:
    class Forgetful(type(chain(tmp_path, "Relu"))):  # type: ignore[misc] # the class of opened files
        """Has other weights each time that it is asked."""

        asked = 0

        def read_weight(self, name: str) -> memoryview:
            self.asked += 1
            return memoryview((np.ones((3, 200), np.float32) * self.asked).tobytes())

    nodes = [node("Relu", "x", "a", name="a"), node("MatMul", "a w", "b", name="b")]
    proto = model_of(nodes, [value("x", [2, 3])], [value("b", [2, 200])], [weight("w", 3, 200)])
    path = tmp_path / "forgetful.onnx"
    onnx.save(proto, path)
    model = Forgetful(path)
    inputs = {"x": np.ones((2, 3), np.float32)}
    check = verify_partition(model, cut(model.graph, "a", ""), inputs, whole_outputs(model, inputs))
    assert not check.holds
    assert not check.bit_identical
    assert check.largest_relative_difference == 1.0


def test_nan_inputs_are_passed_through_as_by_the_whole_model(tmp_path: Path) -> None:
    model = chain(tmp_path, "Sqrt", "Neg", "Neg")
    inputs = {"x": np.array([[1, -1, np.nan], [np.inf, -np.inf, 0]], np.float32)}
    check = verify_partition(model, cut(model.graph, "l0", "l1"), inputs, whole_outputs(model, inputs))
    assert check.holds
    assert check.largest_relative_difference == 0


def test_texts_integers_and_truth_values_go_through_the_chain(tmp_path: Path) -> None:
    nodes = [
        node("Identity", "text", "kept", name="keep"),
        node("Cast", "number", "real", name="real", to=TensorProto.FLOAT),
        node("Greater", "real limit", "more", name="more"),
        node("Identity", "kept", "text_out", name="text_out"),
        node("Not", "more", "flag_out", name="flag_out"),
        node("Cast", "real", "number_out", name="number_out", to=TensorProto.INT64),
    ]
    proto = model_of(
        nodes,
        [value("text", [3], TensorProto.STRING), value("number", [3], TensorProto.INT64)],
        [
            value("text_out", [3], TensorProto.STRING),
            value("flag_out", [3], TensorProto.BOOL),
            value("number_out", [3], TensorProto.INT64),
        ],
        [weight("limit", 1)],
    )
    model = opened(tmp_path, proto)
    inputs = sample_inputs(model)
    check = verify_partition(model, cut(model.graph, "real", "more"), inputs, whole_outputs(model, inputs))
    assert check.bit_identical


def test_an_input_that_is_an_output_as_well_is_handed_back(tmp_path: Path) -> None:
    proto = model_of([node("Relu", "x", "y", name="y")], [value("x", [2])], [value("y", [2]), value("x", [2])])
    model = opened(tmp_path, proto)
    inputs = {"x": np.array([-1, 2], np.float32)}
    expected = whole_outputs(model, inputs)
    assert np.array_equal(expected["x"], inputs["x"])
    assert verify_partition(model, [Tier.CLOUD], inputs, expected).bit_identical


def test_an_operator_that_the_runtime_lacks_is_named_with_its_layer(tmp_path: Path) -> None:
    decoder = node("ImageDecoder", "x", "y", name="decode")
    proto = model_of(
        [decoder], [value("x", [100], TensorProto.UINT8)], [value("y", [8, 8, 3], TensorProto.UINT8)], opset=21
    )
    model = opened(tmp_path, proto)
    with pytest.raises(UnsupportedError, match="no operator ImageDecoder as layer decode uses it"):
        whole_outputs(model, sample_inputs(model))


def test_a_missing_input_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="input x is missing"):
        whole_outputs(chain(tmp_path, "Relu"), {})


def test_an_input_of_another_type_is_refused_by_name(tmp_path: Path) -> None:
    model = chain(tmp_path, "Relu")
    with pytest.raises(InvalidRequestError, match="input x must be float32"):
        whole_outputs(model, {"x": np.ones((2, 3))})


@pytest.mark.parametrize(
    "kinds",
    [
        {"float16": 10, "double": 11, "bool": 9, "uint8": 2, "int64": 7, "string": 8},
        {"double": 11, "bfloat16": 16, "float8e4m3fn": 17},
    ],
)
def test_sample_inputs_depend_on_the_seed_alone_and_fit_the_model(tmp_path: Path, kinds: dict[str, int]) -> None:
    names = [f"x_{name}" for name in kinds]
    proto = model_of(
        [node("Identity", name, f"y{name}", name=name) for name in names],
        [value(name, [2, 5], kind) for name, kind in zip(names, kinds.values(), strict=True)],
        [value(f"y{name}", [2, 5], kind) for name, kind in zip(names, kinds.values(), strict=True)],
    )
    model = opened(tmp_path, proto)
    first, again, other = (sample_inputs(model, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(first[name], again[name]) for name in names)
    assert not np.array_equal(first["x_double"], other["x_double"])
    assert all(np.array_equal(made, first[name[1:]]) for name, made in whole_outputs(model, first).items())


def test_integers_are_safe_as_indices(tmp_path: Path) -> None:
    proto = model_of(
        [node("Gather", "table index", "y", name="gather")],
        [value("index", [50], TensorProto.INT64)],
        [value("y", [50], TensorProto.INT64)],
        [whole_numbers("table", 5, 6)],
    )
    model = opened(tmp_path, proto)
    assert set(whole_outputs(model, sample_inputs(model))["y"]) == {5, 6}


def test_random_cuts_are_distinct_valid_and_the_same_for_a_seed() -> None:
    graph = open_zoo_model("resnet18").graph
    cuts = random_cuts(graph, 200, seed=5)
    assert len(set(cuts)) == 200
    assert cuts == random_cuts(graph, 200, seed=5) != random_cuts(graph, 200, seed=6)
    assert len({cut(graph, *ends) for ends in cuts}) == 200


def test_no_more_cuts_are_drawn_than_there_are(tmp_path: Path) -> None:
    graph = chain(tmp_path, "Relu", "Exp").graph
    assert random_cuts(graph, 100) == (("", ""), ("", "l0"), ("", "l1"), ("l0", ""), ("l0", "l1"), ("l1", ""))


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "inceptionv4"])
def test_covering_cuts_have_each_distinct_boundary(name: str) -> None:
    graph = open_zoo_model(name).graph

    def border(place: int) -> frozenset[str]:
        tiers = [Tier.DEVICE if at <= place else Tier.CLOUD for at in range(len(graph.layers))]
        return frozenset(boundary_tensors(graph, tiers, Tier.DEVICE))

    cuts = covering_cuts(graph)
    covered = {border(graph.place[end]) for ends in cuts for end in ends if end}
    wanted = {border(place) for place in range(len(graph.layers) - 1)}
    assert covered == wanted
    assert len(cuts) == math.ceil(len(wanted) / 2)
    assert set(covering_cuts(graph, 4)) <= set(cuts)
    assert len(covering_cuts(graph, 4)) == 4


def test_layers_that_change_no_boundary_are_cut_once(tmp_path: Path) -> None:
    nodes = [
        node("Relu", "x", "a", name="a"),
        node("Neg", "x", "b", name="b"),  # an output that nobody reads: the same tensors cross before and after it
        node("Exp", "a", "c", name="c"),
        node("Abs", "c", "d", name="d"),
    ]
    model = opened(tmp_path, model_of(nodes, [value("x", [2])], [value("b", [2]), value("d", [2])]))
    assert covering_cuts(model.graph) == (("a", "b"), ("a", "c"))


FLOATS = np.array([1.0, -4.0, 2.0], np.float32)


@pytest.mark.parametrize(
    ("answer", "expected", "difference"),
    [
        (FLOATS, FLOATS, 0.0),
        (FLOATS + np.float32([0, 0, 1]), FLOATS, 0.25),
        (np.float32([np.nan, np.inf, 1]), np.float32([np.nan, np.inf, 1]), 0.0),
        (np.float32([np.nan, np.inf, 3]), np.float32([np.nan, np.inf, 4]), 0.25),
        (np.float32([np.nan, 1]), np.float32([1, 1]), 1.0),
        (np.float32([1, 1]), np.float32([np.nan, 1]), 1.0),
        (np.float32([np.inf]), np.float32([-np.inf]), 1.0),
        (np.float32([0, -0.0]), np.float32([-0.0, 0]), 0.0),
        (np.float32([1e-30]), np.float32([0]), 1.0),
        (np.float32([1, 2]), np.float32([[1, 2]]), 1.0),
        (np.float64([1]), np.float32([1]), 1.0),
        (np.int64([2**62, 5]), np.int64([2**62 + 1, 5]), 1.0),
        (np.int64([2**62]), np.int64([2**62]), 0.0),
        (np.array([True]), np.array([False]), 1.0),
        (np.array(["a"], object), np.array(["a"], object), 0.0),
        (np.array(["a"], object), np.array(["b"], object), 1.0),
        (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), 0.0),
    ],
)
def test_the_relative_difference_of_outputs(answer: np.ndarray, expected: np.ndarray, difference: float) -> None:
    assert relative_difference(answer, expected) == difference


def test_zero_and_minus_zero_are_not_bit_identical_but_equal(tmp_path: Path) -> None:
    model = chain(tmp_path, "Relu")
    inputs = {"x": np.zeros((2, 3), np.float32)}
    check = verify_partition(model, [Tier.CLOUD], inputs, {"l0": -np.zeros((2, 3), np.float32)})
    assert (check.bit_identical, check.largest_relative_difference, check.holds) == (False, 0.0, True)
