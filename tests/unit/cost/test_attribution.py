from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tierflow.model.extract import extract_segment
from tierflow.model.model import Model
from tierflow_worker.profiling.attribution import Attribution, attribute
from tierflow_worker.profiling.feeds import feeds_of
from tierflow_worker.profiling.recording import Kernel, Recorder, kernel_events, typical

OWN = "com.microsoft.nchwc"


def kernel(name: str, kind: str, inputs: str, outputs: str, seconds: float, domain: str = "") -> Kernel:
    return Kernel(name, kind, domain, tuple(inputs.split()), tuple(outputs.split()), seconds)


def recorded(model: Model, folder: Path) -> tuple[Kernel, ...]:
    path = folder / "recorded.onnx"
    extract_segment(model, model.graph.inputs, model.graph.outputs, path)
    recorder = Recorder(path, feeds_of(model.graph), threads=1, folder=folder)
    for _ in range(3):
        recorder.run()
    return recorder.kernels(slice(None))[0]


def seconds(model: Model, found: Attribution) -> dict[str, float]:
    """By the first output of each layer: its time, changes of layout included."""
    return {
        layer.outputs[0]: found.layers[place] + found.reorders.get(place, 0.0)
        for place, layer in enumerate(model.graph.layers)
    }


def test_a_fused_kernels_time_is_the_convolutions_and_what_is_fused_costs_nothing(residual: Model) -> None:
    found = attribute(
        residual.graph,
        [
            kernel("r1_nchwc", "Conv", "x w1", "t1", 1.0, OWN),
            kernel("b2_nchwc", "Conv", "t1 w2 bias t1", "t2", 2.0, OWN),
            kernel("p_nchwc", "MaxPool", "t2", "t3", 0.25, OWN),
            kernel("y_nchwc_token_4", "Conv", "t3 w3", "t4", 0.5, OWN),
            kernel("ReorderOutput", "ReorderOutput", "t4", "y", 0.125, OWN),
        ],
    )
    times = seconds(residual, found)
    assert times["c1"] == 1.0
    assert times["p"] == 0.25
    assert times["y"] == 0.625
    assert times["b1"] == times["r1"] == times["b2"] == 0
    assert sum(times.values()) == found.total == 3.875


def test_tensors_inside_fused_kernels_and_in_the_runtimes_layout_are_native(residual: Model) -> None:
    found = attribute(
        residual.graph,
        [
            kernel("r1_nchwc", "Conv", "x w1", "t1", 1.0, OWN),
            kernel("r2_nchwc", "Conv", "t1 w2 bias t1", "t2", 2.0, OWN),
            kernel("p_nchwc", "MaxPool", "t2", "t3", 0.25, OWN),
            kernel("y_nchwc", "Conv", "t3 w3", "t4", 0.5, OWN),
            kernel("ReorderOutput", "ReorderOutput", "t4", "y", 0.125, OWN),
        ],
    )
    assert found.native == {"c1", "b1", "r1", "c2", "b2", "sum", "r2", "p", "y"} == found.blocked
    assert found.leaves == {"y": 0.125}
    convolutions = {residual.graph.producer[name] for name in ("c1", "c2", "y")}
    assert found.any_layout == convolutions
    assert found.layers[residual.graph.producer["c2"]] == 2.0
    assert found.layers[residual.graph.producer["sum"]] == 0


def test_ordinary_tensors_are_not_native(residual: Model) -> None:
    found = attribute(
        residual.graph,
        [
            kernel("", "FusedConv", "x w1", "r1", 1.0, "com.microsoft"),
            kernel("", "FusedConv", "r1 w2 bias r1", "r2", 2.0, "com.microsoft"),
            kernel("", "MaxPool", "r2", "p", 0.25),
            kernel("", "Conv", "p w3", "y", 0.5),
        ],
    )
    assert found.native == {"c1", "b1", "c2", "b2", "sum"}
    assert not found.blocked
    assert not found.any_layout
    assert seconds(residual, found) == {
        "c1": 1.0, "b1": 0, "r1": 0, "c2": 2.0, "b2": 0, "sum": 0, "r2": 0, "p": 0.25, "y": 0.5,
    }  # fmt: skip


