import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierflow.estimate import RATES, estimate_profile, layer_seconds
from tierflow.graph import Graph, Layer, Tensor
from tierflow.model import open_model
from tierflow.segment import segments_of
from tierflow.segment_time import segment_seconds
from tierflow.tiers import Tier

DNNS = ("alexnet", "vgg16", "resnet18", "darknet53", "inceptionv4")
KINDS = sorted({*RATES, "Flatten", "Unheard", "Conv"})


def one_layer(kind: str, macs: int, channels: int = 32, **attributes: int) -> Graph:
    shape = (1, channels, 14, 14)
    return Graph(
        name="g",
        inputs=("x",),
        outputs=("y",),
        layers=(
            Layer(
                name="l", kind=kind, inputs=("x",), outputs=("y",), weights=("w",), multiply_accumulates=macs,
                attributes=dict(attributes),
            ),
        ),
        tensors={name: Tensor(name=name, dtype="float32", shape=shape) for name in "xy"},
        weights={"w": Tensor(name="w", dtype="float32", shape=(channels, 9))},
    )  # fmt: skip


def of(graph: Graph) -> float:
    return layer_seconds(graph, graph.layers[0])


@given(st.sampled_from(KINDS), st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_layer_of_more_multiply_accumulates_never_takes_less(kind: str, few: int, more: int) -> None:
    few, more = sorted((few, more))
    assert 0 < of(one_layer(kind, few)) <= of(one_layer(kind, more))


def test_a_depthwise_convolution_takes_longer_for_each_multiply_accumulate() -> None:
    dense = of(one_layer("Conv", 10**8))
    assert of(one_layer("Conv", 10**8, group=32)) > 2 * dense
    assert of(one_layer("Conv", 10**8, group=16)) > 1.5 * dense
    assert of(one_layer("Conv", 10**8, group=2)) == dense


def test_a_fully_connected_layer_is_bound_by_the_bandwidth_of_its_weights() -> None:
    model = open_model("zoo://vgg16")
    layer = model.graph.layers[model.graph.place["fc6"]]
    weight = model.graph.weights[layer.weights[0]]
    assert layer_seconds(model.graph, layer) > weight.size / 40e9
    assert layer_seconds(model.graph, layer) > 3 * layer.multiply_accumulates / 60e9


@pytest.mark.parametrize("name", DNNS)
def test_an_estimate_has_a_time_for_each_layer_and_only_for_those(name: str) -> None:
    graph = open_model(f"zoo://{name}").graph
    profile = estimate_profile(graph, model="m")
    assert list(profile.layers) == [layer.name for layer in graph.layers]
    assert profile.torn.keys() <= profile.layers.keys()
    assert profile.crossings.keys() | profile.enters.keys() <= profile.leaves.keys() <= graph.tensors.keys()
    assert min(profile.layers.values()) >= 0
    assert min(profile.torn.values()) > 0
    assert all(value >= 0 for value in profile.crossings.values())
    assert sum(profile.layers.values()) > 0.001
    assert (profile.model, profile.source) == ("m", "estimated")


def test_the_same_graph_has_the_same_estimate() -> None:
    first, second = (estimate_profile(open_model("zoo://resnet18").graph, model="m") for _ in range(2))
    assert first == second


def test_what_is_fused_into_a_convolution_costs_nothing() -> None:
    graph = open_model("zoo://resnet18").graph
    profile = estimate_profile(graph, model="m")
    for layer in graph.layers:
        fused = layer.kind in ("BatchNormalization", "Relu", "Add")
        assert (profile.layers[layer.name] == 0) is fused, layer.name


def test_larger_networks_are_estimated_slower() -> None:
    totals = [
        sum(estimate_profile(open_model(f"zoo://{name}").graph, model="m").layers.values())
        for name in ("resnet18", "darknet53", "inceptionv4", "vgg16")
    ]
    assert totals == sorted(totals)


def test_segments_of_any_cut_take_at_least_as_long_together_as_the_whole() -> None:
    graph = open_model("zoo://inceptionv4").graph
    profile = estimate_profile(graph, model="m")
    count, generator = len(graph.layers), random.Random(3)
    whole = segment_seconds(graph, profile, segments_of(graph, [Tier.DEVICE] * count)[0])
    for _ in range(100):
        first, second = sorted(generator.sample(range(1, count), 2))
        tiers = [Tier.DEVICE] * first + [Tier.EDGE] * (second - first) + [Tier.CLOUD] * (count - second)
        assert sum(segment_seconds(graph, profile, segment) for segment in segments_of(graph, tiers)) >= whole
