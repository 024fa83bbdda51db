from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import helper

from tierflow.errors import UnsupportedError
from tierflow.graph import Tensor
from tierflow.model.extract import extract_segment
from tierflow.model.model import Model
from tierflow.profile import Profile
from tierflow.segment import segments_of
from tierflow.segment_time import segment_seconds
from tierflow.tiers import Tier
from tierflow_worker.profiling import cache as cache_module
from tierflow_worker.profiling import cached_profile, measure_profile
from tierflow_worker.profiling import recording as recording_module
from tierflow_worker.profiling.attribution import attribute
from tierflow_worker.profiling.feeds import feed, feeds_of
from tierflow_worker.profiling.measure import Measurement, profile_of
from tierflow_worker.profiling.recording import WARMED_UP, Kernel, Recording, Whole
from tierflow_worker.profiling.tearing import Torn, apart

OWN = "com.microsoft.nchwc"


def recording(run_seconds: float) -> Recording:
    """Of the residual model: kernels of 1, 2, 0.25 and 0.5 s, and a change of layout of 0.25 s."""
    kernels = (
        Kernel("r1_nchwc", "Conv", OWN, ("x", "w1"), ("t1",), 1.0),
        Kernel("r2_nchwc", "Conv", OWN, ("t1", "w2", "bias", "t1"), ("t2",), 2.0),
        Kernel("p_nchwc", "MaxPool", OWN, ("t2",), ("t3",), 0.25),
        Kernel("y_nchwc", "Conv", OWN, ("t3", "w3"), ("t4",), 0.5),
        Kernel("ReorderOutput", "ReorderOutput", OWN, ("t4",), ("y",), 0.25),
    )
    return Recording(kernels, run_seconds, empty_seconds=0.5)


def assembled(model: Model, run_seconds: float = 4.5) -> Profile:
    graph = model.graph
    places = {layer.outputs[0]: place for place, layer in enumerate(graph.layers)}
    torn = Torn(
        layers={places[name]: 0.125 for name in ("b1", "r1", "b2", "sum", "r2", "p")},
        enters={graph.tensors["r1"].shape: 0.03125, graph.tensors["p"].shape: 0.03125},
        leaves={graph.tensors["r1"].shape: 0.0625},
    )
    return profile_of(graph, recording(run_seconds), torn, model=model.identity, machine="here")


def test_the_layers_take_what_the_run_takes_without_the_recorder(residual: Model) -> None:
    assert sum(assembled(residual, 4.5).layers.values()) == pytest.approx(4.0)
    slower = assembled(residual, 8.5)
    assert sum(slower.layers.values()) == pytest.approx(8.0)
    assert slower.layers["c1_layer"] == pytest.approx(2.0)
    assert slower.segment == 0.5


def test_a_model_that_takes_no_longer_than_nothing_keeps_its_kernels_times(residual: Model) -> None:
    assert sum(assembled(residual, 0.5).layers.values()) == pytest.approx(0.8 * 4.0)


def test_a_recorder_that_others_slowed_down_says_how_layers_compare_and_not_how_long_they_take(residual: Model) -> None:
    layers = assembled(residual, 2.5).layers
    assert sum(layers.values()) == pytest.approx(2.0)
    assert layers["c2_layer"] == pytest.approx(2 * layers["c1_layer"])