def test_a_change_into_the_runtimes_layout_is_its_readers(residual: Model) -> None:
    found = attribute(
        residual.graph,
        [
            kernel("", "FusedConv", "x w1", "r1", 1.0, "com.microsoft"),
            kernel("", "FusedConv", "r1 w2 bias r1", "r2", 2.0, "com.microsoft"),
            kernel("", "MaxPool", "r2", "p", 0.25),
            kernel("ReorderInput", "ReorderInput", "p", "t1", 0.0625, OWN),
            kernel("y_nchwc", "Conv", "t1 w3", "t2", 0.5, OWN),
            kernel("ReorderOutput", "ReorderOutput", "t2", "y", 0.125, OWN),
        ],
    )
    assert found.enters == {"p": 0.0625}
    assert seconds(residual, found)["y"] == 0.6875


def test_a_tensor_that_also_leaves_the_runtimes_layout_is_read_as_it_is_by_who_needs_that(net, opened) -> None:
    net.conv("x", "a")
    net.layer("LRN", ["a"], "n", size=3)
    net.layer("MaxPool", ["a"], "p", kernel_shape=[1, 1])
    net.layer("Add", ["n", "p"], "y")
    model = opened(net.nodes, weights=net.weights)
    found = attribute(
        model.graph,
        [
            kernel("a_nchwc", "Conv", "x w1", "t1", 1.0, OWN),
            kernel("p_nchwc", "MaxPool", "t1", "t2", 0.5, OWN),
            kernel("ReorderOutput", "ReorderOutput", "t1", "a", 0.125, OWN),
            kernel("ReorderOutput_1", "ReorderOutput", "t2", "p", 0.25, OWN),
            kernel("", "LRN", "a", "n", 8.0),
            kernel("", "Add", "n p", "y", 0.5),
        ],
    )
    reads = {model.graph.layers[place].outputs[0]: names for place, names in found.native_reads.items()}
    assert reads == {"a": set(), "n": set(), "p": {"a"}, "y": set()}
    assert seconds(model, found) == {"a": 1.125, "n": 8.0, "p": 0.75, "y": 0.5}


def test_what_the_runtime_added_belongs_to_its_reader(residual: Model) -> None:
    found = attribute(
        residual.graph,
        [
            kernel("", "FusedConv", "x w1", "r1", 1.0, "com.microsoft"),
            kernel("", "FusedConv", "r1 w2 bias r1", "r2", 2.0, "com.microsoft"),
            kernel("", "MaxPool", "r2", "p", 0.25),
            kernel("InsertedCast", "Cast", "p", "cast_1", 0.5),
            kernel("", "Conv", "cast_1 w3", "y", 0.5),
        ],
    )
    assert seconds(residual, found)["y"] == 1.0


def test_a_sum_without_a_name_on_tensors_of_the_runtime_is_found_by_what_it_reads(unnamed_net, opened) -> None:
    net = unnamed_net
    net.layer("Add", [net.conv("x", "a"), net.conv("x", "b")], "s")
    net.conv("s", "y")
    model = opened(net.nodes, weights=net.weights)
    found = attribute(
        model.graph,
        [
            kernel("a_nchwc", "Conv", "x w1", "t1", 1.0, OWN),
            kernel("b_nchwc", "Conv", "x w2", "t2", 2.0, OWN),
            kernel("", "Add", "t1 t2", "t3", 0.25),
            kernel("y_nchwc", "Conv", "t3 w3", "t4", 0.5, OWN),
            kernel("ReorderOutput", "ReorderOutput", "t4", "y", 0.125, OWN),
        ],
    )
    assert seconds(model, found) == {"a": 1.0, "b": 2.0, "s": 0.25, "y": 0.625}
    assert "s" in found.blocked