def test_what_a_run_costs_beside_its_kernels_has_no_kernel_in_it(
    residual: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract_segment(residual, residual.graph.inputs, residual.graph.outputs, tmp_path / "whole.onnx")
    monkeypatch.setattr(recording_module, "timed", lambda _call, *, threads: 1.0)
    whole = Whole(tmp_path / "whole.onnx", feeds_of(residual.graph), threads=1, folder=tmp_path)
    for _ in range(4):
        whole.run()
    [found] = whole.recordings(WARMED_UP)
    assert found.run_seconds == 1.0
    assert 0.5 < found.empty_seconds < 1.0, "the kernel of the model that computes nothing is left out"


def test_stretches_of_rounds_have_profiles_of_their_own(residual: Model, tmp_path: Path) -> None:
    measurement = Measurement(residual, threads=1, folder=tmp_path)
    for _ in range(6):
        assert measurement.run() > 0
    assert measurement.rounds == 7
    first, second = measurement.profiles(slice(1, 3), slice(3, 7), turns=2)
    assert first.layers.keys() == second.layers.keys() == residual.graph.place.keys()
    assert first.torn == second.torn
    assert first.layers != second.layers


def test_what_is_fused_costs_nothing_and_what_it_is_fused_to_all(residual: Model) -> None:
    layers = assembled(residual).layers
    assert {name for name, seconds in layers.items() if seconds == 0} == {
        "b1_layer", "r1_layer", "b2_layer", "sum_layer", "r2_layer",
    }  # fmt: skip
    assert layers["c2_layer"] == 2.0
    assert layers["y_layer"] == 0.75


def test_a_segment_that_starts_inside_a_fused_kernel_pays_for_layers_that_run_alone(residual: Model) -> None:
    profile = assembled(residual)
    graph = residual.graph
    cut = graph.place["r2_layer"]
    tiers = [Tier.DEVICE] * cut + [Tier.CLOUD] * (len(graph.layers) - cut)
    device, _, cloud = segments_of(graph, tiers)
    # Below, the sum leaves the runtime's layout; above, relu and pool run alone, and the pool's result enters again.
    assert segment_seconds(graph, profile, device) == pytest.approx(0.5 + 3.0 + 0.0625)
    assert segment_seconds(graph, profile, cloud) == pytest.approx(0.5 + 0.125 + 0.125 + 0.03125 + 0.75)


def test_the_models_output_leaves_the_runtimes_layout_in_any_case_and_costs_nothing_more(residual: Model) -> None:
    assert assembled(residual).leaves["y"] == 0


def test_a_change_of_layout_that_was_not_measured_is_taken_by_its_size(residual: Model) -> None:
    profile = assembled(residual)
    size = residual.graph.tensors
    assert profile.leaves["p"] == pytest.approx(0.0625 * size["p"].size / size["r1"].size)


def test_a_measured_profile_covers_the_graph_exactly(residual: Model) -> None:
    told: list[float] = []
    profile = measure_profile(residual, rounds=4, progress=lambda _what, done: told.append(done))
    assert list(profile.layers) == [layer.name for layer in residual.graph.layers]
    assert profile.layers["c1_layer"] > 0
    assert profile.layers["b1_layer"] == 0
    assert profile.layers["r1_layer"] == 0
    assert profile.segment > 0
    assert profile.source == "measured"
    assert profile.model == residual.identity
    assert profile.torn.keys() <= profile.layers.keys()
    assert profile.crossings.keys() <= profile.leaves.keys() <= residual.graph.tensors.keys()
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)


def test_a_model_without_convolutions_is_measured(net, opened) -> None:
    net.weights["w"] = np.ones((12, 5), np.float32)
    net.layer("Exp", [net.layer("MatMul", ["x", "w"], "m")], "e")
    net.layer("Softmax", ["e"], "y")
    model = opened(net.nodes, (3, 12), weights=net.weights)
    assert list(measure_profile(model, rounds=3).layers) == ["m_layer", "e_layer", "y_layer"]


def test_a_model_of_one_dimensional_and_grouped_convolutions_is_measured(net, opened) -> None:
    net.weights["w1"] = np.ones((32, 1, 3), np.float32)
    net.layer("Relu", [net.layer("Conv", ["x", "w1"], "c", group=32, kernel_shape=[3])], "r")
    net.layer("Flatten", ["r"], "y")
    model = opened(net.nodes, (1, 32, 900), weights=net.weights)
    profile = measure_profile(model, rounds=3)
    assert list(profile.layers) == ["c_layer", "r_layer", "y_layer"]
    assert profile.layers["c_layer"] > 0