@pytest.mark.parametrize("named", [True, False])
def test_what_the_runtime_really_records_of_a_residual_block_is_found(named, net, unnamed_net, opened, tmp_path):
    net = net if named else unnamed_net
    stem = net.layer("Relu", [net.norm(net.conv("x", "c1"), "b1")], "r1")
    net.layer("Add", [net.norm(net.conv(stem, "c2"), "b2"), stem], "sum")
    net.layer("Relu", ["sum"], "y")
    model = opened(net.nodes, weights=net.weights)
    kernels = recorded(model, tmp_path)
    found = attribute(model.graph, kernels)
    times = seconds(model, found)
    assert times["c1"] > 0
    assert times["c2"] > 0
    assert times["b1"] == times["r1"] == times["b2"] == times["sum"] == times["y"] == 0
    assert found.total == pytest.approx(sum(one.seconds for one in kernels))


def test_branches_keep_the_times_of_their_own_kernels(net, opened, tmp_path):
    left = net.layer("Relu", [net.conv("x", "c1")], "r1")
    right = net.layer("Relu", [net.conv("x", "c2", kernel=5)], "r2")
    net.layer("Concat", [left, right], "joined", axis=1)
    net.conv("joined", "y", channels=32)
    model = opened(net.nodes, weights=net.weights)
    kernels = recorded(model, tmp_path)
    found = attribute(model.graph, kernels)
    times = seconds(model, found)
    assert times["r1"] == times["r2"] == 0
    assert min(times["c1"], times["c2"], times["joined"], times["y"]) > 0
    assert found.total == pytest.approx(sum(one.seconds for one in kernels))


def test_layers_that_the_runtime_removes_cost_nothing(net, opened, tmp_path):
    net.layer("Identity", [net.conv("x", "c")], "i")
    net.layer("Dropout", ["i"], "d")
    net.layer("Flatten", ["d"], "f")
    net.layer("Softmax", ["f"], "y")
    model = opened(net.nodes, weights=net.weights)
    times = seconds(model, attribute(model.graph, recorded(model, tmp_path)))
    assert times["i"] == times["d"] == 0
    assert times["c"] > 0
    assert times["y"] > 0


def test_an_if_is_one_layer_whose_insides_are_not_counted_twice(net, opened, tmp_path):
    def branch(kind: str) -> object:
        made = helper.make_tensor_value_info(f"{kind}_out", TensorProto.FLOAT, None)
        nodes = [helper.make_node(kind, ["c"], [f"{kind}_mid"]), helper.make_node("Exp", [f"{kind}_mid"], [made.name])]
        return helper.make_graph(nodes, kind, [], [made])

    net.conv("x", "c")
    net.weights["zero"] = np.zeros((), np.float32)
    net.layer("ReduceMax", ["c"], "most", keepdims=0)
    net.layer("Greater", ["most", "zero"], "positive")
    net.layer("If", ["positive"], "y", then_branch=branch("Sin"), else_branch=branch("Cos"))
    model = opened(net.nodes, weights=net.weights)
    kernels = recorded(model, tmp_path)
    assert [one.kind for one in kernels].count("If") == 1
    assert not {"Sin", "Cos", "Exp"} & {one.kind for one in kernels}
    assert seconds(model, attribute(model.graph, kernels))["y"] > 0


def test_kernels_inside_others_are_left_out_of_a_recording():
    def event(name: str, kind: str, ts: int, dur: int) -> dict[str, object]:
        args = {"op_name": kind, "node_index": name}
        return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": args}

    events = kernel_events(
        [
            {"cat": "Session", "name": "model_run", "ts": 0, "dur": 100},
            event("inner", "Exp", 12, 3),
            event("loop", "Loop", 11, 9),
            event("first", "Conv", 1, 10),
            event("last", "Relu", 20, 1),
            event("first", "Conv", 101, 20),
        ]
    )
    assert [(one.name, one.kind, one.seconds) for one in events] == [
        ("first", "Conv", (pytest.approx(10e-6), pytest.approx(20e-6))),
        ("loop", "Loop", (pytest.approx(9e-6),)),
        ("last", "Relu", (pytest.approx(1e-6),)),
    ]


def test_the_typical_time_is_not_moved_by_what_disturbs_most_of_the_runs():
    assert typical([1.0, 9.0, 1.5, 8.0, 50.0, 7.0, 9.0, 9.0]) == 1.25
    assert typical([3.0]) == 3.0