def test_an_operator_that_the_runtime_lacks_is_named(opened, monkeypatch, residual: Model, tmp_path: Path) -> None:
    def odd(_model: Model, _accepts: object, _outputs: object, path: Path) -> None:
        node = helper.make_node("Frob", ["x"], ["y"], name="odd")
        values = [helper.make_tensor_value_info(name, 1, [1]) for name in ("x", "y")]
        graph = helper.make_graph([node], "g", values[:1], values[1:])
        path.write_bytes(helper.make_model(graph, ir_version=8).SerializeToString())

    monkeypatch.setattr("tierflow_worker.profiling.measure.extract_segment", odd)
    with pytest.raises(UnsupportedError, match="no operator Frob as layer odd"):
        measure_profile(residual)


def test_a_profile_is_measured_once_and_then_read(residual: Model, tmp_path: Path, monkeypatch) -> None:
    measured = []

    def measure(model: Model, *, threads: int, progress: object) -> Profile:
        measured.append(threads)
        names = [layer.name for layer in model.graph.layers]
        layers = dict.fromkeys(names, 1.0)
        return Profile(model=model.identity, source="measured", machine="here", layers=layers, segment=len(measured))

    monkeypatch.setattr(cache_module, "measure_profile", measure)
    first = cached_profile(residual, cache_dir=tmp_path)
    assert cached_profile(residual, cache_dir=tmp_path) == first
    assert measured == [1]
    cached_profile(residual, threads=2, cache_dir=tmp_path)
    assert measured == [1, 2]
    assert cached_profile(residual, cache_dir=tmp_path, refresh=True) != first
    assert measured == [1, 2, 1]


@pytest.mark.parametrize("damage", ["torn", "of another graph", "of another model"])
def test_a_damaged_file_of_the_cache_is_measured_again(damage, residual: Model, tmp_path: Path, monkeypatch) -> None:
    layers = dict.fromkeys((layer.name for layer in residual.graph.layers), 1.0)
    good = Profile(model=residual.identity, source="measured", machine="here", layers=layers)
    monkeypatch.setattr(cache_module, "measure_profile", lambda _model, **_options: good)
    cached_profile(residual, cache_dir=tmp_path)
    (file,) = (tmp_path / "profiles").iterdir()
    bad = {
        "torn": file.read_bytes()[:20],
        "of another graph": msgspec.json.encode(msgspec.structs.replace(good, layers={"other": 1.0})),
        "of another model": msgspec.json.encode(msgspec.structs.replace(good, model="other")),
    }[damage]
    file.write_bytes(bad)
    assert cached_profile(residual, cache_dir=tmp_path) == good
    assert file.read_bytes() != bad


def test_a_cache_that_cannot_be_written_costs_only_time(residual: Model, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "profiles").write_text("in the way")
    good = assembled(residual)
    monkeypatch.setattr(cache_module, "measure_profile", lambda _model, **_options: good)
    assert cached_profile(residual, cache_dir=tmp_path) == good


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "bool", "string"])
def test_feeds_have_the_wanted_type_and_shape(dtype: str) -> None:
    array = feed(Tensor(name="x", dtype=dtype, shape=(2, 3)), np.random.default_rng(0))
    assert array.shape == (2, 3)
    assert str(array.dtype) == ("object" if dtype == "string" else dtype)


def test_a_recording_of_nothing_gives_no_layer_any_time(residual: Model) -> None:
    assert attribute(residual.graph, ()).total == 0
    nothing = profile_of(
        residual.graph, Recording((), 1.0, 0.5), Torn({}, {}, {}), model=residual.identity, machine="here"
    )
    assert set(nothing.layers.values()) == {0.0}


def test_layers_that_are_measured_together_read_nothing_of_each_other(residual: Model) -> None:
    graph = residual.graph
    batches = apart(graph, range(len(graph.layers)))
    assert sorted(place for batch in batches for place in batch) == list(range(len(graph.layers)))
    for batch in batches:
        made = {name for place in batch for name in graph.layers[place].outputs}
        assert all(made.isdisjoint(graph.layers[place].inputs) for place in batch)
